"""Free-response curves: sensitivity over false positives per exam as the threshold moves.

At every threshold the voxels at or above it are split into components anew (``rethreshold``), as
the main job would do there; or the components of the lowest threshold stay, and each counts from
its peak probability on (``peak``). Components merge and split as a threshold moves, so more false
positives need not mean more hits: the curve is the envelope, the best sensitivity reached with no
more than so many false positives per exam.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from osteosap.errors import ConfigError, GeometryError, VolumeError
from osteosap.evaluation.matching import boxes_of, label_instances, sizes_of
from osteosap.evaluation.metrics import at_least
from osteosap.geometry import Array

__all__ = ["Froc", "Rules", "ThresholdCounts", "count_by_threshold", "froc_curve"]

FrocMode = Literal["rethreshold", "peak"]
Reals = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Rules:
    """What counts on a curve; the same as in the numbers beside it.

    Parameters
    ----------
    min_voxels
        Reference lesions and false positives count from this size on; a component of any size
        detects, and one that touches a reference lesion of any size is not false.
    counted
        Ids of the reference lesions that count, where their size on this grid does not say it:
        resampled lesions are judged by their own volume, and one without a voxel left is missed.
    connectivity
        6, 18 or 26.
    min_iou
        Least intersection over union for a component and a lesion to touch; 0 is any voxel.
    mode
        See the module.
    """

    min_voxels: float = 0.0
    counted: Collection[int] | None = None
    connectivity: int = 26
    min_iou: float = 0.0
    mode: FrocMode = "rethreshold"


@dataclass(frozen=True)
class ThresholdCounts:
    """Hits and false positives of one exam at every threshold.

    Parameters
    ----------
    thresholds
        Rising.
    n_reference
        Reference lesions that count.
    detected, false_positives
        One number a threshold.
    """

    thresholds: tuple[float, ...]
    n_reference: int
    detected: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]


def count_by_threshold(
    reference: Array,
    probability: Array,
    *,
    thresholds: Sequence[float],
    rules: Rules = Rules(),
) -> ThresholdCounts:
    """Score one exam at every threshold.

    Thresholds are compared in the type of the map, as masks are made from it.

    Parameters
    ----------
    reference
        int32 instances (I, J, K), 0 = none.
    probability
        (I, J, K) in [0, 1].
    thresholds
        Any order; each counts once.
    rules
        What counts.

    Raises
    ------
    GeometryError
        Shapes differ.
    VolumeError
        The probability is not finite or not in [0, 1].
    ConfigError
        No threshold, or one outside (0, 1).
    """
    levels = np.unique(np.asarray(thresholds, dtype=np.float64))
    _require(reference, probability, levels)
    sizes = sizes_of(reference)
    counted = rules.counted
    if counted is None:
        counted = [i for i, size in sizes.items() if at_least(size, rules.min_voxels)]
    own: Any = probability.dtype if np.issubdtype(probability.dtype, np.floating) else np.float64
    values: Reals = np.asarray(probability, dtype=own)
    cuts: Reals = levels.astype(values.dtype)
    base = label_instances(values >= cuts[0], connectivity=rules.connectivity)
    tally = _Tally(len(levels), sizes, rules)
    for number, box in boxes_of(base).items():
        inside = np.where(base[box] == number, values[box], values.dtype.type(-1))
        if rules.mode == "peak":
            tally.add_peak(inside, reference[box], cuts)
        else:
            tally.add(inside, reference[box], cuts)
    return ThresholdCounts(
        tuple(levels.tolist()),
        len(counted),
        np.array([len(hits.intersection(counted)) for hits in tally.hits], dtype=np.int64),
        tally.false,
    )


class _Tally:
    """Reference lesions hit, and false positives, at each threshold."""

    def __init__(self, n: int, sizes: Mapping[int, int], rules: Rules) -> None:
        self.hits: list[set[int]] = [set() for _ in range(n)]
        self.false = np.zeros(n, dtype=np.int64)
        self.sizes = sizes
        self.rules = rules

    def add(self, inside: Reals, reference: Array, levels: Reals) -> None:
        """One component of the lowest threshold, taken apart as the threshold rises."""
        top = inside.max()
        for place, level in enumerate(levels):
            if level > top:
                break
            parts = label_instances(inside >= level, connectivity=self.rules.connectivity)
            self._count(parts, reference, place)

    def add_peak(self, inside: Reals, reference: Array, levels: Reals) -> None:
        """One component that stays whole and vanishes above its peak."""
        whole = (inside >= levels[0]).astype(np.int32)
        for place in range(int(np.searchsorted(levels, inside.max(), side="right"))):
            self._count(whole, reference, place)

    def _count(self, parts: Array, reference: Array, place: int) -> None:
        inside = parts != 0
        ids = parts[inside].astype(np.int64)
        touched = reference[inside].astype(np.int64)
        sizes = np.bincount(ids)
        true = np.zeros(len(sizes), dtype=bool)
        base = int(touched.max(initial=0)) + 1
        codes, shared = np.unique((ids * base + touched)[touched > 0], return_counts=True)
        for code, n in zip(codes.tolist(), shared.tolist(), strict=True):
            part, lesion = divmod(code, base)
            if n / (self.sizes[lesion] + int(sizes[part]) - n) >= self.rules.min_iou:
                true[part] = True
                self.hits[place].add(lesion)
        false = sizes[~true & (sizes > 0)].tolist()
        self.false[place] += sum(at_least(size, self.rules.min_voxels) for size in false)


@dataclass(frozen=True)
class Froc:
    """A free-response curve and the points it was drawn from.

    Parameters
    ----------
    thresholds, false_positives_per_exam, sensitivity
        Operating points, by rising threshold; pooled over exams.
    n_exams, n_reference
        How much it rests on.
    """

    thresholds: npt.NDArray[np.float64]
    false_positives_per_exam: npt.NDArray[np.float64]
    sensitivity: npt.NDArray[np.float64]
    n_exams: int
    n_reference: int

    def envelope(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """False positives per exam, strictly rising from 0, and best sensitivity up to each."""
        order = np.lexsort((-self.sensitivity, self.false_positives_per_exam))
        x = np.concatenate([[0.0], self.false_positives_per_exam[order]])
        y = np.maximum.accumulate(np.concatenate([[0.0], self.sensitivity[order]]))
        last = np.append(x[1:] != x[:-1], True)  # of equal places the highest
        return x[last], y[last]

    def sensitivity_at(self, false_positives_per_exam: float) -> float:
        """Sensitivity at a rate: linear between points, flat beyond the last; NaN if undefined."""
        if not self.n_reference:
            return math.nan
        return float(np.interp(false_positives_per_exam, *self.envelope()))

    def area(self, limit: float) -> float:
        """Area under the piecewise-linear curve from 0 to ``limit`` false positives per exam."""
        if not self.n_reference:
            return math.nan
        x, y = self.envelope()
        grid = np.unique(np.append(x[x < limit], limit))
        return float(np.trapezoid(np.interp(grid, x, y), grid))

    def to_mapping(self, *, limit: float, rates: Sequence[float]) -> dict[str, Any]:
        """Area, sensitivities and points, JSON-able but for NaN."""
        return {
            "n_exams": self.n_exams,
            "n_reference": self.n_reference,
            "limit_false_positives_per_exam": limit,
            "area": self.area(limit),
            "last_false_positives_per_exam": float(self.false_positives_per_exam.max(initial=0.0)),
            "sensitivity_at": {f"{rate:g}": self.sensitivity_at(rate) for rate in rates},
            "points": [
                {"threshold": t, "false_positives_per_exam": f, "sensitivity": s}
                for t, f, s in zip(
                    self.thresholds.tolist(),
                    self.false_positives_per_exam.tolist(),
                    self.sensitivity.tolist(),
                    strict=True,
                )
            ],
        }


def froc_curve(exams: Sequence[ThresholdCounts]) -> Froc:
    """Pool exams: hits over all reference lesions, mean false positives over all exams.

    Exams without a reference lesion count for false positives. Without any reference lesion the
    sensitivities are NaN.

    Raises
    ------
    ConfigError
        No exam, or exams counted at different thresholds.

    References
    ----------
    Bunch et al. 1977, doi 10.1117/12.955926; limits of the area: Wuts et al. 2026,
    doi 10.1016/j.jbo.2026.100745.
    """
    kinds = len({exam.thresholds for exam in exams})
    if kinds != 1:
        raise ConfigError(
            f"{len(exams)} exams with {kinds} sets of thresholds",
            remedy="Count at least one exam, and all at the same thresholds",
        )
    n_reference = sum(exam.n_reference for exam in exams)
    detected = np.sum([exam.detected for exam in exams], axis=0)
    false = np.sum([exam.false_positives for exam in exams], axis=0)
    sensitivity = detected / n_reference if n_reference else np.full(len(detected), np.nan)
    return Froc(
        np.array(exams[0].thresholds), false / len(exams), sensitivity, len(exams), n_reference
    )


def _require(reference: Array, probability: Array, levels: npt.NDArray[np.float64]) -> None:
    if reference.shape != probability.shape:
        raise GeometryError(
            f"the reference has shape {reference.shape}, the probability {probability.shape}",
            remedy="Bring both onto one grid first",
        )
    if not levels.size or levels[0] <= 0.0 or levels[-1] >= 1.0:
        raise ConfigError(
            f"thresholds {levels.tolist()}", remedy="Give at least one, all between 0 and 1"
        )
    values = np.asarray(probability, dtype=np.float32)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN compares false
        raise VolumeError(
            f"a lesion probability between {low:.3g} and {high:.3g}, expected 0 to 1",
            remedy="Pass finite probabilities, not logits",
        )
