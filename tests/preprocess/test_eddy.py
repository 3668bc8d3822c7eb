import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from osteosap.geometry import make_affine
from osteosap.preprocess.eddy import Eddy, EddyConfig, common_eddy, correct_eddy, find_eddy
from osteosap.volume import Volume

SHAPE = (60, 50, 24)
AFFINE = make_affine((3.0, 3.0, 5.0), (-90.0, -75.0, 0.0))
MIDDLE = (np.asarray(SHAPE) - 1) / 2


def anatomy(line, *, contrast=1.0, noise=0.0):
    """A body with structures, displaced along y by ``line`` voxels."""
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in SHAPE], indexing="ij"))
    around = index - MIDDLE.reshape(3, 1, 1, 1)
    index[1] -= line[0] + np.tensordot(np.asarray(line[1:]), around, axes=1)
    x, y, z = index - MIDDLE.reshape(3, 1, 1, 1)
    image = 100.0 * ((x / 26) ** 2 + (y / 20) ** 2 < 1)
    rng = np.random.default_rng(5)
    for _ in range(40):
        cx, cy, cz = rng.uniform(-1, 1, 3) * (20, 15, 11)
        radius, level = rng.uniform(2, 5), rng.uniform(0.3, 3.0)
        ball = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < radius**2
        image = np.where(ball, 100.0 * level**contrast, image)
    image = ndimage.gaussian_filter(image, 0.7) + 3.0
    image = np.abs(image + noise * np.random.default_rng(9).normal(size=SHAPE))
    return Volume.single(image.astype(np.float32), AFFINE, "dwi")


def displaced(line):
    around = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    return line[0] + np.tensordot(line[1:], around - MIDDLE.reshape(3, 1, 1, 1), axes=1)


def test_a_displacement_that_grows_with_z_is_found_at_another_contrast_and_in_noise():
    line = np.array([0.3, 0.0, 0.005, 0.06])
    lowest, image = anatomy(np.zeros(4)), anatomy(line, contrast=0.5, noise=6.0)
    found = find_eddy(lowest, image, axis=1, config=EddyConfig())
    assert found.accepted
    error = np.abs(displaced(found.line) - displaced(line))[lowest.array[0] > 50]
    assert np.median(error) * 3.0 < 0.3
    assert np.percentile(error, 95) * 3.0 < 0.9


def test_undoing_what_was_found_brings_the_image_back():
    line = np.array([-0.5, 0.004, 0.0, 0.08])
    still, moved = anatomy(np.zeros(4)), anatomy(line)
    eddy = find_eddy(still, moved, axis=1, config=EddyConfig())
    back = correct_eddy(moved, eddy)
    inside = (slice(5, -5), slice(5, -5), slice(2, -2))

    def difference(volume):
        return np.abs(volume.array[0] - still.array[0])[inside].mean()

    assert difference(back) < 0.35 * difference(moved)
    assert back.array.min() >= 0
    assert back.array.max() <= moved.array.max()
    np.testing.assert_array_equal(back.affine, moved.affine)


def test_where_nothing_moved_next_to_nothing_is_found():
    lowest, image = anatomy(np.zeros(4)), anatomy(np.zeros(4), contrast=0.6, noise=5.0)
    found = find_eddy(lowest, image, axis=1, config=EddyConfig())
    assert np.abs(displaced(found.line))[lowest.array[0] > 50].mean() * 3.0 < 0.15


def test_a_displacement_beyond_the_limit_is_rejected_with_the_number():
    lowest, image = anatomy(np.zeros(4)), anatomy(np.array([0.0, 0.0, 0.0, 0.1]))
    found = find_eddy(lowest, image, axis=1, config=EddyConfig(max_displacement_mm=1.0))
    assert not found.accepted
    assert "rejected" in found.reason
    assert "limit 1" in found.reason
    assert correct_eddy(image, found) is image


@pytest.mark.parametrize("level", [0.0, 7.0])
def test_a_station_without_signal_is_left_alone(level):
    flat = Volume.single(np.full(SHAPE, level, np.float32), AFFINE, "dwi")
    found = find_eddy(flat, flat, axis=1, config=EddyConfig())
    assert not found.accepted
    assert "no signal" in found.reason


def test_too_little_tissue_is_told():
    array = np.full((10, 10, 4), 1.0, np.float32)
    array[4:7, 4:7, 1:3] = 100.0
    array[5, 5, 1] = 300.0
    small = Volume.single(array, AFFINE, "dwi")
    assert "2000 needed" in find_eddy(small, small, axis=1, config=EddyConfig()).reason


def test_the_common_displacement_is_the_median_of_the_stations_that_found_one():
    lines = [np.array([v, 0.0, 0.0, v / 10]) for v in (0.15, 0.2, 5.0)]
    found = [Eddy(line, 1, 1.0, "x") for line in lines] + [Eddy(np.zeros(4), 1, reason="no")]
    common = common_eddy(found, SHAPE)
    np.testing.assert_allclose(common.line, [0.2, 0.0, 0.0, 0.02])
    assert "3 of 4 stations" in common.reason


@pytest.mark.parametrize("n", [1, 2])
def test_few_stations_cannot_vouch_for_one_another(n):
    line = np.array([0.2, 0.0, 0.0, 0.02])
    common = common_eddy([Eddy(line, 1, 1.0, "x")] * n, SHAPE)
    assert not common.accepted
    assert f"{n} of {n} stations found a displacement, 3 needed" in common.reason


def test_stations_that_disagree_are_left_as_they_are():
    signs = (-1.0, 1.0, -1.0, 1.0, 0.1)
    lines = [np.array([0.0, 0.0, 0.0, 0.05 * sign]) for sign in signs]
    common = common_eddy([Eddy(line, 1, 1.0, "x") for line in lines], SHAPE)
    assert not common.accepted
    assert "apart" in common.reason


@settings(max_examples=10, deadline=None)
@given(st.floats(-2.0, 2.0), st.integers(0, 2))
def test_a_whole_shift_along_any_axis_is_undone_exactly(shift, axis):
    image = anatomy(np.zeros(4))
    steps = round(shift)
    moved = Volume(np.roll(image.array, steps, axis=axis + 1), image.affine, image.channels)
    line = np.zeros(4)
    line[0] = steps
    back = correct_eddy(moved, Eddy(line, axis, abs(steps), ""))
    inner = (0, *[slice(4, -4)] * 3)
    np.testing.assert_allclose(back.array[inner], image.array[inner], atol=0.05)
