"""Find the DICOM files of a folder and read their headers; notice files that end too early."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset

from osteosap.dicom.enhanced import ENHANCED_SOP_CLASSES
from osteosap.dicom.headers import (
    HEADER_TAGS,
    MR_IMAGE_STORAGE,
    NATIVE_SYNTAXES,
    ImageHeader,
    parse_headers,
    quiet_pydicom,
    redact,
)
from osteosap.errors import StudyError

__all__ = ["FolderScan", "find_files", "read_headers", "scan_folder"]

_DICOM_SUFFIXES = (".dcm", ".ima")
_IMAGE_CLASSES = ("", MR_IMAGE_STORAGE, *ENHANCED_SOP_CLASSES)
_DEFLATED = "1.2.840.10008.1.2.1.99"
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True)
class FolderScan:
    """The headers of a folder, and the error of the first file that is broken, if one is."""

    headers: tuple[ImageHeader, ...]
    problem: StudyError | None = None


def find_files(folder: Path) -> Iterator[Path]:
    """All regular files below a folder in a fixed order; hidden ones and DICOMDIR left out."""
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                yield Path(base) / name


def read_headers(folder: Path) -> tuple[ImageHeader, ...]:
    """Read the header of every image below a folder, in the order of their paths.

    Raises
    ------
    StudyError
        A file is truncated (it ends in its header or holds fewer pixels than its header says)
        or cannot be opened.
    """
    scan = scan_folder(folder)
    if scan.problem:
        raise scan.problem
    return scan.headers


def scan_folder(folder: Path) -> FolderScan:
    """As :func:`read_headers`, but a broken file is passed over and reported."""
    headers: list[ImageHeader] = []
    broken: list[tuple[Path, str, frozenset[str]]] = []
    for path in find_files(folder):
        try:
            headers += _read_file(path)
        except _TruncatedFileError as error:
            broken.append((path, f"truncated: {error}", error.words))
        except OSError as error:
            broken.append((path, f"unreadable ({error.strerror or error})", frozenset()))
    if not broken:
        return FolderScan(tuple(headers))
    path, state, words = broken[0]  # only now are the words known that its path must not show
    words = words.union(*(h.private_words for h in headers))
    more = f"; {len(broken) - 1} further files are broken too" if len(broken) > 1 else ""
    problem = StudyError(
        f"the file {redact(str(path.relative_to(folder)), words)} is {state}{more}",
        remedy="Copy or export it again; the study is incomplete without it",
    )
    return FolderScan(tuple(headers), problem)


class _TruncatedFileError(Exception):
    """A file that ends too early; carries the words that its name must not show."""

    def __init__(self, message: str, words: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.words = words


def _read_file(path: Path) -> tuple[ImageHeader, ...]:
    """Headers of the images in one file; none for what is no DICOM object."""
    with path.open("rb") as stream:
        start = stream.read(132)
        marked = start[128:] == b"DICM"
        if not marked and start[:2] not in (b"\x08\x00", b"\x02\x00"):
            if path.suffix.lower() in _DICOM_SUFFIXES:
                raise _TruncatedFileError(
                    f"it has {path.stat().st_size} bytes and no DICOM header, expected both"
                )
            return ()
        stream.seek(0)
        try:
            with quiet_pydicom():
                dataset = pydicom.dcmread(
                    stream,
                    stop_before_pixels=True,
                    force=not marked,
                    specific_tags=list(HEADER_TAGS),
                )
                headers = parse_headers(dataset, path)
                if headers and (marked or headers[0].sop_class):
                    _check_length(dataset, headers, stream)
                    return headers
        except _TruncatedFileError:
            raise
        except Exception as error:  # pydicom raises many kinds for broken files
            if marked:
                raise _TruncatedFileError("its header cannot be read to the end") from error
    return ()


def _check_length(dataset: Dataset, headers: tuple[ImageHeader, ...], stream: BinaryIO) -> None:
    """Compare what follows the header with the matrix; the stream stands at the pixel element."""
    header = headers[0]
    has_matrix = header.rows > 0 and header.columns > 0
    if not has_matrix:
        announced = str(getattr(dataset.file_meta, "MediaStorageSOPClassUID", header.sop_class))
        if header.sop_class in _IMAGE_CLASSES or announced != header.sop_class:
            raise _TruncatedFileError("it ends inside its header", header.private_words)
        return
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    if header.frame is not None and len(headers) != frames:
        raise _TruncatedFileError(
            f"{len(headers)} frames in its header, expected {frames}", header.private_words
        )
    if header.transfer_syntax == _DEFLATED:  # it was decompressed as a whole
        return
    if header.transfer_syntax not in NATIVE_SYNTAXES:
        if not _ends_properly(stream):
            raise _TruncatedFileError("its compressed pixels do not end", header.private_words)
        return
    bits = int(dataset.get("BitsAllocated", None) or 16)
    samples = int(dataset.get("SamplesPerPixel", None) or 1)
    expected = header.rows * header.columns * frames * samples * bits // 8
    found = os.fstat(stream.fileno()).st_size - stream.tell()
    found -= 8 if header.transfer_syntax == NATIVE_SYNTAXES[0] else 12
    if found < expected:
        raise _TruncatedFileError(
            f"{max(found, 0)} bytes of pixel data, expected {expected}", header.private_words
        )


def _ends_properly(stream: BinaryIO) -> bool:
    """Whether the fragments of compressed pixels are whole and followed by their end mark."""
    size = os.fstat(stream.fileno()).st_size
    place = stream.tell() + 12  # tag, representation and undefined length of the element
    while place + 8 <= size:
        stream.seek(place)
        mark = stream.read(8)
        if mark[:4] == _SEQUENCE_END:
            return True
        if mark[:4] != _ITEM:
            return False
        place += 8 + int.from_bytes(mark[4:], "little")
    return False
