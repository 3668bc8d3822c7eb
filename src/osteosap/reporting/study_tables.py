"""Tables of a study's report: the paper's table with ours beside it, tests, bones, sites, cases.

Rows hold text that is ready to print; what is undefined or absent is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from osteosap.anatomy import REGIONS, UNASSIGNED
from osteosap.evaluation.statistics import Bootstrap
from osteosap.reporting.paper_results import PAPER_SKELETON_DICE, PAPER_TABLE
from osteosap.reporting.study_boxes import MEASURE_TITLES, stars
from osteosap.reporting.study_results import StudyResults
from osteosap.reporting.study_scores import (
    ArmScores,
    ExamResult,
    arm_title,
    as_number,
    encoder_title,
)

__all__ = [
    "NOTHING",
    "Cell",
    "feature_rows",
    "main_rows",
    "more_rows",
    "region_rows",
    "site_rows",
    "skeleton_rows",
    "test_rows",
    "worst_exams",
    "worst_rows",
]

NOTHING = "\N{EN DASH}"
N_WORST = 3
"""Exams named for each arm and each kind of error."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A number with its interval and what it rests on, as text."""

    value: str = NOTHING
    interval: str = ""
    n: str = ""

    @property
    def text(self) -> str:
        """On one line."""
        return " ".join(part for part in (self.value, self.interval, self.n) if part)


def main_rows(study: StudyResults) -> list[Row]:
    """Every row of the paper's table: title, and for each arm ours and the paper's."""
    return [
        {
            "title": row.title,
            "ours": {
                name: _MAKERS[row.key](arm, max(row.digits, 1))
                for name, arm in study.scores.items()
            },
            "paper": {name: row.text(name) or NOTHING for name in study.scores},
        }
        for row in PAPER_TABLE
    ]


def more_rows(study: StudyResults) -> list[Row]:
    """Measures that the paper does not give."""
    return [
        {"title": title, "ours": {name: make(arm, 3) for name, arm in study.scores.items()}}
        for title, make in _MORE.items()
    ]


def test_rows(study: StudyResults) -> list[Row]:
    """One row a measure and pair of arms."""
    return [
        {
            "measure": MEASURE_TITLES.get(test.measure, test.measure.replace("_", " ")),
            "pair": f"{arm_title(test.a)} / {arm_title(test.b)}",
            "test": {"wilcoxon": "Wilcoxon", "mann-whitney": "Mann-Whitney"}.get(
                test.test, test.test
            ),
            "n": str(test.n_a) if test.n_a == test.n_b else f"{test.n_a} / {test.n_b}",
            "medians": f"{_number(test.median_a)} / {_number(test.median_b)}",
            "p": _p(test.p),
            "corrected": _p(test.p_bonferroni),
            "stars": stars(test.p_bonferroni),
            "effect": f"{test.effect:+.2f}" if math.isfinite(test.effect) else NOTHING,
        }
        for test in study.tests
    ]


def skeleton_rows(study: StudyResults) -> list[Row]:
    """Dice of bones: tested patients, healthy people kept aside, the paper."""
    tested: Mapping[str, Any] = next(
        (found for arm in study.scores.values() if (found := arm.find("skeleton_dice"))), {}
    )
    run = study.runs.get("skeleton")
    healthy = {} if run is None else run.validation
    titles = {"merged": "All bones merged"} | {r.name: r.title for r in REGIONS}
    rows = []
    for name, title in titles.items():
        steps, values = healthy.get(f"dice_{name}", (np.empty(0), np.empty(0)))
        row: Row = {
            "title": title,
            "tested": _summary(tested.get(name), 2),
            "healthy": f"{values[-1]:.2f}" if len(steps) else NOTHING,
            "paper": f"{PAPER_SKELETON_DICE[name]:.2f}",
        }
        rows.append(row)
    return rows if tested or healthy else []


def feature_rows(study: StudyResults) -> list[Row]:
    """Distances of features by encoder, in the features and in the plane of the t-SNE."""
    rows = []
    order = {name: place for place, name in enumerate(study.arms)}
    for encoder in sorted(study.encoders, key=lambda e: order.get(e.name, len(order))):
        for space, values in (("features", encoder.in_features), ("t-SNE", encoder.in_plane)):
            if not values:
                continue
            told = [as_number(values.get(k)) for k in _DISTANCES]
            rows.append(
                {
                    "encoder": encoder_title(encoder.name),
                    "space": space,
                    "n": f"{values.get('n_lesion')} / {values.get('n_background')}",
                    "apart": _number(told[0]),
                    "within": f"{_number(told[1])} / {_number(told[2])}",
                    "ratio": _number(told[3]),
                }
            )
    return rows


