"""Scores of whole held-out exams during training, and the tuned lesion threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from osteosap.evaluation.matching import match_lesions
from osteosap.evaluation.metrics import Detection, detect, score_lesions, skeleton_dice
from osteosap.exam import require_file
from osteosap.inference.candidates import CandidateConfig, extract_lesions
from osteosap.inference.predict import resample_probability
from osteosap.inference.sliding import WindowConfig, predict_probabilities
from osteosap.training.data import TrainingExam
from osteosap.volume import read_nifti

__all__ = ["THRESHOLDS", "Case", "tune_threshold", "validate_lesions", "validate_skeleton"]

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
    folders: Sequence[Path] | None = None,
) -> tuple[float, dict[str, float]]:
    """Tuned threshold, and scores of held-out exams at it.

    Parameters
    ----------
    network
        Two classes.
    exams
        Prepared exams with lesions.
    patch, windows
        As in inference.
    folders
        Exam folders, one an exam: the probability is then carried to the exam's own grid and
        scored there, as the main job does it. None scores on the network's grid.

    Returns
    -------
    threshold, scores
        See :func:`tune_threshold`.
    """

    def cases() -> Iterator[Case]:
        for number, exam in enumerate(exams):
            if exam.lesions is None:
                continue
            probability = _predict(network, exam, patch, windows, n_classes=2)[1]
            if folders is None:
                yield Case(exam.lesions, probability, exam.grid.voxel_volume_ml)
                continue
            own = read_nifti(require_file(folders[number], "lesions"), channel="lesions")
            moved = resample_probability(probability, exam.grid, own.grid)
            yield Case(own.array[0].astype(np.int32), moved, own.grid.voxel_volume_ml)

    return tune_threshold(cases())


@dataclass(frozen=True)
class Case:
    """Reference instances and predicted probability (I, J, K) of one exam, and its voxel size."""

    reference: npt.NDArray[np.int32]
    probability: npt.NDArray[np.float32]
    voxel_volume_ml: float


@dataclass
class _Tally:
    """What one threshold reached so far."""

    every: list[Detection] = field(default_factory=list)
    large: list[Detection] = field(default_factory=list)
    common: int = 0
    total: int = 0

    def add(self, case: Case, threshold: float) -> None:
        lesions = extract_lesions(
            case.probability, case.voxel_volume_ml, config=CandidateConfig(threshold=threshold)
        )
        matching = match_lesions(case.reference, lesions)
        both = score_lesions(matching, case.voxel_volume_ml)
        self.every.append(detect(*both))
        self.large.append(detect(*both, min_volume_ml=1.0))
        self.common += sum(matching.overlaps.values())
        self.total += sum(matching.reference.values()) + sum(matching.prediction.values())

    def scores(self) -> dict[str, float]:
        return {
            "f2": _mean([d.f2 for d in self.every]),
            "sensitivity": _pooled(self.every),
            "false_positives_per_exam": _mean([float(d.n_false_positives) for d in self.every]),
            "sensitivity_1ml": _pooled(self.large),
            "false_positives_per_exam_1ml": _mean([float(d.n_false_positives) for d in self.large]),
            "global_dice": 2 * self.common / self.total if self.total else math.nan,
        }


def tune_threshold(
    cases: Iterable[Case], *, thresholds: Sequence[float] = THRESHOLDS
) -> tuple[float, dict[str, float]]:
    """Threshold with the best mean F2 over exams; equal ones: the one nearest 0.5.

    Parameters
    ----------
    cases
        One an exam; taken one at a time, so that a generator keeps memory small.
    thresholds
        Candidates.

    Returns
    -------
    threshold
        One of ``thresholds``; 0.5 where no exam defines F2.
    scores
        At that threshold: mean F2, sensitivity of all lesions and of those >= 1 mL, false
        positives per exam (all, and of 1 mL on), Dice of all lesions merged; the F2 of every
        threshold.
    """
    tallies = {t: _Tally() for t in (*thresholds, 0.5)}
    for case in cases:
        for threshold, tally in tallies.items():
            tally.add(case, threshold)
    results = {t: tally.scores() for t, tally in tallies.items()}
    defined = [t for t in thresholds if not math.isnan(results[t]["f2"])]
    best = min(defined, key=lambda t: (-results[t]["f2"], abs(t - 0.5))) if defined else 0.5
    scores = dict(results[best])
    scores["threshold"] = best
    scores |= {f"f2_at_{t:g}": results[t]["f2"] for t in thresholds}
    return best, scores


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
