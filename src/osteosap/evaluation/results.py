"""What an evaluation yields for one exam: results of lesions, as JSON and as plain rows.

Undefined values are NaN inside and null in what is written. Every written result carries the
settings that made it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from osteosap.evaluation.calibration import Calibration
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.froc import ThresholdCounts
from osteosap.evaluation.metrics import Detection, LesionScore, at_least, mean_lesion_dice

__all__ = ["EvaluateConfig", "ExamScores", "LesionScores", "flat", "plain"]


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
    empty_exam
        What the scores of an exam without lesions on either side are.
    froc, froc_large
        Counts at every threshold, where there is a probability map.
    calibration
        Of the probability map.
    """

    references: tuple[LesionScore, ...]
    predictions: tuple[LesionScore, ...]
    all: Detection
    large: Detection
    global_dice: float
    lost_ids: tuple[int, ...]
    min_volume_ml: float
    empty_exam: str = "undefined"
    froc: ThresholdCounts | None = None
    froc_large: ThresholdCounts | None = None
    calibration: Calibration | None = None

    @property
    def burdens_ml(self) -> tuple[float, float]:
        """Volume of all lesions, reference and prediction."""
        return (
            float(sum(x.volume_ml for x in self.references)),
            float(sum(x.volume_ml for x in self.predictions)),
        )

    def detected(self, *, min_volume_ml: float = 0.0) -> list[LesionScore]:
        """Detected reference lesions from a volume on."""
        return [r for r in self.references if r.hit and at_least(r.volume_ml, min_volume_ml)]

    def detected_dice(self, *, min_volume_ml: float = 0.0) -> list[float]:
        """Dice of each detected reference lesion from a volume on."""
        return [r.dice for r in self.detected(min_volume_ml=min_volume_ml)]

    def measures(self, key: str) -> dict[str, float]:
        """Scores of the exam for ``"all"`` or ``"large"`` lesions, empty exams as set."""
        counts: Detection = getattr(self, key)
        limit = self.min_volume_ml if key == "large" else 0.0
        values = {
            **counts.to_mapping(),
            "dice_detected_median": _median(self.detected_dice(min_volume_ml=limit)),
            "nsd_detected_median": _median([r.nsd for r in self.detected(min_volume_ml=limit)]),
            "dice_mean_misses_as_0": mean_lesion_dice(self.references, min_volume_ml=limit),
        }
        nothing = not counts.n_reference and not counts.n_false_positives
        if nothing and not counts.n_true_predictions and self.empty_exam == "perfect":
            values |= dict.fromkeys(
                (
                    "sensitivity",
                    "precision_reference_side",
                    "precision_prediction_side",
                    "f2",
                    "dice_mean_misses_as_0",
                ),
                1.0,
            )
        return values

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able; undefined values are null."""
        burdens = self.burdens_ml
        mapping = {
            "all": {"min_volume_ml": 0.0, **self.measures("all")},
            "large": {"min_volume_ml": self.min_volume_ml, **self.measures("large")},
            "global_dice": self.global_dice,
            "burden_reference_ml": burdens[0],
            "burden_prediction_ml": burdens[1],
            "n_reference_lost_by_resampling": len(self.lost_ids),
        }
        values: dict[str, Any] = plain(mapping)
        return values

    def rows(self) -> list[dict[str, Any]]:
        """One row a lesion of either side: who matched whom."""
        sides = (("reference", self.references), ("prediction", self.predictions))
        return [
            {
                "side": side,
                "id": lesion.id,
                "region": lesion.region,
                "volume_ml": lesion.volume_ml,
                "outcome": _outcome(side, lesion, self.lost_ids),
                "touches": " ".join(map(str, lesion.matches)),
                "touches_ml": lesion.touched_ml,
                "dice": lesion.dice,
                "nsd": lesion.nsd,
                "hausdorff95_mm": lesion.hausdorff95_mm,
                "surface_distance_mm": lesion.surface_distance_mm,
                "probability_peak": lesion.probability_peak,
                **dict(zip(("r_mm", "a_mm", "s_mm"), lesion.centre_ras_mm, strict=True)),
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
    patient, site
        Whose exam, and where it was made.
    """

    name: str
    skeleton: dict[str, float] | None
    lesions: LesionScores | None
    notes: tuple[str, ...]
    config: EvaluateConfig = field(repr=False)
    patient: str = ""
    site: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able result with its settings; undefined values are null."""
        return {
            "exam": self.name,
            "patient": self.patient,
            "site": self.site,
            "settings": self.config.to_mapping(),
            "notes": list(self.notes),
            "skeleton_dice": plain(self.skeleton),
            "lesions": self.lesions.to_mapping() if self.lesions else None,
            "lesion_rows": plain(self.lesions.rows()) if self.lesions else [],
        }

    def row(self) -> dict[str, Any]:
        """One flat row: names such as ``lesions_large_sensitivity``."""
        parts = {
            "skeleton_dice": plain(self.skeleton),
            "lesions": self.lesions.to_mapping() if self.lesions else None,
        }
        return {"exam": self.name, "patient": self.patient, "site": self.site, **flat(parts)}


def plain(value: Any) -> Any:
    """The same with NaN and infinity as None, for JSON."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by ``_``."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            result.update(flat(item, f"{prefix}{key}_"))
        else:
            result[f"{prefix}{key}"] = item
    return result


def _outcome(side: str, lesion: LesionScore, lost: Sequence[int]) -> str:
    if side == "prediction":
        if not lesion.hit:
            return "false positive"
        return "merges lesions" if len(lesion.matches) > 1 else "hit"
    if not lesion.hit:
        return "missed, lost by resampling" if lesion.id in lost else "missed"
    return "detected, split" if len(lesion.matches) > 1 else "detected"


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan
