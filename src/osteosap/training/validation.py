"""Scores of whole held-out exams during training, and the tuned lesion threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from osteosap.evaluation.matching import match_lesions
from osteosap.evaluation.metrics import Detection, detect, score_lesions, skeleton_dice
from osteosap.inference.candidates import CandidateConfig, extract_lesions
from osteosap.inference.sliding import WindowConfig, predict_probabilities
from osteosap.training.data import TrainingExam

__all__ = ["THRESHOLDS", "tune_threshold", "validate_lesions", "validate_skeleton"]

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Candidates for the lesion threshold."""


def validate_skeleton(
    network: nn.Module,
    exams: Sequence[TrainingExam],
    *,
    patch: tuple[int, int, int],
    windows: WindowConfig,
    n_classes: int,
) -> dict[str, float]:
    """Mean Dice over exams, per class and merged, on the network's grid; NaN where undefined."""
    scores: dict[str, list[float]] = {}
    for exam in exams:
        probabilities = _predict(network, exam, patch, windows, n_classes=n_classes)
        prediction = probabilities.argmax(axis=0).astype(np.uint8)
        if exam.skeleton is None:
            continue
        for name, value in skeleton_dice(exam.skeleton, prediction).items():
            scores.setdefault(name, []).append(value)
    return {f"dice_{name}": _mean(values) for name, values in scores.items()}


def validate_lesions(
    network: nn.Module,
    exams: Sequence[TrainingExam],
    *,
    patch: tuple[int, int, int],
    windows: WindowConfig,
) -> tuple[float, dict[str, float]]:
    """Tuned threshold, and scores of held-out exams at it.

    Returns
    -------
    threshold, scores
        See :func:`tune_threshold`.
    """
    pairs = [
        (exam.lesions, _predict(network, exam, patch, windows, n_classes=2)[1])
        for exam in exams
        if exam.lesions is not None
    ]
    return tune_threshold(pairs, [e.grid.voxel_volume_ml for e in exams if e.lesions is not None])


def tune_threshold(
    pairs: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]],
    voxel_volumes_ml: Sequence[float],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[float, dict[str, float]]:
    """Threshold with the best mean F2 over exams; equal ones: the one nearest 0.5.

    Parameters
    ----------
    pairs
        Reference instances and predicted probability of each exam, (I, J, K).
    voxel_volumes_ml
        One an exam.

    Returns
    -------
    threshold
        One of ``thresholds``; 0.5 where no exam defines F2.
    scores
        At that threshold: mean F2, sensitivity of all lesions and of those >= 1 mL, false
        positives per exam (all, and of 1 mL on), Dice of all lesions merged; the F2 of every
        threshold.
    """
    results = {t: _score_at(pairs, voxel_volumes_ml, t) for t in thresholds}
    defined = [t for t in thresholds if not math.isnan(results[t]["f2"])]
    best = min(defined, key=lambda t: (-results[t]["f2"], abs(t - 0.5))) if defined else 0.5
    scores = dict(results.get(best) or _score_at(pairs, voxel_volumes_ml, best))
    scores["threshold"] = best
    scores |= {f"f2_at_{t:g}": results[t]["f2"] for t in thresholds}
    return best, scores


def _score_at(
    pairs: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]],
    voxel_volumes_ml: Sequence[float],
    threshold: float,
) -> dict[str, float]:
    every: list[Detection] = []
    large: list[Detection] = []
    overlap = np.zeros(2)
    for (reference, probability), volume_ml in zip(pairs, voxel_volumes_ml, strict=True):
        lesions = extract_lesions(
            probability, volume_ml, config=CandidateConfig(threshold=threshold)
        )
        both = score_lesions(match_lesions(reference, lesions), volume_ml)
        every.append(detect(*both))
        large.append(detect(*both, min_volume_ml=1.0))
        common = np.count_nonzero((reference > 0) & (lesions > 0))
        overlap += (2 * common, np.count_nonzero(reference) + np.count_nonzero(lesions))
    return {
        "f2": _mean([d.f2 for d in every]),
        "sensitivity": _pooled(every),
        "false_positives_per_exam": _mean([float(d.n_false_positives) for d in every]),
        "sensitivity_1ml": _pooled(large),
        "false_positives_per_exam_1ml": _mean([float(d.n_false_positives) for d in large]),
        "global_dice": float(overlap[0] / overlap[1]) if overlap[1] else math.nan,
    }


def _predict(
    network: nn.Module,
    exam: TrainingExam,
    patch: tuple[int, int, int],
    windows: WindowConfig,
    *,
    n_classes: int,
) -> npt.NDArray[np.float32]:
    images: npt.NDArray[Any] = exam.images
    return predict_probabilities(
        network,
        images.astype(np.float32),
        body=exam.body,
        n_classes=n_classes,
        patch=patch,
        config=windows,
    )


def _pooled(detections: Sequence[Detection]) -> float:
    total = sum(d.n_reference for d in detections)
    return sum(d.n_detected for d in detections) / total if total else math.nan


def _mean(values: Sequence[float]) -> float:
    """Mean of the defined values; NaN where there is none."""
    defined = [v for v in values if not math.isnan(v)]
    return float(np.mean(defined)) if defined else math.nan
