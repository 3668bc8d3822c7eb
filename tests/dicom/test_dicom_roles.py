from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_studies import B_VALUES, edit, files_of, make_images, station_affine
from pydicom.dataset import Dataset

from osteosap.dicom import DicomWriterConfig, inspect_study, read_study, write_study
from osteosap.dicom.b_values import read_b_value, read_directionality
from osteosap.dicom.headers import parse_header
from osteosap.dicom.roles import sort_series


def put(**values: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def without_b(dataset: Dataset) -> None:
    for tag in (0x00189087, 0x00189075, 0x0019100C, 0x0019100D, 0x00190010):
        if tag in dataset:
            del dataset[tag]


def without_table_position(dataset: Dataset) -> None:
    for tag in (0x00191013, 0x00191014):
        del dataset[tag]


def copy_series(files: list[Path], target: Path, number: int, **values: object) -> list[Path]:
    """A further series from the files of another."""
    target.mkdir()
    copies = [Path(shutil.copy(f, target)) for f in files]

    def change(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID[:-4]}{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesInstanceUID = f"1.2.826.{number}"
        put(SeriesNumber=number, **values)(dataset)

    edit(copies, change)
    return copies


def role_of(header: Dataset) -> str:
    """Role of a series of four slices with this header."""
    headers = []
    for index in range(4):
        header.ImagePositionPatient = [0, 0, 5 * index]
        parsed = parse_header(header, Path(f"{index}.dcm"))
        assert parsed is not None
        headers.append(parsed)
    (part,) = sort_series(headers)
    return part.role


def header_with(**values: object) -> Dataset:
    dataset = Dataset()
    put(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
        Modality="MR",
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[2, 2],
        Rows=8,
        Columns=8,
    )(dataset)
    put(**values)(dataset)
    return dataset


def timing(sequence: str, repetition: float, echo: float, **more: object) -> dict[str, object]:
    values = {"ScanningSequence": sequence, "RepetitionTime": repetition, "EchoTime": echo}
    return {**values, **more}


EPI = timing("EP", 6000, 70)
ISOTROPIC = ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
TRACE = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"]
PHILIPS_ADC = ["DERIVED", "PRIMARY", "ADC_UNSPECIFIED", "ADC", "UNSPECIFIED"]
SYNTHETIC = ["DERIVED", "SECONDARY", "SYNTHETIC_B"]
MOSAIC = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
ADC_TYPE = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]


@pytest.mark.parametrize(
    ("role", "name", "values"),
    [
        ("t1", "T1_TSE_cor", timing("SE", 600, 11)),
        ("t1", "LAVA pre", timing("GR", 4, 2)),
        ("t1", "", timing("SE", 550, 9)),
        ("other", "T1 map", timing("GR", 600, 11)),
        ("other", "t2_tse", timing("SE", 4000, 101)),
        ("other", "STIR cor", timing("IR", 4000, 40)),
        ("other", "T1 by name only", timing("SE", 4000, 90, DiffusionBValue=0.0)),
        ("other", "gre_field_mapping", timing("GR", 400, 5, FlipAngle=60)),
        ("other", "TWIST dyn", timing("GR", 4, 1)),
        ("other", "T1 CT", {"Modality": "CT"}),
        ("localizer", "Survey", timing("GR", 5, 2)),
        ("dwi", "WB DWI", {"DiffusionBValue": 0.0, **EPI}),
        ("dwi", "axial", {"SequenceName": "*ep_b400t", **EPI}),
        ("other", "DWI without b", EPI),
        ("adc_map", "dADC Map", {"DiffusionBValue": 1000.0, **EPI}),
        ("adc_map", "axial", {"ImageType": ADC_TYPE, "DiffusionBValue": 800.0, **EPI}),
        ("other", "eADC", {"DiffusionBValue": 1000.0, **EPI}),
        ("computed_b", "ep2d_CALC_BVAL", {"DiffusionBValue": 1600.0, **EPI}),
        ("computed_b", "cDWI b1500", {"DiffusionBValue": 1500.0, **EPI}),
        ("dwi", "DWI_ADC", {"ImageType": ISOTROPIC, "DiffusionBValue": 1000.0, **EPI}),
        ("dwi", "DWI_ADC", {"ImageType": TRACE, "DiffusionBValue": 800.0, **EPI}),
        ("adc_map", "DWI_ADC", {"ImageType": PHILIPS_ADC, "DiffusionBValue": 1000.0, **EPI}),
        ("computed_b", "dwi", {"ImageType": SYNTHETIC, "DiffusionBValue": 1500.0, **EPI}),
        ("other", "ep2d_diff", {"ImageType": MOSAIC, "DiffusionBValue": 1000.0, **EPI}),
        ("other", "DWI MIP", {"DiffusionBValue": 1000.0, **EPI}),
    ],
)
def test_a_header_gives_its_role(role: str, name: str, values: dict[str, object]) -> None:
    assert role_of(header_with(SeriesDescription=name, **values)) == role


def private(
    group: int, creator: str, element: int, vr: str, value: object, *, block: int = 0
) -> Dataset:
    dataset = Dataset()
    for index in range(block):
        dataset.private_block(group, f"SOMEBODY ELSE {index}", create=True)
    dataset.private_block(group, creator, create=True).add_new(element, vr, value)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (private(0x19, "SIEMENS MR HEADER", 0x0C, "IS", 400), 400),
        (private(0x19, "SIEMENS MR HEADER", 0x0C, "UN", b"400 "), 400),
        (private(0x19, "SIEMENS MR HEADER", 0x0C, "OB", b"1400"), 1400),
        (private(0x19, "SIEMENS MR HEADER", 0x0C, "IS", 50, block=2), 50),
        (private(0x43, "GEMS_PARM_01", 0x39, "IS", [1000000800, 8, 0, 0]), 800),
        (private(0x43, "GEMS_PARM_01", 0x39, "UN", b"1000000050\\8\\0\\0"), 50),
        (private(0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0), 1000),
        (private(0x2001, "Philips Imaging DD 001", 0x03, "UN", b"\x00\x00\x7a\x44"), 1000),
        (private(0x43, "GEMS_PARM_01", 0x39, "IS", [1000, 8, 0, 0]), 1000),
        (private(0x43, "GEMS_PARM_01", 0x39, "IS", [0, 8, 0, 0]), 0),
        (private(0x43, "GEMS_PARM_01", 0x39, "IS", [1000001000, 8, 0, 0], block=1), 1000),
        (private(0x2001, "Philips Imaging DD 001", 0x03, "FL", 1.7e38), None),
        (private(0x2001, "Philips Imaging DD 001", 0x03, "FL", 0.0), 0),
        (private(0x19, "OTHER VENDOR", 0x0C, "IS", 400), None),
        (Dataset(), None),
    ],
)
def test_private_b_values_are_found_through_their_creator(
    dataset: Dataset, expected: float | None
) -> None:
    assert read_b_value(dataset)[0] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("*ep_b400t", 400), ("ep_b1000#3", 1000), ("ep_b0", 0), ("ep_b0_800", None), ("tse2d1", None)],
)
def test_the_sequence_name_is_the_last_resort(name: str, expected: float | None) -> None:
    dataset = Dataset()
    dataset.SequenceName = name
    assert read_b_value(dataset)[0] == expected
    dataset.DiffusionBValue = 650.0
    assert read_b_value(dataset) == (650.0, "(0018,9087)")


