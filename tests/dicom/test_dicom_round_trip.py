from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_studies import (
    SHAPE,
    SPACING_MM,
    assert_same_images,
    files_of,
    make_images,
    oblique_affine,
    station_affine,
)

from osteosap.dicom import DicomWriterConfig, read_study, write_study
from osteosap.errors import GeometryError, OutputError, VolumeError
from osteosap.exam import StationImage
from osteosap.geometry import Affine
from osteosap.volume import Volume

CONFIG = DicomWriterConfig(seed=5)


def all_axis_orders() -> list[Affine]:
    """Every signed permutation of the voxel axes: 48 orientations."""
    affines = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1.0, 1.0), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
                affine[world, axis] = sign * SPACING_MM[axis]
            affine[:3, 3] = 10.0, 20.0, 30.0
            affines.append(affine)
    return affines


def test_two_stations_come_back_with_arrays_affines_and_b_values(study: Path) -> None:
    reading = read_study(study)
    assert_same_images(make_images(), reading.images)
    assert reading.warnings == ()
    assert [r.role for r in reading.series] == ["localizer", "t1", "t1", "dwi", "dwi"]
    assert reading.series[3].b_values_s_per_mm2 == (0.0, 50.0, 1000.0)
    assert len({i.group for i in reading.images if i.kind == "dwi"}) == 1


def test_an_oblique_station_comes_back_where_it_was(tmp_path: Path) -> None:
    images = make_images([oblique_affine()])
    write_study(images, tmp_path / "s", config=CONFIG)
    assert_same_images(images, read_study(tmp_path / "s").images)


@pytest.mark.parametrize("affine", all_axis_orders()[::5])
def test_every_axis_order_comes_back_at_the_same_place(tmp_path: Path, affine: Affine) -> None:
    images = make_images([affine], b_values=(0.0, 800.0))
    write_study(images, tmp_path / "s", config=CONFIG)
    assert_same_images(images, read_study(tmp_path / "s").images)


def test_a_simulated_adc_map_comes_back_in_um2_per_s(tmp_path: Path) -> None:
    images = make_images(adc=True)
    write_study(images, tmp_path / "s", config=CONFIG)
    reading = read_study(tmp_path / "s")
    assert_same_images(images, reading.images)
    assert [r.role for r in reading.series].count("adc_map") == 2


def test_equal_input_gives_equal_bytes_and_another_seed_other_uids(tmp_path: Path) -> None:
    images = make_images([station_affine(0)])
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_study(images, tmp_path / name, config=DicomWriterConfig(seed=seed))
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.dcm"))
    assert all(
        (tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names
    )
    first, other = (pydicom.dcmread(tmp_path / f / names[0]) for f in ("a", "c"))
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.StudyInstanceUID != other.StudyInstanceUID


def test_the_header_says_simulated_and_carries_both_b_values(study: Path) -> None:
    dataset = pydicom.dcmread(files_of(study, "dwi")[-1])
    assert dataset.Manufacturer == "osteosap simulator (Siemens dialect)"
    assert dataset.ManufacturerModelName == "phantom"
    assert dataset.ImageComments == "simulated"
    assert "Simulated" in dataset.StudyDescription
    assert str(dataset.PatientName) == "SIMULATED^EXAM"
    assert dataset.PatientID == "SIM-1"
    assert "InstitutionName" not in dataset
    assert dataset.DiffusionBValue == 1000
    assert dataset.private_block(0x19, "SIEMENS MR HEADER")[0x0C].value == 1000
    assert dataset.SequenceName == "ep_b1000t"
    assert dataset.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]


def test_one_factor_scales_all_stations_and_b_values(study: Path) -> None:
    largest = [
        max(int(pydicom.dcmread(f).pixel_array.max()) for f in sorted(folder.glob("*.dcm")))
        for folder in sorted(study.glob("*_t1"))
    ]
    tops = [float(i.volume.array.max()) for i in make_images() if i.kind == "t1"]
    assert max(largest) == 4095
    assert largest[0] / largest[1] == pytest.approx(tops[0] / tops[1], rel=1e-3)


def test_the_localizer_shows_the_t1_station_in_three_planes_at_its_place(study: Path) -> None:
    t1 = read_study(study).images[1].volume
    normals = set()
    for path in files_of(study, "localizer"):
        dataset = pydicom.dcmread(path)
        right, down = np.reshape(np.asarray(dataset.ImageOrientationPatient, dtype=float), (2, 3))
        row, column = dataset.Rows - 1, dataset.Columns - 2
        lps = (
            np.asarray(dataset.ImagePositionPatient, dtype=float)
            + right * column * dataset.PixelSpacing[1]
            + down * row * dataset.PixelSpacing[0]
        )
        ras = lps * (-1, -1, 1)
        index = np.linalg.inv(t1.affine) @ (*ras, 1.0)
        i, j, k = np.rint(index[:3]).astype(int)
        np.testing.assert_allclose(index[:3], (i, j, k), atol=1e-6)
        assert dataset.pixel_array[row, column] == t1.array[0, i, j, k]
        normals.add(tuple(np.abs(np.cross(right, down)).round(3).tolist()))
    assert len(normals) == 3


def test_a_sheared_grid_cannot_be_written(tmp_path: Path) -> None:
    affine = station_affine(0)
    affine[0, 2] = 1.0
    with pytest.raises(GeometryError, match="right angles"):
        write_study(make_images([affine]), tmp_path / "s", config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_not_written_into(study: Path) -> None:
    with pytest.raises(OutputError, match="not empty"):
        write_study(make_images(), study, config=CONFIG)


def test_no_images_and_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="no images"):
        write_study([], tmp_path / "s", config=CONFIG)
    array = np.full(SHAPE, np.nan, dtype=np.float32)
    broken = StationImage(Volume.single(array, station_affine(0), "t1"), "t1")
    with pytest.raises(VolumeError, match="finite"):
        write_study([broken], tmp_path / "s", config=CONFIG)


def test_an_independent_reader_sees_the_same_voxels_at_the_same_places(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    write_study(make_images([oblique_affine()]), tmp_path / "s", config=CONFIG)
    reading = read_study(tmp_path / "s")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s" / "002_t1")))
    other = reader.Execute()
    volume = reading.images[0].volume
    rng = np.random.default_rng(1)
    for index in rng.integers(0, SHAPE, size=(30, 3)):
        ras = (volume.affine @ (*index, 1.0))[:3]
        place = other.TransformPhysicalPointToIndex((ras * (-1, -1, 1)).tolist())
        assert other.GetPixel(*place) == volume.array[0][tuple(index)]
