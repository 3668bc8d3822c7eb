"""Exam folders to arrays in memory at the network's spacing, cached on disk."""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from osteosap.config import canonical_hash
from osteosap.errors import TrainingError
from osteosap.exam import INPUT_CHANNELS, find_file, read_exam
from osteosap.geometry import Array, Grid
from osteosap.inference.prepare import InputConfig, prepare_images
from osteosap.label_maps import resample_classes, resample_lesions

__all__ = ["TrainingExam", "load_exams", "prepare_exam"]

_log = logging.getLogger(__name__)
_CACHE_FORMAT = 1


@dataclass(frozen=True)
class TrainingExam:
    """One exam, ready to be cut into patches; cropped to the body.

    Parameters
    ----------
    images
        float16 (C, I, J, K) in [0, 1].
    body
        bool (I, J, K).
    skeleton
        uint8 class map (I, J, K), or None.
    lesions
        int32 instance map (I, J, K), or None.
    grid
        Where the voxels are.
    channels
        Names of the images' channels, in order.
    """

    images: npt.NDArray[np.float16]
    body: npt.NDArray[np.bool_]
    skeleton: npt.NDArray[np.uint8] | None
    lesions: npt.NDArray[np.int32] | None
    grid: Grid
    channels: tuple[str, ...] = INPUT_CHANNELS

    def checksum(self) -> int:
        """CRC-32 of all voxels: tells whether two runs learn from the same exams."""
        value = 0
        for array in (self.images, self.body, self.skeleton, self.lesions):
            if array is not None:
                value = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, value)
        return value


def load_exams(
    folders: Sequence[Path],
    config: InputConfig,
    *,
    needs: str,
    cache: Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> list[TrainingExam]:
    """Prepare exams one after the other; a prepared one is read from ``cache`` next time.

    Parameters
    ----------
    folders
        Exam folders (see :func:`osteosap.exam.read_exam`).
    config
        Channels, spacing, scaling.
    needs
        ``"skeleton"`` or ``"lesions"``: the reference each exam must have.
    cache
        Folder of prepared arrays; None prepares every time.

    Raises
    ------
    TrainingError
        There is no exam, or one lacks its reference.
    """
    if not folders:
        raise TrainingError("no exams to train on", remedy="Give at least one exam folder")
    exams = []
    for number, folder in enumerate(folders):
        if progress is not None:
            progress("prepare exams", number / len(folders))
        exam = _load_cached(folder, config, cache) if cache else prepare_exam(folder, config)
        if getattr(exam, needs) is None:
            raise TrainingError(
                f"{folder} has no {needs}.nii.gz, expected a reference for every exam",
                remedy=f"Add the {needs} map or leave the exam out",
            )
        exams.append(exam)
    if progress is not None:
        progress("prepare exams", 1.0)
    return exams


def prepare_exam(folder: Path, config: InputConfig) -> TrainingExam:
    """Read one exam and bring its images and references to the network's grid."""
    exam = read_exam(folder)
    prepared = prepare_images(exam.images, config)
    skeleton: npt.NDArray[np.uint8] | None = None
    lesions: npt.NDArray[np.int32] | None = None
    if exam.skeleton is not None:
        array = exam.skeleton.channel("skeleton")
        skeleton = resample_classes(array, exam.skeleton.grid, prepared.grid)
    if exam.lesions is not None:
        array = exam.lesions.channel("lesions")
        lesions = resample_lesions(array, exam.lesions.grid, prepared.grid)
        lost = len(np.unique(array)) - len(np.unique(lesions))
        if lost:
            _log.warning("%d lesions of %s lie outside the body and are left out", lost, folder)
    return TrainingExam(
        prepared.array.astype(np.float16),
        prepared.body,
        skeleton,
        lesions,
        prepared.grid,
        config.channels,
    )


def _load_cached(folder: Path, config: InputConfig, cache: Path) -> TrainingExam:
    path = cache / f"{_fingerprint(folder, config)}.npz"
    if path.is_file():
        try:
            return _read(path, config.channels)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            _log.warning("cached %s is damaged (%s); preparing again", path.name, error)
    exam = prepare_exam(folder, config)
    arrays: dict[str, Array] = {"images": exam.images, "body": exam.body}
    arrays["affine"] = exam.grid.affine
    if exam.skeleton is not None:
        arrays["skeleton"] = exam.skeleton
    if exam.lesions is not None:
        arrays["lesions"] = exam.lesions
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f".{os.getpid()}-{path.name}"
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)
    return exam


def _read(path: Path, channels: tuple[str, ...]) -> TrainingExam:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images = arrays["images"]
        return TrainingExam(
            images,
            arrays["body"],
            arrays.get("skeleton"),
            arrays.get("lesions"),
            Grid(images.shape[1:], arrays["affine"]),
            channels,
        )


def _fingerprint(folder: Path, config: InputConfig) -> str:
    files = []
    for name in ("t1", "b1000", "adc", "skeleton", "lesions"):
        path = find_file(folder, name)
        if path is not None:
            stat = path.stat()
            files.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return canonical_hash([_CACHE_FORMAT, config.to_mapping(), files])[:32]
