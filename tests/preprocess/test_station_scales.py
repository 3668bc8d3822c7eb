import numpy as np
import pytest

from osteosap.preprocess.intensity import seam_mismatch, station_scales
from osteosap.preprocess.stitch import Placed

SHAPE = (40, 30, 24)
OVERLAP = 8


def pair(*, gain=1.0, noise=0.0, tissue=True, tilt=0.0, seed=0):
    """Two stations of one body, ``OVERLAP`` slices in common; the upper one louder by ``gain``."""
    rng = np.random.default_rng(seed)
    slices = 2 * SHAPE[2] - OVERLAP
    body = np.full((*SHAPE[:2], slices), 2.0)
    if tissue:
        body[5:35, 5:25] = 100.0 + 60.0 * (rng.random((30, 20, slices)) > 0.5)
    shade = np.exp(tilt * np.linspace(-1, 1, SHAPE[0]))[:, None, None]
    placed = []
    for start, factor in ((0, 1.0), (SHAPE[2] - OVERLAP, gain * shade)):
        clean = body[:, :, start : start + SHAPE[2]]
        draws = rng.normal(scale=noise, size=(2, *SHAPE)) if noise else np.zeros((2, *SHAPE))
        array = np.hypot(clean + draws[0], draws[1]) * factor
        k = np.arange(SHAPE[2])
        weight = np.minimum(k + 0.5, SHAPE[2] - 0.5 - k)[None, None, :]
        placed.append(Placed(array.astype(np.float32), weight.astype(np.float32), (0, 0, start)))
    return placed


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3])
def test_a_level_that_differs_by_a_factor_is_measured_as_that_difference(gain):
    (found,) = seam_mismatch(pair(gain=gain), (0, 1), (1.0, 1.0))
    assert found == pytest.approx(2 * abs(gain - 1) / (gain + 1), abs=1e-3)


def test_noise_is_no_seam():
    placed = pair(noise=12.0)  # a tenth of the signal
    scales = station_scales(placed, (0, 1))
    assert scales.mismatch[0] > 0.05  # voxel by voxel
    assert seam_mismatch(placed, (0, 1), scales.scales)[0] < 0.02


def test_scaled_stations_of_different_gain_have_no_seam():
    placed = pair(gain=2.0, noise=3.0)
    scales = station_scales(placed, (0, 1))
    assert scales.scales == pytest.approx((2.0, 1.0), rel=0.01)
    assert seam_mismatch(placed, (0, 1), (1.0, 1.0))[0] > 0.6
    assert seam_mismatch(placed, (0, 1), scales.scales)[0] < 0.01


def test_shading_that_a_scale_cannot_remove_is_seen():
    placed = pair(tilt=0.4)
    scales = station_scales(placed, (0, 1)).scales
    assert seam_mismatch(placed, (0, 1), scales)[0] == pytest.approx(0.15, abs=0.05)


def test_the_mismatch_does_not_hang_on_which_station_comes_first():
    placed = pair(gain=1.4, noise=5.0)
    (forth,) = seam_mismatch(placed, (0, 1), (1.0, 1.0))
    (back,) = seam_mismatch(placed, (1, 0), (1.0, 1.0))
    assert forth == pytest.approx(back)


def test_an_overlap_without_tissue_or_no_overlap_has_no_number():
    lower, upper = pair()
    dark = Placed(np.where(np.arange(24) < OVERLAP, 2.0, upper.array), upper.weight, upper.start)
    assert np.isnan(seam_mismatch([lower, dark], (0, 1), (1.0, 1.0))).all()
    apart = Placed(upper.array, upper.weight, (0, 0, SHAPE[2] + 5))
    assert np.isnan(seam_mismatch([lower, apart], (0, 1), (1.0, 1.0))).all()


def test_a_block_longer_than_the_overlap_is_cut_to_it():
    (found,) = seam_mismatch(pair(gain=1.3), (0, 1), (1.0, 1.0), block=(5, 5, 50))
    assert found == pytest.approx(2 * 0.3 / 2.3, abs=1e-3)


