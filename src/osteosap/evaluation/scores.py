"""Score a predicted exam folder, or a cohort of them, against the known truth.

Reads ``skeleton.nii.gz`` and ``lesions.nii.gz`` of both folders; knows no network, so any
method's masks can be scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from osteosap.errors import InputError, VolumeError
from osteosap.evaluation.matching import as_components, match_lesions
from osteosap.evaluation.metrics import detect, score_lesions, skeleton_dice
from osteosap.evaluation.results import CohortScores, EvaluateConfig, ExamScores, LesionScores
from osteosap.exam import find_file
from osteosap.geometry import Array
from osteosap.label_maps import resample_classes, resample_lesions
from osteosap.volume import Volume, read_nifti

__all__ = ["EvaluateConfig", "evaluate_cohort", "evaluate_exam", "evaluate_lesions"]


def evaluate_exam(
    reference_dir: Path,
    prediction_dir: Path,
    *,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  (frozen)
    name: str | None = None,
) -> ExamScores:
    """Score one exam folder against another that holds the truth.

    Parameters
    ----------
    reference_dir, prediction_dir
        Folders with ``skeleton.nii.gz`` and/or ``lesions.nii.gz``, there or in ``exam/``.
    config
        Settings.
    name
        The exam's name in tables; the prediction folder's name when left out.

    Raises
    ------
    InputError
        The folders have neither map in common.
    GeometryError
        The grids differ and ``resample_reference`` is off.
    """
    notes: list[str] = []
    skeleton, lesions = None, None
    maps = _pair(reference_dir, prediction_dir, "skeleton", notes)
    if maps:
        reference, prediction = _on_one_grid(*maps, "skeleton", config, notes)
        skeleton = skeleton_dice(reference, prediction)
    maps = _pair(reference_dir, prediction_dir, "lesions", notes)
    if maps:
        lesions = evaluate_lesions(*maps, config=config, notes=notes)
    if skeleton is None and lesions is None:
        raise InputError(
            f"{reference_dir} and {prediction_dir} have neither skeleton.nii.gz nor "
            "lesions.nii.gz in common",
            remedy="Point to the folder of the truth and to an output folder of 'osteosap run'",
        )
    label = name if name is not None else prediction_dir.resolve().name
    return ExamScores(label, skeleton, lesions, tuple(notes), config)


def evaluate_cohort(
    pairs: Iterable[tuple[Path, Path]],
    *,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  (frozen)
) -> CohortScores:
    """Score (reference folder, prediction folder) pairs; at least one.

    Raises
    ------
    InputError
        No pair, or one that cannot be scored.
    """
    exams = tuple(evaluate_exam(r, p, config=config) for r, p in pairs)
    if not exams:
        raise InputError(
            "no exam to evaluate", remedy="Give at least one pair of truth and output folders"
        )
    return CohortScores(exams, config)


def evaluate_lesions(
    reference: Volume,
    prediction: Volume,
    *,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  (frozen)
    notes: list[str] | None = None,
) -> LesionScores:
    """Score lesion maps in memory.

    Both are split into connected components (ids that already are components stay). With
    ``resample_reference`` the reference's components are made, and their volumes measured, on
    its own grid; one that keeps no voxel on the prediction's grid counts as missed.

    Parameters
    ----------
    reference, prediction
        One channel of integers each: instances or a mask.
    notes
        Remarks are appended here.

    Raises
    ------
    GeometryError
        The grids differ and ``resample_reference`` is off.
    """
    notes = [] if notes is None else notes
    parts = as_components(reference.array[0], connectivity=config.connectivity)
    voxels = np.bincount(parts.ravel())
    ids = [int(i) for i in np.flatnonzero(voxels) if i]
    volumes = {i: float(voxels[i]) * reference.grid.voxel_volume_ml for i in ids}
    truth = Volume.single(parts, reference.affine, "lesions")
    moved, predicted = _on_one_grid(truth, prediction, "lesions", config, notes)
    components = as_components(predicted, connectivity=config.connectivity)
    matching = match_lesions(moved, components)
    lost = tuple(i for i in ids if i not in matching.reference)
    if lost:
        notes.append(
            f"{len(lost)} of {len(ids)} reference lesions have no voxel on the prediction's grid; "
            "they count as missed"
        )
    references, predictions = score_lesions(
        matching.with_lost_references(lost),
        prediction.grid.voxel_volume_ml,
        reference_volume_ml=volumes,
    )
    total = sum(matching.reference.values()) + sum(matching.prediction.values())
    return LesionScores(
        references=references,
        predictions=predictions,
        all=detect(references, predictions),
        large=detect(references, predictions, min_volume_ml=config.min_volume_ml),
        global_dice=2 * sum(matching.overlaps.values()) / total if total else math.nan,
        lost_ids=lost,
        min_volume_ml=config.min_volume_ml,
    )


def _pair(
    reference_dir: Path, prediction_dir: Path, name: str, notes: list[str]
) -> tuple[Volume, Volume] | None:
    for folder in (reference_dir, prediction_dir):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}", remedy="Check the path")
    paths = (find_file(reference_dir, name), find_file(prediction_dir, name))
    if paths[0] is None or paths[1] is None:
        missing = [s for s, p in zip(("reference", "prediction"), paths, strict=True) if p is None]
        notes.append(f"{name} not scored: no {name}.nii.gz in the {' and '.join(missing)}")
        return None
    return _read_map(paths[0], name), _read_map(paths[1], name)


def _read_map(path: Path, name: str) -> Volume:
    volume = read_nifti(path, channel=name)
    whole = np.rint(volume.array)
    if (whole != volume.array).any() or (whole.size and whole.min() < 0):
        raise VolumeError(
            f"{path} holds values that are no whole numbers from 0 on",
            remedy="Pass a class or instance map, not probabilities",
        )
    return Volume(whole.astype(np.int32), volume.affine, volume.channels)


def _on_one_grid(
    reference: Volume, prediction: Volume, what: str, config: EvaluateConfig, notes: list[str]
) -> tuple[Array, Array]:
    if not config.resample_reference:
        reference.grid.require_same(prediction.grid, what=f"reference and prediction ({what})")
    elif not reference.grid.same_as(prediction.grid):
        notes.append(
            f"reference {what} brought from {reference.grid.describe()} to "
            f"{prediction.grid.describe()} by the share of each voxel that a label fills"
        )
        move = resample_lesions if what == "lesions" else resample_classes
        moved = move(reference.array[0], reference.grid, prediction.grid)
        return moved, prediction.array[0]
    return reference.array[0], prediction.array[0]
