"""Which series are read: no part of the body vanishes without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicom_studies import edit, files_of, make_images, station_affine
from pydicom.dataset import Dataset

from osteosap.dicom import DicomWriterConfig, read_study, write_study
from osteosap.dicom.headers import parse_header, redact
from osteosap.preprocess import assemble_exam


def station(study: Path, kind: str, number: int) -> list[Path]:
    """Files of one station's series, counted from the head."""
    return sorted(sorted(study.glob(f"*_{kind}"))[number].glob("*.dcm"))


def other_repetition_time(dataset: Dataset) -> None:
    dataset.RepetitionTime = float(dataset.RepetitionTime) * 1.3


def other_voxels(dataset: Dataset) -> None:
    dataset.PixelSpacing = [float(s) * 1.2 for s in dataset.PixelSpacing]


def contrast(dataset: Dataset) -> None:
    dataset.ContrastBolusAgent = "gadolinium"


def gradient_echo(dataset: Dataset) -> None:
    dataset.ScanningSequence, dataset.FlipAngle = "GR", 15
    dataset.RepetitionTime, dataset.EchoTime = 5.0, 2.0


@pytest.mark.parametrize("change", [other_repetition_time, other_voxels])
def test_a_t1_station_of_another_protocol_completes_the_t1(study: Path, change: object) -> None:
    edit(station(study, "t1", 1), change)  # type: ignore[arg-type]
    reading = read_study(study)
    assert [i.source for i in reading.images if i.kind == "t1"] == ["series 2", "series 3"]
    assert len({i.group for i in reading.images if i.kind == "t1"}) == 2
    assert len(reading.warnings) == 1
    assert "put together from series of different protocols" in reading.warnings[0]


@pytest.mark.parametrize(
    ("change", "difference"),
    [(contrast, "contrast agent"), (gradient_echo, "sequence family")],
)
def test_a_t1_that_cannot_complete_is_named_with_the_share_lost(
    study: Path, change: object, difference: str
) -> None:
    edit(station(study, "t1", 1), change)  # type: ignore[arg-type]
    reading = read_study(study)
    assert [i.source for i in reading.images if i.kind == "t1"] == ["series 2"]
    (warning,) = reading.warnings
    assert warning.startswith("50% of the diffusion images' extent")
    assert "series 3" in warning
    assert f"differs in {difference}" in warning
    assert next(r for r in reading.series if r.number == 3).reason.endswith(f"{difference})")


def test_a_diffusion_station_with_another_repetition_time_stays_in_the_exam(study: Path) -> None:
    edit(station(study, "dwi", 1), other_repetition_time)
    reading = read_study(study)
    assert len({i.group for i in reading.images if i.kind == "dwi"}) == 2
    whole = assemble_exam(reading.images)
    assert whole.record["coverage"] == pytest.approx(1.0, abs=0.01)
    assert any("is completed by stations of" in w for w in whole.warnings)


def test_diffusion_in_another_frame_of_reference_than_the_t1_is_said(study: Path) -> None:
    def move(dataset: Dataset) -> None:
        dataset.FrameOfReferenceUID = "1.2.3.4"

    edit(files_of(study, "dwi"), move)
    (warning,) = read_study(study).warnings
    assert "different frames of reference" in warning
    assert "series 4+5" in warning
    assert "1.2.3.4" not in warning


def test_an_adc_map_has_the_group_of_the_acquisition_it_comes_from(tmp_path: Path) -> None:
    images = make_images([station_affine(0)], adc=True)
    write_study(images, tmp_path / "s", config=DicomWriterConfig(decoys=False))
    reading = read_study(tmp_path / "s")
    groups = {i.kind: i.group for i in reading.images}
    assert groups["adc"] == groups["dwi"]

    def other_echo_time(dataset: Dataset) -> None:
        dataset.EchoTime = 90.0

    edit(files_of(tmp_path / "s", "adc"), other_echo_time)
    groups = {i.kind: i.group for i in read_study(tmp_path / "s").images}
    assert groups["adc"] != groups["dwi"]


def test_each_map_of_the_real_study_goes_with_its_own_acquisition(real_pelvis: Path) -> None:
    images = read_study(real_pelvis).images
    group_of = {i.source: i.group for i in images}
    assert group_of["series 9"] == group_of["series 8"]
    acquired = {i.group for i in images if i.kind == "dwi"}
    assert group_of["series 21"] not in acquired  # from 17, 18 and 19, of one b-value each


def test_names_of_two_letters_are_hidden_as_whole_words_only() -> None:
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID = "LI^NA^^Dr", "A-12"
    header = parse_header(dataset, Path("x"))
    assert header is not None
    shown = redact("li_t1 Na station 12 lineal anal Dr", header.private_words)
    assert shown == "*_t1 * station 12 lineal anal Dr"