def test_one_station_has_no_seam():
    assert seam_mismatch(pair()[:1], (0,), (1.0,)) == ()


def test_levels_of_a_tissue_that_agree_with_the_overlap_change_nothing():
    scales = station_scales(pair(gain=2.0), (0, 1), levels=[0.0, np.log(2.0)]).scales
    assert scales == pytest.approx((2.0, 1.0), rel=1e-6)


def test_an_overlap_and_two_levels_that_disagree_are_three_equations():
    placed = pair(gain=2.0)
    lower = station_scales(placed, (0, 1), levels=[0.0, np.log(2.6)]).scales[0]
    wanted = (np.log(2.0) + np.log(2.6) / 2) / 1.5  # two levels tell one difference
    assert lower == pytest.approx(np.exp(wanted), rel=1e-6)


def test_levels_belong_to_stations_in_whatever_order_they_lie():
    placed = pair(gain=2.0)
    forth = station_scales(placed, (0, 1), levels=[0.0, np.log(2.6)]).scales
    back = station_scales(placed[::-1], (1, 0), levels=[np.log(2.6), 0.0]).scales
    assert back[1] / back[0] == pytest.approx(forth[0] / forth[1], rel=1e-6)


def test_a_single_level_says_nothing():
    scales = station_scales(pair(gain=2.0), (0, 1), levels=[0.7, None]).scales
    assert scales == pytest.approx((2.0, 1.0), rel=1e-6)


def test_stations_without_signal_in_their_overlap_are_matched_by_levels():
    placed = pair(tissue=False)
    found = station_scales(placed, (0, 1), levels=[0.0, np.log(3.0)])
    assert found.scales == pytest.approx((3.0, 1.0), rel=1e-4)
    assert "not matched there" in found.warnings[0]
    assert station_scales(placed, (0, 1)).scales == (1.0, 1.0)


def row(n, *, dark=()):
    """Stations in a row that agree; overlaps whose signal is gone."""
    body = np.full((30, 30, 20 * n + 4), 100.0, np.float32)
    body[:4] = 2.0
    for k in dark:
        body[..., 20 * k + 20 : 20 * k + 24] = 2.0
    weight = np.ones((1, 1, 1), np.float32)
    return [
        Placed(body[..., 20 * k : 20 * k + 24].copy(), weight, (0, 0, 20 * k)) for k in range(n)
    ]


def test_an_overlap_without_signal_pulls_at_nothing():
    levels = [np.log(100.0), None, np.log(120.0)]
    scales = station_scales(row(3, dark=[1]), (0, 1, 2), levels=levels).scales
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)
    assert scales[2] == pytest.approx(scales[0] / 1.2, rel=1e-4)


def test_a_level_far_from_what_overlaps_say_is_left_out_and_told():
    levels = [np.log(100.0)] * 4 + [np.log(200.0)]
    found = station_scales(row(5), range(5), levels=levels)
    assert found.scales == pytest.approx([1.0] * 5, rel=1e-6)
    assert "station 5: the level of its muscle is 100% off" in found.warnings[0]
    assert not station_scales(row(5), range(5), levels=[np.log(100.0)] * 5).warnings


def test_errors_of_overlaps_add_up_less_where_muscle_is_known():
    body = np.full((30, 30, 60), 100.0, np.float32)
    weight = np.ones((1, 1, 1), np.float32)
    stations = [body[..., 20 * n : 20 * n + 24].copy() for n in range(3)]
    for lower in stations[:-1]:
        lower[..., 20:] *= 0.8  # what the end of a magnet does
    for one in stations:
        one[:4] = 2.0
    placed = [Placed(one, weight, (0, 0, 20 * n)) for n, one in enumerate(stations)]
    alone = station_scales(placed, (0, 1, 2)).scales
    known = station_scales(placed, (0, 1, 2), levels=[np.log(100.0)] * 3).scales
    assert alone[0] / alone[2] == pytest.approx(1 / 0.8**2, rel=0.01)
    assert known[0] / known[2] == pytest.approx(1 / 0.8, rel=0.01)
