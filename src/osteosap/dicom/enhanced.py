"""Enhanced multi-frame MR: one flat header per frame, as classic images have it.

The attributes of a frame stand in functional groups: sequences of one item, either shared by all
frames or of one frame (DICOM PS3.3 C.7.6.16). They are laid side by side under the names of
classic images, so that the rest of the reader does not know the difference. Philips writes such
files, and newer Siemens scanners; converted classic series ("legacy converted") look alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from osteosap.dicom.b_values import B_VALUE_TAGS

__all__ = ["ENHANCED_KEYWORDS", "ENHANCED_SOP_CLASSES", "frames_of_enhanced", "is_enhanced"]

ENHANCED_SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
"""Enhanced MR, and classic MR that was converted to it."""

_SHARED, _PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
ENHANCED_KEYWORDS = (
    _SHARED,
    _PER_FRAME,
    "EchoPulseSequence",
    "EchoPlanarPulseSequence",
    "InversionRecovery",
    "PulseSequenceName",
    "AcquisitionContrast",
    "ComplexImageComponent",
    "ContrastBolusAgentSequence",
)
"""What has to be read of a file beside the attributes of classic images."""

_RENAMED = (
    ("EffectiveEchoTime", "EchoTime"),
    ("FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameType", "ImageType"),
    ("PulseSequenceName", "SequenceName"),
)
"""Attributes of functional groups, and what classic images call them."""

_UIDS = frozenset(
    Tag(k)
    for k in (
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "PatientID",
        "PatientName",
    )
)
"""What a group of a frame may not replace: converted files repeat that of their sources there."""


def is_enhanced(dataset: Dataset) -> bool:
    """Whether a dataset is enhanced MR with functional groups for each of its frames."""
    return (
        str(dataset.get("SOPClassUID", "")) in ENHANCED_SOP_CLASSES
        and len(dataset.get(_PER_FRAME, None) or ()) > 0
    )


def frames_of_enhanced(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the header of each frame with the attributes of a classic image.

    Parameters
    ----------
    dataset
        Header of an enhanced object (:func:`is_enhanced`).
    """
    base = {e.tag: e for e in dataset if e.tag != Tag(_PER_FRAME)}
    for item in (dataset.get(_SHARED, None) or ())[:1]:
        base |= _laid_out(item)
    for item in dataset.get(_PER_FRAME):
        frame = Dataset(base | _laid_out(item))
        _rename(frame)
        _set(frame, "NumberOfFrames", 1)
        yield frame


def _laid_out(groups: Dataset) -> dict[BaseTag, DataElement]:
    """What the functional groups hold, side by side; standard groups have the last word."""
    found: dict[BaseTag, DataElement] = {}
    for element in sorted(groups, key=lambda e: not e.tag.is_private):
        items = element.value[:1] if element.VR == "SQ" else [[element]]
        for inner in (e for item in items for e in item):
            known = not element.tag.is_private or inner.tag in B_VALUE_TAGS
            if known and inner.tag not in _UIDS:
                found[inner.tag] = inner
    return found


def _rename(frame: Dataset) -> None:
    """Give what enhanced objects say in words of their own the classic names."""
    for enhanced, classic in _RENAMED:
        value = frame.get(enhanced, None)
        if value is not None and value != "":
            _set(frame, classic, value)
    if "ScanningSequence" not in frame:
        _set(frame, "ScanningSequence", _scanning_sequence(frame))
    types = [str(t) for t in frame.get("ImageType", None) or ()]
    contrast = str(frame.get("AcquisitionContrast", "") or "").upper()
    if contrast == "DIFFUSION":
        types.append(contrast)
    if str(frame.get("ComplexImageComponent", "") or "").upper() == "PHASE":
        types.append("P")
    _set(frame, "ImageType", list(dict.fromkeys(types)))
    given = str(frame.get("ContrastBolusAgentAdministered", "") or "").upper() != "NO"
    if given and len(frame.get("ContrastBolusAgentSequence", None) or ()):
        _set(frame, "ContrastBolusAgent", "given")
    if frame.get("DiffusionDirectionality", "") == "NONE" and "DiffusionBValue" not in frame:
        _set(frame, "DiffusionBValue", 0.0)


def _set(frame: Dataset, keyword: str, value: object) -> None:
    """Set an attribute of this frame; assignment would change the element that frames share."""
    tag = Tag(keyword)
    frame[tag] = DataElement(tag, dictionary_VR(tag), value)


def _scanning_sequence(frame: Dataset) -> list[str]:
    echoes = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
    words = list(echoes.get(str(frame.get("EchoPulseSequence", "")).upper(), []))
    if str(frame.get("EchoPlanarPulseSequence", "")).upper() == "YES":
        words.insert(0, "EP")
    if str(frame.get("InversionRecovery", "")).upper() == "YES":
        words.append("IR")
    return words
