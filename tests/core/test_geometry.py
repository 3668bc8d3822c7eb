import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import GeometryError
from osteosap.geometry import (
    Grid,
    flip_lps_ras,
    inside_of,
    make_affine,
    resample,
    spacing_of,
    to_ras,
)

ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    matrix[:2, :2] = [[c, -s], [s, c]]
    return matrix


def test_spacing_of_a_rotated_affine_is_that_before_the_rotation():
    affine = rotation(30) @ make_affine((1.0, 2.0, 5.0), (3.0, -4.0, 7.0))
    assert np.allclose(spacing_of(affine), (1.0, 2.0, 5.0))


def test_lps_to_ras_turns_the_first_two_axes_and_is_its_own_inverse():
    affine = make_affine((1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    turned = flip_lps_ras(affine)
    assert turned[:3, 3].tolist() == [-10.0, -20.0, 30.0]
    assert np.array_equal(flip_lps_ras(turned), affine)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_to_ras_brings_every_orientation_back_with_every_voxel_at_its_place(order, signs):
    truth = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    affine = make_affine((1.5, 2.0, 5.0), (-7.0, 3.0, 11.0))
    turned = truth.transpose(order)
    turned_affine = np.eye(4)
    turned_affine[:3, :3] = affine[:3, :3][:, order]
    turned_affine[:3, 3] = affine[:3, 3]
    for axis, sign in enumerate(signs):
        if sign < 0:
            turned = np.flip(turned, axis)
            turned_affine[:3, 3] += turned_affine[:3, axis] * (turned.shape[axis] - 1)
            turned_affine[:3, axis] *= -1
    array, back = to_ras(turned, turned_affine)
    assert np.array_equal(array, truth)
    assert np.allclose(back, affine)


def test_to_ras_leaves_leading_axes_in_front():
    array = np.zeros((5, 2, 3, 4))
    affine = make_affine((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))[:, [1, 0, 2, 3]]
    turned, _ = to_ras(array, affine)
    assert turned.shape == (5, 3, 2, 4)


def test_to_ras_keeps_an_oblique_volume_without_interpolation():
    array = np.random.default_rng(0).random((3, 4, 5))
    affine = rotation(20) @ make_affine((1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    turned, back = to_ras(array, affine)
    assert np.array_equal(turned, array)
    assert np.allclose(back, affine)


def test_voxel_volume_is_the_determinant_in_millilitres():
    grid = Grid((2, 2, 2), rotation(40) @ make_affine((2.0, 5.0, 10.0), (0.0, 0.0, 0.0)))
    assert grid.voxel_volume_ml == pytest.approx(0.1)


@pytest.mark.parametrize(
    "affine",
    [np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 0.0, 1.0, 1.0])],
    ids=["3x3", "nan", "singular"],
)
def test_a_grid_refuses_an_impossible_affine(affine):
    with pytest.raises(GeometryError):
        Grid((2, 2, 2), affine)


def test_grids_agree_within_the_tolerance_at_every_corner():
    grid = Grid((100, 10, 10), np.eye(4))
    stretched = np.diag([1.002, 1.0, 1.0, 1.0])
    assert not grid.same_as(Grid((100, 10, 10), stretched))
    assert grid.same_as(Grid((100, 10, 10), stretched), tolerance_mm=0.5)
    assert not grid.same_as(Grid((100, 10, 11), np.eye(4)))


def test_a_message_about_two_grids_describes_both():
    with pytest.raises(GeometryError, match=r"2x2x2 voxels.*3x3x3 voxels"):
        Grid((2, 2, 2), np.eye(4)).require_same(Grid((3, 3, 3), np.eye(4)), what="a and b")


@given(
    spacing=st.tuples(*[st.floats(0.5, 6.0)] * 3),
    new=st.tuples(*[st.floats(0.5, 6.0)] * 3),
    shape=st.tuples(*[st.integers(1, 40)] * 3),
)
def test_a_grid_of_other_spacing_covers_the_same_box_from_the_same_corner(spacing, new, shape):
    grid = Grid(shape, make_affine(spacing, (1.0, 2.0, 3.0)))
    other = grid.with_spacing(new)
    corner = [-0.5, -0.5, -0.5, 1.0]
    assert np.allclose(grid.affine @ corner, other.affine @ corner)
    old_end = grid.affine @ [*(n - 0.5 for n in shape), 1.0]
    new_end = other.affine @ [*(n - 0.5 for n in other.shape), 1.0]
    over = (new_end - old_end)[:3]
    assert (over > -1e-4).all()
    assert (over < np.asarray(new) + 1e-4).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 3]))
