import numpy as np
import pytest

from osteosap.errors import VolumeError
from osteosap.preprocess.body import body_mask


def ellipse(shape, centre, radii):
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    inside = ((i - centre[0]) / radii[0]) ** 2 + ((j - centre[1]) / radii[1]) ** 2 < 1
    return np.repeat(inside[:, :, None], shape[2], axis=2)


def phantom(*, noise=6.0, seed=0):
    """Fat ring around muscle, a dark lung, two legs' worth of air around: (T1, truth)."""
    shape = (80, 60, 24)
    outer = ellipse(shape, (40, 30), (32, 22))
    inner = ellipse(shape, (40, 30), (26, 17))
    lung = ellipse(shape, (30, 30), (8, 8))
    t1 = np.zeros(shape)
    t1[outer] = 600.0
    t1[inner] = 150.0
    t1[lung] = 0.0
    draws = np.random.default_rng(seed).normal(scale=noise, size=(2, *shape))
    return np.hypot(t1 + draws[0], draws[1]).astype(np.float32), outer


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("noise", [0.0, 6.0, 20.0])
def test_the_mask_is_the_body_with_fat_muscle_and_lung(noise):
    t1, truth = phantom(noise=noise)
    mask = body_mask(t1)
    assert mask.dtype == np.bool_
    assert dice(mask, truth) > 0.95
    assert mask[30, 30].all()  # the lung is inside the body


def test_two_separate_legs_are_both_kept_and_a_speck_is_not():
    shape = (80, 40, 20)
    legs = ellipse(shape, (20, 20), (14, 14)) | ellipse(shape, (60, 20), (13, 13))
    t1 = np.where(legs, 300.0, 4.0)
    t1[2:5, 2:5, 2:5] = 300.0
    mask = body_mask(t1)
    assert mask[20, 20, 10]
    assert mask[60, 20, 10]
    assert not mask[3, 3, 3]


def test_muscle_belongs_to_the_body_where_the_field_of_view_holds_little_air():
    shape = (60, 60, 16)
    t1 = np.full(shape, 80.0)
    t1[:, :8] = 5.0
    t1[:, 8:20] = 600.0
    t1 += np.random.default_rng(3).normal(scale=4, size=shape)
    mask = body_mask(np.maximum(t1, 0))
    assert mask[:, 10:].mean() > 0.98
    assert mask[:, :5].mean() < 0.02


def test_the_mask_does_not_depend_on_the_gain_and_turns_with_the_image():
    t1, _ = phantom()
    mask = body_mask(t1)
    assert (body_mask(t1 * np.float32(37.5)) == mask).mean() > 0.9999
    assert (body_mask(t1[::-1, ::-1])[::-1, ::-1] == mask).mean() > 0.9999


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_is_refused(value):
    with pytest.raises(VolumeError, match=r"no signal|constant"):
        body_mask(np.full((20, 20, 20), value))


def test_nan_is_refused():
    t1, _ = phantom()
    t1[3, 3, 3] = np.nan
    with pytest.raises(VolumeError, match="NaN"):
        body_mask(t1)


def test_an_image_with_only_a_speck_has_no_body():
    t1 = np.zeros((60, 60, 30))
    t1[30:34, 30:34, 10:14] = 100.0
    with pytest.raises(VolumeError, match="no body found"):
        body_mask(t1)
