"""Whatever way the slices were cut, the volume shows the same thing at the same place.

Files are written with pydicom alone, from an anatomy that is a function of the place in the world.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from dicom_studies import oblique_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from osteosap.dicom import read_study
from osteosap.dicom.assemble import read_station
from osteosap.dicom.files import read_headers
from osteosap.geometry import Affine
from osteosap.volume import Volume

Floats = npt.NDArray[np.float64]

CENTRE_LPS = np.asarray((12.0, -34.0, 56.0))
SIZE_MM, SHAPE = (4.0, 3.0, 5.0), (5, 7, 6)
"""Of a voxel and of the volume, along the patient's x, y and z."""


def anatomy(lps: Floats) -> Floats:
    """Grey level at places in LPS mm, different at every voxel and without symmetry."""
    x, y, z = np.moveaxis(lps - CENTRE_LPS, -1, 0)
    return np.floor(2000.123 + 20 * x + 7 * y + 31 * z + 0.9 * x * y - 0.5 * y * z)


def turns() -> list[Floats]:
    """Columns: where the columns, rows and slices of a file run in the patient; 48 of them.

    Half are left-handed: DICOM says them by the order of the slices along their normal.
    """
    return [
        np.eye(3)[:, list(order)] * signs
        for order in itertools.permutations(range(3))
        for signs in itertools.product((-1.0, 1.0), repeat=3)
    ]


def write_stack(folder: Path, turn: Floats, *, by_place: Floats | None = None) -> None:
    """Write one stack of slices; ``by_place`` turns the whole grid in the world."""
    folder.mkdir(parents=True)
    axes = np.argmax(np.abs(turn), axis=0)
    columns, rows, slices = (SHAPE[a] for a in axes)
    size = [SIZE_MM[a] for a in axes]
    world = turn if by_place is None else by_place @ turn
    index = np.stack(np.meshgrid(*map(np.arange, (columns, rows, slices)), indexing="ij"), -1)
    middle = (np.asarray((columns, rows, slices)) - 1) / 2
    places = CENTRE_LPS + ((index - middle) * size) @ world.T
    grey = anatomy(places)
    for k in range(slices):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.4"
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "MR", 1, k + 1
        dataset.SeriesDescription, dataset.ScanningSequence = "t1_tse", "SE"
        dataset.RepetitionTime, dataset.EchoTime = 600.0, 10.0
        dataset.ImagePositionPatient = [f"{v:.9f}" for v in places[0, 0, k]]
        cosines = [*world[:, 0], *world[:, 1]]
        dataset.ImageOrientationPatient = [f"{v:.12f}" for v in cosines]
        dataset.PixelSpacing = [size[1], size[0]]
        dataset.Rows, dataset.Columns = rows, columns
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 0
        dataset.PixelData = grey[:, :, k].T.astype("<u2").tobytes()
        dataset.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)


def is_ras_oriented(affine: Affine) -> bool:
    """Whether each axis of the array runs along R, A, S more than along the others."""
    axes = affine[:3, :3]
    return list(np.abs(axes).argmax(axis=0)) == [0, 1, 2] and bool((np.diag(axes) > 0).all())


def read_stack(folder: Path) -> Volume:
    return read_station(read_headers(folder), channel="t1", what="the stack")[0]


def assert_shows_the_anatomy(volume: Volume) -> None:
    shape = volume.array.shape[1:]
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    ras = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    np.testing.assert_array_equal(volume.array[0], anatomy(ras * (-1, -1, 1)))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    """An axial stack from head to foot, as most are."""
    folder = tmp_path_factory.mktemp("axial") / "s"
    write_stack(folder, np.diag([1.0, 1.0, -1.0]))
    return read_stack(folder)


def test_the_reference_is_right(reference: Volume) -> None:
    assert reference.array.shape == (1, *SHAPE)
    assert is_ras_oriented(reference.affine)
    np.testing.assert_allclose(np.diag(reference.affine)[:3], SIZE_MM, atol=1e-6)
    assert_shows_the_anatomy(reference)


@pytest.mark.parametrize("turn", turns(), ids=lambda t: "".join("LPS"[a] for a in t.argmax(0)))
def test_each_of_the_48_axis_orientations_gives_the_same_volume(
    tmp_path: Path, turn: Floats, reference: Volume
) -> None:
    write_stack(tmp_path / "s", turn)
    volume = read_stack(tmp_path / "s")
    np.testing.assert_array_equal(volume.array, reference.array)
    np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-6)


@pytest.mark.parametrize("turn", turns()[::5], ids=lambda t: "".join("LPS"[a] for a in t.argmax(0)))
def test_oblique_slices_of_any_axis_order_show_the_anatomy_in_place(
    tmp_path: Path, turn: Floats
) -> None:
    rotation = oblique_affine()[:3, :3] / np.linalg.norm(oblique_affine()[:3, :3], axis=0)
    write_stack(tmp_path / "s", turn, by_place=rotation)
    volume = read_stack(tmp_path / "s")
    assert is_ras_oriented(volume.affine)
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape[1:]), indexing="ij"), -1)
    ras = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert np.abs(volume.array[0] - anatomy(ras * (-1, -1, 1))).max() <= 1  # rounded twice


@settings(max_examples=10, deadline=None)
@given(degrees=st.tuples(*[st.floats(-40, 40)] * 3), number=st.integers(0, 47))
def test_any_rotation_shows_the_anatomy_in_place(
    tmp_path_factory: pytest.TempPathFactory, degrees: tuple[float, float, float], number: int
) -> None:
    affine = oblique_affine(degrees)[:3, :3]
    folder = tmp_path_factory.mktemp("turned") / "s"
    write_stack(folder, turns()[number], by_place=affine / np.linalg.norm(affine, axis=0))
    volume = read_stack(folder)
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape[1:]), indexing="ij"), -1)
    ras = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert np.abs(volume.array[0] - anatomy(ras * (-1, -1, 1))).max() <= 1


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_a_whole_study_in_another_plane_is_read_and_named(
    tmp_path: Path, plane: str, reference: Volume
) -> None:
    turn = next(
        t for t in turns() if int(np.abs(t[:, 2]).argmax()) == ("sagittal", "coronal").index(plane)
    )
    write_stack(tmp_path / "s" / "t1", turn)
    for n, b in enumerate((0, 1000)):
        write_stack(tmp_path / "s" / f"b{b}", turn)
        for path in sorted((tmp_path / "s" / f"b{b}").iterdir()):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID += f".{n + 1}"
            dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2.9", 2
            dataset.SeriesDescription, dataset.DiffusionBValue = "dwi", float(b)
            dataset.ScanningSequence = "EP"
            dataset.save_as(path)
    reading = read_study(tmp_path / "s")
    assert {r.plane for r in reading.series} == {plane}
    assert [i.b_value_s_per_mm2 for i in reading.images] == [None, 0.0, 1000.0]
    for image in reading.images:
        np.testing.assert_array_equal(image.volume.array, reference.array)