def site_rows(study: StudyResults) -> list[Row]:
    """One row a site and arm; none where the exams name no site."""
    sites = sorted({s for arm in study.scores.values() for s in arm.find("by_site") or {}})
    return [
        {
            "site": site,
            "arm": arm.title,
            "n": str(part["n_exams"]),
            "found": f"{part['n_detected']} of {part['n_reference']}",
            "sensitivity": _number(as_number(part.get("sensitivity"))),
            "dice": _number(as_number(part.get("dice_detected_median"))),
            "f2": _summary(part.get("f2"), 3).text,
            "false": _summary(part.get("false_positives_per_exam"), 1).text,
        }
        for site in sites
        for arm in study.scores.values()
        if (part := (arm.find("by_site") or {}).get(site))
    ]


def region_rows(study: StudyResults) -> list[Row]:
    """One row a bone, with every arm's detection, Dice and false positives."""
    found = {name: arm.find("by_region") or {} for name, arm in study.scores.items()}
    named = {region for regions in found.values() for region in regions}
    titles = {r.name: r.title for r in REGIONS} | {UNASSIGNED: "No class: rib, skull, outside bone"}
    order = [*titles, *sorted(named - set(titles))]
    return [
        {
            "region": titles.get(region, region),
            "n": max(int(own.get(region, {}).get("n_reference", 0)) for own in found.values()),
            "arms": {name: _region(own.get(region)) for name, own in found.items()},
        }
        for region in order
        if region in named
    ]


def worst_exams(arm: ArmScores) -> dict[str, list[ExamResult]]:
    """Exams with most volume missed and with most false positives; none that has no error."""
    missed = sorted(arm.exams, key=lambda e: (-_missed_ml(e), e.name))
    false = sorted(arm.exams, key=lambda e: (-len(e.false), -_false_ml(e), e.name))
    return {
        "most volume missed": [e for e in missed if e.missed][:N_WORST],
        "most false positives": [e for e in false if e.false][:N_WORST],
    }


def worst_rows(study: StudyResults) -> list[Row]:
    """One row an arm, kind of error and exam."""
    return [
        {
            "arm": arm.title,
            "why": why,
            "exam": study.label(exam.name),
            "site": exam.site or NOTHING,
            "missed": f"{len(exam.missed)} of {_n_reference(exam)}",
            "missed_ml": f"{_missed_ml(exam):.1f} of {exam.burden_reference_ml:.1f}",
            "largest": f"{exam.missed[0].volume_ml:.1f}" if exam.missed else NOTHING,
            "false": str(len(exam.false)),
            "false_ml": f"{_false_ml(exam):.1f}",
            "f2": _number(exam.value("f2")),
            "dice": _number(exam.value("dice_mean_misses_as_0")),
        }
        for arm in study.scores.values()
        for why, exams in worst_exams(arm).items()
        for exam in exams
    ]


_DISTANCES = ("centroid_distance", "within_lesion", "within_background", "ratio")


def _summary(found: Any, digits: int, unit: str = "") -> Cell:
    """Median, its interval, n."""
    if not isinstance(found, Mapping):
        return Cell()
    n = f"n = {found.get('n', 0)}{unit}"
    value = as_number(found.get("median"))
    if not math.isfinite(value):
        return Cell(NOTHING, "", n)
    return Cell(f"{value:.{digits}f}", _interval(found, "ci", digits), n)


def _interval(found: Mapping[str, Any], stem: str, digits: int) -> str:
    low, high = (as_number(found.get(f"{stem}_{end}")) for end in ("low", "high"))
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low + high) else ""


def _median_of(*keys: str, unit: str = "") -> Callable[[ArmScores, int], Cell]:
    return lambda arm, digits: _summary(arm.find(*keys), digits, unit)


def _value_of(
    *keys: str, name: str, stem: str, count: str, unit: str
) -> Callable[[ArmScores, int], Cell]:
    """A single number with its interval: the area of a curve, an ICC, a pooled sensitivity."""

    def make(arm: ArmScores, digits: int) -> Cell:
        found = arm.find(*keys)
        if not isinstance(found, Mapping):
            return Cell()
        value = as_number(found.get(name))
        n = f"n = {found.get(count, 0)}{unit}"
        if not math.isfinite(value):
            return Cell(NOTHING, "", n)
        return Cell(f"{value:.{digits}f}", _interval(found, stem, digits), n)

    return make


