import numpy as np
import pytest

from osteosap.geometry import Grid, make_affine
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.overlaps import MAX_PLACES, find_overlaps
from osteosap.volume import Volume

SHAPE, SPACING = (40, 40, 30), (4.0, 4.0, 5.0)
WHOLE = Grid((40, 40, 48), make_affine(SPACING, (0.0, 0.0, 0.0)))


def station(z_mm, *, level=200.0, gain=1.0):
    """A square trunk in air, of two tissues."""
    grid = Grid(SHAPE, make_affine(SPACING, (0.0, 0.0, z_mm)))
    image = np.full(SHAPE, 1.0)
    image[6:34, 6:34] = level
    image[6:34, 6:20] *= 1.5
    return Volume.single((gain * image).astype(np.float32), grid.affine, "dwi")


def test_places_that_two_stations_show_tell_their_gain_whatever_the_tissue():
    (found,) = find_overlaps([station(0.0), station(90.0, gain=1.4)], WHOLE)
    assert found.stations == (0, 1)
    assert np.median(found.log_ratio) == pytest.approx(-np.log(1.4), abs=1e-4)
    low, high = found.points
    np.testing.assert_array_equal(low, high)
    assert low[:, 2].min() >= 90.0
    assert low[:, 2].max() <= 145.0  # the last slice of the lower one


def test_points_lie_where_each_station_shows_the_place():
    rigid = np.eye(4)
    rigid[:3, 3] = 8.0, 0.0, 0.0
    ways = [DwiAlignment(np.eye(4)), DwiAlignment(rigid)]
    moved = station(90.0)
    moved = Volume(np.roll(moved.array, 2, axis=1), moved.affine, moved.channels)
    (found,) = find_overlaps([station(0.0), moved], WHOLE, ways=ways)
    np.testing.assert_allclose(
        found.points[1] - found.points[0], [[8.0, 0.0, 0.0]] * len(found.log_ratio)
    )
    np.testing.assert_allclose(found.log_ratio, 0.0, atol=1e-5)


def squeezed(by):
    """An alignment whose displacement stretches along y by a factor, about the middle."""
    move = np.zeros((3, *WHOLE.shape), np.float32)
    y = 4.0 * np.arange(40) - 78.0
    move[1] = ((by - 1) * y)[:, None]
    return DwiAlignment(np.eye(4), move, WHOLE)


def test_pile_up_is_undone_where_it_can_be_trusted():
    volumes = [station(0.0), station(90.0, gain=1 / 0.8)]
    ways = [DwiAlignment(np.eye(4)), squeezed(0.8)]
    (found,) = find_overlaps(volumes, WHOLE, ways=ways)
    assert np.median(found.log_ratio) == pytest.approx(0.0, abs=1e-3)
    assert not find_overlaps(volumes, WHOLE, ways=[ways[0], squeezed(0.4)])


def test_a_mask_says_which_places_count():
    mask = np.zeros(WHOLE.shape, bool)
    mask[6:20, 6:34] = True
    (found,) = find_overlaps([station(0.0), station(90.0)], WHOLE, mask=mask)
    assert found.points[0][:, 0].max() <= 4.0 * 19


def dark_below():
    """A station whose lower half, where it overlaps, shows nothing."""
    volume = station(90.0)
    array = volume.array.copy()
    array[..., :15] = 1.0
    return Volume(array, volume.affine, volume.channels)


def empty():
    grid = station(90.0).grid
    return Volume.single(np.zeros(SHAPE, np.float32), grid.affine, "dwi")


@pytest.mark.parametrize("upper", [station(160.0), dark_below(), empty()])
def test_stations_without_tissue_in_common_have_no_overlap(upper):
    assert find_overlaps([station(0.0), upper], WHOLE) == []


def test_a_large_overlap_is_thinned_out():
    wide = np.repeat(np.repeat(station(0.0).array[0], 5, axis=0), 5, axis=1)
    volume = Volume.single(wide, WHOLE.affine, "dwi")
    (found,) = find_overlaps([volume, volume], volume.grid)
    assert len(found.log_ratio) == MAX_PLACES
    assert np.ptp(found.points[0][:, 0]) > 500  # spread over all of it


def test_where_the_scale_ended_nothing_is_compared():
    lower, upper = station(0.0), station(90.0, gain=1.2)
    cut = [
        Volume(np.minimum(v.array, 250.0), v.affine, v.channels) for v in (lower, upper)
    ]  # the brighter half of both
    (found,) = find_overlaps(cut, WHOLE)
    assert np.median(found.log_ratio) == pytest.approx(-np.log(1.2), abs=1e-4)
    assert found.points[0][:, 1].min() > 4.0 * 19