def test_directions_are_told_from_traces() -> None:
    assert (
        read_directionality(private(0x19, "SIEMENS MR HEADER", 0x0D, "CS", "DIRECTIONAL"))
        == "direction"
    )
    assert read_directionality(private(0x2001, "Philips Imaging DD 001", 4, "CS", "I")) == "trace"
    assert read_directionality(header_with(ImageType=["DERIVED", "PRIMARY", "TRACEW"])) == "trace"
    assert read_directionality(Dataset()) == ""
    for code, expected in ((7, "trace"), (16, "direction"), (3, "")):  # GE
        image = private(0x43, "GEMS_PARM_01", 0x39, "IS", [1000001000, 8, 0, 0])
        image.private_block(0x21, "GEMS_RELA_01", create=True).add_new(0x5A, "SL", code)
        assert read_directionality(image) == expected
        image[0x00431039].value = [0, 8, 0, 0]
        assert read_directionality(image) == ""


def test_an_adc_map_in_1e_3_mm2_per_s_is_converted_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    images = make_images([station_affine(0)], adc=True)
    write_study(images, folder, config=DicomWriterConfig())
    edit(files_of(folder, "adc"), put(RescaleSlope="0.001", RescaleIntercept="0"))
    reading = read_study(folder)
    (adc,) = (i for i in reading.images if i.kind == "adc")
    assert np.abs(adc.volume.array - images[-1].volume.array).max() <= 0.51
    assert any("1e-3 mm2/s" in w for w in reading.warnings)


def test_rescale_slope_and_intercept_are_applied(one_station: Path) -> None:
    before = read_study(one_station).images[0].volume.array
    edit(files_of(one_station, "t1"), put(RescaleSlope="2", RescaleIntercept="-10"))
    np.testing.assert_allclose(read_study(one_station).images[0].volume.array, before * 2 - 10)


