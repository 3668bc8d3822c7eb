"""Compressed pixels: read to identical voxels, or refused with the name of the compression."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from dicom_studies import edit, files_of, station_affine, to_enhanced
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1, RLELossless

from osteosap.dicom import DicomWriterConfig, StudyReading, inspect_study, read_study, write_study
from osteosap.errors import StudyError
from osteosap.exam import StationImage
from osteosap.volume import Volume

Grey = npt.NDArray[np.uint16]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """One station of images that are large enough for the wavelets of JPEG 2000."""
    folder = tmp_path / "one"
    rng = np.random.default_rng(5)
    images = []
    for kind, b in (("t1", None), ("dwi", 0.0), ("dwi", 1000.0)):
        array = rng.uniform(0, 800, (37, 41, 4)).astype(np.float32)
        volume = Volume.single(array, station_affine(0), kind)
        images.append(StationImage(volume, kind, b, kind))
    write_study(images, folder, config=DicomWriterConfig(seed=2, decoys=False))
    return folder


def assert_equal(one: StudyReading, two: StudyReading) -> None:
    assert len(one.images) == len(two.images)
    for a, b in zip(one.images, two.images, strict=True):
        assert (a.kind, a.b_value_s_per_mm2) == (b.kind, b.b_value_s_per_mm2)
        np.testing.assert_array_equal(a.volume.array, b.volume.array)


def jpeg_lossless(pixels: Grey) -> bytes:
    """Encode 16 bits with ITU-T T.81 process 14, prediction from the left (selection value 1).

    Short, not small: each difference class has a code of 5 bits.
    """
    rows, columns = pixels.shape
    values = pixels.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << 15
    bits = []
    for difference in ((values - predicted + (1 << 15)) % (1 << 16) - (1 << 15)).ravel().tolist():
        size = abs(difference).bit_length()
        bits.append(f"{size:05b}")
        if 0 < size < 16:
            low = difference if difference > 0 else difference + (1 << size) - 1
            bits.append(f"{low:0{size}b}")
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    scan = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    codes = bytes([0, 0, 0, 0, 17, *([0] * 11), *range(17)])  # 17 classes, 5 bits each
    table = b"\xff\xc4" + (3 + len(codes)).to_bytes(2, "big") + b"\x00" + codes
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    frame = b"\xff\xc3\x00\x0b\x10" + size + b"\x01\x01\x11\x00"
    start = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
    return b"\xff\xd8" + table + frame + start + scan + b"\xff\xd9"


def to_jpeg(syntax: UID) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        coded = jpeg_lossless(dataset.pixel_array)
        dataset.PixelData = encapsulate([coded])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax

    return change


def to_syntax(syntax: UID) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.compress(syntax, generate_instance_uid=False)


@pytest.mark.parametrize(
    "change",
    [
        to_syntax(RLELossless),
        to_syntax(JPEG2000Lossless),
        to_jpeg(JPEGLossless),
        to_jpeg(JPEGLosslessSV1),
    ],
    ids=["rle", "jpeg2000", "jpeg57", "jpeg70"],
)
def test_lossless_compression_gives_identical_voxels(
    study: Path, change: Callable[[Dataset], None]
) -> None:
    expected = read_study(study)
    edit(study.rglob("*.dcm"), change)
    reading = read_study(study)
    assert_equal(expected, reading)
    assert reading.warnings == ()
    assert inspect_study(study).problem is None


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_enhanced_files_give_identical_voxels(study: Path, syntax: UID) -> None:
    expected = read_study(study)
    for series in sorted(study.iterdir()):
        path = to_enhanced(sorted(series.glob("*.dcm")), series / "enhanced.dcm")
        edit([path], to_syntax(syntax))
    assert_equal(expected, read_study(study))


def test_deflated_and_big_endian_files_are_read(study: Path) -> None:
    expected = read_study(study)
    for path in files_of(study, "t1"):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        dataset.save_as(path)
    for path in files_of(study, "dwi"):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array.astype(">u2")
        big = Dataset()
        big.update({e.tag: e for e in dataset if not e.tag.is_private})
        big.PixelData = pixels.tobytes()
        big.file_meta = dataset.file_meta
        big.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
        pydicom.dcmwrite(path, big, implicit_vr=False, little_endian=False)
    assert_equal(expected, read_study(study))


def test_lossy_compression_is_said(study: Path) -> None:
    edit(files_of(study, "t1"), lambda d: setattr(d, "LossyImageCompression", "01"))
    (warning,) = read_study(study).warnings
    assert warning.startswith("series 1: the pixels went through lossy compression")


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile"),
        ("1.2.826.0.1.3680043.9.77", "an unknown transfer syntax"),
    ],
)
def test_a_compression_that_cannot_be_decoded_is_refused_by_name(
    study: Path, syntax: str, name: str
) -> None:
    def pretend(dataset: Dataset) -> None:
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax

    edit(files_of(study, "dwi"), pretend)
    with pytest.raises(StudyError) as caught:
        read_study(study)
    text = str(caught.value)
    assert "series 2 (b 0)" in text
    assert name in text
    assert syntax in text
    assert "uncompressed" in caught.value.remedy
    assert inspect_study(study).problem == text


def test_compressed_pixels_that_are_broken_are_refused_by_name(study: Path) -> None:
    def garble(dataset: Dataset) -> None:
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
        dataset["PixelData"].is_undefined_length = True

    edit(files_of(study, "dwi")[:1], garble)
    with pytest.raises(StudyError, match="JPEG 2000") as caught:
        read_study(study)
    assert "cannot be decoded" in str(caught.value)


@pytest.mark.parametrize("cut", [1, 9, 60])
def test_a_truncated_compressed_file_is_named(study: Path, cut: int) -> None:
    path = files_of(study, "dwi")[2]
    edit([path], to_syntax(JPEG2000Lossless))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut - 7])
    with pytest.raises(StudyError, match=rf"{path.name} is truncated"):
        read_study(study)


@pytest.mark.server
@pytest.mark.parametrize(
    "command",
    [("dcmcjpeg", "+e1", "+un"), ("dcmcjpeg", "+el", "+un"), ("dcmcjpls", "+el", "+un")],
    ids=["jpeg70", "jpeg57", "jpeg-ls"],
)
def test_compression_by_dcmtk_gives_identical_voxels(study: Path, command: tuple[str, ...]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (dcmtk) is not installed")
    expected = read_study(study)
    for path in sorted(study.rglob("*.dcm")):
        done = subprocess.run([*command, str(path), f"{path}.j"], check=False, timeout=60)
        assert done.returncode == 0
        Path(f"{path}.j").replace(path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    assert_equal(expected, read_study(study))
