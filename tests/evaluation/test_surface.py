"""Surface distances against boxes by hand, the package surface-distance, and MONAI."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from osteosap.errors import ConfigError, GeometryError
from osteosap.evaluation.surface import _areas, surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (2.0, 2.0, 4.0), (0.7, 1.9, 3.3)]


def _blob(rng: np.random.Generator, shape: tuple[int, int, int] = (14, 12, 16)) -> np.ndarray:
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    return smooth > np.quantile(smooth, 0.85)


def _package(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> dict:
    import surface_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses names that scipy has renamed
        return surface_distance.compute_surface_distances(reference, prediction, list(spacing))


def test_the_areas_of_all_256_cases_equal_those_of_the_package() -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    worst = 0.0
    for spacing in SPACINGS:
        theirs = tables.create_table_neighbour_code_to_surface_area(list(spacing))
        worst = max(worst, float(np.abs(_areas(spacing) - theirs).max()))
    print(f"largest difference of surfel areas: {worst:.2e} mm2")
    assert worst < 1e-9


def test_random_masks_equal_the_package_surface_distance() -> None:
    package = pytest.importorskip("surface_distance")
    rng = np.random.default_rng(1)
    worst = 0.0
    for spacing, _ in itertools.product(SPACINGS, range(8)):
        reference, prediction = _blob(rng), _blob(rng)
        ours = surface_distances(reference, prediction, spacing)
        theirs = _package(reference, prediction, spacing)
        for tolerance in (0.0, 1.0, 2.0, 3.0):
            expected = package.compute_surface_dice_at_tolerance(theirs, tolerance)
            worst = max(worst, abs(ours.surface_dice(tolerance) - expected))
        for percent in (50.0, 95.0, 100.0):
            expected = package.compute_robust_hausdorff(theirs, percent)
            worst = max(worst, abs(ours.hausdorff_mm(percent) - expected))
        mean = np.mean(package.compute_average_surface_distance(theirs))
        worst = max(worst, abs(ours.mean_mm() - mean))
    print(f"largest difference from surface-distance: {worst:.2e}")
    assert worst < 1e-9


def test_random_masks_equal_monai_with_subvoxels() -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(2)
    worst = 0.0
    for spacing, _ in itertools.product(SPACINGS, range(4)):
        reference, prediction = _blob(rng), _blob(rng)
        ours = surface_distances(reference, prediction, spacing)
        pair = [torch.from_numpy(m[None, None].astype(np.float32)) for m in (prediction, reference)]
        for tolerance in (1.0, 2.0, 3.0):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = monai.compute_surface_dice(
                    *pair, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True
                )
            worst = max(worst, abs(ours.surface_dice(tolerance) - float(theirs)))
    print(f"largest difference from MONAI: {worst:.2e}")
    assert worst < 1e-4  # MONAI computes in float32


def test_two_cubes_beside_each_other_give_what_geometry_says() -> None:
    reference, prediction = np.zeros((2, 20, 10, 10), bool)
    reference[2:6, 3:7, 3:7] = True
    prediction[9:13, 3:7, 3:7] = True  # 7 voxels further along the first axis
    found = surface_distances(reference, prediction, (2.0, 1.0, 1.0))
    assert found.hausdorff_mm(100.0) == pytest.approx(14.0)
    assert found.surface_dice(14.0) == 1.0
    assert 0.0 < found.surface_dice(6.0) < 1.0  # the faces turned to each other are 3 voxels away
    assert found.surface_dice(5.9) == 0.0


def test_a_mask_equals_itself_and_an_empty_one_is_infinitely_far() -> None:
    mask = _blob(np.random.default_rng(3))
    empty = np.zeros_like(mask)
    same = surface_distances(mask, mask, (1.0, 1.0, 1.0))
    assert (same.surface_dice(0.0), same.hausdorff_mm(), same.mean_mm()) == (1.0, 0.0, 0.0)
    missed = surface_distances(mask, empty, (1.0, 1.0, 1.0))
    assert missed.surface_dice(2.0) == 0.0
    assert math.isinf(missed.hausdorff_mm())
    nothing = surface_distances(empty, empty, (1.0, 1.0, 1.0))
    assert math.isnan(nothing.surface_dice(2.0))
    assert math.isnan(nothing.hausdorff_mm())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_wider_box_and_exchanged_sides_change_nothing(seed: int, margin: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = _blob(rng, (9, 8, 7)), _blob(rng, (9, 8, 7))
    spacing = (1.0, 2.0, 1.5)
    one = surface_distances(reference, prediction, spacing)
    wide = surface_distances(np.pad(prediction, margin), np.pad(reference, margin), spacing)
    assert wide.surface_dice(2.0) == pytest.approx(one.surface_dice(2.0), abs=1e-12)
    assert wide.hausdorff_mm() == pytest.approx(one.hausdorff_mm(), abs=1e-12)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(GeometryError, match="one shape"):
        surface_distances(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), (1.0, 1.0, 1.0))
    found = surface_distances(np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="tolerance"):
        found.surface_dice(-1.0)
