"""Box plots of patient-level and lesion-level measures by arm (the paper's figure 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from osteosap.reporting.study_results import StudyResults
from osteosap.reporting.study_scores import ArmScores, MeasureTest
from osteosap.reporting.study_style import (
    INK,
    arm_colour,
    chart,
    finished,
    plain_axes,
)

__all__ = ["MEASURE_TITLES", "box_figure", "stars"]

MEASURE_TITLES = {
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "f2": "F2",
    "false_positives_per_exam": "False positives per exam",
    "sensitivity_large": "Sensitivity, large lesions",
    "false_positives_per_exam_large": "False positives per exam, large",
    "f2_large": "F2, large lesions",
    "dice_mean_misses_as_0": "Dice per patient, misses as 0",
    "global_dice": "Global Dice",
    "dice_detected": "Dice, detected lesions",
    "nsd_detected": "Surface Dice, detected lesions",
}
"""Measures of the comparison, for people."""

_PANELS = (
    "sensitivity",
    "precision",
    "f2",
    "false_positives_per_exam",
    "dice_mean_misses_as_0",
    "global_dice",
    "dice_detected",
    "nsd_detected",
)
_LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
_MOST_POINTS = 400


def box_figure(study: StudyResults) -> bytes | None:
    """Eight panels: median, quartiles, whiskers to 1.5 quartile distances, every value as a dot.

    Brackets mark pairs of arms that differ after Bonferroni's correction.
    """
    arms = [arm for arm in study.scores.values() if arm.exams]
    if not arms:
        return None
    figure = chart(11.0, 6.2)
    for place, measure in enumerate(_PANELS, start=1):
        axes = figure.add_subplot(2, 4, place)
        plain_axes(axes, title=MEASURE_TITLES[measure])
        axes.grid(visible=False, axis="x")
        values = [_values(arm, measure) for arm in arms]
        _draw_boxes(axes, arms, values)
        _scale(axes, measure, values)
        _brackets(axes, [arm.name for arm in arms], _of(study.tests, measure))
    return finished(figure, kind=study.kind)


def stars(p: float) -> str:
    """Marks of a corrected p-value; empty from 0.05 on and where it is undefined."""
    return next((mark for limit, mark in _LEVELS if p < limit), "")


def _values(arm: ArmScores, measure: str) -> list[float]:
    if measure in ("dice_detected", "nsd_detected"):
        return arm.detected(measure.removesuffix("_detected"))
    return [v for exam in arm.exams if math.isfinite(v := exam.value(measure))]


def _of(tests: Sequence[MeasureTest], measure: str) -> list[MeasureTest]:
    return [test for test in tests if test.measure == measure]


def _draw_boxes(axes: Any, arms: Sequence[ArmScores], values: Sequence[Sequence[float]]) -> None:
    for place, (arm, own) in enumerate(zip(arms, values, strict=True)):
        colour = arm_colour(arm.name)
        if not own:
            axes.text(
                place, 0.5, "no\nvalue", transform=axes.get_xaxis_transform(), ha="center",
                va="center", fontsize=7.5, color=colour,
            )  # fmt: skip
            continue
        axes.boxplot(
            [own], positions=[place], widths=0.55, showfliers=False, patch_artist=True,
            boxprops={"facecolor": colour, "alpha": 0.28, "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 2.2},
            whiskerprops={"color": colour}, capprops={"color": colour}, manage_ticks=False,
        )  # fmt: skip
        generator = np.random.default_rng(len(own))
        shown = own if len(own) <= _MOST_POINTS else generator.choice(own, _MOST_POINTS, False)
        jitter = generator.uniform(-0.2, 0.2, len(shown))
        axes.scatter(place + jitter, shown, s=7, color=colour, alpha=0.55, linewidths=0, zorder=3)
    labels = [f"{arm.title}\nn = {len(own)}" for arm, own in zip(arms, values, strict=True)]
    axes.set_xticks(range(len(arms)), labels)
    axes.set_xlim(-0.6, len(arms) - 0.4)


def _scale(axes: Any, measure: str, values: Sequence[Sequence[float]]) -> None:
    if measure.startswith("false_positives"):
        top = max((max(own) for own in values if own), default=1.0)
        axes.set_ylim(-0.03 * max(top, 1.0), 1.08 * max(top, 1.0))
    else:
        axes.set_ylim(-0.03, 1.05)
        axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def _brackets(axes: Any, names: Sequence[str], tests: Sequence[MeasureTest]) -> None:
    """A bracket above each pair that differs, the shortest lowest; the axis grows to hold them."""
    marked = [t for t in tests if stars(t.p_bonferroni) and t.a in names and t.b in names]
    low, high = axes.get_ylim()
    step = 0.085 * (high - low)

    def span(test: MeasureTest) -> int:
        return abs(names.index(test.a) - names.index(test.b))

    for row, test in enumerate(sorted(marked, key=span)):
        left, right = sorted((names.index(test.a), names.index(test.b)))
        level = high + (row + 0.15) * step
        foot = level - 0.25 * step
        axes.plot(
            [left + 0.06, left + 0.06, right - 0.06, right - 0.06], [foot, level, level, foot],
            color=INK, linewidth=0.9, clip_on=False,
        )  # fmt: skip
        axes.text(
            (left + right) / 2, level - 0.1 * step, stars(test.p_bonferroni), ha="center",
            va="bottom", fontsize=9, color=INK,
        )  # fmt: skip
    axes.set_ylim(low, high + (len(marked) + 0.3) * step if marked else high)
    axes.spines["left"].set_bounds(low, high)
