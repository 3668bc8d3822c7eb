"""Methods against each other on the same exams, as the paper compares its arms.

Patient-level measures are paired (Wilcoxon signed-rank), measures of detected lesions are not
(Mann-Whitney U), and p-values are corrected for the number of pairs of methods (Bonferroni).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from osteosap.errors import InputError
from osteosap.evaluation.cohort import CohortScores
from osteosap.evaluation.results import ExamScores, LesionScores, plain
from osteosap.evaluation.statistics import compare_paired, compare_unpaired

__all__ = ["LESION_MEASURES", "PATIENT_MEASURES", "compare_methods"]

PATIENT_MEASURES: Mapping[str, Callable[[LesionScores], float]] = {
    "sensitivity": lambda x: x.measures("all")["sensitivity"],
    "precision": lambda x: x.measures("all")["precision_reference_side"],
    "false_positives_per_exam": lambda x: float(x.all.n_false_positives),
    "f2": lambda x: x.measures("all")["f2"],
    "sensitivity_large": lambda x: x.measures("large")["sensitivity"],
    "false_positives_per_exam_large": lambda x: float(x.large.n_false_positives),
    "f2_large": lambda x: x.measures("large")["f2"],
    "dice_mean_misses_as_0": lambda x: x.measures("all")["dice_mean_misses_as_0"],
    "global_dice": lambda x: x.global_dice,
}
"""One value an exam, paired between methods."""

LESION_MEASURES: Mapping[str, str] = {"dice_detected": "dice", "nsd_detected": "nsd"}
"""One value a detected lesion, not paired: methods detect different lesions."""


def compare_methods(methods: Mapping[str, CohortScores]) -> list[dict[str, Any]]:
    """Test every measure between every pair of methods.

    Parameters
    ----------
    methods
        Name to scores; all of the same exams, in any order.

    Returns
    -------
    rows
        One a measure and pair: names, n, medians, p, corrected p, effect; undefined is None.

    Raises
    ------
    InputError
        Fewer than two methods, or they scored other exams or with other settings.
    """
    if len(methods) < 2:
        raise InputError(f"{len(methods)} methods", remedy="Give at least two to compare")
    exams = {name: {e.name: e for e in scores.exams} for name, scores in methods.items()}
    _require_same(methods, exams)
    pairs = list(itertools.combinations(methods, 2))
    order = sorted(next(iter(exams.values())))
    rows = []
    for a, b in pairs:
        sides = [[_lesions(exams[m][name]) for name in order] for m in (a, b)]
        for measure, value in PATIENT_MEASURES.items():
            first, second = ([value(x) for x in side] for side in sides)
            found = compare_paired(first, second, comparisons=len(pairs))
            rows.append({"measure": measure, "a": a, "b": b, **found.to_mapping()})
        for measure, attribute in LESION_MEASURES.items():
            first, second = (
                [getattr(lesion, attribute) for x in side for lesion in x.detected()]
                for side in sides
            )
            unpaired = compare_unpaired(first, second, comparisons=len(pairs))
            rows.append({"measure": measure, "a": a, "b": b, **unpaired.to_mapping()})
    result: list[dict[str, Any]] = plain(rows)
    return result


def _lesions(exam: ExamScores) -> LesionScores:
    if exam.lesions is None:
        raise InputError(
            f"exam {exam.name} has no lesion scores",
            remedy="Give every exam a lesion mask on both sides",
        )
    return exam.lesions


def _require_same(
    methods: Mapping[str, CohortScores], exams: Mapping[str, Mapping[str, ExamScores]]
) -> None:
    first, *others = methods
    for other in others:
        different = sorted(set(exams[first]) ^ set(exams[other]))
        if different:
            raise InputError(
                f"{first} and {other} were not scored on the same exams: {len(different)} differ, "
                f"{different[0]} among them",
                remedy="Predict the same exams with every method, or name those of all with "
                "--cases; a paired test needs them",
            )
        if methods[first].config != methods[other].config:
            raise InputError(
                f"{first} and {other} were scored with different settings",
                remedy="Score all methods with one configuration",
            )