@pytest.mark.parametrize("mark", ["table", "acquisition", "order", "frame"])
def test_one_series_with_all_stations_is_divided(study: Path, mark: str) -> None:
    for kind in ("t1", "dwi"):
        first, second = (sorted(f.glob("*.dcm")) for f in sorted(study.glob(f"*_{kind}")))
        uid = pydicom.dcmread(first[0]).SeriesInstanceUID
        values: dict[str, object] = {"SeriesInstanceUID": uid, "SeriesNumber": 7}
        if mark == "acquisition":
            values["AcquisitionNumber"] = 2
        if mark == "frame":
            values["FrameOfReferenceUID"] = "1.2.3.4"

        def move(dataset: Dataset, values: dict[str, object] = values) -> None:
            put(InstanceNumber=dataset.InstanceNumber + 500, **values)(dataset)

        edit(first, put(SeriesNumber=7))
        edit(second, move)
    if mark != "table":
        edit(study.rglob("*.dcm"), without_table_position)
    reading = read_study(study)
    expected = read_study_grids(make_images())
    assert read_study_grids(reading.images) == expected
    assert {r.n_stations for r in reading.series if r.role in ("t1", "dwi")} == {2}


def read_study_grids(images: object) -> list[tuple[str, float, tuple[float, ...]]]:
    return sorted(
        (i.kind, i.b_value_s_per_mm2 or 0.0, tuple(i.volume.affine[:3, 3].round(3).tolist()))
        for i in images  # type: ignore[attr-defined]
    )


def test_slices_in_any_file_order_make_the_same_volume(one_station: Path) -> None:
    before = read_study(one_station).images[0].volume.array
    files = files_of(one_station, "t1")
    for index, path in enumerate(reversed(files)):
        path.rename(path.with_name(f"{index}.bin"))
    edit(one_station.glob("*_t1/*"), put(InstanceNumber=1))
    np.testing.assert_array_equal(read_study(one_station).images[0].volume.array, before)


def test_duplicate_files_are_dropped_with_a_warning(one_station: Path) -> None:
    n_images = len(read_study(one_station).images)
    shutil.copytree(one_station / "001_t1", one_station / "copy")
    reading = read_study(one_station)
    assert len(reading.images) == n_images
    assert reading.warnings == ("series 1: 6 duplicate files dropped",)


def test_directions_are_joined_by_their_geometric_mean(one_station: Path) -> None:
    files = [f for f in files_of(one_station, "dwi") if pydicom.dcmread(f).DiffusionBValue == 1000]
    before = {i.b_value_s_per_mm2: i.volume.array for i in read_study(one_station).images}
    siblings = [Path(shutil.copy(path, path.with_name("d" + path.name))) for path in files]
    untrace = put(
        ImageType=["ORIGINAL", "PRIMARY", "DIFFUSION"], DiffusionDirectionality="DIRECTIONAL"
    )

    def second(dataset: Dataset) -> None:
        dataset.SOPInstanceUID += "9"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.RescaleSlope, dataset.RescaleIntercept = "4", "0"

    edit(files + siblings, untrace)
    edit(siblings, second)
    reading = read_study(one_station)
    after = {i.b_value_s_per_mm2: i.volume.array for i in reading.images}
    np.testing.assert_allclose(after[1000.0], before[1000.0] * 2, rtol=1e-4, atol=1e-2)
    assert any("geometric mean" in w for w in reading.warnings)


def test_trace_images_are_preferred_over_single_directions(one_station: Path) -> None:
    before = [i.volume.array for i in read_study(one_station).images]
    files = [f for f in files_of(one_station, "dwi") if pydicom.dcmread(f).DiffusionBValue == 1000]
    for path in files:
        copy = Path(shutil.copy(path, path.with_name("d" + path.name)))

        def single(dataset: Dataset) -> None:
            dataset.SOPInstanceUID += "9"
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION"]
            dataset.DiffusionDirectionality = "DIRECTIONAL"
            dataset.RescaleSlope, dataset.RescaleIntercept = "4", "0"

        edit([copy], single)
    after = [i.volume.array for i in read_study(one_station).images]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_second_acquisition_at_the_same_place_is_a_group_of_its_own(one_station: Path) -> None:
    copy_series(files_of(one_station, "dwi"), one_station / "again", 30)
    groups = {i.group for i in read_study(one_station).images if i.kind == "dwi"}
    assert len(groups) == 2