def _mean_false_large(arm: ArmScores, digits: int) -> Cell:
    """Mean of large false positives per exam, with an interval over patients."""
    counts = [(e.patient, e.value("false_positives_per_exam_large")) for e in arm.exams]
    counts = [(patient, value) for patient, value in counts if math.isfinite(value)]
    if not counts:
        return Cell()
    patients = sorted({patient for patient, _ in counts})
    table = np.zeros((len(patients), 2))
    for patient, value in counts:
        table[patients.index(patient)] += (value, 1.0)
    bootstrap = Bootstrap(
        int(as_number(arm.settings.get("resamples"), 1000)),
        as_number(arm.settings.get("confidence"), 0.95),
        int(as_number(arm.settings.get("seed"), 0)),
    )
    sums = table[bootstrap.draws(len(table))].sum(axis=1)
    low, high = bootstrap.interval(sums[:, 0] / sums[:, 1], n=len(table))
    mean = table[:, 0].sum() / table[:, 1].sum()
    interval = f"[{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) else ""
    return Cell(f"{mean:.{digits}f}", interval, f"n = {len(counts)}")


def _calibration_error(arm: ArmScores, digits: int) -> Cell:
    value = as_number(arm.find("calibration", "expected_error_above_0.1"))
    n = f"n = {len(arm.exams)}"
    return Cell(f"{value:.{digits}f}", n=n) if math.isfinite(value) else Cell()


_LESIONS = " lesions"
_AREA = {"name": "area", "stem": "area_ci", "count": "n_exams", "unit": ""}
_POOLED = {
    "name": "sensitivity_pooled",
    "stem": "sensitivity_pooled_ci",
    "count": "n_reference",
    "unit": _LESIONS,
}
_ICC = {"name": "value", "stem": "ci", "count": "n", "unit": ""}

_MAKERS: Mapping[str, Callable[[ArmScores, int], Cell]] = {
    "sensitivity": _median_of("lesions_all", "sensitivity"),
    "precision": _median_of("lesions_all", "precision"),
    "false_positives": _median_of("lesions_all", "false_positives_per_exam"),
    "f2": _median_of("lesions_all", "f2"),
    "sensitivity_large": _value_of("lesions_large", **_POOLED),
    "false_positives_large": _mean_false_large,
    "froc_area": _value_of("lesions_all", "froc", **_AREA),
    "dice_detected": _median_of("lesions_all", "dice_detected", unit=_LESIONS),
    "nsd_detected": _median_of("lesions_all", "nsd_detected", unit=_LESIONS),
    "dice_patient": _median_of("lesions_all", "dice_mean_misses_as_0"),
    "global_dice": _median_of("global_dice"),
    "icc": _value_of("burden", "icc", **_ICC),
}
"""How our number for each row of the paper's table is made."""

_MORE: Mapping[str, Callable[[ArmScores, int], Cell]] = {
    "Sensitivity, all lesions pooled": _value_of("lesions_all", **_POOLED),
    "Precision, of predicted lesions": _median_of("lesions_all", "precision_prediction_side"),
    "False-positive volume per exam, mL": _median_of("lesions_all", "false_positive_ml_per_exam"),
    "FROC area, large lesions": _value_of("lesions_large", "froc", **_AREA),
    "95th percentile of surface distance, detected lesions, mm": _median_of(
        "lesions_all", "hausdorff95_detected_mm", unit=_LESIONS
    ),
    "ICC(2,1) of log10 burden": _value_of("burden", "icc_log", **_ICC),
    "Calibration error of voxels above 0.1": _calibration_error,
}


def _region(found: Mapping[str, Any] | None) -> Row:
    found = found or {}
    return {
        "found": f"{found.get('n_detected', 0)} of {found.get('n_reference', 0)}",
        "sensitivity": _number(as_number(found.get("sensitivity"))),
        "dice": _number(as_number(found.get("dice_detected_median"))),
        "false": str(found.get("n_false_positives", 0)),
    }


def _n_reference(exam: ExamResult) -> int:
    return sum(lesion.side == "reference" for lesion in exam.lesions)


def _missed_ml(exam: ExamResult) -> float:
    return float(sum(lesion.volume_ml for lesion in exam.missed))


def _false_ml(exam: ExamResult) -> float:
    return float(sum(lesion.volume_ml for lesion in exam.false))


def _number(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def _p(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
