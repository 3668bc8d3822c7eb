import functools

import numpy as np
import pytest

from osteosap.errors import GeometryError
from osteosap.geometry import Grid, crop_grid, make_affine
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.distortion import unfolded
from osteosap.preprocess.information import BINS, information_and_slope
from osteosap.preprocess.register import DwiRegistrationConfig, register_station
from osteosap.volume import Volume

RNG = np.random.default_rng(3)
BALLS = RNG.uniform((-60, -40, -10), (60, 40, 110), (60, 3))
RADII = RNG.uniform(6, 14, 60)
ON_T1, ON_DWI = RNG.uniform(60, 600, 60), RNG.uniform(20, 900, 60)
T1_GRID = Grid((62, 46, 30), make_affine((3.0, 3.0, 4.0), (-91.5, -67.5, -8.0)))
DWI_GRID = Grid((50, 38, 26), make_affine((3.7, 3.7, 4.0), (-90.6, -68.0, 0.0)))
SHIFT = np.array([4.0, 0.0, -3.0])
BONES = BALLS[(BALLS[:, 2] > 12) & (BALLS[:, 2] < 88)]


def image(place, values):
    """An elliptic cylinder full of balls, soft at their edges, at places (..., 3) in mm."""
    x, y = place[..., 0], place[..., 1]
    out = 250.0 / (1 + np.exp(20 * ((x / 75) ** 2 + (y / 52) ** 2 - 1)))
    inside = out > 100
    for centre, radius, value in zip(BALLS, RADII, values, strict=True):
        distance = np.sqrt(((place - centre) ** 2).sum(axis=-1))
        out = out + (value - 250.0) * inside / (1 + np.exp((distance - radius) / 0.8))
    return np.maximum(out, 0.0) + 3.0


def places(grid):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def carried(points):
    """How far (mm) the field carries points of the body along y."""
    x, _, z = np.moveaxis(points, -1, 0)
    return 8.0 * np.sin(x / 45.0) + 5.0 * np.cos(z / 35.0)


@functools.cache
def pair(*, distorted):
    """T1, body, and a DWI that is shifted and carried along y, or not."""
    t1 = image(places(T1_GRID), ON_T1)
    shown = places(DWI_GRID)
    body = shown.copy()
    if distorted:
        body = shown - SHIFT  # carried does not hang on y: the inverse is exact
        body[..., 1] -= carried(body)
    noise = np.random.default_rng(1).normal(0, 4, DWI_GRID.shape)
    dwi = image(body, ON_DWI) + noise
    mask = t1 > 50
    dwi = np.abs(dwi).astype(np.float32)
    return (
        Volume.single(t1.astype(np.float32), T1_GRID.affine, "t1"),
        mask,
        Volume.single(dwi, DWI_GRID.affine, "dwi"),
    )


@functools.cache
def found(*, distorted=True, **settings):
    t1, body, dwi = pair(distorted=distorted)
    return register_station(t1, body, dwi, config=DwiRegistrationConfig(**settings))


def truth(points):
    moved = points + SHIFT
    moved[:, 1] += carried(points)
    return moved


def error_mm(alignment, points, expected):
    return float(np.median(np.linalg.norm(alignment.points(points) - expected, axis=1)))


def test_shift_and_distortion_are_found_to_less_than_1_mm():
    before = error_mm(DwiAlignment(np.eye(4)), BONES, truth(BONES))
    alignment = found()
    assert alignment.rigid_accepted
    assert alignment.bspline_accepted
    assert before > 6.0
    assert error_mm(alignment, BONES, truth(BONES)) < 1.0
    assert alignment.before < alignment.after_rigid < alignment.after


def test_the_displacement_is_along_the_phase_direction_and_does_not_fold():
    displacement = found().displacement_mm
    np.testing.assert_array_equal(displacement[[0, 2]], 0.0)
    step = found().displacement_grid.spacing_mm[1]
    assert (1 + np.diff(displacement[1], axis=1) / step).min() > 0


def test_an_exam_without_distortion_stays_undistorted():
    alignment = found(distorted=False)
    assert error_mm(alignment, BONES, BONES) < 0.5


def test_a_turned_patient_table_changes_nothing():
    angle = np.deg2rad(15)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    t1, body, dwi = pair(distorted=True)
    t1 = Volume(t1.array, turn @ t1.affine, t1.channels)
    dwi = Volume(dwi.array, turn @ dwi.affine, dwi.channels)
    alignment = register_station(t1, body, dwi, config=DwiRegistrationConfig())
    rotation = turn[:3, :3]
    assert error_mm(alignment, BONES @ rotation.T, truth(BONES) @ rotation.T) < 1.2


