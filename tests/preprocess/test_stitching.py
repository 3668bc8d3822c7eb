import numpy as np
import pytest

from osteosap.errors import GeometryError
from osteosap.geometry import Grid, make_affine
from osteosap.preprocess.intensity import station_scales
from osteosap.preprocess.stations import lay_out
from osteosap.preprocess.stitch import blend, place_stations
from osteosap.volume import Volume

SPACING = (4.0, 4.0, 5.0)


def world(grid):
    index = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    place = np.tensordot(grid.affine[:3, :3], np.stack(index), axes=1)
    return place + grid.affine[:3, 3].reshape(3, 1, 1, 1)


def scene(grid):
    """A smooth body in air, as a function of the place in mm: the truth for any grid."""
    x, y, z = world(grid)
    body = (x / 70) ** 2 + (y / 50) ** 2 < 1
    return body * (300 + 60 * np.sin(x / 25) + 40 * np.cos(z / 30)) + 3.0


def station(z_mm, *, slices=20, gain=1.0, spacing=SPACING, matrix=None, noise=0.0, seed=0):
    affine = make_affine(spacing, (-80.0, -60.0, z_mm))
    if matrix is not None:
        affine[:3, :3] = matrix @ affine[:3, :3]
        affine[:3, 3] = matrix @ affine[:3, 3]
    shape = (round(160 / spacing[0]) + 1, round(120 / spacing[1]) + 1, slices)
    image = scene(Grid(shape, affine)) * gain
    draws = np.random.default_rng(seed).normal(scale=noise, size=(2, *shape))
    image = np.hypot(image + draws[0], draws[1]) if noise else image
    return Volume.single(image.astype(np.float32), affine, "t1")


def stitched(stations, *, match=True):
    layout = lay_out([s.grid for s in stations])
    placed = place_stations(stations, layout)
    scales = station_scales(placed, layout.order) if match else None
    array = blend(placed, layout.grid.shape, scales=scales.scales if scales else None)
    return array, layout, scales


def inner(grid, *, margin=12.0):
    x, y, _ = world(grid)
    return (x / (70 - margin)) ** 2 + (y / (50 - margin)) ** 2 < 1


def test_one_station_is_left_as_it_is():
    only = station(0.0)
    array, layout, _ = stitched([only], match=False)
    assert layout.method == "single station"
    assert layout.grid.same_as(only.grid)
    assert array is only.array[0] or np.array_equal(array, only.array[0])


def test_aligned_stations_without_gain_reproduce_the_scene_exactly():
    array, layout, _ = stitched([station(0.0), station(80.0), station(160.0)], match=False)
    assert layout.method == "common lattice"
    assert layout.grid.shape == (41, 31, 52)
    assert layout.overlaps_mm == pytest.approx((20.0, 20.0))
    np.testing.assert_allclose(array, scene(layout.grid), rtol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_station_gains_are_recovered_and_seams_vanish(order):
    gains = (0.6, 1.5, 1.0, 0.8)
    stations = [station(75.0 * n, gain=gains[n], noise=6.0, seed=n) for n in order]
    array, layout, scales = stitched(stations)
    central = gains[order[layout.order[len(order) // 2]]]
    wanted = [central / gains[n] for n in order]
    np.testing.assert_allclose(scales.scales, wanted, rtol=0.01)
    truth = scene(layout.grid) * central
    kept = inner(layout.grid)
    profile = [
        np.median(array[..., k][kept[..., k]] / truth[..., k][kept[..., k]])
        for k in range(layout.grid.shape[2])
    ]
    assert np.abs(np.array(profile) - 1).max() <= 0.01  # no seam of more than 1 %
    assert scales.warnings == ()


def test_an_overlap_without_tissue_leaves_the_scale_at_1_with_a_warning():
    lower, upper = station(0.0), station(80.0, gain=2.0)
    dark = upper.array.copy()
    dark[..., :5] = 3.0  # upper's share of the overlap is air
    array, _, scales = stitched([lower, Volume(dark, upper.affine, ("t1",))])
    assert scales.scales == (1.0, 1.0)
    assert len(scales.warnings) == 1
    assert "were not matched" in scales.warnings[0]
    assert np.isnan(scales.mismatch[0])
    assert np.isfinite(array).all()


def test_touching_stations_are_joined_and_a_gap_is_refused_in_mm():
    array, layout, scales = stitched([station(0.0), station(100.0)])
    assert layout.overlaps_mm == pytest.approx((0.0,), abs=1e-6)
    assert scales.scales == (1.0, 1.0)
    np.testing.assert_allclose(array, scene(layout.grid), rtol=1e-5)
    with pytest.raises(GeometryError, match=r"gap of 30\.0 mm"):
        lay_out([station(0.0).grid, station(130.0).grid])


def test_stations_off_the_lattice_are_interpolated_onto_it():
    array, layout, _ = stitched([station(0.0), station(82.0), station(163.0)], match=False)
    assert layout.method == "common lattice"
    kept = inner(layout.grid)
    truth = scene(layout.grid)
    assert np.abs(array / truth - 1)[kept].max() < 0.02


def test_stations_of_different_spacing_and_tilt_meet_on_an_axis_aligned_grid_of_the_finest():
    angle = np.deg2rad(8.0)
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    stations = [station(0.0), station(70.0, spacing=(3.0, 3.0, 4.0), slices=25, matrix=tilt)]
    array, layout, scales = stitched(stations)
    assert layout.method == "axis-aligned"
    np.testing.assert_allclose(layout.grid.affine[:3, :3], np.diag([3.0, 3.0, 4.0]), atol=1e-6)
    np.testing.assert_allclose(scales.scales, 1.0, rtol=0.01)
    kept = inner(layout.grid) & (array > 0)
    assert kept.sum() > 5000
    assert np.percentile(np.abs(array / scene(layout.grid) - 1)[kept], 99) < 0.05


def test_moving_all_stations_moves_the_result():
    stations = [station(0.0, gain=0.7), station(80.0)]
    array, layout, scales = stitched(stations)
    shift = np.array([13.7, -250.3, 811.1])
    moved = []
    for volume in stations:
        affine = volume.affine.copy()
        affine[:3, 3] += shift
        moved.append(Volume(volume.array, affine, volume.channels))
    array2, layout2, scales2 = stitched(moved)
    np.testing.assert_allclose(layout2.grid.affine[:3, 3] - layout.grid.affine[:3, 3], shift)
    np.testing.assert_allclose(array2, array, rtol=1e-5)
    assert scales2.scales == pytest.approx(scales.scales)


def test_nothing_is_made_up_where_no_station_reaches():
    narrow = station(80.0)
    narrow = Volume(narrow.array[:, 10:30], narrow.affine @ _shift(10), narrow.channels)
    array, layout, _ = stitched([station(0.0), narrow], match=False)
    assert layout.grid.shape == (41, 31, 36)
    assert not array[:10, :, 20:].any()
    assert array[:10, :, :20].all()


def _shift(i):
    matrix = np.eye(4)
    matrix[0, 3] = i
    return matrix
