"""The diffusion weighting of one image, from the standard tag or a vendor's private ones.

Where it is found, in order of trust: the standard attribute, the private attribute of Siemens,
GE or Philips (found through its private creator), the sequence name as a last resort.
A b-value in a header does not make an image an acquired one: ADC maps and computed images carry
it too (see :mod:`osteosap.dicom.roles`).
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "B_VALUE_TAGS",
    "GE_CREATOR",
    "PHILIPS_CREATOR",
    "SIEMENS_CREATOR",
    "read_b_value",
    "read_directionality",
]

SIEMENS_CREATOR = "SIEMENS MR HEADER"
GE_CREATOR = "GEMS_PARM_01"
PHILIPS_CREATOR = "Philips Imaging DD 001"
_STANDARD_B = 0x00189087
_STANDARD_DIRECTIONALITY = 0x00189075
_BLOCKS = range(0x10, 0x14)
_GREATEST = 20_000.0
"""Ours, in s/mm2. Philips writes about 1.7e38 where an image has no diffusion weighting."""
_GE_PACKING = 100_000
"""GE adds flags as multiples of 1e5 (1000000800 means b = 800)."""

_SEQUENCE_NAME = re.compile(r"_b(\d+)(?![\d_])", re.IGNORECASE)
"""``ep_b400t``, ``*ep_b1000#3``; not ``ep_b0_800``, the name of an image derived from several."""

_PRIVATE = (
    ("Siemens (0019,100C)", 0x0019, 0x0C, SIEMENS_CREATOR),
    ("GE (0043,1039)", 0x0043, 0x39, GE_CREATOR),
    ("Philips (2001,1003)", 0x2001, 0x03, PHILIPS_CREATOR),
)
_PRIVATE_DIRECTIONALITY = (
    (0x0019, 0x0D, SIEMENS_CREATOR),
    (0x2001, 0x04, PHILIPS_CREATOR),
)
_GE_DIRECTION = (0x0021, 0x5A, "GEMS_RELA_01")
_GE_ALL_DIRECTIONS, _GE_TENSOR = 7, 16
"""GE's codes for three directions combined (DFAXALL) and for single ones (DFAXDTI)."""

B_VALUE_TAGS: tuple[int, ...] = (
    _STANDARD_B,
    _STANDARD_DIRECTIONALITY,
    *((group << 16) | block for group in (0x0019, 0x0021, 0x0043, 0x2001) for block in _BLOCKS),
    *(
        (group << 16) | (block << 8) | element
        for group, element in (
            (0x0019, 0x0C),
            (0x0019, 0x0D),
            (0x0021, 0x5A),
            (0x0043, 0x39),
            (0x2001, 3),
            (0x2001, 4),
        )
        for block in _BLOCKS
    ),
)
"""Every tag that :func:`read_b_value` and :func:`read_directionality` look at."""


def read_b_value(dataset: Dataset) -> tuple[float | None, str]:
    """Return the b-value in s/mm2 written in a header and where it stands.

    Parameters
    ----------
    dataset
        Header of one classic (single-frame) image.

    Returns
    -------
    b_value_s_per_mm2, source
        Rounded to whole s/mm2; None and "" where the header has none.
    """
    if _STANDARD_B in dataset:
        value = _first_number(dataset[_STANDARD_B].value)
        if value is not None and value <= _GREATEST:
            return float(round(value)), "(0018,9087)"
    for source, group, element, creator in _PRIVATE:
        value = _first_number(_private_value(dataset, group, element, creator))
        if value is None:
            continue
        value = value % _GE_PACKING if group == 0x0043 else value
        if value <= _GREATEST:
            return float(round(value)), source
    match = _SEQUENCE_NAME.search(str(dataset.get("SequenceName", "") or ""))
    return (float(match[1]), "sequence name") if match else (None, "")


def read_directionality(dataset: Dataset) -> str:
    """``"trace"``, ``"direction"``, ``"none"`` (b = 0) or ``""`` where the header does not say."""
    words = str(dataset.get("ImageType", "")).upper()
    if "TRACEW" in words:
        return "trace"
    values = (
        [dataset[_STANDARD_DIRECTIONALITY].value] if _STANDARD_DIRECTIONALITY in dataset else []
    )
    values += [_private_value(dataset, *place) for place in _PRIVATE_DIRECTIONALITY]
    for value in values:
        word = _text(value).upper()
        if word in ("ISOTROPIC", "I"):
            return "trace"
        if word == "NONE":
            return "none"
        if word:
            return "direction"
    code = _first_number(_private_value(dataset, *_GE_DIRECTION))
    weighted = (read_b_value(dataset)[0] or 0.0) > 0
    if weighted and code in (_GE_ALL_DIRECTIONS, _GE_TENSOR):
        return "trace" if code == _GE_ALL_DIRECTIONS else "direction"
    return ""


def _private_value(dataset: Dataset, group: int, element: int, creator: str) -> Any:
    """Value of a private element, wherever its creator reserved a block; None if absent."""
    for block in _BLOCKS:
        reserved = (group << 16) | block
        if reserved in dataset and _text(dataset[reserved].value).upper() == creator.upper():
            tag = (group << 16) | (block << 8) | element
            return dataset[tag].value if tag in dataset else None
    return None


def _first_number(value: Any) -> float | None:
    """First number of a value of any representation; None unless finite and not negative."""
    if value is None:
        return None
    try:
        if isinstance(value, bytes) and len(value) == 4 and not _is_numeric_text(value):
            number = float(struct.unpack("<f", value)[0])
        elif isinstance(value, bytes | str):
            number = float(_text(value).split("\\")[0])
        else:
            try:
                number = float(value)
            except TypeError:
                number = float(value[0])
    except (ValueError, TypeError, IndexError):
        return None
    return number if 0.0 <= number < float("inf") else None


def _is_numeric_text(value: bytes) -> bool:
    return bool(re.fullmatch(rb"\s*\d+(\.\d*)?[\s\x00]*", value))


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.strip(" \x00")
