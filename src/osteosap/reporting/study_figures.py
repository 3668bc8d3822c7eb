"""Charts of a study: free-response curves, sizes, burden, calibration (paper's figures 5 and 6).

Each function gives PNG bytes, or None where the scores do not hold what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.evaluation.froc import Froc
from osteosap.reporting.study_results import StudyResults
from osteosap.reporting.study_scores import ArmScores, as_number
from osteosap.reporting.study_style import (
    INK,
    SOFT,
    arm_colour,
    chart,
    finished,
    number,
    plain_axes,
)

__all__ = ["burden_figure", "calibration_figure", "froc_figure", "volume_figure"]

_SIDES = (("all", "solid"), ("large", "dashed"))
_FEW = 10
"""Fewer lesions than this make a point hollow."""


def froc_figure(study: StudyResults) -> bytes | None:
    """Sensitivity over false positives per exam: all lesions solid, large ones dashed.

    A dot or diamond is the operating point of the masks, whose threshold was tuned beforehand;
    thinner: beyond the last threshold, where the curve can only stay as it is.
    """
    known = [arm for arm in study.scores.values() if _froc(arm, "all") or _froc(arm, "large")]
    if not known:
        return None
    figure = chart(7.4, 5.0)
    axes = figure.add_subplot()
    limit = max(_limit(arm, key) for arm in known for key, _ in _SIDES)
    outside: list[str] = []
    for key, style in _SIDES:  # so that the legend has a column of each
        for arm in known:
            _draw_froc(axes, arm, key, style)
            outside += _draw_operating_point(axes, arm, key, limit)
    axes.set_xlim(-0.01 * limit, limit)
    axes.set_ylim(-0.02, 1.02)
    plain_axes(
        axes, title="Free-response curves", x="false positives per exam", y="sensitivity (pooled)"
    )
    if outside:
        axes.text(
            0.995, 0.99, "beyond the right edge: " + "; ".join(outside), ha="right", va="top",
            transform=axes.transAxes, fontsize=7, color=SOFT,
        )  # fmt: skip
    axes.legend(
        fontsize=7.5, loc="upper left", bbox_to_anchor=(0.0, -0.13), ncols=2, frameon=False,
        handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip
    return finished(figure, kind=study.kind)


def volume_figure(study: StudyResults) -> bytes | None:
    """Pooled sensitivity and mean false positives of lesions from each volume on."""
    rows = {arm.name: arm.find("over_volume") or [] for arm in study.scores.values()}
    rows = {name: own for name, own in rows.items() if own}
    if not rows:
        return None
    figure = chart(8.6, 3.7)
    panels = (
        ("sensitivity", "Sensitivity", "sensitivity (pooled)"),
        ("false_positives_per_exam", "False positives", "false positives per exam (mean)"),
    )
    for place, (key, title, label) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        plain_axes(axes, title=title, x="lesions of at least (mL)", y=label)
        for name, own in rows.items():
            x = [as_number(row["min_volume_ml"]) for row in own]
            y = [as_number(row[key]) for row in own]
            colour, few = arm_colour(name), [row["n_reference"] < _FEW for row in own]
            axes.plot(x, y, color=colour, linewidth=1.6, label=study.scores[name].title)
            faces = ["white" if f and key == "sensitivity" else colour for f in few]
            axes.scatter(x, y, s=16, color=faces, edgecolors=colour, linewidths=1.0, zorder=3)
        _volume_axis(axes, next(iter(rows.values())), counts=key == "sensitivity")
        axes.set_ylim(bottom=0.0)
        if key == "sensitivity":
            axes.set_ylim(-0.02, 1.02)
        else:
            axes.legend(fontsize=8, frameon=False, loc="upper right")
    return finished(figure, kind=study.kind)


def burden_figure(study: StudyResults) -> bytes | None:
    """Total volume of prediction against reference, and their difference over their mean.

    Logarithmic; smaller volumes, none at all among them, are drawn at the floor of the settings.
    """
    known = [arm for arm in study.scores.values() if arm.exams]
    if not known:
        return None
    figure = chart(max(3.1 * len(known), 4.0), 6.4)
    floor = as_number(known[0].settings.get("log_floor_ml"), 0.1)
    pairs = {arm.name: _burdens(arm, floor) for arm in known}
    top = max(float(values.max()) for values in pairs.values()) * 1.6
    ends = (floor / 1.5, max(top, 10 * floor))
    room = (ends[0], ends[1] * (ends[1] / ends[0]) ** 0.2)  # for the words above the points
    differences = [np.abs(np.log10(v[:, 1] / v[:, 0])).max() for v in pairs.values()]
    shown = [*map(float, differences), *(abs(x) for arm in known for x in _limits(arm)[1:])]
    half = max(0.5, 1.15 * max(x for x in shown if math.isfinite(x)))
    for place, arm in enumerate(known):
        scatter = figure.add_subplot(2, len(known), place + 1)
        _draw_scatter(scatter, arm, pairs[arm.name], room)
        plain_axes(
            scatter, title=f"{arm.title} (n = {len(arm.exams)})", x="reference (mL)",
            y="prediction (mL)" if place == 0 else "",
        )  # fmt: skip
        plain = figure.add_subplot(2, len(known), len(known) + place + 1)
        _draw_bland_altman(plain, arm, pairs[arm.name], ends, half)
        plain_axes(
            plain, x="geometric mean of both (mL)",
            y="prediction / reference" if place == 0 else "",
        )  # fmt: skip
    return finished(figure, kind=study.kind)


def calibration_figure(study: StudyResults) -> bytes | None:
    """Observed share of lesion voxels over the predicted probability, and voxels in each bin."""
    curves = {arm.name: arm.find("calibration") for arm in study.scores.values()}
    known = {name: curve for name, curve in curves.items() if curve}
    if not known:
        return None
    figure = chart(5.6, 5.4)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    axes, below = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    plain_axes(axes, title="Calibration of the lesion probability", y="observed lesion share")
    plain_axes(below, x="predicted probability (mean of each bin)", y="voxels")
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)), label="perfect")
    for name, curve in known.items():
        bins = [b for b in curve["bins"] if b["n_voxels"]]
        x = [as_number(b["predicted"]) for b in bins]
        error = as_number(curve.get("expected_error_above_0.1"))
        told = number(error) if math.isfinite(error) else "undefined"
        axes.plot(
            x, [as_number(b["observed"]) for b in bins], "o-", color=arm_colour(name),
            markersize=3.5, linewidth=1.5, label=f"{study.scores[name].title}, error {told}",
        )  # fmt: skip
        below.plot(x, [b["n_voxels"] for b in bins], "o-", color=arm_colour(name), markersize=3)
    below.set_yscale("log")
    for one in (axes, below):
        one.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.tick_params(labelbottom=False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return finished(figure, kind=study.kind)


def _froc(arm: ArmScores, key: str) -> Mapping[str, Any] | None:
    """The curve of an arm, where it has one and lesions to find."""
    curve = arm.find(f"lesions_{key}", "froc")
    if not isinstance(curve, Mapping) or not curve.get("n_reference") or not curve.get("points"):
        return None
    return curve


def _limit(arm: ArmScores, key: str) -> float:
    return as_number((_froc(arm, key) or {}).get("limit_false_positives_per_exam"), 1.0)


def _draw_froc(axes: Any, arm: ArmScores, key: str, style: str) -> None:
    curve = _froc(arm, key)
    if curve is None:
        return
    points = {
        name: np.array([as_number(p[name]) for p in curve["points"]])
        for name in ("threshold", "false_positives_per_exam", "sensitivity")
    }
    froc = Froc(
        points["threshold"],
        points["false_positives_per_exam"],
        points["sensitivity"],
        int(curve["n_exams"]),
        int(curve["n_reference"]),
    )
    x, y = froc.envelope()
    limit = _limit(arm, key)
    inside = x <= limit
    end = min(float(x[-1]), limit)
    x = np.append(x[inside], end)
    y = np.append(y[inside], froc.sensitivity_at(end))
    low, high = (as_number(curve.get(k)) for k in ("area_ci_low", "area_ci_high"))
    name = (
        "all"
        if key == "all"
        else f"≥ {number(as_number(arm.find('lesions_large', 'min_volume_ml')))} mL"
    )
    label = f"{arm.title}, {name}: area {number(as_number(curve['area']))} of {number(limit)}"
    if math.isfinite(low):
        label += f" [{number(low)}, {number(high)}]"
    colour = arm_colour(arm.name)
    axes.plot(x, y, color=colour, linestyle=style, linewidth=1.8, label=label)
    if end < limit:
        axes.plot(
            [end, limit], [y[-1], y[-1]], color=colour, linestyle=style, linewidth=0.7, alpha=0.7
        )


def _draw_operating_point(axes: Any, arm: ArmScores, key: str, limit: float) -> list[str]:
    """Mark the masks' sensitivity and false positives; what lies outside is told instead."""
    part = arm.find(f"lesions_{key}") or {}
    sensitivity = as_number(part.get("sensitivity_pooled"))
    false = as_number((part.get("false_positives_per_exam") or {}).get("mean"))
    if not (math.isfinite(sensitivity) and math.isfinite(false)):
        return []
    if false > limit:
        return [f"{arm.title} at {number(false)}, {sensitivity:.2f}"]
    axes.plot(
        false, sensitivity, "o" if key == "all" else "D", color=arm_colour(arm.name),
        markersize=7 if key == "all" else 6, markeredgecolor="white", zorder=5,
    )  # fmt: skip
    return []


