"""The exceptions osteosap raises on purpose.

Each says what is wrong, the offending value, what was expected, and what to do about it.
None of them ever carries a patient's name or identifier.

::

    OsteosapError
    ├── InputError              what the user handed over cannot be used
    │   ├── StudyError          a DICOM study: missing, mixed or broken series
    │   ├── GeometryError       grids, affines or orientations that do not fit
    │   └── VolumeError         voxel values or channels that cannot be right
    ├── ConfigError             an unknown key or an impossible setting
    ├── CheckpointError         a weight file that is foreign, broken or does not fit
    ├── TrainingError           training that cannot go on (collapse, no data)
    └── OutputError             results could not be written
"""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigError",
    "GeometryError",
    "InputError",
    "OsteosapError",
    "OutputError",
    "StudyError",
    "TrainingError",
    "VolumeError",
]


class OsteosapError(Exception):
    """Base of all errors osteosap raises on purpose.

    Parameters
    ----------
    problem
        What is wrong, with the value found and the value expected.
    remedy
        What the user can do about it.
    """

    def __init__(self, problem: str, *, remedy: str) -> None:
        self.problem = problem.rstrip(". ")
        self.remedy = remedy.rstrip(". ")
        super().__init__(f"{self.problem}. {self.remedy}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error cross from a worker process to its parent."""
        return partial(type(self), remedy=self.remedy), (self.problem,)


class InputError(OsteosapError):
    """What the user handed over cannot be used."""


class StudyError(InputError):
    """A DICOM study whose series are missing, mixed or broken."""


class GeometryError(InputError):
    """Grids, affines or orientations that do not fit together."""


class VolumeError(InputError):
    """Voxel values or channels that cannot be right."""


class ConfigError(OsteosapError):
    """An unknown key or an impossible setting."""


class CheckpointError(OsteosapError):
    """A weight file that is foreign, broken or does not fit the network."""


class TrainingError(OsteosapError):
    """Training that cannot start or go on."""


class OutputError(OsteosapError):
    """Results could not be written."""
