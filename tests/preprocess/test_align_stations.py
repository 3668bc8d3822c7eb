import functools

import numpy as np
import pytest

from osteosap.geometry import make_affine
from osteosap.preprocess.align import AlignConfig, align_stations
from osteosap.preprocess.stations import lay_out
from osteosap.volume import Volume

RNG = np.random.default_rng(5)
BALLS = RNG.uniform((-60, -40, -10), (60, 40, 210), (70, 3))
RADII, VALUES = RNG.uniform(7, 16, 70), RNG.uniform(60, 600, 70)
SHIFTS = np.array([(5.0, -3.0, 4.0), (-1.0, 2.0, -2.0), (-6.0, 4.0, 5.5)])
NONE = np.zeros((3, 3))


def body(place):
    """Signal at places (..., 3) in mm: an elliptic cylinder full of balls, soft at their edges."""
    x, y = place[..., 0], place[..., 1]
    image = 250.0 / (1 + np.exp(20 * ((x / 70) ** 2 + (y / 48) ** 2 - 1)))
    inside = image > 100
    for centre, radius, value in zip(BALLS, RADII, VALUES, strict=True):
        distance = np.sqrt(((place - centre) ** 2).sum(axis=-1))
        share = 1 / (1 + np.exp((distance - radius) / 0.8))
        image = image + share * (value - 250.0) * inside
    return image + 3.0


@functools.cache
def station(start, shift):
    """Slices of 4 mm, 80 mm together, that show the body shifted."""
    affine = make_affine((3.0, 3.0, 4.0), (-84.0, -60.0, start))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (57, 41, 20)], indexing="ij"), -1)
    thick = []
    for part in (-0.25, 0.25):  # a slice shows what lies in its thickness
        place = (index + np.array((0, 0, part))) @ affine[:3, :3].T + affine[:3, 3]
        thick.append(body(place - shift))
    noise = np.random.default_rng(int(start)).normal(0, 4, index.shape[:3])
    return np.abs(np.mean(thick, axis=0) + noise).astype(np.float32), affine


def stations(shifts, *, turn=None, starts=(0.0, 40.0, 80.0)):
    """Stations with 40 mm overlap that show the body shifted; all may be turned in space."""
    volumes = []
    for start, shift in zip(starts, shifts, strict=True):
        image, affine = station(start, tuple(float(s) for s in shift))
        whole = affine if turn is None else turn @ affine
        volumes.append(Volume.single(image, whole, "t1"))
    return volumes


def errors_mm(moves, shifts, *, turn=None):
    """Distance of each found move against the central station from the true one."""
    rotation = np.eye(3) if turn is None else turn[:3, :3]
    return [
        float(np.linalg.norm(m.motion[:3, 3] - rotation @ (shifts[1] - s)))
        for m, s in zip(moves, shifts, strict=True)
    ]


def aligned(volumes, **settings):
    layout = lay_out([v.grid for v in volumes])
    return align_stations(volumes, layout, config=AlignConfig(**settings))


@pytest.mark.parametrize("metric", ["mutual information", "correlation"])
def test_stations_shifted_by_up_to_6_mm_per_axis_are_brought_together(metric):
    moves = aligned(stations(SHIFTS), metric=metric)
    assert [m.accepted for m in moves] == [True, False, True]
    assert max(errors_mm(moves, SHIFTS)) < 0.7
    assert all(m.after > m.before for m in moves if m.accepted)
    np.testing.assert_array_equal(moves[1].motion, np.eye(4))


def test_oblique_stations_are_aligned_as_well():
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:3, :3] = [
        [1, 0, 0],
        [0, np.cos(angle), -np.sin(angle)],
        [0, np.sin(angle), np.cos(angle)],
    ]
    moves = aligned(stations(SHIFTS, turn=turn))
    assert max(errors_mm(moves, SHIFTS, turn=turn)) < 0.7


def test_stations_that_agree_already_stay_where_they_are():
    assert max(errors_mm(aligned(stations(NONE)), NONE)) < 0.3


def test_the_same_input_gives_the_same_moves():
    volumes = stations(SHIFTS)
    first, second = aligned(volumes), aligned(volumes)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.motion, b.motion)


def test_a_station_without_enough_overlap_moves_with_its_inner_neighbour():
    shifts = np.array(
        [(0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (4.0, -3.0, 2.0), NONE[0]]
    )
    moves = aligned(stations(shifts, starts=(0.0, 20.0, 40.0, 80.0, 156.0)))
    inner, outer = moves[3], moves[4]
    assert inner.accepted
    assert not outer.accepted
    assert "4 mm overlap" in outer.reason
    np.testing.assert_array_equal(outer.motion, inner.motion)


def test_a_move_beyond_the_limit_is_rejected_with_the_numbers():
    moves = aligned(stations(SHIFTS), max_shift_mm=5.0)
    assert not moves[0].accepted
    assert "limit 5" in moves[0].reason
    np.testing.assert_array_equal(moves[0].motion, np.eye(4))


def test_a_station_without_signal_is_said_and_left_alone():
    volumes = stations(NONE)
    empty = Volume.single(np.zeros_like(volumes[2].array[0]), volumes[2].affine, "t1")
    moves = aligned([volumes[0], volumes[1], empty])
    assert not moves[2].accepted
    assert "no signal" in moves[2].reason


def test_air_in_the_overlap_is_no_ground_for_a_move():
    volumes = stations(NONE)
    cut = volumes[2].array[0].copy()
    cut[:, :, :13] = 3.0
    moves = aligned([volumes[0], volumes[1], Volume.single(cut, volumes[2].affine, "t1")])
    assert not moves[2].accepted
    assert "tissue voxels" in moves[2].reason


def test_off_means_that_nothing_moves():
    for move in aligned(stations(SHIFTS), enabled=False):
        assert not move.accepted
        np.testing.assert_array_equal(move.motion, np.eye(4))


def test_a_single_station_stays():
    (move,) = aligned(stations(NONE)[1:2])
    assert not move.accepted
    np.testing.assert_array_equal(move.motion, np.eye(4))
