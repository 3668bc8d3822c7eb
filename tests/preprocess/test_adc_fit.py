import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import VolumeError
from osteosap.preprocess.adc import MAX_ADC_UM2_PER_S, compute_b, fit_adc, grey_step

TRUE_ADC = np.linspace(200.0, 3000.0, 60).reshape(3, 4, 5)


def signals(b_values, *, adc=TRUE_ADC, s0=500.0):
    return np.stack([s0 * np.exp(-b * adc * 1e-6) for b in b_values]).astype(np.float32)


@pytest.mark.parametrize("weighting", ["none", "signal"])
@pytest.mark.parametrize("b_values", [(0, 1000), (50, 400, 800), (0, 50, 500, 1000)])
def test_a_noise_free_mono_exponential_is_recovered_exactly(weighting, b_values):
    adc, s0 = fit_adc(signals(b_values), b_values, weighting=weighting)
    np.testing.assert_allclose(adc, TRUE_ADC, rtol=1e-4)
    np.testing.assert_allclose(s0, 500.0, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["none", "signal"])
def test_rician_noise_at_snr_30_moves_the_median_by_less_than_3_percent(weighting):
    rng = np.random.default_rng(1)
    b_values = (0.0, 50.0, 1000.0)
    for truth in (700.0, 1000.0, 1600.0):
        clean = signals(b_values, adc=np.full((20, 20, 20), truth), s0=30.0)
        noise = rng.normal(size=(2, *clean.shape))
        noisy = np.hypot(clean + noise[0], noise[1])
        adc, _ = fit_adc(noisy, b_values, weighting=weighting)
        assert abs(np.median(adc) / truth - 1) < 0.03


def test_weighting_by_the_signal_is_the_less_noisy_fit_where_high_b_drowns():
    rng = np.random.default_rng(2)
    b_values = (0.0, 400.0, 1000.0)
    clean = signals(b_values, adc=np.full((15, 15, 15), 1500.0), s0=30.0)
    noise = rng.normal(size=(2, *clean.shape))
    noisy = np.hypot(clean + noise[0], noise[1])
    spread = {w: fit_adc(noisy, b_values, weighting=w)[0].std() for w in ("none", "signal")}
    assert spread["signal"] < spread["none"]


def test_growing_signal_gives_adc_0_and_sharply_falling_signal_the_upper_limit():
    growing = np.array([10.0, 20.0]).reshape(2, 1, 1, 1)
    falling = np.array([1e6, 1.0]).reshape(2, 1, 1, 1)
    adc, s0 = fit_adc(growing, (0, 1000))
    assert adc.item() == 0.0
    assert s0.item() == pytest.approx(np.sqrt(200.0), rel=1e-5)
    assert fit_adc(falling, (0, 1000))[0].item() == MAX_ADC_UM2_PER_S


def test_voxels_outside_the_mask_or_below_the_noise_floor_get_0():
    measured = signals((0, 1000))
    measured[:, 0, 0, 0] = 2.0
    measured[1, 1, 1, 1] = 0.0
    mask = np.ones(TRUE_ADC.shape, bool)
    mask[2] = False
    adc, s0 = fit_adc(measured, (0, 1000), mask=mask, noise_floor=5.0)
    assert not adc[2].any()
    assert not s0[2].any()
    assert adc[0, 0, 0] == 0.0
    assert adc[1, 1, 1] == MAX_ADC_UM2_PER_S  # log(500 / floor 5) / 1000: clipped, finite
    assert np.isfinite(adc).all()


def test_an_empty_mask_gives_an_empty_map():
    adc, s0 = fit_adc(signals((0, 1000)), (0, 1000), mask=np.zeros(TRUE_ADC.shape, bool))
    assert not adc.any()
    assert not s0.any()


@pytest.mark.parametrize("b_values", [(1000,), (800, 800)])
def test_one_b_value_is_refused_with_the_values_found(b_values):
    with pytest.raises(VolumeError, match=f"got {b_values[0]}"):
        fit_adc(signals(b_values), b_values)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(VolumeError, match="for 3 b-values"):
        fit_adc(signals((0, 1000)), (0, 500, 1000))
    with pytest.raises(VolumeError, match="the mask has shape"):
        fit_adc(signals((0, 1000)), (0, 1000), mask=np.ones((2, 2, 2), bool))


def test_a_computed_b_image_is_the_signal_equation():
    adc, s0 = fit_adc(signals((0, 400, 800)), (0, 400, 800))
    np.testing.assert_allclose(compute_b(adc, s0, 1000.0), signals((1000,))[0], rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(gain=st.floats(0.01, 1000.0), order=st.permutations(range(3)))
def test_adc_does_not_depend_on_the_gain_or_the_order_of_the_images(gain, order):
    b_values = np.array([0.0, 50.0, 1000.0])
    adc, _ = fit_adc(signals(b_values[order]) * np.float32(gain), list(b_values[order]))
    np.testing.assert_allclose(adc, TRUE_ADC, rtol=1e-3)


def test_the_step_of_stored_grey_levels_is_found_and_that_of_continuous_ones_is_0():
    signal = np.random.default_rng(0).gamma(2.0, 40.0, (40, 40, 20))
    assert grey_step(np.floor(signal).astype(np.float32)) == 1.0
    assert grey_step((np.floor(signal) * 0.35).astype(np.float32)) == pytest.approx(0.35, rel=1e-4)
    assert grey_step(signal.astype(np.float32)) == 0.0
    assert grey_step(np.where(signal > 60, 121.3, 7.9).astype(np.float32)) == 0.0
    assert grey_step(np.zeros((5, 5, 5), np.float32)) == 0.0


def test_half_a_step_undoes_what_cutting_off_does_to_the_adc():
    rng = np.random.default_rng(1)
    b_values = (0.0, 400.0, 1000.0)
    s0 = rng.uniform(20, 60, (30, 30, 10))
    stored = np.stack([np.floor(s0 * np.exp(-b * 1e-3)) for b in b_values])
    errors = [
        np.median(fit_adc(stored + half, b_values)[0] / 1000.0 - 1)
        for half in (0.0, grey_step(stored[0]) / 2)
    ]
    assert errors[0] > 0.02
    assert abs(errors[1]) < 0.01
