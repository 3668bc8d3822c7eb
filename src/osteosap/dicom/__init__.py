"""DICOM in and out: sort and read a study, write a simulated one. LPS exists only in here.

The names below are loaded on first use, so that importing the package does not load pydicom.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osteosap.dicom.study import SeriesRecord, StudyReading, read_study
    from osteosap.dicom.write import DicomWriterConfig, write_study

__all__ = ["DicomWriterConfig", "SeriesRecord", "StudyReading", "read_study", "write_study"]

_HOMES = {
    "DicomWriterConfig": "write",
    "SeriesRecord": "study",
    "StudyReading": "study",
    "read_study": "study",
    "write_study": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
