"""The part of a DICOM header that sorting a study needs, read once a file."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from osteosap.dicom.b_values import B_VALUE_TAGS, read_b_value, read_directionality
from osteosap.errors import StudyError

__all__ = [
    "MR_IMAGE_STORAGE",
    "SIMULATOR",
    "ImageHeader",
    "find_files",
    "parse_header",
    "quiet_pydicom",
    "read_headers",
    "redact",
]

_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PatientName",
    "Modality",
    "Manufacturer",
    "ImageType",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "ScanningSequence",
    "SequenceName",
    "RepetitionTime",
    "EchoTime",
    "FlipAngle",
    "ContrastBolusAgent",
    "AcquisitionNumber",
    "InstanceNumber",
    "TablePosition",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
_TABLE_POSITIONS = (0x00191014, 0x00191013)
"""Siemens: table position relative to isocentre and absolute."""

_TAGS = sorted({*(Tag(k) for k in _KEYWORDS), *B_VALUE_TAGS, *_TABLE_POSITIONS})
SIMULATOR = "osteosap simulator"
"""Begins the manufacturer of the images that osteosap simulates; the dialect follows."""

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_NATIVE_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DICOM_SUFFIXES = (".dcm", ".ima")
_COMMON_WORDS = frozenset(
    (
        "anon",
        "anonymous",
        "anonymized",
        "dr",
        "exam",
        "mr",
        "ms",
        "patient",
        "phantom",
        "simulated",
        "test",
        "unknown",
    )
)
"""Words in the name field of nobody in particular: not hidden."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What sorting needs of one DICOM file. Lengths in mm, times in ms, positions in LPS.

    ``patient`` is a digest, only fit to tell two patients apart; ``private_words`` are the words
    that messages must not show.
    """

    path: Path
    modality: str
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference: str
    patient: str = field(repr=False)
    private_words: frozenset[str] = field(repr=False)
    series_number: int | None
    description: str
    image_type: tuple[str, ...]
    scanning_sequence: str
    sequence_name: str
    repetition_time_ms: float | None
    echo_time_ms: float | None
    flip_angle_deg: float | None
    has_contrast_agent: bool
    acquisition_number: int | None
    instance_number: int
    table_position: str
    rows: int
    columns: int
    frames: int
    pixel_spacing_mm: tuple[float, ...]
    position_lps_mm: tuple[float, ...]
    orientation_lps: tuple[float, ...]
    b_value_s_per_mm2: float | None
    b_value_source: str
    directionality: str
    simulated: bool

    @property
    def has_geometry(self) -> bool:
        """Whether position, orientation and pixel spacing are all there."""
        return (len(self.position_lps_mm), len(self.orientation_lps)) == (3, 6) and (
            len(self.pixel_spacing_mm) == 2 and min(self.pixel_spacing_mm) > 0
        )


def find_files(folder: Path) -> Iterator[Path]:
    """All regular files below a folder in a fixed order; hidden ones and DICOMDIR left out."""
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.upper() != "DICOMDIR":
                yield Path(base) / name


def read_headers(folder: Path) -> tuple[ImageHeader, ...]:
    """Read the header of every DICOM object below a folder, in the order of their paths.

    Raises
    ------
    StudyError
        A file is truncated (it ends in its header or holds fewer pixels than its header says)
        or cannot be opened.
    """
    headers: list[ImageHeader] = []
    broken: tuple[Path, str, frozenset[str]] | None = None
    for path in find_files(folder):
        try:
            header = _read_header(path)
        except _TruncatedFileError as error:
            broken = broken or (path, f"truncated: {error}", error.words)
        except OSError as error:
            broken = broken or (path, f"unreadable ({error.strerror or error})", frozenset())
        else:
            headers += [header] if header is not None else []
    if broken:  # only now are the words known that its path must not show
        path, state, words = broken
        words = words.union(*(h.private_words for h in headers))
        raise StudyError(
            f"the file {redact(str(path.relative_to(folder)), words)} is {state}",
            remedy="Copy or export it again; the study is incomplete without it",
        )
    return tuple(headers)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom about odd header values, which de-identified files are full of."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def redact(text: str, words: Iterable[str]) -> str:
    """Replace a patient's words in a text by ``*``; whole words only, any case."""
    for word in sorted(words, key=len, reverse=True):
        text = re.sub(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", "*", text, flags=re.IGNORECASE)
    return text


class _TruncatedFileError(Exception):
    """A file that ends too early; carries the words that its name must not show."""

    def __init__(self, message: str, words: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.words = words


def _read_header(path: Path) -> ImageHeader | None:
    """Header of one file; None for what is no DICOM object."""
    with path.open("rb") as stream:
        start = stream.read(132)
        marked = start[128:] == b"DICM"
        if not marked and start[:2] not in (b"\x08\x00", b"\x02\x00"):
            if path.suffix.lower() in _DICOM_SUFFIXES:
                raise _TruncatedFileError(
                    f"it has {path.stat().st_size} bytes and no DICOM header, expected both"
                )
            return None
        stream.seek(0)
        try:
            with quiet_pydicom():
                dataset = pydicom.dcmread(
                    stream, stop_before_pixels=True, force=not marked, specific_tags=list(_TAGS)
                )
                header = parse_header(dataset, path)
                if header is not None and (marked or header.sop_class):
                    _check_length(dataset, header, found=path.stat().st_size - stream.tell())
                    return header
        except _TruncatedFileError:
            raise
        except Exception as error:  # pydicom raises many kinds for broken files
            if marked:
                raise _TruncatedFileError("its header cannot be read to the end") from error
    return None


def _check_length(dataset: Dataset, header: ImageHeader, *, found: int) -> None:
    """Compare the bytes from the pixel element to the end of the file with the matrix."""
    syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", _NATIVE_SYNTAXES[0]))
    announced = str(getattr(dataset.file_meta, "MediaStorageSOPClassUID", header.sop_class))
    has_matrix = header.rows > 0 and header.columns > 0
    if not has_matrix and (
        header.sop_class in ("", MR_IMAGE_STORAGE) or announced != header.sop_class
    ):
        raise _TruncatedFileError("it ends inside its header", header.private_words)
    if not has_matrix:
        return
    if syntax in _NATIVE_SYNTAXES:
        bits = int(dataset.get("BitsAllocated", None) or 16)
        samples = int(dataset.get("SamplesPerPixel", None) or 1)
        expected = header.rows * header.columns * header.frames * samples * bits // 8
        found -= 8 if syntax == _NATIVE_SYNTAXES[0] else 12
    else:
        expected = 1
    if found < expected:
        raise _TruncatedFileError(
            f"{max(found, 0)} bytes of pixel data, expected {expected}", header.private_words
        )


def parse_header(dataset: Dataset, path: Path) -> ImageHeader | None:
    """Take from a dataset what :class:`ImageHeader` holds; None for a media directory."""
    sop_class = _text(dataset, "SOPClassUID")
    if sop_class == _MEDIA_DIRECTORY:
        return None
    b_value, source = read_b_value(dataset)
    identifier, name = _text(dataset, "PatientID"), _text(dataset, "PatientName")
    return ImageHeader(
        path=path,
        modality=_text(dataset, "Modality").upper() or "unknown",
        sop_class=sop_class,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        patient=_patient_digest(identifier, name),
        private_words=_private_words(identifier, name),
        series_number=_integer(dataset, "SeriesNumber"),
        description=_text(dataset, "SeriesDescription") or _text(dataset, "ProtocolName"),
        image_type=tuple(str(v).upper() for v in _values(dataset, "ImageType")),
        scanning_sequence="/".join(str(v).upper() for v in _values(dataset, "ScanningSequence")),
        sequence_name=_text(dataset, "SequenceName"),
        repetition_time_ms=_number(dataset, "RepetitionTime"),
        echo_time_ms=_number(dataset, "EchoTime"),
        flip_angle_deg=_number(dataset, "FlipAngle"),
        has_contrast_agent=bool(_text(dataset, "ContrastBolusAgent")),
        acquisition_number=_integer(dataset, "AcquisitionNumber"),
        instance_number=_integer(dataset, "InstanceNumber") or 0,
        table_position=_table_position(dataset),
        rows=_integer(dataset, "Rows") or 0,
        columns=_integer(dataset, "Columns") or 0,
        frames=_integer(dataset, "NumberOfFrames") or 1,
        pixel_spacing_mm=_numbers(dataset, "PixelSpacing"),
        position_lps_mm=_numbers(dataset, "ImagePositionPatient"),
        orientation_lps=_numbers(dataset, "ImageOrientationPatient"),
        b_value_s_per_mm2=b_value,
        b_value_source=source,
        directionality=read_directionality(dataset),
        simulated=_text(dataset, "Manufacturer").startswith(SIMULATOR),
    )


def _patient_digest(identifier: str, name: str) -> str:
    """Tells patients apart: "id ..." or, without an identifier, "name ..."; "" with neither."""
    for kind, value in (("id", identifier), ("name", name)):
        if value:
            return f"{kind} {hashlib.sha256(value.encode()).hexdigest()}"
    return ""


def _private_words(identifier: str, name: str) -> frozenset[str]:
    """Words to hide: identifier and name, and their parts; of a name's also those of two letters.

    Shorter parts and numbers of two digits would hide ordinary words ("station 12").
    """
    split = re.compile(r"[\W_]+").split
    words = {word for text in (identifier, name) for word in (text, *split(text)) if len(word) > 2}
    words |= {word for word in split(name) if len(word) == 2 and word.isalpha()}
    return frozenset(w for w in words if w.lower() not in _COMMON_WORDS)


def _table_position(dataset: Dataset) -> str:
    value = dataset.get("TablePosition", None)
    for tag in _TABLE_POSITIONS:
        if value is None and tag in dataset:
            value = dataset[tag].value
    return "" if value is None else str(value)


def _values(dataset: Dataset, keyword: str) -> list[Any]:
    value = dataset.get(keyword, None)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes | int | float) else list(value)


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword, "") or "").strip()


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in _values(dataset, keyword))
    except (TypeError, ValueError):
        return ()


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword)
    return numbers[0] if numbers else None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    number = _number(dataset, keyword)
    return None if number is None else int(number)
