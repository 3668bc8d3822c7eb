"""Faults of exported studies: each is lossless, or refused with a clear error."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_studies import (
    SHAPE,
    SPACING_MM,
    assert_same_images,
    edit,
    files_of,
    make_images,
    station_affine,
)
from pydicom.dataset import Dataset

from osteosap.dicom import DicomWriterConfig, StudyReading, read_study, write_study
from osteosap.errors import StudyError
from osteosap.exam import StationImage
from osteosap.geometry import make_affine
from osteosap.volume import Volume


def refused(folder: Path) -> str:
    with pytest.raises(StudyError) as caught:
        read_study(folder)
    assert caught.value.remedy
    return str(caught.value)


def assert_equal(one: StudyReading, two: StudyReading) -> None:
    assert len(one.images) == len(two.images)
    for a, b in zip(one.images, two.images, strict=True):
        assert (a.kind, a.b_value_s_per_mm2, a.group) == (b.kind, b.b_value_s_per_mm2, b.group)
        np.testing.assert_array_equal(a.volume.affine, b.volume.affine)
        np.testing.assert_array_equal(a.volume.array, b.volume.array)


def repeat(files: list[Path], change: Callable[[Dataset], None] = lambda _: None) -> list[Path]:
    """Copies beside the files with SOP identifiers of their own."""
    copies = [Path(shutil.copy(path, path.with_name(f"z{path.name}"))) for path in files]

    def rename(dataset: Dataset) -> None:
        dataset.SOPInstanceUID += ".1"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        change(dataset)

    edit(copies, rename)
    return copies


def empty(dataset: Dataset) -> None:
    dataset.PixelData = bytes(len(dataset.PixelData))


def of_station(study: Path, kind: str, number: int) -> list[Path]:
    return sorted(sorted(study.glob(f"*_{kind}"))[number].glob("*.dcm"))


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge"])
def test_files_in_one_folder_under_random_names_give_the_same_volumes(
    tmp_path: Path, vendor: str
) -> None:
    folder = tmp_path / "s"
    config = DicomWriterConfig.from_mapping({"dialect": vendor})
    write_study(make_images(), folder, config=config)
    expected = read_study(folder)
    files = sorted(folder.rglob("*.dcm"))
    names = list(range(len(files)))
    random.Random(5).shuffle(names)
    for path, name in zip(files, names, strict=True):
        path.rename(folder / f"{name:04d}")
    assert_equal(expected, read_study(folder))


def test_equal_images_under_other_identifiers_are_dropped_with_a_warning(study: Path) -> None:
    expected = read_study(study)
    repeat(of_station(study, "t1", 0))
    repeat(of_station(study, "dwi", 1)[3:5])
    reading = read_study(study)
    assert_equal(expected, reading)
    assert reading.warnings == (
        "series 2: 6 images dropped that repeat others at the same position, pixel by pixel",
        "series 5: 2 images dropped that repeat others at the same position, pixel by pixel",
    )


def test_a_second_image_at_a_position_with_other_pixels_is_no_duplicate(study: Path) -> None:
    def brighter(dataset: Dataset) -> None:
        dataset.PixelData = (dataset.pixel_array + 1).astype("<u2").tobytes()

    repeat(of_station(study, "dwi", 0)[3:4], brighter)
    assert "1 images at some slice positions and 2 at others" in refused(study)


def test_equal_empty_slices_of_several_directions_are_kept(one_station: Path) -> None:
    """Slices beyond the body are 0 in every direction; dropping some would leave it uneven."""
    files = [f for f in files_of(one_station, "dwi") if pydicom.dcmread(f).DiffusionBValue == 1000]

    def direct(dataset: Dataset) -> None:
        dataset.DiffusionDirectionality = "DIRECTIONAL"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION"]

    edit(files, direct)
    edit(files[:1], empty)

    def halve(dataset: Dataset) -> None:
        dataset.PixelData = (dataset.pixel_array // 2).astype("<u2").tobytes()

    repeat(files, halve)
    reading = read_study(one_station)
    assert not any("dropped" in w for w in reading.warnings)
    assert any("2 images at each position" in w for w in reading.warnings)


def test_a_missing_slice_of_one_b_value_inside_the_stack_is_named(study: Path) -> None:
    of_station(study, "dwi", 0)[8].unlink()
    text = refused(study)
    assert "series 4 (b 50)" in text
    assert "1 missing" in text


def test_a_missing_b_value_at_one_station_is_left_to_the_chain_or_refused(study: Path) -> None:
    for path in of_station(study, "dwi", 0)[6:12]:
        path.unlink()
    groups = {i.group: set() for i in read_study(study).images if i.kind == "dwi"}
    for image in read_study(study).images:
        if image.kind == "dwi":
            groups[image.group].add(image.b_value_s_per_mm2)
    assert sorted(map(sorted, groups.values())) == [[0.0, 50.0, 1000.0], [0.0, 1000.0]]


def test_a_series_with_a_b_value_at_one_of_its_stations_only_is_refused(tmp_path: Path) -> None:
    config = DicomWriterConfig.from_mapping({"dialect": "ge"})
    write_study(make_images(), tmp_path / "s", config=config)
    for path in files_of(tmp_path / "s", "dwi")[6:12]:
        path.unlink()
    text = refused(tmp_path / "s")
    assert "b 50 has 6 slices in 1 stations, b 0 has 12 in 2" in text


def coronal(dataset: Dataset) -> None:
    """The same slices, as if they lay one behind another from front to back."""
    x, y, z = (float(v) for v in dataset.ImagePositionPatient)
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    dataset.ImagePositionPatient = [x, z - 80.0, y + 100.0]


def test_a_coronal_t1_station_among_axial_ones_is_left_out_with_the_share_lost(
    study: Path,
) -> None:
    edit(of_station(study, "t1", 1), coronal)
    edit(of_station(study, "t1", 1), lambda d: setattr(d, "SeriesDescription", "t1_tse_tra_st2"))
    reading = read_study(study)
    assert [i.source for i in reading.images if i.kind == "t1"] == ["series 2"]
    assert any("differs in slice plane" in w and "series 3" in w for w in reading.warnings)
    record = next(r for r in reading.series if r.number == 3)
    assert (record.plane, record.used) == ("coronal", False)
    assert "slice plane" in record.reason


def test_two_planes_in_one_t1_series_are_refused_with_the_numbers(study: Path) -> None:
    first, second = of_station(study, "t1", 0), of_station(study, "t1", 1)
    uid = pydicom.dcmread(first[0]).SeriesInstanceUID
    edit(second, coronal)
    for n, path in enumerate(second):
        edit([path], lambda d, n=n: setattr(d, "InstanceNumber", 100 + n))
    edit(second, lambda d: setattr(d, "SeriesInstanceUID", uid))
    edit(second, lambda d: setattr(d, "SeriesNumber", 2))
    text = refused(study)
    assert "no T1-weighted series" in text
    assert "series 2 is not taken for one: 2 orientations in one series (6 and 6 images)" in text


@pytest.mark.parametrize("kind", ["t1", "dwi"])
def test_a_station_of_zeros_is_left_out_with_the_reason(study: Path, kind: str) -> None:
    expected = read_study(study)
    edit(of_station(study, kind, 1), empty)
    reading = read_study(study)
    source = {"t1": "series 3", "dwi": "series 5"}[kind]
    kept = [i for i in expected.images if i.source != source]
    assert [i.source for i in reading.images] == [i.source for i in kept]
    (warning,) = reading.warnings
    assert warning.startswith(f"{source}: every pixel of the station from 100 to 75 mm is 0")
    assert "lesions there are not looked for" in warning


def test_a_station_with_one_b_value_of_zeros_is_left_out_as_a_whole(study: Path) -> None:
    edit(of_station(study, "dwi", 0)[6:12], empty)
    reading = read_study(study)
    assert {i.source for i in reading.images if i.kind == "dwi"} == {"series 5"}
    assert "is 0 at b 50" in reading.warnings[0]


@pytest.mark.parametrize("kind", ["t1", "dwi"])
def test_images_of_zeros_in_every_station_are_refused(study: Path, kind: str) -> None:
    edit(files_of(study, kind), empty)
    assert "is 0 in every station" in refused(study)


@pytest.mark.parametrize("slope", ["nan", "inf"])
def test_a_rescale_slope_that_is_no_number_is_refused(study: Path, slope: str) -> None:
    def change(dataset: Dataset) -> None:
        dataset.RescaleIntercept = "0"
        dataset.add_new("RescaleSlope", "LO", slope)

    edit(of_station(study, "dwi", 1)[:1], change)
    text = refused(study)
    assert "series 5 (b 0): " in text
    assert "NaN or infinite" in text
    assert f"({slope}, 0.0)" in text


@pytest.mark.parametrize(("value", "bad"), [(np.nan, 1), (np.inf, 1), (None, 0)])
def test_float_pixels_are_read_and_refused_where_not_finite(
    one_station: Path, value: float | None, bad: int
) -> None:
    def make_float(dataset: Dataset) -> None:
        pixels = dataset.pixel_array.astype("<f4")
        if value is not None:
            pixels[2, 3] = value
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        dataset.BitsAllocated = 32
        dataset.FloatPixelData = pixels.tobytes()

    expected = read_study(one_station)
    edit(files_of(one_station, "t1")[2:3], make_float)
    if bad:
        assert "1 of 480 voxels are NaN or infinite" in refused(one_station)
    else:
        assert_equal(expected, read_study(one_station))


def strip_b(dataset: Dataset) -> None:
    for group, element in ((0x0019, 0x100C), (0x0043, 0x1039), (0x2001, 0x1003)):
        if (group, element) in dataset:
            del dataset[group, element]
    for keyword in ("DiffusionBValue", "DiffusionDirectionality"):
        if keyword in dataset:
            delattr(dataset, keyword)


@pytest.mark.parametrize("vendor", ["siemens", "philips", "ge"])
def test_without_private_tags_the_b_value_is_in_the_sequence_name_or_the_study_refused(
    tmp_path: Path, vendor: str
) -> None:
    folder = tmp_path / "s"
    write_study(make_images(), folder, config=DicomWriterConfig.from_mapping({"dialect": vendor}))
    edit(files_of(folder, "dwi"), strip_b)
    if vendor == "siemens":  # the only one to write it there
        assert_same_images(make_images(), read_study(folder).images)
        return
    text = refused(folder)
    assert "no diffusion series" in text
    assert "diffusion images without a b-value" in text


def test_stations_with_a_gap_are_handed_on_and_the_gap_is_said(tmp_path: Path) -> None:
    images = make_images([station_affine(0), station_affine(2)])
    write_study(images, tmp_path / "s", config=DicomWriterConfig())
    reading = read_study(tmp_path / "s")
    assert_same_images(images, reading.images)
    assert sum("no image shows the body between 75 and 100 mm" in w for w in reading.warnings) == 2


def test_a_station_of_another_diffusion_protocol_fills_the_gap(tmp_path: Path) -> None:
    images = make_images([station_affine(n) for n in range(3)])
    write_study(images, tmp_path / "s", config=DicomWriterConfig())
    edit(of_station(tmp_path / "s", "dwi", 1), lambda d: setattr(d, "RepetitionTime", 9999.0))
    reading = read_study(tmp_path / "s")
    assert len({i.group for i in reading.images if i.kind == "dwi"}) == 2
    assert reading.warnings == ()


def test_touching_stations_are_no_gap(tmp_path: Path) -> None:
    affines = [station_affine(0), station_affine(1)]
    affines[1][2, 3] -= SPACING_MM[2]  # the next slice, without overlap
    write_study(make_images(affines), tmp_path / "s", config=DicomWriterConfig())
    assert read_study(tmp_path / "s").warnings == ()


@pytest.mark.parametrize("shape", [(7, 5, 3), (5, 9, 11)])
def test_odd_dimensions_come_back(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(3)
    affine = make_affine((2.5, 3.5, 6.0), (-9.0, 4.0, 50.0))
    images = []
    for kind, b in (("t1", None), ("dwi", 0.0), ("dwi", 900.0)):
        array = rng.uniform(1, 900, shape).astype(np.float32)
        images.append(StationImage(Volume.single(array, affine, kind), kind, b, kind))
    write_study(images, tmp_path / "s", config=DicomWriterConfig())
    assert_same_images(images, read_study(tmp_path / "s").images)


def test_stations_of_mixed_slice_spacing_in_one_series_are_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    images = []
    for number, step in enumerate((5.0, 6.5)):
        affine = make_affine((3.0, 2.0, step), (-12.0, -7.0, 100.0 - 40.0 * number))
        for kind, b in (("t1", None), ("dwi", 0.0), ("dwi", 1000.0)):
            array = rng.uniform(1, 900, SHAPE).astype(np.float32)
            images.append(StationImage(Volume.single(array, affine, kind), kind, b, kind))
    folder = tmp_path / "s"
    write_study(images, folder, config=DicomWriterConfig.from_mapping({"dialect": "ge"}))
    reading = read_study(folder)
    assert_same_images(images, reading.images)
    assert [r.n_stations for r in reading.series if r.role == "dwi"] == [2]
