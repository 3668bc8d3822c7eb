"""Score predicted exams against the known truth: files in, results of each exam out.

Knows no network, so any method's masks or probability maps can be scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from osteosap.errors import GeometryError, InputError, VolumeError
from osteosap.evaluation.calibration import calibrate
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.detail import LesionMaps, add_details
from osteosap.evaluation.froc import Rules, ThresholdCounts, count_by_threshold
from osteosap.evaluation.matching import (
    Matching,
    as_components,
    label_instances,
    match_lesions,
    sizes_of,
)
from osteosap.evaluation.metrics import at_least, detect, score_lesions, skeleton_dice
from osteosap.evaluation.pairs import Pair, pair_of_folders
from osteosap.evaluation.results import ExamScores, LesionScores
from osteosap.geometry import Array, Grid
from osteosap.label_maps import resample_classes, resample_lesions
from osteosap.volume import Volume, read_nifti

__all__ = ["Extras", "evaluate_exam", "evaluate_lesions", "evaluate_pair"]


@dataclass(frozen=True)
class Extras:
    """What makes the scores of lesions richer; each may be missing.

    Parameters
    ----------
    probability
        Lesion probability, for free-response curves and calibration.
    skeleton
        Class map that names the regions of lesions.
    roi
        Mask outside which neither side counts.
    """

    probability: Volume | None = None
    skeleton: Volume | None = None
    roi: Volume | None = None


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
        Folders with ``skeleton.nii.gz`` and/or ``lesions.nii.gz``, there or in ``exam/``; the
        prediction may hold ``lesion_probability.nii.gz``.
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
    return evaluate_pair(pair_of_folders(reference_dir, prediction_dir, name=name), config=config)


def evaluate_pair(
    pair: Pair,
    *,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  (frozen)
) -> ExamScores:
    """Score one pair of :func:`osteosap.evaluation.pairs.find_pairs`; raises as the above."""
    notes: list[str] = []
    skeleton, lesions = None, None
    maps = [_read_map(p, "skeleton") for p in (pair.reference.skeleton, pair.prediction.skeleton)]
    truth, predicted = maps
    if truth and predicted:
        skeleton = skeleton_dice(*_on_one_grid(truth, predicted, "skeleton", config, notes))
    else:
        _note_missing("skeleton", maps, notes)
    probability = _read_probability(pair.prediction.probability)
    reference = _read_map(pair.reference.lesions, "lesions")
    prediction = _lesions_of(pair, probability, config, notes)
    if reference and prediction:
        extras = Extras(probability, truth or predicted, _read_map(pair.roi, "roi"))
        lesions = evaluate_lesions(reference, prediction, config=config, notes=notes, extras=extras)
    else:
        _note_missing("lesions", [reference, prediction], notes)
    if skeleton is None and lesions is None:
        raise InputError(
            f"exam {pair.name}: reference and prediction have neither skeleton.nii.gz nor "
            "lesions.nii.gz in common",
            remedy="Point to the folder of the truth and to an output folder of 'osteosap run'; "
            "masks are made from lesion_probability.nii.gz where 'threshold' is set",
        )
    return ExamScores(
        pair.name, skeleton, lesions, tuple(notes), config, pair.patient or pair.name, pair.site
    )


def evaluate_lesions(
    reference: Volume,
    prediction: Volume,
    *,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  (frozen)
    notes: list[str] | None = None,
    extras: Extras = Extras(),
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
    extras
        Probability, skeleton and roi of the exam.

    Raises
    ------
    GeometryError
        The grids differ and ``resample_reference`` is off.
    """
    notes = [] if notes is None else notes
    parts = as_components(reference.array[0], connectivity=config.connectivity)
    if extras.roi is not None:
        parts = _within(parts, reference.grid, extras.roi, config)
    volumes = {i: n * reference.grid.voxel_volume_ml for i, n in sizes_of(parts).items()}
    truth = Volume.single(parts, reference.affine, "lesions")
    moved, predicted = _on_one_grid(truth, prediction, "lesions", config, notes)
    inside = None if extras.roi is None else _roi_on(extras.roi, prediction.grid)
    if inside is not None:
        predicted = np.where(inside, predicted, 0)
    components = as_components(predicted, connectivity=config.connectivity)
    matching = match_lesions(moved, components)
    lost = tuple(i for i in volumes if i not in matching.reference)
    if lost:
        notes.append(
            f"{len(lost)} of {len(volumes)} reference lesions have no voxel on the prediction's "
            "grid; they count as missed"
        )
    both = score_lesions(
        matching.with_min_iou(config.min_iou).with_lost_references(lost),
        prediction.grid.voxel_volume_ml,
        reference_volume_ml=volumes,
    )
    maps = LesionMaps(
        prediction.grid,
        moved,
        components,
        _skeleton_on(extras.skeleton, prediction.grid),
        _probability_on(extras.probability, prediction.grid),
        inside,
    )
    references, predictions = add_details(*both, maps=maps, config=config)
    scores = LesionScores(
        references=references,
        predictions=predictions,
        all=detect(references, predictions),
        large=detect(references, predictions, min_volume_ml=config.min_volume_ml),
        global_dice=_global_dice(matching),
        lost_ids=lost,
        min_volume_ml=config.min_volume_ml,
        empty_exam=config.empty_exam,
    )
    return _with_curves(scores, maps, config)


