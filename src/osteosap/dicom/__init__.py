"""DICOM in and out: sort, inspect and read a study, write a simulated one. LPS exists only in here.

The names below are loaded on first use, so that importing the package does not load pydicom.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osteosap.dicom.inspect import StudyInspection, inspect_study
    from osteosap.dicom.records import SeriesRecord
    from osteosap.dicom.study import StudyReading, read_study
    from osteosap.dicom.write import DicomWriterConfig, write_study

__all__ = [
    "DicomWriterConfig",
    "SeriesRecord",
    "StudyInspection",
    "StudyReading",
    "inspect_study",
    "read_study",
    "write_study",
]

_HOMES = {
    "DicomWriterConfig": "write",
    "SeriesRecord": "records",
    "StudyInspection": "inspect",
    "StudyReading": "study",
    "inspect_study": "inspect",
    "read_study": "study",
    "write_study": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
