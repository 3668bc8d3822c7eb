"""Exam folders to arrays in memory at the network's spacing, cached on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.config import canonical_hash
from osteosap.errors import TrainingError
from osteosap.exam import find_file, read_exam
from osteosap.geometry import Array, Grid, resample
from osteosap.inference.prepare import InputConfig, crop_grid, prepare_images

__all__ = ["TrainingExam", "load_exams", "prepare_exam", "resample_lesions"]

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
    """

    images: npt.NDArray[np.float16]
    body: npt.NDArray[np.bool_]
    skeleton: npt.NDArray[np.uint8] | None
    lesions: npt.NDArray[np.int32] | None
    grid: Grid


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
        prepared.array.astype(np.float16), prepared.body, skeleton, lesions, prepared.grid
    )


def resample_classes(classes: Array, source: Grid, target: Grid) -> npt.NDArray[np.uint8]:
    """Class map on another grid: the class with the largest share of each voxel."""
    if source.same_as(target, tolerance_mm=1e-3):
        return classes.astype(np.uint8)
    result = np.zeros(target.shape, dtype=np.uint8)
    best = np.full(target.shape, 0.5, dtype=np.float32)
    best[_share(classes != 0, source, target) >= 0.5] = 0.0
    for number in np.unique(classes):
        if number == 0:
            continue
        share = _share(classes == number, source, target)
        wins = share > best
        best[wins] = share[wins]
        result[wins] = number
    return result


def resample_lesions(lesions: Array, source: Grid, target: Grid) -> npt.NDArray[np.int32]:
    """Instance map on another grid; no lesion vanishes and volumes are kept.

    Each lesion takes as many target voxels as its volume fills, at least one: those it covers
    most. A lesion outside the target is left out.

    Parameters
    ----------
    lesions
        Integers (I, J, K), 0 = none.
    source, target
        Grids with the same directions or not.
    """
    if source.same_as(target, tolerance_mm=1e-3):
        return lesions.astype(np.int32)
    result = np.zeros(target.shape, dtype=np.int32)
    ratio = source.voxel_volume_ml / target.voxel_volume_ml
    for number, box in enumerate(ndimage.find_objects(lesions.astype(np.int32)), start=1):
        if box is None:
            continue
        wide = tuple(
            slice(max(0, s.start - 4), min(n, s.stop + 4))
            for s, n in zip(box, source.shape, strict=True)
        )
        mask = lesions[wide] == number
        inside = _covering_box(crop_grid(source, wide), target)
        if any(s.stop <= s.start for s in inside):
            continue
        share = _share(mask, crop_grid(source, wide), crop_grid(target, inside))
        share[result[inside] > 0] = 0.0
        wanted = max(1, round(float(mask.sum()) * ratio))
        order = np.argsort(share, axis=None, kind="stable")[::-1][:wanted]
        order = order[share.ravel()[order] > 1e-6]
        view = result[inside]
        view[np.unravel_index(order, share.shape)] = number
    return result


def _share(mask: npt.NDArray[np.bool_], source: Grid, target: Grid) -> npt.NDArray[np.float32]:
    """How much of each target voxel a mask fills."""
    return resample(mask.astype(np.float32), source, target).astype(np.float32, copy=False)


def _covering_box(source: Grid, target: Grid) -> tuple[slice, slice, slice]:
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in source.shape])).reshape(3, -1)
    places = (np.linalg.inv(target.affine) @ source.affine @ np.vstack([corners, np.ones(8)]))[:3]
    start = np.clip(np.floor(places.min(axis=1)), 0, target.shape).astype(int)
    stop = np.clip(np.ceil(places.max(axis=1)) + 1, 0, target.shape).astype(int)
    slices = [slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)]
    return slices[0], slices[1], slices[2]


def _load_cached(folder: Path, config: InputConfig, cache: Path) -> TrainingExam:
    path = cache / f"{_fingerprint(folder, config)}.npz"
    if path.is_file():
        try:
            return _read(path)
        except (OSError, ValueError, KeyError) as error:
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


def _read(path: Path) -> TrainingExam:
    with np.load(path, allow_pickle=False) as arrays:
        images = arrays["images"]
        return TrainingExam(
            images,
            arrays["body"],
            arrays.get("skeleton"),
            arrays.get("lesions"),
            Grid(images.shape[1:], arrays["affine"]),
        )


def _fingerprint(folder: Path, config: InputConfig) -> str:
    files = []
    for name in ("t1", "b1000", "adc", "skeleton", "lesions"):
        path = find_file(folder, name)
        if path is not None:
            stat = path.stat()
            files.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return canonical_hash([_CACHE_FORMAT, config.to_mapping(), files])[:32]
