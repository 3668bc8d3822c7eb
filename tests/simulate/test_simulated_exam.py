from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from osteosap.geometry import Grid
from osteosap.simulate import ScannerConfig, SimulatedExam, SimulationConfig, simulate_exam
from osteosap.simulate.anatomy import body_grid, build_body
from osteosap.simulate.person import Person
from osteosap.simulate.scanner import station_slabs
from osteosap.simulate.tissue import TISSUES, T, TissueTable

# Bone volumes (mL) of the BodyParts3D man, 2 mm labels; femurs are cut at the knee here.
ATLAS_ML = {1: 77, 2: 336, 3: 243, 4: 827, 6: 323, 7: 156, 8: 57, 9: 99}


def test_same_seed_gives_the_same_voxels_and_another_seed_another_body(
    coarse: SimulationConfig, patient: SimulatedExam
) -> None:
    again = simulate_exam(coarse)
    other = simulate_exam(coarse.model_copy(update={"seed": 8}))
    assert patient.tissue.array.tobytes() == again.tissue.array.tobytes()
    for ours, theirs in zip(patient.stations, again.stations, strict=True):
        np.testing.assert_array_equal(ours.volume.array, theirs.volume.array)
    assert other.tissue.array.tobytes() != patient.tissue.array.tobytes()


def test_every_bone_class_is_there_and_has_the_volume_of_an_adult() -> None:
    volumes = []
    for seed in range(3):
        person = Person.draw(np.random.default_rng(seed))
        body = build_body(person, body_grid(person, (3.0, 3.0, 3.0)), seed=seed)
        counts = np.bincount(body.skeleton.ravel(), minlength=10)
        volumes.append(counts * body.grid.voxel_volume_ml)
    mean = np.mean(volumes, axis=0)
    for class_id, expected in ATLAS_ML.items():
        assert 0.6 * expected < mean[class_id] < 1.6 * expected, (class_id, mean[class_id])
    assert mean[5] > 500


def test_the_bones_stand_where_they_belong(patient: SimulatedExam) -> None:
    assert patient.exam.skeleton is not None
    skeleton, affine = patient.exam.skeleton.array[0], patient.exam.skeleton.affine
    centre = {c: affine[:3, :3] @ np.argwhere(skeleton == c).mean(0) + affine[:3, 3]
              for c in range(1, 10)}  # fmt: skip
    heights = [centre[c][2] for c in (1, 2, 3, 4, 5)]
    assert heights == sorted(heights, reverse=True)
    assert centre[9][1] > centre[2][1] + 60  # sternum before thoracic spine
    assert centre[7][1] < centre[9][1]  # scapulae behind it
    for paired in (5, 6, 7, 8):
        x = (np.argwhere(skeleton == paired) @ affine[:3, :3].T + affine[:3, 3])[:, 0]
        right, left = (x > 0).sum(), (x < 0).sum()
        assert 0.8 < right / left < 1.25


def test_the_anatomy_hardly_depends_on_the_spacing() -> None:
    person = Person.draw(np.random.default_rng(1))
    fine, coarse = (build_body(person, body_grid(person, (s, s, s)), seed=1) for s in (3.0, 6.0))
    volumes = [
        np.bincount(b.tissue.ravel(), minlength=40) * b.grid.voxel_volume_ml for b in (fine, coarse)
    ]
    for tissue in (T.BRAIN_WHITE, T.LIVER, T.SPLEEN, T.LUNG, T.KIDNEY, T.MUSCLE):
        assert volumes[1][tissue] == pytest.approx(volumes[0][tissue], rel=0.12), tissue.name


