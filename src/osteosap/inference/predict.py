"""Segment an exam: bones and lesion probability on the grid of the images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.anatomy import N_CLASSES
from osteosap.errors import CheckpointError
from osteosap.geometry import Grid, crop_grid, resample
from osteosap.inference.prepare import InputConfig, PreparedImages, prepare_images
from osteosap.inference.sliding import (
    WindowConfig,
    choose_device,
    predict_probabilities,
    resolve_precision,
)
from osteosap.models.checkpoint import Checkpoint, describe, load_checkpoint, restore_network
from osteosap.models.cpu_memory import keep_freed_memory
from osteosap.preprocess.standardise import Standard
from osteosap.volume import Volume

__all__ = [
    "SegmentConfig",
    "Segmentation",
    "find_weights",
    "predict_map",
    "resample_probability",
    "segment_exam",
]

Task = Literal["skeleton", "lesions"]


class SegmentConfig(WindowConfig):
    """How an exam is segmented. Weights None means those shipped with osteosap."""

    skeleton_weights: Path | None = None
    lesion_weights: Path | None = None
    smallest_bone_ml: float = 0.5


@dataclass(frozen=True)
class Segmentation:
    """Result of :func:`segment_exam`, on the grid of its images.

    Parameters
    ----------
    skeleton
        uint8 class map.
    lesion_probability
        float32 in [0, 1].
    record
        JSON: weights, checksums, spacing, device, seconds, tuned lesion threshold.
    """

    skeleton: Volume
    lesion_probability: Volume
    record: dict[str, Any]


def segment_exam(
    images: Volume,
    *,
    config: SegmentConfig,
    progress: Callable[[str, float], None] | None = None,
) -> Segmentation:
    """Segment the bones and the lesions of one exam.

    Parameters
    ----------
    images
        Channels ``t1`` and ``b1000``.
    config
        Weights and windows.
    progress
        Called with what is being done and the fraction done.

    Raises
    ------
    CheckpointError
        Weights are missing, damaged or for another task.
    VolumeError
        A channel is missing or there is no body.
    """
    checkpoints = {task: _load(task, config) for task in ("skeleton", "lesions")}
    record: dict[str, Any] = {
        "device": str(choose_device(config.device)),
        "precision": resolve_precision(config),
        "overlap": config.overlap,
        "lesion_threshold": checkpoints["lesions"].metadata.threshold,
    }
    prepared: PreparedImages | None = None
    settings: InputConfig | None = None
    maps: dict[str, Volume] = {}
    for task, checkpoint in checkpoints.items():
        started = time.perf_counter()
        wanted = _input_config(checkpoint)
        if prepared is None or wanted != settings:
            prepared, settings = prepare_images(images, wanted), wanted
        maps[task] = _map_of(checkpoint, prepared, images, config, _named(progress, task))
        record[task] = describe(checkpoint) | {
            "seconds": round(time.perf_counter() - started, 2),
            "grid": prepared.grid.describe(),
        }
    return Segmentation(maps["skeleton"], maps["lesions"], record)


def predict_map(
    images: Volume,
    checkpoint: Checkpoint,
    *,
    config: SegmentConfig,
    progress: Callable[[str, float], None] | None = None,
) -> Volume:
    """What one network makes of an exam, on the grid of its images.

    Parameters
    ----------
    images
        Has the network's channels, and ``t1``.
    checkpoint
        Of a skeleton or a lesion network; the weights named in ``config`` are not looked at.
    config
        Windows, device, smallest bone.

    Returns
    -------
    map
        uint8 ``skeleton`` or float32 ``lesion_probability``.
    """
    prepared = prepare_images(images, _input_config(checkpoint))
    named = _named(progress, checkpoint.metadata.task)
    return _map_of(checkpoint, prepared, images, config, named)


def _map_of(
    checkpoint: Checkpoint,
    prepared: PreparedImages,
    images: Volume,
    config: SegmentConfig,
    progress: Callable[[float], None] | None,
) -> Volume:
    probabilities = _infer(checkpoint, prepared, config, progress=progress)
    if checkpoint.metadata.task == "skeleton":
        array = _class_map(probabilities, prepared.grid, images.grid)
        array = _drop_specks(array, images.grid, config.smallest_bone_ml)
        return Volume.single(array, images.affine, "skeleton")
    lesion = resample_probability(probabilities[1], prepared.grid, images.grid)
    return Volume.single(lesion, images.affine, "lesion_probability")


def resample_probability(
    probability: npt.NDArray[np.float32], source: Grid, target: Grid
) -> npt.NDArray[np.float32]:
    """Lesion probability (I, J, K) on the exam's grid, in [0, 1]; linear.

    Interpolation flattens the peak of a lesion of one or two voxels, so a threshold must be
    tuned on maps that went through this function too (:mod:`osteosap.training.validation`).
    """
    return np.clip(_bounded_resample(probability, source, target), 0.0, 1.0)


def find_weights(task: Task) -> Path:
    """The weight file shipped for a task (it may not exist in a source tree)."""
    return Path(str(resources.files("osteosap.models") / "weights" / f"{task}.safetensors"))


def _load(task: str, config: SegmentConfig) -> Checkpoint:
    chosen = config.skeleton_weights if task == "skeleton" else config.lesion_weights
    path = chosen or find_weights("skeleton" if task == "skeleton" else "lesions")
    checkpoint = load_checkpoint(path)
    if checkpoint.metadata.task != task:
        raise CheckpointError(
            f"{path} holds weights for '{checkpoint.metadata.task}', expected '{task}'",
            remedy="Exchange the weight files",
        )
    expected = N_CLASSES if task == "skeleton" else 2
    if checkpoint.spec.n_classes != expected:
        raise CheckpointError(
            f"{path} knows {checkpoint.spec.n_classes} classes, expected {expected}",
            remedy=f"Train the {task} network again",
        )
    return checkpoint


def _input_config(checkpoint: Checkpoint) -> InputConfig:
    standard = checkpoint.metadata.standard
    return InputConfig(
        channels=checkpoint.spec.channels,
        spacing_mm=checkpoint.metadata.spacing_mm,
        percentiles=checkpoint.metadata.percentiles,
        standard=Standard.from_mapping(standard) if standard else None,
    )


def _infer(
    checkpoint: Checkpoint,
    prepared: PreparedImages,
    config: SegmentConfig,
    *,
    progress: Callable[[float], None] | None,
) -> npt.NDArray[np.float32]:
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    network = restore_network(checkpoint).to(device)
    return predict_probabilities(
        network,
        prepared.array,
        body=prepared.body,
        n_classes=checkpoint.spec.n_classes,
        patch=checkpoint.metadata.patch,
        config=config,
        progress=progress,
    )


def _named(
    progress: Callable[[str, float], None] | None, task: str
) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda fraction: progress(f"segment {task}", fraction)


def _target_box(
    source: Grid, target: Grid, lower: npt.NDArray[np.int_], upper: npt.NDArray[np.int_]
) -> tuple[slice, slice, slice]:
    """Voxels of ``target`` that source voxels ``lower`` to ``upper`` (inclusive) may touch."""
    corners = np.array(
        np.meshgrid(*[(a - 1.0, b + 1.0) for a, b in zip(lower, upper, strict=True)])
    ).reshape(3, -1)
    matrix = np.linalg.inv(target.affine) @ source.affine
    places = (matrix @ np.vstack([corners, np.ones(8)]))[:3]
    start = np.clip(np.floor(places.min(axis=1)), 0, target.shape).astype(int)
    stop = np.clip(np.ceil(places.max(axis=1)) + 1, 0, target.shape).astype(int)
    return (
        slice(int(start[0]), int(stop[0])),
        slice(int(start[1]), int(stop[1])),
        slice(int(start[2]), int(stop[2])),
    )


def _bounded_resample(
    values: npt.NDArray[np.float32], source: Grid, target: Grid, *, fill: float = 0.0
) -> npt.NDArray[np.float32]:
    """Resample a map that is ``fill`` nearly everywhere, computing only where it is not."""
    result = np.full(target.shape, fill, dtype=np.float32)
    hit = np.argwhere(np.abs(values - fill) > 0.01)
    if hit.size == 0:
        return result
    box = _target_box(source, target, hit.min(axis=0), hit.max(axis=0))
    if any(s.stop <= s.start for s in box):
        return result
    result[box] = resample(values, source, crop_grid(target, box), fill=fill)
    return result


def _class_map(
    probabilities: npt.NDArray[np.float32], source: Grid, target: Grid
) -> npt.NDArray[np.uint8]:
    """Most probable class on another grid, one class at a time (never all at full size)."""
    best = _bounded_resample(probabilities[0], source, target, fill=1.0)
    classes = np.zeros(target.shape, dtype=np.uint8)
    for number in range(1, probabilities.shape[0]):
        hit = np.argwhere(probabilities[number] > 0.05)
        if hit.size == 0:
            continue
        box = _target_box(source, target, hit.min(axis=0), hit.max(axis=0))
        if any(s.stop <= s.start for s in box):
            continue
        values: npt.NDArray[np.float32] = resample(
            probabilities[number], source, crop_grid(target, box)
        ).astype(np.float32)
        wins = values > best[box]
        best[box][wins] = values[wins]
        classes[box][wins] = number
    return classes


def _drop_specks(
    classes: npt.NDArray[np.uint8], grid: Grid, smallest_ml: float
) -> npt.NDArray[np.uint8]:
    """Remove islands of bone (any class, 26-neighbourhood) below a volume."""
    if smallest_ml <= 0:
        return classes
    islands, count = ndimage.label(classes > 0, structure=np.ones((3, 3, 3)))
    if count == 0:
        return classes
    volumes = np.bincount(islands.ravel()) * grid.voxel_volume_ml
    keep = volumes >= smallest_ml
    return np.where(keep[islands], classes, 0).astype(np.uint8)
