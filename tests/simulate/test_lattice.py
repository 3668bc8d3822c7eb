import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scanner_phantoms import grid_of

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.scanner.lattice import (
    BodySampler,
    Pose,
    SmoothMap,
    averaging,
    covering_grid,
    sample_axis,
    zero_filling,
)
from osteosap.simulate.scanner.turning import turn


@settings(max_examples=30, deadline=None)
@given(st.floats(0.8, 4.0), st.floats(0.8, 9.0), st.floats(-2.0, 2.0))
def test_averaging_keeps_a_constant_wherever_the_target_lies_inside(
    source_mm: float, target_mm: float, shift: float
) -> None:
    source = source_mm * np.arange(60)
    target = 20.0 + shift + target_mm * np.arange(3)
    weights = averaging(source, target, source_mm=source_mm, target_mm=target_mm)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)


def test_a_voxel_averages_the_voxels_that_it_covers_by_their_overlap() -> None:
    weights = averaging(
        np.array([0.0, 2.0, 4.0]), np.array([0.5]), source_mm=2.0, target_mm=3.0
    )  # from -1 to 2 mm: all of the first, half of the second
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 3, 0.0]], atol=1e-6)


def test_outside_the_body_s_grid_there_is_nothing() -> None:
    weights = averaging(np.array([0.0, 2.0]), np.array([-2.0]), source_mm=2.0, target_mm=4.0)
    assert weights.sum() == pytest.approx(0.25)


@pytest.mark.parametrize(("acquired", "shown"), [(16, 24), (15, 24), (15, 31), (16, 33)])
def test_zero_filling_is_what_padding_k_space_gives(acquired: int, shown: int) -> None:
    x = (np.arange(shown) + 0.5) / shown
    a = (np.arange(acquired) + 0.5) / acquired
    matrix = zero_filling(acquired, shown)
    for k in range(6):  # band-limited lines pass unchanged
        wave = np.cos(2 * np.pi * k * a + 0.3)
        np.testing.assert_allclose(matrix @ wave, np.cos(2 * np.pi * k * x + 0.3), atol=1e-5)


def test_zero_filling_to_the_same_size_does_nothing() -> None:
    np.testing.assert_array_equal(zero_filling(7, 7), np.eye(7))


def test_every_axis_is_sampled_by_its_weights() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(4, 5, 6)).astype(np.float32)
    for axis, path in enumerate(("mi,ijk->mjk", "mj,ijk->imk", "mk,ijk->ijm")):
        weights = rng.normal(size=(3, array.shape[axis])).astype(np.float32)
        expected = np.einsum(path, weights, array)
        np.testing.assert_allclose(sample_axis(array, weights, axis=axis), expected, atol=1e-5)


def test_a_pose_turns_about_its_centre_then_moves() -> None:
    pose = Pose((0.0, 0.0, 90.0), (5.0, 0.0, -3.0), centre_mm=(10.0, 0.0, 0.0))
    point = pose.affine @ [20.0, 0.0, 7.0, 1.0]  # 10 mm right of the centre: now anterior of it
    np.testing.assert_allclose(point[:3], [15.0, 10.0, 4.0], atol=1e-9)
    both = Pose((90.0, 0.0, 90.0)).affine @ [0.0, 1.0, 0.0, 1.0]  # about x first: y to z, stays
    np.testing.assert_allclose(both[:3], [0.0, 0.0, 1.0], atol=1e-9)
    rigid = Pose((3.0, -2.0, 4.0)).affine[:3, :3]
    np.testing.assert_allclose(rigid @ rigid.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rigid) == pytest.approx(1.0)


def test_a_drawn_pose_is_small_and_the_same_for_the_same_seed() -> None:
    poses = [Pose.draw(np.random.default_rng(s)) for s in (1, 1, 2)]
    assert poses[0] == poses[1] != poses[2]
    assert max(map(abs, poses[0].rotation_deg)) <= 3.0
    assert max(map(abs, poses[0].translation_mm)) <= 20.0


