"""One examination: its images in memory and its files on disk.

:class:`ExamPaths` is the file-name specification; every stage reads and writes through it.
Channel names used everywhere: ``t1``, ``b1000``, ``adc`` (um2/s).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from osteosap.errors import InputError, VolumeError
from osteosap.geometry import Array
from osteosap.volume import Volume, read_nifti, stack, write_nifti

__all__ = [
    "HANDED_OVER",
    "INPUT_CHANNELS",
    "MAPS",
    "Exam",
    "ExamPaths",
    "StationImage",
    "find_file",
    "read_exam",
    "read_exam_files",
    "require_file",
    "write_exam",
]

HANDED_OVER = "handed over"
"""Group of images that a user named (``b1000.nii.gz``): how they were made is not known."""

INPUT_CHANNELS = ("t1", "b1000")
"""Channels the networks read, in the order in which checkpoints record them."""

MAPS: dict[str, type[np.integer]] = {"skeleton": np.uint8, "lesions": np.int32}
"""Maps that go with the images, and their types in memory."""


@dataclass(frozen=True)
class StationImage:
    """One acquired image of one station (bed position) of an examination.

    Parameters
    ----------
    volume
        One channel, RAS axes; raw scanner intensities (ADC in um2/s).
    kind
        ``"t1"``, ``"dwi"`` or ``"adc"`` (an ADC map made by the scanner).
    b_value_s_per_mm2
        Diffusion weighting of a ``dwi`` image; None otherwise.
    group
        Images of equal ``group`` were acquired together with equal scaling (one DWI protocol
        over all stations): only b-values of one group may be fitted together.
    source
        Where it came from, for logs: "series 8", "t1.nii.gz"; no patient data.
    """

    volume: Volume
    kind: str
    b_value_s_per_mm2: float | None = None
    group: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("t1", "dwi", "adc"):
            raise VolumeError(
                f"unknown kind of image '{self.kind}'", remedy="Use 't1', 'dwi' or 'adc'"
            )
        if (self.kind == "dwi") != (self.b_value_s_per_mm2 is not None):
            raise VolumeError(
                f"a '{self.kind}' image with b-value {self.b_value_s_per_mm2}",
                remedy="Give a b-value to dwi images and only to those",
            )


@dataclass(frozen=True)
class ExamPaths:
    """Files of one examination below ``root``. Stages name what they read and write by these."""

    root: Path

    def __getitem__(self, key: str) -> Path:
        """Path of a key of :attr:`FILES`."""
        return self.root / self.FILES[key]

    FILES: ClassVar[dict[str, str]] = {
        "series": "stations/series.json",
        "stations": "stations",
        "t1": "exam/t1.nii.gz",
        "b1000": "exam/b1000.nii.gz",
        "adc": "exam/adc.nii.gz",
        "body": "exam/body.nii.gz",
        "preprocessing": "exam/preprocessing.json",
        "snapshots": "exam/snapshots.npz",
        "corrected_stations": "exam/stations",
        "origin": "exam/exam.json",
        "skeleton": "skeleton.nii.gz",
        "lesion_probability": "lesion_probability.nii.gz",
        "segmentation": "segmentation.json",
        "lesions": "lesions.nii.gz",
        "lesion_table": "lesions.csv",
        "measurements": "measurements.json",
        "report": "report.html",
        "run": "run.json",
    }
    """Key to file name relative to ``root``."""


@dataclass(frozen=True)
class Exam:
    """A whole-body examination on one grid.

    Parameters
    ----------
    images
        Channels ``t1``, ``b1000`` and, where known, ``adc`` (um2/s).
    skeleton
        uint8 class map (see :mod:`osteosap.anatomy`) or None.
    lesions
        int32 instance map, 0 = none, or None.
    """

    images: Volume
    skeleton: Volume | None = None
    lesions: Volume | None = None


def read_exam(folder: Path) -> Exam:
    """Read an exam folder: ``t1``, ``b1000``, optional ``adc``, ``skeleton``, ``lesions``.

    Files are ``NAME.nii.gz`` or ``NAME.nii``, in ``folder`` or in ``folder/exam``.

    Raises
    ------
    InputError
        ``t1`` or ``b1000`` is missing.
    GeometryError
        The files are on different grids.
    """
    files = {name: require_file(folder, name) for name in INPUT_CHANNELS}
    for name in ("adc", *MAPS):
        path = find_file(folder, name)
        if path is not None:
            files[name] = path
    return read_exam_files(files)


def read_exam_files(files: Mapping[str, Path]) -> Exam:
    """Read an exam whose files lie anywhere.

    Parameters
    ----------
    files
        NIfTI files by name: at least one channel, and ``skeleton`` and ``lesions`` where known.

    Raises
    ------
    InputError
        There is no image, or a file cannot be read.
    GeometryError
        The files are on different grids.
    VolumeError
        An image holds NaN, or a map values that are no ids.
    """
    names = [name for name in files if name not in MAPS]
    if not names:
        raise InputError("an exam without an image", remedy="Give at least its t1 image")
    joined = stack([_as_float(read_nifti(files[name], channel=name)) for name in names])
    maps: dict[str, Volume | None] = dict.fromkeys(MAPS)
    for name in MAPS:
        if name in files:
            volume = read_nifti(files[name], channel=name)
            joined.grid.require_same(volume.grid, what=f"{names[0]} and {name}")
            maps[name] = Volume(_as_ids(volume.array, name), volume.affine, volume.channels)
    return Exam(joined, maps["skeleton"], maps["lesions"])


def write_exam(exam: Exam, folder: Path, *, simulated: bool = False) -> None:
    """Write an exam folder that :func:`read_exam` reads."""
    for name in exam.images.channels:
        array = exam.images.channel(name)
        write_nifti(
            Volume.single(array, exam.images.affine, name),
            folder / f"{name}.nii.gz",
            simulated=simulated,
        )
    for volume in (exam.skeleton, exam.lesions):
        if volume is not None:
            write_nifti(volume, folder / f"{volume.channels[0]}.nii.gz", simulated=simulated)


def find_file(folder: Path, name: str) -> Path | None:
    """The NIfTI file of a name in an exam folder, or None."""
    for base in (folder, folder / "exam"):
        for suffix in (".nii.gz", ".nii"):
            if (base / f"{name}{suffix}").is_file():
                return base / f"{name}{suffix}"
    return None


def require_file(folder: Path, name: str) -> Path:
    """As :func:`find_file`, but a missing file raises :class:`InputError`."""
    path = find_file(folder, name)
    if path is None:
        raise InputError(
            f"no {name}.nii.gz in {folder}",
            remedy=f"Put the {name} image there under that name, or point to a DICOM study",
        )
    return path


def _as_float(volume: Volume) -> Volume:
    return Volume(volume.array.astype(np.float32), volume.affine, volume.channels)


def _as_ids(array: Array, name: str) -> Array:
    """A map in its type; values that would change are refused."""
    ids = array.astype(MAPS[name])
    if ids.dtype != array.dtype and (ids != array).any():
        limit = np.iinfo(MAPS[name]).max
        raise VolumeError(
            f"{name} holds values that are no integers from 0 to {limit}",
            remedy="Save class ids or instance numbers, not probabilities",
        )
    return ids
