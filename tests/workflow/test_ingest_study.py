import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from osteosap.errors import InputError, StudyError
from osteosap.ingest import IngestConfig, read_input, read_stations, write_stations
from osteosap.manifest import study_checksum
from osteosap.volume import Volume, write_nifti
from osteosap.workflow import run_exam


@pytest.mark.parametrize(
    ("factor", "unit"), [(1.0, "um2/s"), (1e-3, "1e-3 mm2/s"), (1e-6, "mm2/s")]
)
def test_the_unit_of_an_adc_map_is_told_and_converted(study, body_exam, factor, unit):
    adc = body_exam.images.channel("adc")
    write_nifti(
        Volume.single((adc * factor).astype(np.float32), body_exam.images.affine, "adc"),
        study / "adc.nii.gz",
    )
    found = read_input(study)
    image = next(image for image in found.images if image.kind == "adc")
    assert np.allclose(image.volume.channel("adc"), adc, rtol=1e-4)
    assert unit in found.series[2]["reason"]


def test_a_set_unit_is_taken_as_set(study):
    found = read_input(study, IngestConfig(nifti_adc_unit="1e-3 mm2/s"))
    image = next(image for image in found.images if image.kind == "adc")
    assert image.volume.array.max() == pytest.approx(1e6)


def test_a_study_without_the_marker_is_not_called_simulated(study):
    assert read_input(study).simulated
    (study / "exam.json").unlink()
    assert not read_input(study).simulated


def test_stations_read_back_as_they_were_written(study, tmp_path):
    found = read_input(study)
    write_stations(found, tmp_path / "stations")
    back = read_stations(tmp_path / "stations")
    assert [(i.kind, i.b_value_s_per_mm2, i.group, i.source) for i in back.images] == [
        (i.kind, i.b_value_s_per_mm2, i.group, i.source) for i in found.images
    ]
    for one, other in zip(found.images, back.images, strict=True):
        assert np.array_equal(one.volume.array, other.volume.array)
    assert (back.series, back.kind, back.simulated) == (found.series, "nifti", True)
    assert json.loads((tmp_path / "stations" / "series.json").read_text())["study"] == "nifti"


def test_an_image_that_does_not_say_where_it_lies_is_warned_of(study):
    assert read_input(study).warnings == ()
    image = nib.load(study / "b1000.nii.gz")
    plain = nib.Nifti1Image(np.asarray(image.dataobj), None)
    plain.header.set_zooms(image.header.get_zooms())
    nib.save(plain, study / "b1000.nii.gz")
    (warning,) = read_input(study).warnings
    assert warning.startswith("b1000.nii.gz does not say where it lies")


@pytest.mark.parametrize("part", [".", "exam"])
def test_a_result_given_as_study_is_still_called_simulated(study, tmp_path, config, part):
    run_exam(study, tmp_path / "out", config=config)
    copy = shutil.copytree(tmp_path / "out" / part, tmp_path / "elsewhere")
    assert read_input(copy).simulated


def test_a_result_of_a_study_that_is_not_simulated_is_not_called_so(study, tmp_path, config):
    (study / "exam.json").unlink()
    run_exam(study, tmp_path / "out", config=config)
    assert not read_input(tmp_path / "out").simulated


def test_a_file_that_cannot_be_read_is_an_input_error_without_its_name(study, monkeypatch):
    (study / "DOE_JOHN.txt").touch()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("osteosap.manifest.file_checksum", refuse)
    with pytest.raises(InputError, match="cannot be read \\(Permission denied\\)") as caught:
        study_checksum(study)
    assert "DOE_JOHN" not in str(caught.value)


def test_a_folder_that_cannot_be_read_is_not_passed_over(study, monkeypatch):
    (study / "locked").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(InputError, match="Permission denied"):
        study_checksum(study)


def test_a_copy_of_the_images_alone_still_says_that_they_are_simulated(study, tmp_path, config):
    run_exam(study, tmp_path / "out", config=config)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("t1", "b1000", "adc"):
        shutil.copy(tmp_path / "out" / "exam" / f"{name}.nii.gz", copy)
    assert read_input(copy).simulated


def test_a_folder_with_a_dicom_study_and_nifti_images_is_ambiguous(study, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(study, both / "exam")
    (both / "dicom").mkdir()
    with pytest.raises(StudyError, match="both a DICOM study"):
        read_input(both)


def test_images_that_were_handed_over_are_not_called_acquired(study, tmp_path, config):
    run_exam(study, tmp_path / "out", config=config)
    record = json.loads((tmp_path / "out" / "exam" / "preprocessing.json").read_text())
    assert record["b1000"]["source"] == record["adc"]["source"] == "handed over"
