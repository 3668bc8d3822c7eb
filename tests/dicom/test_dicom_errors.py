from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_studies import edit, files_of, make_images
from pydicom.dataset import Dataset

from osteosap.dicom import DicomWriterConfig, read_study, write_study
from osteosap.dicom.files import read_headers
from osteosap.errors import StudyError


def read_error(folder: Path) -> str:
    with pytest.raises(StudyError) as caught:
        read_study(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.remedy
    assert "SIM-" not in text
    assert "SIMULATED^EXAM" not in text
    return text


def set_values(**values: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "no folder" in read_error(tmp_path / "nothing")


def test_a_folder_without_dicom_says_how_many_files_it_has(tmp_path: Path) -> None:
    assert "0 files" in read_error(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    assert "1 files" in read_error(tmp_path)


@pytest.mark.parametrize("kept", [0, 60, 140, 400, 700, 900, -1, -2, -80])
def test_a_truncated_file_is_named(study: Path, kept: int) -> None:
    path = files_of(study, "dwi")[3]
    path.write_bytes(path.read_bytes()[:kept])
    text = read_error(study)
    assert "IM0004.dcm" in text
    assert "truncated" in text


def test_a_file_cut_anywhere_is_noticed(one_station: Path, tmp_path: Path) -> None:
    whole = files_of(one_station, "dwi")[0].read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    for kept in range(0, len(whole), 43):
        (folder / "image.dcm").write_bytes(whole[:kept])
        with pytest.raises(StudyError, match=r"image\.dcm is truncated"):
            read_headers(folder)


def test_a_truncated_localizer_is_named_too(study: Path) -> None:
    path = files_of(study, "localizer")[0]
    path.write_bytes(path.read_bytes()[:-10])
    assert "001_localizer/IM0001.dcm" in read_error(study)


def test_a_path_that_spells_the_patient_is_not_shown(study: Path) -> None:
    edit(study.rglob("*.dcm"), set_values(PatientName="Oakenshield^Thorin", PatientID="X77123"))
    folder = study / "OAKENSHIELD_thorin-X77123"
    shutil.move(study / "004_dwi", folder)
    path = sorted(folder.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-30])
    text = read_error(study).lower()
    assert "truncated" in text
    assert not any(word in text for word in ("oakenshield", "thorin", "x77123"))


def test_a_study_of_ct_only_names_the_modality(study: Path) -> None:
    edit(study.rglob("*.dcm"), set_values(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    text = read_error(study)
    assert "5 CT" in text
    assert "expected T1 and diffusion MR" in text


def test_ct_in_a_complete_mr_study_is_recorded_and_passed_over(study: Path) -> None:
    ct = set_values(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    edit(files_of(study, "localizer"), ct)
    reading = read_study(study)
    assert reading.series[0].role == "other"
    assert "CT" in reading.series[0].reason
    assert len(reading.images) == 8


def test_t1_without_diffusion_is_refused(study: Path) -> None:
    for path in files_of(study, "dwi"):
        path.unlink()
    assert "no diffusion series" in read_error(study)


def test_diffusion_without_t1_is_refused(study: Path) -> None:
    for path in files_of(study, "t1"):
        path.unlink()
    assert "no T1-weighted series" in read_error(study)


def test_a_single_b_value_needs_the_scanners_adc(tmp_path: Path) -> None:
    config = DicomWriterConfig()
    write_study(make_images(b_values=[800.0]), tmp_path / "without", config=config)
    text = read_error(tmp_path / "without")
    assert "one b-value only (800 s/mm2)" in text
    write_study(make_images(b_values=[800.0], adc=True), tmp_path / "with", config=config)
    assert {i.kind for i in read_study(tmp_path / "with").images} == {"t1", "dwi", "adc"}


@pytest.mark.parametrize(
    ("keyword", "value", "what"),
    [
        ("PatientID", "OTHER-77", "2 patients"),
        ("StudyInstanceUID", "1.2.3", "2 studies"),
    ],
)
def test_two_patients_or_studies_are_refused_without_naming_them(
    study: Path, keyword: str, value: str, what: str
) -> None:
    edit(files_of(study, "t1"), set_values(**{keyword: value}))
    text = read_error(study)
    assert what in text
    assert value not in text


def test_a_missing_slice_is_reported_with_its_gap(study: Path) -> None:
    files_of(study, "t1")[2].unlink()
    text = read_error(study)
    assert "10.00 mm apart, expected 5.00 mm (1 missing)" in text
    assert "series 2" in text


def test_a_missing_end_slice_of_one_b_value_is_reported(one_station: Path) -> None:
    files_of(one_station, "dwi")[-1].unlink()
    text = read_error(one_station)
    assert "b 1000 has 5 slices" in text
    assert "b 0 has 6" in text


def test_uneven_slices_are_refused(one_station: Path) -> None:
    def shift(dataset: Dataset) -> None:
        dataset.ImagePositionPatient[2] += 2.0

    edit(files_of(one_station, "t1")[3:4], shift)
    assert "uneven" in read_error(one_station)


def test_t1_and_diffusion_of_different_regions_are_refused(one_station: Path) -> None:
    def move(dataset: Dataset) -> None:
        dataset.ImagePositionPatient[2] += 900.0

    edit(files_of(one_station, "t1"), move)
    assert "different parts of the body" in read_error(one_station)


def test_multi_frame_files_without_functional_groups_are_named_as_the_reason(study: Path) -> None:
    def double(dataset: Dataset) -> None:
        dataset.NumberOfFrames = 2
        dataset.PixelData *= 2

    edit(files_of(study, "dwi"), double)
    text = read_error(study)
    assert "no diffusion series" in text
    assert "without the functional groups of enhanced MR" in text


def test_hidden_files_and_a_dicomdir_are_passed_over(study: Path) -> None:
    n_images = len(read_study(study).images)
    (study / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM broken")
    (study / ".hidden.dcm").write_bytes(b"")
    (study / "readme").write_text("not an image")
    nested = study / "a" / "b"
    nested.mkdir(parents=True)
    shutil.move(study / "002_t1", nested)
    assert len(read_study(study).images) == n_images