def test_one_series_a_b_value_is_joined_and_said(one_station: Path) -> None:
    for path in files_of(one_station, "dwi"):
        b_value = int(pydicom.dcmread(path).DiffusionBValue)
        number = 20 + B_VALUES.index(b_value)
        edit([path], put(SeriesInstanceUID=f"1.2.3.{number}", SeriesNumber=number))
    reading = read_study(one_station)
    assert len({i.group for i in reading.images if i.kind == "dwi"}) == 1
    assert any("equal scaling" in w for w in reading.warnings)


def test_b_values_come_from_private_tags_when_the_standard_one_is_missing(study: Path) -> None:
    def only_private(dataset: Dataset) -> None:
        del dataset[0x00189087]

    edit(files_of(study, "dwi"), only_private)
    reading = read_study(study)
    assert {r.b_values_s_per_mm2 for r in reading.series if r.role == "dwi"} == {B_VALUES}
    assert "Siemens" in reading.series[-1].reason
    edit(files_of(study, "dwi"), without_b)
    reading = read_study(study)
    assert {r.b_values_s_per_mm2 for r in reading.series if r.role == "dwi"} == {B_VALUES}
    assert "sequence name" in reading.series[-1].reason


def test_of_two_t1_the_one_before_contrast_is_used(one_station: Path) -> None:
    files = files_of(one_station, "t1")
    copy_series(files, one_station / "post", 20, SeriesDescription="t1_tse post Gd")
    copy_series(files, one_station / "repeat", 21)
    reading = read_study(one_station)
    t1 = {r.number: r for r in reading.series if r.role == "t1"}
    assert [i.source for i in reading.images if i.kind == "t1"] == ["series 1"]
    assert (t1[1].used, t1[20].used, t1[21].used) == (True, False, False)
    assert "not used" in t1[20].reason
    assert "not used" in t1[21].reason


def test_the_t1_that_covers_the_diffusion_images_is_used(study: Path) -> None:
    partial = files_of(study, "t1")[:6]
    copy_series(partial, study / "partial", 1, SeriesDescription="t1_fine", PixelSpacing=[1, 1])
    sources = {i.source for i in read_study(study).images if i.kind == "t1"}
    assert sources == {"series 2", "series 3"}


def test_a_dynamic_t1_series_is_not_taken_for_anatomy(one_station: Path) -> None:
    files = files_of(one_station, "t1")
    for phase in (2, 3):
        copies = [Path(shutil.copy(f, f.with_name(f"p{phase}{f.name}"))) for f in files]

        def change(dataset: Dataset, phase: int = phase) -> None:
            dataset.SOPInstanceUID += str(phase)
            dataset.AcquisitionNumber = phase

        edit(copies, change)
    copy_series(files, one_station / "anatomy", 20)
    reading = read_study(one_station)
    dynamic = next(r for r in reading.series if r.number == 1)
    assert dynamic.role == "other"
    assert "18 images at 6 positions" in dynamic.reason
    assert [i.source for i in reading.images if i.kind == "t1"] == ["series 20"]


