import numpy as np
import pytest

from osteosap.errors import VolumeError
from osteosap.preprocess.normalise import scale_percentiles


def test_the_percentiles_inside_the_mask_become_0_and_1():
    array = np.arange(101.0).reshape(1, 1, 101)
    mask = np.ones(array.shape, bool)
    scaled = scale_percentiles(array, mask, low=10, high=90)
    assert scaled.dtype == np.float32
    assert scaled[0, 0, 10] == 0.0
    assert scaled[0, 0, 90] == 1.0
    assert scaled[0, 0, 50] == pytest.approx(0.5)
    assert scaled.min() == 0.0
    assert scaled.max() == 1.0


def test_air_outside_the_mask_does_not_move_the_scale():
    rng = np.random.default_rng(0)
    body = rng.uniform(100, 200, size=(10, 10, 10))
    padded = np.zeros((30, 30, 30))
    padded[10:20, 10:20, 10:20] = body
    mask = padded > 0
    expected = scale_percentiles(body, None)
    np.testing.assert_allclose(scale_percentiles(padded, mask)[10:20, 10:20, 10:20], expected)


def test_the_result_does_not_depend_on_gain_or_offset():
    array = np.random.default_rng(1).gamma(2, 100, size=(12, 12, 12))
    mask = array > 50
    np.testing.assert_allclose(
        scale_percentiles(array * 3 + 7, mask), scale_percentiles(array, mask), atol=1e-5
    )


def test_an_empty_mask_no_contrast_nan_and_turned_percentiles_are_refused():
    array = np.random.default_rng(2).random((5, 5, 5))
    with pytest.raises(VolumeError, match="empty"):
        scale_percentiles(array, np.zeros(array.shape, bool))
    with pytest.raises(VolumeError, match="contrast"):
        scale_percentiles(np.ones((5, 5, 5)), None)
    with pytest.raises(VolumeError, match="percentiles"):
        scale_percentiles(array, None, low=99, high=1)
    array[0, 0, 0] = np.nan
    with pytest.raises(VolumeError, match="NaN"):
        scale_percentiles(array, None)