def test_resampling_onto_the_own_grid_changes_nothing(seed, order):
    array = np.random.default_rng(seed).random((4, 5, 6)).astype(np.float32)
    grid = Grid(array.shape, make_affine((1.0, 2.0, 3.0), (0.0, 0.0, 0.0)))
    assert np.array_equal(resample(array, grid, grid, order=order), array)


def test_linear_resampling_reproduces_a_linear_ramp_inside():
    source = Grid((20, 20, 20), make_affine((2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))
    target = Grid((10, 10, 10), make_affine((1.5, 1.7, 1.9), (5.0, 5.0, 5.0)))

    def ramp(grid: Grid) -> np.ndarray:
        index = np.indices(grid.shape).reshape(3, -1)
        world = grid.affine[:3, :3] @ index + grid.affine[:3, 3:]
        return (np.array([1.0, -2.0, 0.5]) @ world).reshape(grid.shape).astype(np.float32)

    assert np.allclose(resample(ramp(source), source, target), ramp(target), atol=1e-3)


def test_nearest_resampling_keeps_type_and_makes_no_new_label():
    labels = np.random.default_rng(1).integers(0, 9, (8, 8, 8)).astype(np.uint8)
    source = Grid(labels.shape, np.eye(4))
    moved = resample(labels, source, source.with_spacing((0.7, 1.3, 2.1)), order=0)
    assert moved.dtype == np.uint8
    assert set(np.unique(moved)) <= set(range(9))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), [(4.0, 2.0), (2.0, 4.0), (2.0, 3.0)])
def test_a_constant_image_is_constant_up_to_its_faces(order, old, new):
    """Not a plane is lost, neither to finer voxels nor to coarser ones of an odd count."""
    source = Grid((5, 7, 9), rotation(20) @ make_affine((old, old, old), (3.0, -4.0, 7.0)))
    values = resample(
        np.full(source.shape, 5.0), source, source.with_spacing((new,) * 3), order=order
    )
    inside = inside_of(source, source.with_spacing((new,) * 3))
    assert np.allclose(values[inside], 5.0, rtol=1e-6)
    assert not values[~inside].any()
    assert inside[:-1, :-1, :-1].all()


def test_halving_the_voxels_of_a_label_map_repeats_every_label_eight_times():
    labels = np.random.default_rng(3).integers(0, 9, (4, 5, 6)).astype(np.uint8)
    source = Grid(labels.shape, make_affine((4.0, 4.0, 4.0), (0.0, 0.0, 0.0)))
    fine = resample(labels, source, source.with_spacing((2.0, 2.0, 2.0)), order=0)
    assert np.array_equal(fine, labels.repeat(2, 0).repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_an_image_reaches_its_faces_and_no_farther_at_any_angle(order, degrees):
    source = Grid((6, 5, 3), make_affine((4.0, 4.0, 10.0), (-10.0, -8.0, 0.0)))
    target = Grid((50, 50, 40), rotation(degrees) @ make_affine((1.1,) * 3, (-27.0, -27.0, -9.0)))
    index = np.indices(target.shape).reshape(3, -1)
    x, y, z = (target.affine[:3, :3] @ index + target.affine[:3, 3:]).reshape(3, *target.shape)
    truth = (np.abs(x) <= 12) & (np.abs(y) <= 10) & (z >= -5) & (z <= 25)
    values = resample(np.full(source.shape, 7.0), source, target, order=order, fill=-1.0)
    assert np.allclose(values[truth], 7.0, rtol=1e-6)
    assert (values[~truth] == -1.0).all()
    assert np.array_equal(inside_of(source, target), truth)


def test_outside_the_source_lies_the_fill_value():
    source = Grid((4, 4, 4), np.eye(4))
    far = Grid((4, 4, 4), make_affine((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)))
    assert (resample(np.ones((4, 4, 4)), source, far, fill=-5.0) == -5.0).all()


def test_flipping_before_and_after_resampling_is_the_same():
    array = np.random.default_rng(2).random((10, 9, 8)).astype(np.float32)
    source = Grid(array.shape, make_affine((1.0, 1.0, 1.0), (-4.5, -4.0, -3.5)))
    target = Grid((5, 5, 4), make_affine((2.0, 2.0, 2.0), (-4.0, -4.0, -3.0)))
    straight = resample(array, source, target)
    flipped = resample(array[::-1].copy(), source, target)
    assert np.allclose(flipped[::-1], straight, atol=1e-5)


def test_an_array_that_does_not_fit_its_grid_is_refused():
    with pytest.raises(GeometryError, match="shape"):
        resample(np.zeros((2, 2, 3)), Grid((2, 2, 2), np.eye(4)), Grid((2, 2, 2), np.eye(4)))