def test_lesions_lie_in_bone_or_break_out_of_it_and_never_touch(patient: SimulatedExam) -> None:
    assert patient.exam.lesions is not None
    assert patient.exam.skeleton is not None
    lesions = patient.exam.lesions.array[0]
    near_bone = ndimage.binary_dilation(
        np.isin(patient.tissue.array[0], (T.MARROW, T.CORTEX))
        | (patient.exam.skeleton.array[0] > 0),
        iterations=3,
    )
    assert near_bone[lesions > 0].all()
    _, merged = ndimage.label(lesions > 0, np.ones((3, 3, 3)))
    assert merged >= len(patient.lesions)
    for instance in range(1, len(patient.lesions) + 1):
        grown = ndimage.binary_dilation(lesions == instance, np.ones((3, 3, 3)))
        assert set(np.unique(lesions[grown])) <= {0, instance}


def test_the_truth_table_agrees_with_the_voxels(patient: SimulatedExam) -> None:
    assert patient.exam.lesions is not None
    lesions = patient.exam.lesions
    counts = np.bincount(lesions.array.ravel())
    assert len(patient.lesions) == len(counts) - 1 > 0
    for lesion in patient.lesions:
        voxel_ml = lesions.grid.voxel_volume_ml
        assert lesion.volume_ml == pytest.approx(counts[lesion.id] * voxel_ml)


def test_a_healthy_person_has_no_lesion(coarse: SimulationConfig) -> None:
    healthy = simulate_exam(coarse.model_copy(update={"lesions": 0}))
    assert healthy.lesions == ()
    assert healthy.exam.lesions is not None
    assert not healthy.exam.lesions.array.any()


def test_a_lesion_is_dark_on_t1_and_bright_on_b1000_against_marrow() -> None:
    fine = SimulationConfig(seed=11, lesions=12, body_spacing_mm=(3.0, 3.0, 3.0))
    exam = simulate_exam(fine)
    tissue = exam.tissue.array[0]
    t1, b1000 = exam.exam.images.channel("t1"), exam.exam.images.channel("b1000")
    lesion, marrow = tissue == T.LESION, tissue == T.MARROW
    assert t1[lesion].mean() < 0.85 * t1[marrow].mean()
    assert b1000[lesion].mean() > 2.0 * b1000[marrow].mean()
    for organ in (T.BRAIN_WHITE, T.SPLEEN, T.TESTIS):
        assert b1000[tissue == organ].mean() > b1000[lesion].mean() * 0.7


def test_stations_cover_the_body_and_overlap() -> None:
    grid = Grid((10, 10, 250), np.diag([5.0, 5.0, 4.0, 1.0]))
    config = ScannerConfig(n_stations=5, overlap_mm=40.0)
    slabs = station_slabs(grid, config)
    assert slabs[0].start == 0
    assert slabs[-1].stop == 250
    for below, above in pairwise(slabs):
        assert (below.stop - above.start) * 4.0 >= 40.0


def test_the_adc_of_noise_free_images_is_the_adc_that_was_put_in(patient: SimulatedExam) -> None:
    tissue = patient.tissue.array[0]
    adc = patient.exam.images.channel("adc")[tissue == T.SPLEEN]
    book = next(t.adc_um2_per_s for t in TISSUES if t.id == T.SPLEEN)
    assert adc.mean() == pytest.approx(book, rel=0.25)


def test_the_tissue_table_has_one_row_an_id_in_order() -> None:
    assert [t.id for t in TISSUES] == list(T)
    drawn = TissueTable.draw(np.random.default_rng(0), spread=0.0)
    np.testing.assert_allclose(drawn.t1_ms, [t.t1_ms for t in TISSUES])


def test_a_varied_protocol_changes_the_images_but_not_the_body(
    coarse: SimulationConfig, patient: SimulatedExam
) -> None:
    varied = simulate_exam(coarse.model_copy(update={"vary_protocol": True}))
    assert varied.tissue.array.tobytes() == patient.tissue.array.tobytes()
    assert varied.stations[0].volume.array.tobytes() != patient.stations[0].volume.array.tobytes()


CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("simulate_*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_simulation_file_loads(path: Path) -> None:
    config = SimulationConfig.from_yaml(path)
    assert config.vary_protocol == (path.stem != "simulate_demo")
    assert (config.lesions == 0) == path.stem.endswith("healthy")
