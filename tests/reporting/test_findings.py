"""Findings: known bodies in a known skeleton give the known numbers."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import GeometryError, OutputError
from osteosap.geometry import Grid, make_affine
from osteosap.reporting.findings import (
    MeasureConfig,
    longest_diameter_mm,
    measure_lesions,
    measurements,
    write_lesion_table,
)

GRID = Grid((40, 40, 60), make_affine((2.0, 2.0, 2.0), (-40.0, -40.0, -60.0)))


def _skeleton() -> np.ndarray:
    skeleton = np.zeros(GRID.shape, np.uint8)
    skeleton[15:25, 15:25, 30:50] = 2
    skeleton[15:25, 15:25, 10:30] = 3
    return skeleton


def _sphere(grid: Grid, centre: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    far = sum(((a - c) * s) ** 2 for a, c, s in zip(axes, centre, grid.spacing_mm, strict=True))
    return np.asarray(far) <= radius_mm**2


def _one(mask: np.ndarray, identity: int = 1) -> np.ndarray:
    return np.where(mask, identity, 0).astype(np.int32)


def test_a_sphere_has_its_volume_diameter_centroid_adc_and_region() -> None:
    lesions = _one(_sphere(GRID, (20.0, 20.0, 40.0), 9.0), identity=3)
    adc = np.full(GRID.shape, 700.0, np.float32)
    probability = np.full(GRID.shape, 0.8, np.float32)
    probability[20, 20, 40] = 0.95
    (lesion,) = measure_lesions(
        lesions, GRID, skeleton=_skeleton(), probability=probability, adc=adc
    )
    assert lesion.id == 3
    assert (lesion.region, lesion.met_rads_site) == ("thoracic_spine", "dorsal spine")
    assert lesion.region_distance_mm == 0.0
    assert lesion.volume_ml == pytest.approx(4 / 3 * math.pi * 0.9**3, rel=0.03)
    assert lesion.longest_diameter_mm == pytest.approx(18.0, abs=2.0)
    assert lesion.centroid_ras_mm == pytest.approx((0.0, 0.0, 20.0))
    assert lesion.adc_mean_um2_per_s == lesion.adc_median_um2_per_s == 700.0
    assert lesion.probability_peak == pytest.approx(0.95)
    assert lesion.probability_mean == pytest.approx(0.8, abs=0.01)


def test_a_row_of_voxels_is_as_long_as_its_voxels() -> None:
    row = np.argwhere(np.ones((1, 1, 7), bool))
    assert longest_diameter_mm(row, GRID) == pytest.approx(14.0)
    assert longest_diameter_mm(row[:1], GRID) == pytest.approx(2.0)
    thick = Grid((4, 4, 9), make_affine((1.0, 1.0, 5.0), (0.0, 0.0, 0.0)))
    assert longest_diameter_mm(row, thick) == pytest.approx(35.0)
    assert longest_diameter_mm(row[:, ::-1], thick) == pytest.approx(7.0)


@pytest.mark.parametrize("shape", [(1, 30, 30), (1, 1, 200), (12, 13, 14)])
def test_the_hull_gives_the_same_diameter_as_all_pairs(shape: tuple[int, int, int]) -> None:
    indices = np.argwhere(np.ones(shape, bool))
    centres = np.linalg.norm((np.array(shape) - 1) * 2.0)
    assert longest_diameter_mm(indices, GRID) == pytest.approx(centres + 2.0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_diameter_survives_flips_and_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    indices = np.argwhere(rng.random((9, 8, 7)) < 0.4)
    other = (np.array([8, 7, 6]) - indices)[:, [2, 0, 1]]
    assert longest_diameter_mm(indices, GRID) == pytest.approx(longest_diameter_mm(other, GRID))


@pytest.mark.parametrize(
    ("i", "region", "distance"),
    [(24, "lumbar_spine", 0.0), (25, "lumbar_spine", 2.0), (26, "lumbar_spine", 4.0)],
)
def test_a_lesion_takes_the_bone_inside_touching_or_near(
    i: int, region: str, distance: float
) -> None:
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[i : i + 3, 18:20, 15:18] = 1
    (lesion,) = measure_lesions(lesions, GRID, skeleton=_skeleton())
    assert (lesion.region, lesion.region_distance_mm) == (region, distance)


def test_a_lesion_far_from_every_class_is_unassigned() -> None:
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[31:34, 18:20, 15:18] = 1  # 14 mm from bone: a rib, perhaps
    for skeleton in (_skeleton(), np.zeros(GRID.shape, np.uint8)):
        (lesion,) = measure_lesions(lesions, GRID, skeleton=skeleton)
        assert (lesion.region, lesion.region_title) == ("unassigned", "Unassigned")
        assert lesion.met_rads_site is None
        assert lesion.region_distance_mm is None


def test_a_neighbouring_lesion_does_not_lend_its_region() -> None:
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[22:30, 18:20, 20:22] = 1  # reaches into the lumbar spine
    lesions[35:37, 18:20, 20:22] = 2  # near lesion 1, 22 mm from bone
    first, second = measure_lesions(lesions, GRID, skeleton=_skeleton())
    assert (first.region, second.region) == ("lumbar_spine", "unassigned")


def test_adc_leaves_out_voxels_without_a_value() -> None:
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[20, 20, 40:44] = 1
    lesions[20, 20, 20:22] = 2
    adc = np.zeros(GRID.shape, np.float32)
    adc[20, 20, 40:44] = [600.0, 1000.0, 0.0, np.nan]
    first, second = measure_lesions(lesions, GRID, skeleton=_skeleton(), adc=adc)
    assert first.adc_mean_um2_per_s == 800.0
    assert second.adc_mean_um2_per_s is None
    assert second.adc_median_um2_per_s is None
    summary = measurements([first, second], lesions, adc=adc)["adc_um2_per_s"]
    assert (summary["n_voxels"], summary["median"]) == (2, 800.0)


def test_no_lesion_gives_an_empty_table_and_zero_burden(tmp_path: Path) -> None:
    empty = np.zeros(GRID.shape, np.int32)
    found = measure_lesions(empty, GRID, skeleton=_skeleton())
    assert found == []
    result = measurements(found, empty, adc=np.ones(GRID.shape, np.float32))
    assert (result["n_candidates"], result["burden_ml"]) == (0, 0)
    assert result["adc_um2_per_s"] is None
    write_lesion_table(found, tmp_path / "lesions.csv")
    lines = (tmp_path / "lesions.csv").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lesion_id,region,")
    assert {"volume_ml", "adc_mean_um2_per_s", "longest_diameter_mm"} <= set(lines[0].split(","))


def test_burden_and_regions_add_up_and_the_table_reads_back(tmp_path: Path) -> None:
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[18:23, 18:23, 38:44] = 1  # 150 voxels: 1.2 mL
    lesions[18:20, 18:20, 12:14] = 2  # 8 voxels: 0.064 mL
    lesions[36:38, 36:38, 5:7] = 5
    found = measure_lesions(lesions, GRID, skeleton=_skeleton())
    result = measurements(found, lesions, provenance={"weights": "abc"})
    json.dumps(result, allow_nan=False)
    assert [x.id for x in found] == [1, 2, 5]
    assert (result["n_candidates"], result["n_large"]) == (3, 1)
    assert result["burden_ml"] == pytest.approx(166 * 0.008)
    assert result["burden_large_ml"] == pytest.approx(1.2)
    assert sum(r["volume_ml"] for r in result["regions"].values()) == result["burden_ml"]
    assert result["provenance"] == {"weights": "abc"}
    assert "not a medical device" in result["notice"]
    write_lesion_table(found, tmp_path / "new" / "lesions.csv")
    with (tmp_path / "new" / "lesions.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [float(r["volume_ml"]) for r in rows] == [1.2, 0.064, 0.064]
    assert rows[0]["adc_mean_um2_per_s"] == ""


def test_a_flipped_exam_measures_the_same() -> None:
    lesions = _one(_sphere(GRID, (22.0, 19.0, 28.0), 7.0))
    (there,) = measure_lesions(lesions, GRID, skeleton=_skeleton())
    (back,) = measure_lesions(lesions[:, :, ::-1], GRID, skeleton=_skeleton()[:, :, ::-1])
    assert (there.region, there.volume_ml) == (back.region, back.volume_ml)
    assert there.longest_diameter_mm == pytest.approx(back.longest_diameter_mm)


def test_arrays_of_another_grid_are_refused() -> None:
    lesions = np.zeros(GRID.shape, np.int32)
    with pytest.raises(GeometryError, match="'skeleton'"):
        measure_lesions(lesions, GRID, skeleton=np.zeros((2, 2, 2), np.uint8))


def test_settings_decide_what_is_near() -> None:
    lesions = np.zeros(GRID.shape, np.int32)
    lesions[28:30, 18:20, 15:18] = 1  # 8 mm away
    (lesion,) = measure_lesions(lesions, GRID, skeleton=_skeleton())
    assert lesion.region == "unassigned"
    config = MeasureConfig(nearest_mm=10.0)
    (lesion,) = measure_lesions(lesions, GRID, skeleton=_skeleton(), config=config)
    assert (lesion.region, lesion.region_distance_mm) == ("lumbar_spine", 8.0)


def test_a_table_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "lesions.csv").mkdir()
    with pytest.raises(OutputError):
        write_lesion_table([], tmp_path / "lesions.csv")
