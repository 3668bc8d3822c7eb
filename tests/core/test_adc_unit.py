import numpy as np
import pytest

from osteosap.adc_unit import TO_UM2_PER_S, detect_adc_unit
from osteosap.errors import VolumeError

TISSUE = np.random.default_rng(0).uniform(0, 2800, (10, 10, 10))


@pytest.mark.parametrize("unit", list(TO_UM2_PER_S))
def test_each_unit_is_told_from_the_values(unit):
    found, typical = detect_adc_unit([TISSUE / TO_UM2_PER_S[unit]])
    assert found == unit
    assert typical * TO_UM2_PER_S[unit] == pytest.approx(2520, rel=0.02)


@pytest.mark.parametrize("unit", list(TO_UM2_PER_S))
def test_fat_or_noise_in_most_voxels_does_not_mislead(unit):
    fat = np.full(4000, 20.0)
    assert detect_adc_unit([np.r_[TISSUE.ravel(), fat] / TO_UM2_PER_S[unit]])[0] == unit


def test_one_unit_holds_for_all_stations():
    legs = np.full((4, 4, 4), 90.0)  # of its own it would fit no unit
    assert detect_adc_unit([TISSUE, legs])[0] == "um2/s"


@pytest.mark.parametrize("stations", [[], [np.zeros(9)], [np.full(9, 50.0)], [np.full(9, 1e9)]])
def test_a_map_that_fits_no_unit_is_refused(stations):
    with pytest.raises(VolumeError, match="fits no unit"):
        detect_adc_unit(stations)