def test_every_series_is_logged_without_the_patient(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(
        study.rglob("*.dcm"),
        put(PatientName="Oakenshield^Thorin", PatientID="X77123", SeriesDescription="Thorin t1"),
    )
    with caplog.at_level(logging.INFO, logger="osteosap"):
        reading = read_study(study)
    lines = [r.getMessage() for r in caplog.records]
    assert sum(line.startswith("series ") for line in lines) == 5
    everything = " ".join(lines) + repr(reading.series) + repr(reading.warnings)
    assert "t1" in everything
    assert not any(w in everything.lower() for w in ("oakenshield", "thorin", "x77123"))


def test_isotropic_images_of_philips_with_the_map_in_one_series_are_told_apart(
    tmp_path: Path,
) -> None:
    """One exported series named after the map: b = 0, the isotropic b > 0 and the ADC."""
    folder = tmp_path / "s"
    images = make_images([station_affine(0)], adc=True)
    config = DicomWriterConfig.from_mapping({"dialect": "philips", "scanner_adc": True})
    write_study(images, folder, config=config)
    join = put(SeriesInstanceUID="1.2.3.4", SeriesNumber=701, SeriesDescription="DWI_ADC")
    edit([*files_of(folder, "dwi"), *files_of(folder, "adc")], join)
    edit(files_of(folder, "adc"), put(DiffusionBValue=1000.0))
    reading = read_study(folder)
    parts = {r.role: (r.number, r.b_values_s_per_mm2) for r in reading.series}
    assert parts["dwi"] == (701, B_VALUES)
    assert parts["adc_map"] == (701, ())
    assert sorted(i.kind for i in reading.images) == ["adc", "dwi", "dwi", "dwi", "t1"]


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge"])
def test_the_b_value_says_where_it_was_found(tmp_path: Path, vendor: str) -> None:
    config = DicomWriterConfig.from_mapping({"dialect": vendor})
    write_study(make_images(), tmp_path / "s", config=config)

    def only_private(dataset: Dataset) -> None:
        for keyword in ("DiffusionBValue", "DiffusionDirectionality", "SequenceName"):
            if keyword in dataset:
                delattr(dataset, keyword)

    edit(files_of(tmp_path / "s", "dwi"), only_private)
    dwi = [r for r in read_study(tmp_path / "s").series if r.role == "dwi"]
    assert {r.b_values_s_per_mm2 for r in dwi} == {B_VALUES}
    assert all(vendor in r.reason.lower() for r in dwi)


EXPECTED_PELVIS = {
    1: ("localizer", ()),  # T2, three planes, 13 images
    2: ("localizer", ()),  # one image
    5: ("other", ()),  # T2 TSE: not T1, though SE and axial
    8: ("dwi", (0.0, 100.0, 400.0, 800.0)),  # b in (0019,100C) alone; all b in one series
    9: ("adc_map", ()),  # of 8; carries a b-value tag
    10: ("computed_b", (1600.0,)),  # computed from 8; no acquired b
    17: ("dwi", (100.0,)),  # one b a series
    18: ("dwi", (500.0,)),
    19: ("dwi", (1400.0,)),
    21: ("adc_map", ()),  # of 17 to 19
    26: ("t1", ()),  # VIBE, recognised by its timing: its name has no "t1"
    27: ("other", ()),  # one phase of a dynamic series
}


def test_the_real_pelvis_study_is_sorted_rightly(real_pelvis: Path) -> None:
    reading = read_study(real_pelvis)
    assert {r.number: (r.role, r.b_values_s_per_mm2) for r in reading.series} == EXPECTED_PELVIS
    groups: dict[str, list[float | None]] = {}
    for image in reading.images:
        if image.kind == "dwi":
            groups.setdefault(image.group, []).append(image.b_value_s_per_mm2)
    assert sorted(groups.values()) == [[0.0, 100.0, 400.0, 800.0], [100.0], [500.0], [1400.0]]
    assert [i.source for i in reading.images if i.kind == "t1"] == ["series 26"]
    adc = [i for i in reading.images if i.kind == "adc"]
    assert [i.source for i in adc] == ["series 9", "series 21"]
    assert 500 < float(np.median(adc[0].volume.array[adc[0].volume.array > 0])) < 2500
    assert reading.warnings == ()


def test_a_truncated_file_of_the_real_study_is_named(real_pelvis: Path, tmp_path: Path) -> None:
    folder = next(real_pelvis.glob("8-*"))
    shutil.copytree(folder, tmp_path / "8")
    path = sorted((tmp_path / "8").iterdir())[4]
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(Exception, match=f"8/{path.name} is truncated"):
        read_study(tmp_path)


def test_inspect_is_right_on_every_series_of_the_real_study(real_pelvis: Path) -> None:
    found = inspect_study(real_pelvis)
    assert {r.number: (r.role, r.b_values_s_per_mm2) for r in found.series} == EXPECTED_PELVIS
    assert found.series == read_study(real_pelvis).series
    assert (found.problem, found.warnings) == (None, ())
    used = {r.number for r in found.series if r.used}
    assert used == {8, 9, 17, 18, 19, 21, 26}
    stacks = [r for r in found.series if r.n_images > 1 and r.role != "localizer"]
    assert {r.plane for r in stacks} == {"axial, tilted 23 degrees"}
    assert {r.geometry for r in stacks if r.role in ("dwi", "adc_map", "computed_b")} == {
        "160x130x20 voxels of 1.62x1.62x3.6 mm"
    }
    assert {r.number: r.n_files for r in found.series} == {
        1: 13, 2: 1, 5: 20, 8: 80, 9: 20, 10: 20, 17: 20, 18: 20, 19: 20, 21: 20, 26: 20, 27: 20
    }  # fmt: skip
    reason = {r.number: r.reason for r in found.series}
    assert "Siemens (0019,100C)" in reason[8]
    assert "computed by the scanner" in reason[10]
    assert "TR 3.85 ms, TE 1.42 ms, flip 20 degrees" in reason[26]
    assert "dynamic" in reason[27]
    assert found.plan[0] == "t1: series 26 (1 station)"
    assert "adc: fitted from b 0, 100, 400, 800" in found.plan
