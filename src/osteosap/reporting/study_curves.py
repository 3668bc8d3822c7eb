"""Training curves of a study, and its features before fine-tuning (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.reporting.feature_figure import FeaturePanel, feature_figure
from osteosap.reporting.study_results import StudyResults
from osteosap.reporting.study_runs import Curve, EncoderPlane, Run
from osteosap.reporting.study_scores import arm_title, encoder_title
from osteosap.reporting.study_style import (
    INK,
    arm_colour,
    chart,
    finished,
    plain_axes,
    say,
)

__all__ = ["features_figure", "training_figure"]

_MOST_STEPS = 200
"""Longer curves are drawn as means of so many stretches."""

_DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D")


def features_figure(study: StudyResults) -> bytes | None:
    """Patches as encoders see them before fine-tuning, by t-SNE; None without points."""
    order = {name: place for place, name in enumerate(study.arms)}
    panels = [
        FeaturePanel(encoder_title(e.name), e.plane, e.is_lesion, _distances(e))
        for e in sorted(study.encoders, key=lambda e: order.get(e.name, len(order)))
        if e.plane is not None
    ]
    if not panels:
        return None
    note = (
        f"{study.kind}; apart: distance of the centroids; within: mean distance of two "
        "lesion | background patches"
    )
    return feature_figure(panels, note=note)


def training_figure(study: StudyResults) -> bytes | None:
    """Losses of every training, and what validation found; folds of an arm in one colour."""
    tuned = [run for arm in study.arms for run in study.runs.values() if run.arm == arm]
    skeleton, own = study.runs.get("skeleton"), study.runs.get("self_supervised")
    if not tuned and skeleton is None and own is None:
        return None
    columns = [part is not None for part in (skeleton, own)].count(True) + bool(tuned)
    figure = chart(10.6 * max(columns, 2) / 3, 5.8)
    pairs = iter(
        [
            (figure.add_subplot(2, columns, place), figure.add_subplot(2, columns, columns + place))
            for place in range(1, columns + 1)
        ]
    )
    if skeleton is not None:
        above, below = next(pairs)
        _pretraining(above, skeleton, ("loss",), "Skeleton: training loss", "loss")
        _validation_of_skeleton(below, skeleton)
    if own is not None:
        above, below = next(pairs)
        _pretraining(above, own, _losses(own), "Self-supervised: training losses", "loss")
        _validation_of_self_supervised(below, own)
    if tuned:
        above, below = next(pairs)
        _tuning(above, tuned, "loss", "Fine-tuning: training loss", training=True)
        _tuning(below, tuned, "f2", "Fine-tuning: F2 on the tuning fold", training=False)
    return finished(figure, kind=study.kind)


def _distances(encoder: EncoderPlane) -> list[str]:
    lines = []
    for what, values in (("features", encoder.in_features), ("t-SNE", encoder.in_plane)):
        if values:
            lines.append(
                f"{what}: apart {_three(values.get('centroid_distance'))}, within "
                f"{_three(values.get('within_lesion'))} | {_three(values.get('within_background'))}"
                f", ratio {_three(values.get('ratio'))}"
            )
    return lines


def _three(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"


def _losses(run: Run | None) -> tuple[str, ...]:
    names = ("loss", "reconstruction", "rotation", "contrast")
    return tuple(name for name in names if run is not None and name in run.training)


def _pretraining(axes: Any, run: Run, names: Sequence[str], title: str, label: str) -> None:
    plain_axes(axes, title=title, x="step", y=label)
    if not any(_has(run.training.get(name)) for name in names):
        say(axes, "no log")
        return
    for name, dashes in zip(names, _DASHES, strict=False):
        if _has(run.training.get(name)):
            x, y = _smooth(run.training[name])
            marker = "" if len(x) > 1 else "o"
            axes.plot(x, y, color=INK, linewidth=1.3, linestyle=dashes, marker=marker, label=name)
    if len(names) > 1:
        axes.set_ylim(bottom=0.0)
        _legend(axes)


def _tuning(axes: Any, runs: Sequence[Run], name: str, title: str, *, training: bool) -> None:
    plain_axes(axes, title=title, x="step", y=name if name == "loss" else "F2")
    seen: set[str] = set()
    for run in runs:
        curve = (run.training if training else run.validation).get(name)
        if curve is None or not _has(curve):
            continue
        x, y = _smooth(curve)
        first = {} if run.arm in seen else {"label": arm_title(run.arm)}
        seen.add(run.arm)
        axes.plot(
            x, y, "-" if len(x) > 1 else "o", color=arm_colour(run.arm), linewidth=1.1, alpha=0.8,
            markersize=4, **first,
        )  # fmt: skip
    if not seen:
        say(axes, "no log")
        return
    if not training:
        axes.set_ylim(0.0, max(1.1 * axes.get_ylim()[1], 0.1))
        _from_zero(axes)
    _legend(axes)


def _validation_of_skeleton(axes: Any, run: Run) -> None:
    plain_axes(axes, title="Skeleton: Dice on healthy people kept aside", x="step", y="Dice")
    curves = run.validation
    names = {"dice_merged": "merged", "dice_mean": "mean of the classes"}
    known = {name: curves[name] for name in names if _has(curves.get(name))}
    for place, (name, (x, y)) in enumerate(known.items()):
        axes.plot(
            x, y, color=INK, linestyle=_DASHES[place], linewidth=1.3, marker=_MARKERS[place],
            markersize=3.5, label=names[name],
        )  # fmt: skip
    if not known:
        say(axes, "no validation")
        return
    axes.set_ylim(-0.02, 1.02)
    _from_zero(axes)
    _legend(axes)


def _validation_of_self_supervised(axes: Any, run: Run) -> None:
    plain_axes(axes, title="Self-supervised: losses on people kept aside", x="step", y="loss")
    curves = run.validation
    known = [n for n in ("total", "reconstruction", "rotation", "contrast") if _has(curves.get(n))]
    for place, name in enumerate(known):
        x, y = curves[name]
        axes.plot(
            x, y, color=INK, linestyle=_DASHES[place], linewidth=1.3, marker=_MARKERS[place],
            markersize=3.5, label=name,
        )  # fmt: skip
    if not known:
        say(axes, "no validation")
        return
    axes.set_ylim(bottom=0.0)
    _from_zero(axes)
    _legend(axes)


def _legend(axes: Any) -> None:
    axes.legend(fontsize=7.5, framealpha=0.85, edgecolor="none", facecolor="white")


def _from_zero(axes: Any) -> None:
    """Steps from 0 on, so that a single validation stands where it was."""
    axes.set_xlim(0.0, 1.05 * max(axes.dataLim.x1, 1.0))


def _has(curve: Curve | None) -> bool:
    return curve is not None and len(curve[0]) > 0


def _smooth(curve: Curve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means of consecutive stretches where there are more points than a line can show."""
    x, y = curve
    if len(x) <= _MOST_STEPS:
        return x, y
    parts = np.array_split(np.arange(len(x)), _MOST_STEPS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])
