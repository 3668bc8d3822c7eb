"""What an evaluation yields: results of lesions, exams and cohorts, as JSON and as plain rows.

Undefined values are NaN inside and null in what is written. Every written result carries the
settings that made it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from osteosap.config import StageConfig
from osteosap.evaluation.metrics import Detection, LesionScore, mean_lesion_dice

__all__ = ["CohortScores", "EvaluateConfig", "ExamScores", "LesionScores"]


class EvaluateConfig(StageConfig):
    """Settings of the evaluation; printed with every result."""

    connectivity: Literal[6, 18, 26] = 26
    """Neighbourhood of the connected components, on both sides."""
    min_volume_ml: float = Field(default=1.0, gt=0.0)
    """Volume from which on a lesion counts in the second, 'large lesions' set of numbers."""
    resample_reference: bool = False
    """Bring a reference on another grid onto the prediction's grid (nearest neighbour)."""


@dataclass(frozen=True)
class LesionScores:
    """Lesion results of one exam.

    Parameters
    ----------
    references, predictions
        Every lesion of either side with what it touches.
    all, large
        Detection counts of all lesions and of those of at least ``min_volume_ml``.
    global_dice
        Dice of all lesions merged.
    lost_ids
        Reference lesions without a voxel on the prediction's grid; they count as missed.
    min_volume_ml
        The limit of ``large``.
    """

    references: tuple[LesionScore, ...]
    predictions: tuple[LesionScore, ...]
    all: Detection
    large: Detection
    global_dice: float
    lost_ids: tuple[int, ...]
    min_volume_ml: float

    def detected_dice(self, *, min_volume_ml: float = 0.0) -> list[float]:
        """Dice of each detected reference lesion from a volume on."""
        return [r.dice for r in self.references if r.hit and r.volume_ml >= min_volume_ml - 1e-9]

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able; undefined values are null."""
        sets = {}
        for key, counts, limit in (
            ("all", self.all, 0.0),
            ("large", self.large, self.min_volume_ml),
        ):
            sets[key] = {
                "min_volume_ml": limit,
                **counts.to_mapping(),
                "dice_detected_median": _median(self.detected_dice(min_volume_ml=limit)),
                "dice_mean_misses_as_0": mean_lesion_dice(self.references, min_volume_ml=limit),
            }
        burdens = [sum(x.volume_ml for x in side) for side in (self.references, self.predictions)]
        mapping = {
            **sets,
            "global_dice": self.global_dice,
            "burden_reference_ml": burdens[0],
            "burden_prediction_ml": burdens[1],
            "n_reference_lost_by_resampling": len(self.lost_ids),
        }
        plain: dict[str, Any] = _plain(mapping)
        return plain

    def rows(self) -> list[dict[str, Any]]:
        """One row a lesion of either side: who matched whom."""
        sides = (("reference", self.references), ("prediction", self.predictions))
        return [
            {
                "side": side,
                "id": lesion.id,
                "volume_ml": lesion.volume_ml,
                "outcome": _outcome(side, lesion, self.lost_ids),
                "touches": " ".join(map(str, lesion.matches)),
                "dice": lesion.dice,
            }
            for side, lesions in sides
            for lesion in lesions
        ]


@dataclass(frozen=True)
class ExamScores:
    """All results of one exam; a part that could not be scored is None.

    Parameters
    ----------
    name
        The exam's name in tables.
    skeleton
        Region name, and ``"merged"``, to Dice.
    lesions
        Detection and segmentation of lesions.
    notes
        What was done to the data and what was left out.
    config
        Settings that made the result.
    """

    name: str
    skeleton: dict[str, float] | None
    lesions: LesionScores | None
    notes: tuple[str, ...]
    config: EvaluateConfig

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able result with its settings; undefined values are null."""
        return {
            "exam": self.name,
            "settings": self.config.to_mapping(),
            "notes": list(self.notes),
            "skeleton_dice": _plain(self.skeleton),
            "lesions": self.lesions.to_mapping() if self.lesions else None,
            "lesion_rows": _plain(self.lesions.rows()) if self.lesions else [],
        }

    def row(self) -> dict[str, Any]:
        """One flat row: names such as ``lesions_large_sensitivity``."""
        parts = {
            "skeleton_dice": _plain(self.skeleton),
            "lesions": self.lesions.to_mapping() if self.lesions else None,
        }
        return {"exam": self.name, **_flat(parts)}


@dataclass(frozen=True)
class CohortScores:
    """Results of several exams, and their summary.

    Exams without a reference lesion count in false positives per exam and are left out of (and
    counted for) sensitivity; ``n`` says how many exams or lesions made each number.
    """

    exams: tuple[ExamScores, ...]
    config: EvaluateConfig

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able: settings, summary, every exam."""
        return {
            "settings": self.config.to_mapping(),
            "n_exams": len(self.exams),
            "summary": self.summary(),
            "exams": [exam.to_mapping() for exam in self.exams],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One flat row an exam."""
        return [exam.row() for exam in self.exams]

    def summary(self) -> dict[str, Any]:
        """Medians over exams, pooled sensitivity, false positives per exam; each with its n."""
        lesions = [exam.lesions for exam in self.exams if exam.lesions is not None]
        skeletons = [exam.skeleton for exam in self.exams if exam.skeleton is not None]
        names = list(skeletons[0]) if skeletons else []
        summary: dict[str, Any] = {
            "skeleton_dice": {k: _over_exams(s[k] for s in skeletons) for k in names}
        }
        for key, limit in (("all", 0.0), ("large", self.config.min_volume_ml)):
            counts: list[Detection] = [getattr(x, key) for x in lesions]
            detected = [d for x in lesions for d in x.detected_dice(min_volume_ml=limit)]
            n_reference = sum(c.n_reference for c in counts)
            n_detected = sum(c.n_detected for c in counts)
            summary[f"lesions_{key}"] = {
                "min_volume_ml": limit,
                "n_reference": n_reference,
                "n_exams_without_reference": sum(c.n_reference == 0 for c in counts),
                "sensitivity_pooled": n_detected / n_reference if n_reference else None,
                "sensitivity": _over_exams(c.sensitivity for c in counts),
                "precision": _over_exams(c.precision_reference_side for c in counts),
                "f2": _over_exams(c.f2 for c in counts),
                "false_positives_per_exam": _over_exams(c.n_false_positives for c in counts),
                "dice_detected": _over_exams(detected),
                "dice_mean_misses_as_0": _over_exams(
                    mean_lesion_dice(x.references, min_volume_ml=limit) for x in lesions
                ),
            }
        summary["global_dice"] = _over_exams(x.global_dice for x in lesions)
        return summary


def _outcome(side: str, lesion: LesionScore, lost: Sequence[int]) -> str:
    if side == "prediction":
        if not lesion.hit:
            return "false positive"
        return "merges lesions" if len(lesion.matches) > 1 else "hit"
    if not lesion.hit:
        return "missed, lost by resampling" if lesion.id in lost else "missed"
    return "detected, split" if len(lesion.matches) > 1 else "detected"


def _over_exams(values: Iterable[float]) -> dict[str, Any]:
    defined = [v for v in map(float, values) if not math.isnan(v)]
    if not defined:
        return {"n": 0, "median": None, "mean": None}
    return {"n": len(defined), "median": _median(defined), "mean": float(np.mean(defined))}


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _plain(value: Any) -> Any:
    """The same with NaN as None, for JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat.update(_flat(item, f"{prefix}{key}_"))
        else:
            flat[f"{prefix}{key}"] = item
    return flat
