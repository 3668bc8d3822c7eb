"""Scores of many exams, and what they amount to: medians with intervals, curves, agreement."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from osteosap.errors import InputError, OsteosapError
from osteosap.evaluation.agreement import bland_altman, icc_2_1, log_volumes
from osteosap.evaluation.calibration import pool_calibration
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.froc import ThresholdCounts, froc_curve
from osteosap.evaluation.metrics import Detection, LesionScore, detect
from osteosap.evaluation.pairs import Pair, pair_of_folders
from osteosap.evaluation.results import ExamScores, LesionScores, plain
from osteosap.evaluation.scores import evaluate_pair
from osteosap.evaluation.statistics import summarise

__all__ = ["CohortScores", "evaluate_cohort"]

_MEASURES = {
    "sensitivity": "sensitivity",
    "precision": "precision_reference_side",
    "precision_prediction_side": "precision_prediction_side",
    "f2": "f2",
    "false_positives_per_exam": "n_false_positives",
    "false_positive_ml_per_exam": "false_positive_ml",
    "dice_mean_misses_as_0": "dice_mean_misses_as_0",
}
"""Name in the summary to name in the scores of an exam."""


def evaluate_cohort(
    pairs: Iterable[Pair | tuple[Path, Path]],
    *,
    config: EvaluateConfig = EvaluateConfig(),  # noqa: B008  (frozen)
    processes: int = 1,
    progress: Callable[[str, float], None] | None = None,
) -> CohortScores:
    """Score pairs of exams, or of (reference folder, prediction folder); at least one.

    Parameters
    ----------
    processes
        Exams scored at once, each in a process of its own.
    progress
        Called with a line and the fraction done.

    Raises
    ------
    InputError
        No pair, or one that cannot be scored.
    """
    given = [p if isinstance(p, Pair) else pair_of_folders(*p) for p in pairs]
    if not given:
        raise InputError(
            "no exam to evaluate", remedy="Give at least one pair of truth and output folders"
        )
    exams = []
    for exam in _scored(given, config, processes):
        exams.append(exam)
        if progress is not None:
            progress(f"exam {len(exams)} of {len(given)}", len(exams) / len(given))
    return CohortScores(tuple(exams), config)


@dataclass(frozen=True)
class CohortScores:
    """Results of several exams, and their summary.

    Exams without a reference lesion count in false positives per exam and are left out of (and
    counted for) sensitivity; ``n`` says how many exams or lesions made each number.
    """

    exams: tuple[ExamScores, ...]
    config: EvaluateConfig = field(repr=False)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able: settings, summary, every exam."""
        return {
            "settings": self.config.to_mapping(),
            "n_exams": len(self.exams),
            "n_patients": len({exam.patient for exam in self.exams}),
            "summary": self.summary(),
            "exams": [exam.to_mapping() for exam in self.exams],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One flat row an exam."""
        return [exam.row() for exam in self.exams]

    def lesion_rows(self) -> list[dict[str, Any]]:
        """One flat row a lesion of either side."""
        return [
            {"exam": exam.name, "patient": exam.patient, "site": exam.site, **row}
            for exam in self.exams
            if exam.lesions
            for row in plain(exam.lesions.rows())
        ]

    def summary(self) -> dict[str, Any]:
        """Everything about the cohort, JSON-able; undefined values are null."""
        scored = [exam for exam in self.exams if exam.lesions is not None]
        summary: dict[str, Any] = {"skeleton_dice": self._skeleton()}
        for key, limit in (("all", 0.0), ("large", self.config.min_volume_ml)):
            summary[f"lesions_{key}"] = self._lesions(scored, key, limit)
        summary["global_dice"] = self._over_exams(scored, lambda x: x.global_dice)
        summary["burden"] = self._burden(scored)
        summary["over_volume"] = self._over_volume(scored)
        summary["by_region"] = self._by_region(scored)
        summary["by_site"] = self._by_site(scored)
        curves = [_need(exam).calibration for exam in scored]
        known = [c for c in curves if c is not None]
        summary["calibration"] = pool_calibration(known).to_mapping() if known else None
        result: dict[str, Any] = plain(summary)
        return result

    def _over_exams(
        self, exams: Sequence[ExamScores], value: Callable[[LesionScores], float]
    ) -> dict[str, Any]:
        return summarise(
            [value(_need(exam)) for exam in exams],
            patients=[exam.patient for exam in exams],
            bootstrap=self.config.bootstrap,
        ).to_mapping()

    def _skeleton(self) -> dict[str, Any]:
        exams = [exam for exam in self.exams if exam.skeleton is not None]
        names = list(exams[0].skeleton or {}) if exams else []
        return {
            name: summarise(
                [(exam.skeleton or {})[name] for exam in exams],
                patients=[exam.patient for exam in exams],
                bootstrap=self.config.bootstrap,
            ).to_mapping()
            for name in names
        }

    def _lesions(self, exams: Sequence[ExamScores], key: str, limit: float) -> dict[str, Any]:
        counts: list[Detection] = [getattr(exam.lesions, key) for exam in exams]
        part: dict[str, Any] = {
            "min_volume_ml": limit,
            "n_reference": sum(c.n_reference for c in counts),
            "n_exams_without_reference": sum(c.n_reference == 0 for c in counts),
            **self._pooled(exams, counts),
        }
        for name, measure in _MEASURES.items():
            part[name] = self._over_exams(exams, lambda x, m=measure: x.measures(key)[m])  # type: ignore[misc]
        for name, attribute in (
            ("dice_detected", "dice"),
            ("nsd_detected", "nsd"),
            ("hausdorff95_detected_mm", "hausdorff95_mm"),
        ):
            rows = [(e.patient, r) for e in exams for r in _need(e).detected(min_volume_ml=limit)]
            part[name] = summarise(
                [getattr(row, attribute) for _, row in rows],
                patients=[patient for patient, _ in rows],
                bootstrap=self.config.bootstrap,
            ).to_mapping()
        part["froc"] = self._froc(exams, key)
        return part

    def _pooled(self, exams: Sequence[ExamScores], counts: Sequence[Detection]) -> dict[str, Any]:
        """Sensitivity over all lesions, with an interval over patients."""
        patients = sorted({exam.patient for exam in exams})
        place = {patient: i for i, patient in enumerate(patients)}
        table = np.zeros((len(patients), 2))
        for exam, count in zip(exams, counts, strict=True):
            table[place[exam.patient]] += (count.n_detected, count.n_reference)
        whole = table.sum(axis=0) if len(table) else np.zeros(2)
        low, high = math.nan, math.nan
        if whole[1]:
            bootstrap = self.config.bootstrap
            sums = table[bootstrap.draws(len(table))].sum(axis=1)
            low, high = bootstrap.interval(_ratios(sums), n=len(table))
        pooled = whole[0] / whole[1] if whole[1] else math.nan
        return {
            "sensitivity_pooled": float(pooled),
            "sensitivity_pooled_ci_low": low,
            "sensitivity_pooled_ci_high": high,
        }

    def _froc(self, exams: Sequence[ExamScores], key: str) -> dict[str, Any] | None:
        """Free-response curve, if every exam has a probability map."""
        found = [getattr(exam.lesions, "froc" if key == "all" else "froc_large") for exam in exams]
        counts: list[ThresholdCounts] = [c for c in found if c is not None]
        if not counts or len(counts) < len(exams):
            return None
        limit = self.config.froc_limit if key == "all" else self.config.froc_limit_large
        curve = froc_curve(counts)
        mapping = curve.to_mapping(limit=limit, rates=self.config.froc_rates)
        by_patient: dict[str, list[ThresholdCounts]] = {}
        for exam, count in zip(exams, counts, strict=True):
            by_patient.setdefault(exam.patient, []).append(count)
        groups = list(by_patient.values())
        draws = self.config.bootstrap.draws(len(groups))
        areas = [froc_curve([c for i in row for c in groups[i]]).area(limit) for row in draws]
        low, high = self.config.bootstrap.interval(areas, n=len(groups))
        return {"mode": self.config.froc_mode, **mapping, "area_ci_low": low, "area_ci_high": high}

    def _burden(self, exams: Sequence[ExamScores]) -> dict[str, Any]:
        """Agreement of total volumes, plain and as log10, floored."""
        burdens = [_need(exam).burdens_ml for exam in exams]
        reference, prediction = [b[0] for b in burdens], [b[1] for b in burdens]
        floor = self.config.log_floor_ml
        logs = [log_volumes(side, floor_ml=floor).tolist() for side in (reference, prediction)]
        confidence = self.config.confidence
        return {
            "icc": icc_2_1(reference, prediction, confidence=confidence).to_mapping(),
            "icc_log": icc_2_1(*logs, confidence=confidence).to_mapping(),
            "log_floor_ml": floor,
            "difference_ml": bland_altman(reference, prediction).to_mapping(),
            "difference_log10": bland_altman(*logs).to_mapping(),
        }

    def _over_volume(self, exams: Sequence[ExamScores]) -> list[dict[str, Any]]:
        """Pooled sensitivity and mean false positives of lesions from each volume on."""
        rows = []
        for volume in self.config.volumes_ml:
            counts = [
                detect(_need(e).references, _need(e).predictions, min_volume_ml=volume)
                for e in exams
            ]
            n = sum(c.n_reference for c in counts)
            false = [c.n_false_positives for c in counts]
            rows.append(
                {
                    "min_volume_ml": volume,
                    "n_reference": n,
                    "sensitivity": sum(c.n_detected for c in counts) / n if n else math.nan,
                    "false_positives_per_exam": float(np.mean(false)) if false else math.nan,
                }
            )
        return rows

    def _by_region(self, exams: Sequence[ExamScores]) -> dict[str, Any]:
        """Detection and Dice by the bone that a reference lesion lies in."""
        found: dict[str, list[LesionScore]] = {}
        false: dict[str, int] = {}
        for exam in exams:
            for lesion in _need(exam).references:
                found.setdefault(lesion.region or "unknown", []).append(lesion)
            for lesion in _need(exam).predictions:
                if not lesion.hit:
                    region = lesion.region or "unknown"
                    false[region] = false.get(region, 0) + 1
        return {
            region: {
                **_detection_of(found.get(region, [])),
                "n_false_positives": false.get(region, 0),
            }
            for region in sorted({*found, *false})
        }

    def _by_site(self, exams: Sequence[ExamScores]) -> dict[str, Any]:
        sites = sorted({exam.site for exam in exams if exam.site})
        result = {}
        for site in sites:
            own = [exam for exam in exams if exam.site == site]
            lesions = [lesion for exam in own for lesion in _need(exam).references]
            result[site] = {
                "n_exams": len(own),
                **_detection_of(lesions),
                "f2": self._over_exams(own, lambda x: x.measures("all")["f2"]),
                "false_positives_per_exam": self._over_exams(
                    own, lambda x: float(x.all.n_false_positives)
                ),
            }
        return result


def _scored(pairs: list[Pair], config: EvaluateConfig, processes: int) -> Iterator[ExamScores]:
    score = functools.partial(_score, config=config)
    if processes <= 1 or len(pairs) == 1:
        yield from map(score, pairs)
        return
    with ProcessPoolExecutor(min(processes, len(pairs))) as pool:
        yield from pool.map(score, pairs)


def _score(pair: Pair, *, config: EvaluateConfig) -> ExamScores:
    """One exam; an error names it."""
    try:
        return evaluate_pair(pair, config=config)
    except OsteosapError as error:
        raise type(error)(f"{pair.name}: {error.problem}", remedy=error.remedy) from error


def _need(exam: ExamScores) -> LesionScores:
    if exam.lesions is None:
        raise InputError(f"exam {exam.name} has no lesion scores", remedy="Score its lesions first")
    return exam.lesions


def _detection_of(lesions: Sequence[LesionScore]) -> dict[str, Any]:
    hits = [lesion for lesion in lesions if lesion.hit]
    return {
        "n_reference": len(lesions),
        "n_detected": len(hits),
        "sensitivity": len(hits) / len(lesions) if lesions else math.nan,
        "dice_detected_median": float(np.median([x.dice for x in hits])) if hits else math.nan,
    }


def _ratios(sums: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)
