"""A real Siemens pelvis study (PROSTATEx 0218): our ADC against the scanner's."""

import os
from pathlib import Path

import numpy as np
import pytest

from osteosap.dicom import read_study
from osteosap.preprocess import PreprocessConfig, assemble_exam
from osteosap.preprocess.register import mutual_information

_DATA = Path(
    os.environ.get("OSTEOSAP_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
_STUDY = _DATA / "real_dicom_pelvis"

pytestmark = pytest.mark.skipif(
    not _STUDY.is_dir(), reason=f"no real study at {_STUDY}; set OSTEOSAP_TEST_DATA"
)


@pytest.fixture(scope="module")
def images():
    return read_study(_STUDY).images


@pytest.fixture(scope="module")
def exam(images):
    return assemble_exam(images)


def test_adc_agrees_with_the_scanner_within_5_percent_in_the_body(images, exam):
    scanner = assemble_exam(images, PreprocessConfig(adc_source="scanner"))
    ours, theirs = exam.images.channel("adc"), scanner.images.channel("adc")
    inside = (exam.body.array[0] > 0) & (theirs > 0) & (ours > 0)
    assert inside.sum() > 100_000
    relative = ours[inside] / theirs[inside] - 1
    assert np.median(np.abs(relative)) <= 0.05
    assert abs(np.median(relative)) <= 0.05
    assert abs(np.median(ours[inside]) / np.median(theirs[inside]) - 1) <= 0.05


def test_the_protocol_with_most_b_values_is_fitted_and_b1000_computed_and_said(exam):
    assert exam.record["b1000"]["source"] == "computed"
    assert exam.record["adc"]["source"] == "fit"
    assert exam.record["adc"]["b_values_s_per_mm2"] == [0.0, 100.0, 400.0, 800.0]
    assert any("b1000 was not acquired" in w for w in exam.warnings)


def test_the_t1_is_left_on_its_own_grid_and_most_of_the_body_is_covered(images, exam):
    t1 = next(i for i in images if i.kind == "t1")
    assert exam.images.grid.same_as(t1.volume.grid)
    assert 0.7 < exam.record["coverage"] <= 1.0


def test_diffusion_lies_on_the_anatomy(exam):
    """ADC and T1 share most information where they are, and less 5 mm to any side.

    ADC, not b1000: the information b1000 shares with this T1 is small and peaks about 10 mm off
    along A (cause not established), although both come from one fit on one grid.
    """
    t1, adc = exam.images.channel("t1"), exam.images.channel("adc")
    middle = np.zeros(adc.shape, bool)
    middle[20:140, 30:115] = True

    def shared(shift, axis):
        moved = np.roll(adc, shift, axis=axis)
        return mutual_information(t1, moved, middle & (moved > 0) & (exam.body.array[0] > 0))

    elsewhere = [shared(shift, axis) for axis in (0, 1) for shift in (-3, 3)]
    assert shared(0, 0) > max(elsewhere)
