"""Enhanced multi-frame MR: the same study in other files gives the same voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_studies import (
    B_VALUES,
    edit,
    files_of,
    make_images,
    oblique_affine,
    station_affine,
    to_enhanced,
)
from pydicom.dataset import Dataset

from osteosap.dicom import DicomWriterConfig, StudyReading, read_study, write_study
from osteosap.dicom.files import read_headers
from osteosap.errors import StudyError


def written(folder: Path, vendor: str = "siemens", **values: object) -> Path:
    config = DicomWriterConfig.from_mapping({"seed": 4, "dialect": vendor, **values})
    images = make_images([station_affine(0), station_affine(1)], adc=True)
    write_study(images, folder, config=config)
    return folder


def convert(folder: Path) -> None:
    """Every series of a study but the localizer becomes one enhanced file."""
    for series in sorted(folder.glob("*_[tda]*")):
        to_enhanced(sorted(series.glob("*.dcm")), series / "enhanced.dcm")


def assert_equal(one: StudyReading, two: StudyReading) -> None:
    assert len(one.images) == len(two.images)
    for a, b in zip(one.images, two.images, strict=True):
        assert (a.kind, a.b_value_s_per_mm2, a.source) == (b.kind, b.b_value_s_per_mm2, b.source)
        np.testing.assert_allclose(a.volume.affine, b.volume.affine, atol=1e-9)
        np.testing.assert_array_equal(a.volume.array, b.volume.array)


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge"])
def test_enhanced_files_give_the_voxels_of_the_classic_ones(tmp_path: Path, vendor: str) -> None:
    folder = written(tmp_path / "s", vendor, scanner_adc=True)
    classic = read_study(folder)
    if vendor == "ge":  # the standard attributes of an enhanced file hold what GE packs
        for path in files_of(folder, "dwi"):
            b = int(pydicom.dcmread(path)[0x00431039].value[0]) % 100_000

            def add_b(dataset: Dataset, b: int = b) -> None:
                dataset.DiffusionBValue = float(b)
                dataset.DiffusionDirectionality = "ISOTROPIC" if b else "NONE"

            edit([path], add_b)
    convert(folder)
    enhanced = read_study(folder)
    assert_equal(classic, enhanced)
    assert [r.role for r in enhanced.series] == [r.role for r in classic.series]
    dwi = [r for r in enhanced.series if r.role == "dwi"]
    assert {r.b_values_s_per_mm2 for r in dwi} == {B_VALUES}
    assert {(r.n_files, r.n_images) for r in dwi} == {(1, 36 if vendor == "ge" else 18)}


def test_an_oblique_enhanced_station_comes_back_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write_study(make_images([oblique_affine()]), folder, config=DicomWriterConfig(decoys=False))
    classic = read_study(folder)
    convert(folder)
    assert_equal(classic, read_study(folder))


def test_all_stations_of_a_series_may_be_in_one_file_or_in_one_file_each(tmp_path: Path) -> None:
    folder = written(tmp_path / "s", "ge", decoys=False, scanner_adc=False)
    for path in files_of(folder, "dwi"):
        b = int(pydicom.dcmread(path)[0x00431039].value[0]) % 100_000
        edit([path], lambda d, b=b: setattr(d, "DiffusionBValue", float(b)))
        edit([path], lambda d: setattr(d, "DiffusionDirectionality", "ISOTROPIC"))
        edit([path], lambda d: setattr(d, "AcquisitionNumber", 1))
    classic = read_study(folder)
    files = files_of(folder, "dwi")
    middle = len(files) // 2  # GE numbers the stations one after another
    for name, half in (("a", files[:middle]), ("b", files[middle:])):
        to_enhanced(half, files[0].parent / f"{name}.dcm")
    edit([files[0].parent / "b.dcm"], lambda d: setattr(d, "SOPInstanceUID", "1.2.3.4"))
    assert_equal(classic, read_study(folder))


def test_frames_carry_what_classic_headers_do(tmp_path: Path) -> None:
    folder = written(tmp_path / "s", decoys=False)
    classic = {h.position_lps_mm: h for h in read_headers(folder) if h.series_number == 1}
    convert(folder)
    for frame in (h for h in read_headers(folder) if h.series_number == 1):
        one = classic[frame.position_lps_mm]
        for name in (
            "echo_time_ms", "repetition_time_ms", "flip_angle_deg", "image_type", "rescale",
            "orientation_lps", "pixel_spacing_mm", "sequence_name", "scanning_sequence",
            "b_value_s_per_mm2", "description", "patient", "study_uid", "acquisition_number",
        ):  # fmt: skip
            assert getattr(frame, name) == getattr(one, name), name
        assert frame.phase_encoding == "column"
        assert frame.frames == 1


def test_the_frames_of_a_file_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "s")
    convert(folder)
    opened: list[str] = []
    dcmread = pydicom.dcmread

    def counting(path: object, **values: object) -> object:
        opened.append(str(path))
        return dcmread(path, **values)

    monkeypatch.setattr("osteosap.dicom.pixels.pydicom.dcmread", counting)
    read_study(folder)
    pixels = [name for name in opened if name.endswith(".dcm")]
    assert len(pixels) == len(set(pixels)) == 6  # T1, DWI and ADC of two stations


def test_frames_of_directions_and_maps_in_one_file_are_told_apart(tmp_path: Path) -> None:
    """As Philips writes them: b = 0, three directions, the trace and the map in one file."""
    folder = tmp_path / "s"
    images = make_images([station_affine(0)], b_values=(0.0, 1000.0), adc=True)
    write_study(images, folder, config=DicomWriterConfig(decoys=False, scanner_adc=True))
    expected = read_study(folder)
    files = files_of(folder, "dwi")
    for path in [f for f in files if pydicom.dcmread(f).DiffusionBValue == 1000]:
        for number in range(3):

            def direct(dataset: Dataset, number: int = number) -> None:
                dataset.DiffusionDirectionality = "DIRECTIONAL"
                dataset.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
                pixels = dataset.pixel_array // (number + 2)
                dataset.PixelData = pixels.astype("<u2").tobytes()

            copy = path.with_name(f"d{number}{path.name}")
            copy.write_bytes(path.read_bytes())
            edit([copy], direct)
    adc = files_of(folder, "adc")
    edit(adc, lambda d: setattr(d, "DiffusionBValue", 1000.0))
    to_enhanced([*files_of(folder, "dwi"), *adc], files[0].parent / "all.dcm")
    reading = read_study(folder)
    assert [(r.role, r.n_images) for r in reading.series] == [
        ("t1", 6), ("adc_map", 6), ("dwi", 30)
    ]  # fmt: skip
    for one in expected.images:
        (other,) = (
            i
            for i in reading.images
            if (i.kind, i.b_value_s_per_mm2) == (one.kind, one.b_value_s_per_mm2)
        )
        np.testing.assert_array_equal(one.volume.array, other.volume.array)
    assert any("trace-weighted images are used" in w for w in reading.warnings)


def test_private_groups_of_a_frame_give_the_b_value_where_the_standard_one_is_missing(
    tmp_path: Path,
) -> None:
    folder = written(tmp_path / "s", decoys=False)
    convert(folder)

    def make_private(dataset: Dataset) -> None:
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            b = float(groups.MRDiffusionSequence[0].get("DiffusionBValue", 0.0))
            del groups.MRDiffusionSequence
            inner = Dataset()
            inner.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(3, "FL", b)
            inner.SOPInstanceUID = "1.2.3"  # of no concern
            block = groups.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
            block.add_new(0x0F, "SQ", [inner])

    edit(sorted(folder.glob("*_dwi/*.dcm")), make_private)
    reading = read_study(folder)
    dwi = [r for r in reading.series if r.role == "dwi"]
    assert {r.b_values_s_per_mm2 for r in dwi} == {B_VALUES}
    assert "Philips" in dwi[0].reason


def test_an_enhanced_file_without_its_groups_is_refused_with_the_reason(study: Path) -> None:
    for series in sorted(study.glob("*_dwi")):
        path = to_enhanced(sorted(series.glob("*.dcm")), series / "enhanced.dcm")
        edit([path], lambda d: delattr(d, "PerFrameFunctionalGroupsSequence"))
    with pytest.raises(StudyError, match="no diffusion series") as caught:
        read_study(study)
    assert "functional groups" in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.999])
def test_a_truncated_enhanced_file_is_named(study: Path, share: float) -> None:
    series = sorted(study.glob("*_dwi"))[0]
    path = to_enhanced(sorted(series.glob("*.dcm")), series / "enhanced.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(StudyError, match=r"enhanced\.dcm is truncated"):
        read_study(study)
