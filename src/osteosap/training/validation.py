"""Scores of whole held-out exams during training, and the tuned lesion threshold.

With several processes each takes every n-th exam; the numbers of all are brought together, so that
every process returns the same scores as one alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn

from osteosap.errors import TrainingError
from osteosap.evaluation.matching import as_components, match_lesions
from osteosap.evaluation.metrics import Detection, detect, score_lesions, skeleton_dice
from osteosap.inference.candidates import CandidateConfig, extract_lesions
from osteosap.inference.predict import resample_probability
from osteosap.inference.sliding import WindowConfig, predict_probabilities
from osteosap.training.cases import TrainingCase
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
    """Mean Dice over exams, per class and merged, on the network's grid.

    Parameters
    ----------
    network
        On the device it is to run on (that of ``windows`` is not looked at).
    exams
        Prepared exams with skeleton maps.
    patch, windows
        As in inference.
    n_classes
        Outputs of the network.

    Returns
    -------
    scores
        ``dice_<region>``, ``dice_merged`` and ``dice_mean`` (of the regions); NaN where undefined.
    """
    empty = np.zeros((1, 1, 1), dtype=np.uint8)
    names = list(skeleton_dice(empty, empty))
    rows: dict[int, list[float]] = {}
    for number in _own(len(exams)):
        exam = exams[number]
        if exam.skeleton is None:
            raise _no_reference("skeleton")
        probabilities = _predict(network, exam, patch, windows, n_classes=n_classes)
        prediction = probabilities.argmax(axis=0).astype(np.uint8)
        values = skeleton_dice(np.asarray(exam.skeleton), prediction)
        rows[number] = [values[name] for name in names]
    table = _together(rows, (len(exams), len(names)), device=_device_of(network))
    scores = {f"dice_{name}": _mean(table[:, i]) for i, name in enumerate(names)}
    scores["dice_mean"] = _mean([v for name, v in scores.items() if name != "dice_merged"])
    return scores


def validate_lesions(
    network: nn.Module,
    exams: Sequence[TrainingExam],
    *,
    patch: tuple[int, int, int],
    windows: WindowConfig,
    cases: Sequence[TrainingCase] | None = None,
) -> tuple[float, dict[str, float]]:
    """Tuned threshold, and scores of held-out exams at it.

    Parameters
    ----------
    network
        Two classes; on the device it is to run on (that of ``windows`` is not looked at).
    exams
        Prepared exams with lesions.
    patch, windows
        As in inference.
    cases
        Where the exams came from, one an exam: the probability is then carried to the exam's own
        grid and scored there, as the main job does it. None scores on the network's grid.

    Returns
    -------
    threshold, scores
        See :func:`tune_threshold`.
    """
    rows: dict[int, list[float]] = {}
    for number in _own(len(exams)):
        exam = exams[number]
        probability = _predict(network, exam, patch, windows, n_classes=2)[1]
        case = cases[number] if cases is not None else None
        rows[number] = _flat(_case(exam, probability, case), THRESHOLDS)
    width = len(_candidates(THRESHOLDS)) * len(_Numbers._fields)
    table = _together(rows, (len(exams), width), device=_device_of(network))
    return _tuned(table, THRESHOLDS)


@dataclass(frozen=True)
class Case:
    """Reference instances and predicted probability (I, J, K) of one exam, and its voxel size."""

    reference: npt.NDArray[np.int32]
    probability: npt.NDArray[np.float32]
    voxel_volume_ml: float


class _Numbers(NamedTuple):
    """What one exam counts at one threshold; ``_1ml`` among lesions of 1 mL on."""

    f2: float
    n_reference: float
    n_detected: float
    n_false: float
    n_reference_1ml: float
    n_detected_1ml: float
    n_false_1ml: float
    common_voxels: float
    all_voxels: float


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
    return _tuned(np.array([_flat(case, thresholds) for case in cases]), thresholds)


def _tuned(
    table: npt.NDArray[np.float64], thresholds: Sequence[float]
) -> tuple[float, dict[str, float]]:
    """From the numbers of all exams, one row each, to the best threshold."""
    candidates = _candidates(thresholds)
    numbers = table.reshape(-1, len(candidates), len(_Numbers._fields))
    results = {t: _scores(numbers[:, i]) for i, t in enumerate(candidates)}
    defined = [t for t in thresholds if not math.isnan(results[t]["f2"])]
    best = min(defined, key=lambda t: (-results[t]["f2"], abs(t - 0.5))) if defined else 0.5
    scores = dict(results[best])
    scores["threshold"] = best
    scores |= {f"f2_at_{t:g}": results[t]["f2"] for t in thresholds}
    return best, scores


def _candidates(thresholds: Sequence[float]) -> list[float]:
    return list(dict.fromkeys((*thresholds, 0.5)))


def _flat(case: Case, thresholds: Sequence[float]) -> list[float]:
    """All numbers of one exam, threshold by threshold."""
    return [number for t in _candidates(thresholds) for number in _count(case, t)]


def _count(case: Case, threshold: float) -> _Numbers:
    lesions = extract_lesions(
        case.probability, case.voxel_volume_ml, config=CandidateConfig(threshold=threshold)
    )
    matching = match_lesions(case.reference, lesions)
    both = score_lesions(matching, case.voxel_volume_ml)
    every: Detection = detect(*both)
    large: Detection = detect(*both, min_volume_ml=1.0)
    return _Numbers(
        every.f2,
        every.n_reference,
        every.n_detected,
        every.n_false_positives,
        large.n_reference,
        large.n_detected,
        large.n_false_positives,
        sum(matching.overlaps.values()),
        sum(matching.reference.values()) + sum(matching.prediction.values()),
    )


def _scores(rows: npt.NDArray[np.float64]) -> dict[str, float]:
    """Scores of all exams (n, numbers) at one threshold."""
    n = dict(zip(_Numbers._fields, rows.T, strict=True))
    return {
        "f2": _mean(n["f2"]),
        "sensitivity": _ratio(n["n_detected"], n["n_reference"]),
        "false_positives_per_exam": _mean(n["n_false"]),
        "sensitivity_1ml": _ratio(n["n_detected_1ml"], n["n_reference_1ml"]),
        "false_positives_per_exam_1ml": _mean(n["n_false_1ml"]),
        "global_dice": 2.0 * _ratio(n["common_voxels"], n["all_voxels"]),
    }


def _case(
    exam: TrainingExam, probability: npt.NDArray[np.float32], case: TrainingCase | None
) -> Case:
    """Prediction and reference on the exam's own grid, or without ``case`` on the network's."""
    if exam.lesions is None:
        raise _no_reference("lesions")
    if case is None:
        return Case(np.asarray(exam.lesions), probability, exam.grid.voxel_volume_ml)
    if case.lesions is None:  # healthy
        own = read_nifti(case.images["t1"], channel="t1")
        reference = np.zeros(own.grid.shape, dtype=np.int32)
    else:
        own = read_nifti(case.lesions, channel="lesions")
        reference = as_components(own.array[0].astype(np.int32)).astype(np.int32)
    moved = resample_probability(probability, exam.grid, own.grid)
    return Case(reference, moved, own.grid.voxel_volume_ml)


def _no_reference(name: str) -> TrainingError:
    return TrainingError(
        f"an exam without {name} map among those to validate on", remedy="Leave it out"
    )


def _own(n: int) -> range:
    """Numbers of the exams that fall to this process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return range(n)
    return range(distributed.get_rank(), n, distributed.get_world_size())