def _volume_axis(axes: Any, rows: Sequence[Mapping[str, Any]], *, counts: bool) -> None:
    """Volumes from 0 on, nearly logarithmic, with the number of lesions that each leaves."""
    volumes = [as_number(row["min_volume_ml"]) for row in rows]
    smallest = min((v for v in volumes if v > 0), default=0.1)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.6)
    labels = [f"{v:g}" for v in volumes]
    if counts:
        labels = [f"{v}\n{row['n_reference']}" for v, row in zip(labels, rows, strict=True)]
        axes.set_xlabel("lesions of at least (mL); below: how many", fontsize=8.5, color=INK)
    axes.set_xticks(volumes, labels)
    axes.minorticks_off()
    axes.set_xlim(-0.25 * smallest, 1.15 * max(volumes, default=1.0))


def _burdens(arm: ArmScores, floor: float) -> npt.NDArray[np.float64]:
    """(N, 2) reference and prediction in mL, not below the floor."""
    table = [(e.burden_reference_ml, e.burden_prediction_ml) for e in arm.exams]
    return np.maximum(np.array(table, dtype=np.float64), floor)


def _draw_scatter(
    axes: Any, arm: ArmScores, pairs: npt.NDArray[np.float64], ends: tuple[float, float]
) -> None:
    axes.plot(ends, ends, color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.scatter(
        pairs[:, 0], pairs[:, 1], s=16, color=arm_colour(arm.name), alpha=0.8, linewidths=0
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    _plain_logs(axes)
    lines = []
    for key, name in (("icc", "ICC"), ("icc_log", "ICC of log10")):
        found = arm.find("burden", key) or {}
        value, low, high = (as_number(found.get(k)) for k in ("value", "ci_low", "ci_high"))
        if not math.isfinite(value):
            lines.append(f"{name} undefined")
        elif math.isfinite(low):
            lines.append(f"{name} {value:.2f} [{low:.2f}, {high:.2f}]")
        else:
            lines.append(f"{name} {value:.2f}")
    axes.text(
        0.03, 0.97, "\n".join(lines), transform=axes.transAxes, ha="left", va="top", fontsize=7.5,
        color=INK, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5},
    )  # fmt: skip


def _draw_bland_altman(
    axes: Any,
    arm: ArmScores,
    pairs: npt.NDArray[np.float64],
    ends: tuple[float, float],
    half: float,
) -> None:
    """Ratio of prediction and reference: the plain difference grows with the burden."""
    x = np.sqrt(pairs[:, 0] * pairs[:, 1])
    axes.axhline(1.0, color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.scatter(
        x, pairs[:, 1] / pairs[:, 0], s=16, color=arm_colour(arm.name), alpha=0.8, linewidths=0
    )
    mean, lower, upper = _limits(arm)
    if math.isfinite(mean):
        axes.axhline(10**mean, color=arm_colour(arm.name), linewidth=1.4)
        words = f"mean x {number(10**mean)}"
        if math.isfinite(lower):
            axes.axhspan(10**lower, 10**upper, color=arm_colour(arm.name), alpha=0.1, linewidth=0)
            words += f"\n95 % limits x {number(10**lower)} to x {number(10**upper)}"
        axes.text(
            0.97, 0.03, words, transform=axes.transAxes, ha="right", va="bottom", fontsize=7.5,
            color=INK, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5},
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(10**-half, 10**half)
    _plain_logs(axes)


def _limits(arm: ArmScores) -> tuple[float, float, float]:
    """Mean of log10 of the ratio, and its limits of agreement."""
    found = arm.find("burden", "difference_log10") or {}
    mean, lower, upper = (as_number(found.get(k)) for k in ("mean", "lower", "upper"))
    return mean, lower, upper


def _plain_logs(axes: Any) -> None:
    """Square axes with 0.1, 1, 10 instead of powers."""
    axes.set_box_aspect(1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda _value, _place: "")