def test_a_turned_sampler_finds_the_voxel_where_the_affine_says() -> None:
    grid = grid_of((30, 30, 40))
    field = np.zeros(grid.shape, np.float32)
    field[20, 9, 31] = 1.0
    pose = Pose((2.0, -1.5, 3.0), (4.0, -6.0, 8.0))
    sampler = BodySampler(grid, pose)
    (slab,) = sampler.slabs([field], slice(0, sampler.grid.shape[2]))
    lines = [slab.sum(axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    where = [line @ axis / slab.sum() for line, axis in zip(lines, sampler.axes, strict=True)]
    expected = (pose.affine @ grid.affine @ [20, 9, 31, 1])[:3]
    np.testing.assert_allclose(where, expected, atol=0.4)


def test_a_part_of_a_turned_slab_is_that_part_of_the_whole() -> None:
    grid = grid_of((12, 12, 30))
    field = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    sampler = BodySampler(grid, Pose((3.0, 2.0, -2.0)))
    (whole,) = sampler.slabs([field], slice(0, sampler.grid.shape[2]))
    (part,) = sampler.slabs([field], slice(9, 17))
    np.testing.assert_allclose(part, whole[:, :, 9:17], atol=1e-4)


def test_a_moved_body_is_read_as_it_is() -> None:
    grid = grid_of((8, 8, 8))
    field = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    sampler = BodySampler(grid, Pose(translation_mm=(1.0, 2.0, 3.5)))
    (slab,) = sampler.slabs([field], slice(2, 5))
    np.testing.assert_array_equal(slab, field[:, :, 2:5])
    assert sampler.axes[2][0] == pytest.approx(grid.affine[2, 3] + 3.5)


def test_the_covering_grid_of_an_unturned_grid_is_the_grid_itself() -> None:
    grid = grid_of((10, 12, 14))
    assert covering_grid(grid, grid.spacing_mm).same_as(grid)
    coarse = covering_grid(grid, (6.0, 6.0, 7.0))
    assert coarse.shape == (5, 6, 6)
    np.testing.assert_allclose(coarse.affine[:3, 3], [-12.0, -15.0, -17.5])


def test_a_smooth_map_is_linear_between_its_points_and_constant_beyond() -> None:
    grid = Grid((3, 2, 5), make_affine((6.0, 6.0, 6.0), (0.0, 0.0, 0.0)))
    ramp = np.broadcast_to(np.arange(5, dtype=np.float32) * 6, grid.shape)
    part = SmoothMap(np.ascontiguousarray(ramp), grid)
    z = np.array([-4.0, 3.0, 17.0, 50.0])
    values = part.on([np.array([1.0]), np.array([5.0]), z])
    np.testing.assert_allclose(values[0, 0], [0.0, 3.0, 17.0, 24.0], atol=1e-5)
    cut = part.cut(10.0, 14.0)
    np.testing.assert_allclose(cut.on([z[:1], z[:1], np.array([10.0, 14.0])])[0, 0], [10, 14])


def test_turning_in_three_passes_is_sampling_at_the_turned_places() -> None:
    x, y, z = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in (24, 20, 30)], indexing="ij")
    smooth = np.sin(x / 5) + np.cos(y / 6 + z / 7)
    pose = Pose((3.0, -2.5, 2.0), (1.0, 2.0, -1.0), centre_mm=(12.0, 10.0, 15.0))
    matrix = np.linalg.inv(pose.affine)
    found, twice = turn([smooth, 2 * smooth], matrix, (26, 22, 31))
    np.testing.assert_allclose(twice, 2 * found, atol=1e-5)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in found.shape], indexing="ij"), axis=-1)
    p, q, r = np.moveaxis(index @ matrix[:3, :3].T + matrix[:3, 3], -1, 0)
    expected = np.sin(p / 5) + np.cos(q / 6 + r / 7)
    inside = np.ones(found.shape, bool)
    for place, n in zip((p, q, r), smooth.shape, strict=True):
        inside &= (place > 1.5) & (place < n - 2.5)
    assert inside.mean() > 0.4
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.03)
    far = (p < -2) | (q < -2) | (r < -2)
    assert far.any()
    assert not found[far].any()