def _together(
    rows: dict[int, list[float]], shape: tuple[int, int], *, device: torch.device
) -> npt.NDArray[np.float64]:
    """Rows of all processes in the order of the exams (each from one process: sums are exact)."""
    table = torch.zeros(shape, dtype=torch.float64)
    for number, row in rows.items():
        table[number] = torch.tensor(row, dtype=torch.float64)
    if distributed.is_available() and distributed.is_initialized():
        table = table.to(device)
        distributed.all_reduce(table)
    return np.asarray(table.cpu().numpy())


def _device_of(network: nn.Module) -> torch.device:
    weight = next(network.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def _predict(
    network: nn.Module,
    exam: TrainingExam,
    patch: tuple[int, int, int],
    windows: WindowConfig,
    *,
    n_classes: int,
) -> npt.NDArray[np.float32]:
    images: npt.NDArray[Any] = np.asarray(exam.images)
    return predict_probabilities(
        network,
        images.astype(np.float32),
        body=np.asarray(exam.body),
        n_classes=n_classes,
        patch=patch,
        config=windows.model_copy(update={"device": str(_device_of(network))}),
    )


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> float:
    total = float(whole.sum())
    return float(part.sum()) / total if total else math.nan


def _mean(values: Iterable[float]) -> float:
    """Mean of the defined values; NaN where there is none."""
    defined = [float(v) for v in values if not math.isnan(v)]
    return float(np.mean(defined)) if defined else math.nan
