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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not _STUDY.is_dir(), reason=f"no real study at {_STUDY}; set OSTEOSAP_TEST_DATA"
    ),
]


@pytest.fixture(scope="module")
def images():
    return read_study(_STUDY).images


@pytest.fixture(scope="module")
def exam(images):
    return assemble_exam(images)


def test_adc_agrees_with_the_scanner_within_3_percent_in_the_body(images, exam):
    scanner = assemble_exam(images, PreprocessConfig(adc_source="scanner"))
    ours, theirs = exam.images.channel("adc"), scanner.images.channel("adc")
    inside = (exam.body.array[0] > 0) & (theirs > 0) & (ours > 0)
    assert inside.sum() > 100_000
    relative = ours[inside] / theirs[inside] - 1
    assert np.median(np.abs(relative)) <= 0.03
    assert abs(np.median(relative)) <= 0.03
    assert abs(np.median(ours[inside]) / np.median(theirs[inside]) - 1) <= 0.04
    recorded = exam.record["adc"]["against_scanner"]
    assert recorded["median_difference"] == pytest.approx(np.median(relative), abs=0.002)


def test_what_lies_right_is_not_moved_on_weak_evidence(exam):
    """T1 and b0 share little here; registration would squash the bladder, and is rejected."""
    steps = {step["step"]: step for step in exam.record["steps"]}
    assert steps["registration"]["rigid_accepted"] == [False]
    assert steps["registration"]["bspline_accepted"] == [False]
    assert "share too little" in steps["registration"]["reasons"][0]
    assert "stations found a displacement, 3 needed" in steps["eddy currents"]["done"]


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
    """ADC and T1 share most information where they are, and less 5 mm to any side."""
    adc = exam.images.channel("adc")
    elsewhere = [shared(exam, adc, shift, axis=axis) for axis in (0, 1) for shift in (-3, 3)]
    assert shared(exam, adc, 0) > max(elsewhere)


def test_tissue_that_diffuses_lies_on_b1000_where_t1_has_it(exam):
    """From 800 um2/s on; below, b1000 holds residual fat, which EPI displaces."""
    adc, b1000 = exam.images.channel("adc"), exam.images.channel("b1000")

    def in_common(shift):
        return shared(exam, b1000, shift, where=adc >= 800)

    assert abs(max(range(-9, 10), key=in_common)) <= 1


def shared(exam, image, shift, *, axis=1, where=None):
    """Mutual information with T1 of an image moved by voxels, in the middle of the pelvis."""
    middle = np.zeros(image.shape, bool)
    middle[20:140, 30:115] = exam.body.array[0][20:140, 30:115] > 0
    valid = exam.images.channel("adc") > 0 if where is None else where
    moved = np.roll(image, shift, axis=axis)
    return mutual_information(
        exam.images.channel("t1"), moved, middle & np.roll(valid, shift, axis=axis)
    )
