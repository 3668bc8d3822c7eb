"""The part of a DICOM header that sorting a study needs, read once a file or frame."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from osteosap.dicom.b_values import B_VALUE_TAGS, read_b_value, read_directionality
from osteosap.dicom.enhanced import ENHANCED_KEYWORDS, frames_of_enhanced, is_enhanced

__all__ = [
    "HEADER_TAGS",
    "MR_IMAGE_STORAGE",
    "NATIVE_SYNTAXES",
    "SIMULATOR",
    "ImageHeader",
    "parse_header",
    "parse_headers",
    "quiet_pydicom",
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
    "InPlanePhaseEncodingDirection",
    "RescaleSlope",
    "RescaleIntercept",
    "LossyImageCompression",
    *ENHANCED_KEYWORDS,
)
_TABLE_POSITIONS = (0x00191014, 0x00191013)
"""Siemens: table position relative to isocentre and absolute."""

HEADER_TAGS = sorted({*(Tag(k) for k in _KEYWORDS), *B_VALUE_TAGS, *_TABLE_POSITIONS})
"""Every tag that :func:`parse_headers` looks at."""

SIMULATOR = "osteosap simulator"
"""Begins the manufacturer of the images that osteosap simulates; the dialect follows."""

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
NATIVE_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes without compression: implicit, explicit little endian, explicit big endian."""

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
    """What reading needs of one image. Lengths in mm, times in ms, positions in LPS.

    An image is a file, or one of the frames of an enhanced multi-frame file: ``frame`` is its
    index in there, from 0, and None otherwise. ``frames`` is above 1 for a file of several frames
    that is no enhanced MR. ``patient`` is a digest, only fit to tell two patients apart;
    ``private_words`` are the words that messages must not show. ``phase_encoding`` is ``"row"``,
    ``"column"`` or "", the direction in the plane along which echo-planar images are distorted.
    ``rescale`` is the slope and the intercept that lead from stored values to the scanner's.
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
    frame: int | None = None
    rescale: tuple[float, float] = (1.0, 0.0)
    transfer_syntax: str = NATIVE_SYNTAXES[0]
    lossy: bool = False
    phase_encoding: str = ""

    @property
    def order(self) -> tuple[int, str, int]:
        """Sorts the images of a series as the scanner numbered them."""
        if self.frame is None:
            return self.instance_number, "", 0
        return self.instance_number, str(self.path), self.frame

    @property
    def has_geometry(self) -> bool:
        """Whether position, orientation and pixel spacing are all there."""
        return (len(self.position_lps_mm), len(self.orientation_lps)) == (3, 6) and (
            len(self.pixel_spacing_mm) == 2 and min(self.pixel_spacing_mm) > 0
        )


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


def parse_headers(dataset: Dataset, path: Path) -> tuple[ImageHeader, ...]:
    """Header of the image in a file, or of each of its frames; none for a media directory."""
    if not is_enhanced(dataset):
        header = parse_header(dataset, path)
        return () if header is None else (header,)
    meta = getattr(dataset, "file_meta", None)
    headers = []
    for index, frame in enumerate(frames_of_enhanced(dataset)):
        header = parse_header(frame, path, frame=index, meta=meta)
        headers += [] if header is None else [header]
    return tuple(headers)


def parse_header(
    dataset: Dataset, path: Path, *, frame: int | None = None, meta: Dataset | None = None
) -> ImageHeader | None:
    """Take from a dataset what :class:`ImageHeader` holds; None for a media directory.

    Parameters
    ----------
    dataset
        Header of a classic image, or of one frame laid out like it.
    path
        Its file.
    frame
        Index of the frame in an enhanced file.
    meta
        Meta information of the file, where ``dataset`` does not carry it.
    """
    sop_class = _text(dataset, "SOPClassUID")
    if sop_class == _MEDIA_DIRECTORY:
        return None
    b_value, source = read_b_value(dataset)
    identifier, name = _text(dataset, "PatientID"), _text(dataset, "PatientName")
    meta = getattr(dataset, "file_meta", None) if meta is None else meta
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
        frame=frame,
        rescale=_rescale(dataset),
        transfer_syntax=str(getattr(meta, "TransferSyntaxUID", None) or NATIVE_SYNTAXES[0]),
        lossy=_text(dataset, "LossyImageCompression") == "01",
        phase_encoding=_phase_encoding(dataset),
    )


def _rescale(dataset: Dataset) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where they are absent (or the slope is 0), NaN if broken."""
    values = []
    for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        value = _number(dataset, keyword) if _text(dataset, keyword) else default
        values.append(float("nan") if value is None else value or default)
    return values[0], values[1]


def _phase_encoding(dataset: Dataset) -> str:
    word = _text(dataset, "InPlanePhaseEncodingDirection").upper()
    return {"ROW": "row", "COL": "column", "COLUMN": "column"}.get(word, "")


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
    return int(number) if number is not None and abs(number) < float("inf") else None