def _with_curves(scores: LesionScores, maps: LesionMaps, config: EvaluateConfig) -> LesionScores:
    """Free-response counts and calibration, from the probability map.

    The curves count the same reference lesions as the numbers beside them.
    """
    probability = maps.probability
    if probability is None:
        return scores
    inside = maps.inside
    seen = probability if inside is None else np.where(inside, probability, np.float32(0))

    def count(min_volume_ml: float) -> ThresholdCounts:
        rules = Rules(
            min_voxels=min_volume_ml / maps.grid.voxel_volume_ml,
            counted={r.id for r in scores.references if at_least(r.volume_ml, min_volume_ml)},
            connectivity=config.connectivity,
            min_iou=config.min_iou,
            mode=config.froc_mode,
        )
        return count_by_threshold(
            maps.reference, seen, thresholds=config.froc_thresholds, rules=rules
        )

    return replace(
        scores,
        froc=count(0.0),
        froc_large=count(config.min_volume_ml),
        calibration=calibrate(maps.reference, probability, inside=inside),
    )


def _global_dice(matching: Matching) -> float:
    total = sum(matching.reference.values()) + sum(matching.prediction.values())
    return 2 * sum(matching.overlaps.values()) / total if total else math.nan


def _lesions_of(
    pair: Pair, probability: Volume | None, config: EvaluateConfig, notes: list[str]
) -> Volume | None:
    """The predicted mask: as it is, or the probability map at the threshold that is set."""
    if config.threshold is None:
        return _read_map(pair.prediction.lesions, "lesions")
    if probability is None:
        raise InputError(
            f"exam {pair.name}: a threshold of {config.threshold:g} is set, but there is no "
            "lesion_probability.nii.gz",
            remedy="Give the probability maps, or leave the threshold out to score masks",
        )
    notes.append(f"lesions are the voxels with a probability of at least {config.threshold:g}")
    mask = label_instances(
        probability.array[0] >= config.threshold, connectivity=config.connectivity
    )
    return Volume.single(mask, probability.affine, "lesions")


def _within(
    parts: npt.NDArray[np.generic], grid: Grid, roi: Volume, config: EvaluateConfig
) -> Array:
    """Components of what lies inside the roi."""
    inside = np.where(_roi_on(roi, grid), parts, 0)
    return as_components(inside, connectivity=config.connectivity)


def _roi_on(roi: Volume, grid: Grid) -> npt.NDArray[np.bool_]:
    mask = roi.array[0] != 0
    return np.asarray(resample_classes(mask.astype(np.uint8), roi.grid, grid) > 0)


def _skeleton_on(skeleton: Volume | None, grid: Grid) -> Array | None:
    if skeleton is None:
        return None
    return resample_classes(skeleton.array[0], skeleton.grid, grid)


def _probability_on(probability: Volume | None, grid: Grid) -> Array | None:
    if probability is None:
        return None
    probability.grid.require_same(grid, what="lesion probability and predicted lesions")
    return np.asarray(probability.array[0])


def _note_missing(name: str, maps: Sequence[Volume | None], notes: list[str]) -> None:
    missing = [
        side for side, one in zip(("reference", "prediction"), maps, strict=True) if one is None
    ]
    notes.append(f"{name} not scored: no {name}.nii.gz in the {' and '.join(missing)}")


def _read_probability(path: Path | None) -> Volume | None:
    if path is None:
        return None
    volume = read_nifti(path, channel="lesion_probability")
    return Volume(volume.array.astype(np.float32), volume.affine, volume.channels)


def _read_map(path: Path | None, name: str) -> Volume | None:
    if path is None:
        return None
    volume = read_nifti(path, channel=name, contiguous=False)
    array = volume.array
    if not np.issubdtype(array.dtype, np.unsignedinteger):
        values = array[array != 0]
        if values.size and (values.min() < 0 or not np.array_equal(np.rint(values), values)):
            raise VolumeError(
                f"{path} holds values that are no whole numbers from 0 on",
                remedy="Pass a class or instance map, not probabilities",
            )
        if not np.issubdtype(array.dtype, np.integer):
            array = array.astype(np.int64 if values.max(initial=0) > 2**31 - 1 else np.int32)
    return Volume(array, volume.affine, volume.channels)


def _move_lesions(lesions: Array, source: Grid, target: Grid) -> Array:
    """Lesions on another grid under their own ids, which may be any: numbered from 1 meanwhile."""
    ids = np.array([0, *sizes_of(lesions)], dtype=np.int32)
    numbered = np.searchsorted(ids, lesions).astype(np.int32)
    return np.asarray(ids[resample_lesions(numbered, source, target)])


def _on_one_grid(
    reference: Volume, prediction: Volume, what: str, config: EvaluateConfig, notes: list[str]
) -> tuple[Array, Array]:
    if not reference.grid.same_as(prediction.grid):
        if not config.resample_reference:
            raise GeometryError(
                f"reference and prediction ({what}) are on different grids: "
                f"{reference.grid.describe()} and {prediction.grid.describe()}",
                remedy="Let --resample (resample_reference) bring the reference onto the "
                "prediction's grid, or resample one before",
            )
        notes.append(
            f"reference {what} brought from {reference.grid.describe()} to "
            f"{prediction.grid.describe()} by the share of each voxel that a label fills"
        )
        move = _move_lesions if what == "lesions" else resample_classes
        moved = move(reference.array[0], reference.grid, prediction.grid)
        return moved, prediction.array[0]
    return reference.array[0], prediction.array[0]
