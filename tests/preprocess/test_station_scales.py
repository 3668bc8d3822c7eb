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