def test_rigid_alone_and_off_do_what_they_say():
    rigid = found(bspline=False)
    assert rigid.rigid_accepted
    assert rigid.displacement_mm is None
    off = found(enabled=False)
    np.testing.assert_array_equal(off.rigid, np.eye(4))
    assert not off.rigid_accepted


def test_a_movement_beyond_the_limit_is_rejected_and_leaves_the_position():
    alignment = found(bspline=False, max_shift_mm=2.0)
    assert not alignment.rigid_accepted
    assert "limit 2" in alignment.reason
    assert alignment.warning
    np.testing.assert_array_equal(alignment.rigid, np.eye(4))


def test_all_directions_keep_what_the_phase_direction_found():
    assert error_mm(found(directions="all"), BONES, truth(BONES)) < 1.2


def test_the_same_input_gives_the_same_alignment():
    t1, body, dwi = pair(distorted=True)
    again = register_station(t1, body, dwi, config=DwiRegistrationConfig())
    np.testing.assert_array_equal(again.rigid, found().rigid)
    np.testing.assert_array_equal(again.displacement_mm, found().displacement_mm)


@pytest.mark.parametrize("case", ["no body", "no signal", "elsewhere", "tiny"])
def test_a_station_with_nothing_to_register_is_skipped_with_a_reason(case):
    t1, body, dwi = pair(distorted=True)
    if case == "no body":
        body = np.zeros_like(body)
    if case == "no signal":
        dwi = Volume.single(np.zeros_like(dwi.array[0]), dwi.affine, "dwi")
    if case == "elsewhere":
        dwi = Volume(dwi.array, make_affine((3.7, 3.7, 4.0), (0.0, 0.0, 900.0)), dwi.channels)
    if case == "tiny":
        dwi = Volume.single(dwi.array[0, 20:22, 15:17, 4:6], dwi.affine, "dwi")
    alignment = register_station(t1, body, dwi, config=DwiRegistrationConfig())
    assert "not registered" in alignment.reason
    np.testing.assert_array_equal(alignment.rigid, np.eye(4))
    assert alignment.displacement_mm is None


def test_resampling_reads_each_voxel_where_points_says():
    alignment = found()
    inner = crop_grid(T1_GRID, (slice(12, 50), slice(10, 36), slice(6, 20)))
    for axis in range(3):
        ramp = places(DWI_GRID)[..., axis].astype(np.float32)
        read = alignment.resample(ramp, DWI_GRID, inner)
        expected = alignment.points(places(inner).reshape(-1, 3))[:, axis]
        np.testing.assert_allclose(read.ravel(), expected, atol=0.05)


def test_resampling_fills_what_the_station_does_not_reach_and_checks_shapes():
    ones = np.ones(DWI_GRID.shape, np.float32)
    away = Grid((4, 4, 4), make_affine((3.0, 3.0, 3.0), (0.0, 0.0, 500.0)))
    still = DwiAlignment(np.eye(4))
    assert (still.resample(ones, DWI_GRID, away, fill=-1.0) == -1.0).all()
    np.testing.assert_array_equal(still.resample(ones, DWI_GRID, DWI_GRID), ones)
    with pytest.raises(GeometryError, match="shape"):
        still.resample(ones[1:], DWI_GRID, away)


def test_unfolding_changes_only_where_voxels_change_places():
    smooth = np.zeros((3, 30, 3)) + np.sin(np.arange(30) / 5)[None, :, None]
    kept, folded = unfolded(smooth, 3.0, axis=1)
    np.testing.assert_allclose(kept, smooth)
    assert folded == 0
    bent = smooth.copy()
    bent[:, 15:] -= 8.0
    flat, folded = unfolded(bent, 3.0, axis=1)
    assert folded > 0
    assert (3.0 + np.diff(flat, axis=1)).min() > 0
    np.testing.assert_allclose(flat[:, :10], bent[:, :10])


def test_the_slope_of_the_information_is_its_difference():
    rng = np.random.default_rng(0)
    bins = rng.integers(0, BINS, 4000)
    values = np.clip(bins + rng.normal(0, 3, 4000), 0, BINS - 1)
    way = rng.normal(size=4000)
    way[(values <= 0.01) | (values >= BINS - 1.01)] = 0
    _, slope = information_and_slope(bins, values)
    up, down = (information_and_slope(bins, values + h * way)[0] for h in (1e-4, -1e-4))
    assert slope @ way == pytest.approx((up - down) / 2e-4, rel=1e-3)
