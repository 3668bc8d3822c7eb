"""A figure of patches as encoders see them: one panel an encoder, its distances beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.errors import VolumeError
from osteosap.reporting.drawing import new_figure, png
from osteosap.reporting.figures import LESION_COLOUR

__all__ = ["FeaturePanel", "feature_figure"]

DPI = 130
PANEL_INCHES = 3.7
TEXT_INCHES = 1.0
BACKGROUND_COLOUR, INK, FRAME = "#5b7f99", "#16202a", "#c3ccd4"


@dataclass(frozen=True)
class FeaturePanel:
    """What one encoder gives.

    Parameters
    ----------
    title
        Name of the encoder.
    plane
        (N, 2), one point a patch; axes have no unit.
    is_lesion
        (N,).
    lines
        Text below the points.
    """

    title: str
    plane: npt.NDArray[np.floating]
    is_lesion: npt.NDArray[np.bool_]
    lines: Sequence[str] = ()


def feature_figure(panels: Sequence[FeaturePanel], *, note: str) -> bytes:
    """Scatter of lesion and background patches, one panel an encoder.

    Parameters
    ----------
    panels
        At least one; drawn from left to right.
    note
        Printed at the foot, for example that the exams are simulated.

    Returns
    -------
    png
        Bytes.

    Raises
    ------
    VolumeError
        There is no panel, or points and classes do not agree.
    """
    if not panels or any(p.plane.shape != (len(p.is_lesion), 2) for p in panels):
        raise VolumeError(
            f"{len(panels)} panels of shapes {[p.plane.shape for p in panels]}, expected at least "
            "one, with two coordinates a patch",
            remedy="Pass what osteosap.training.features gives",
        )
    width = max(2, len(panels)) * PANEL_INCHES
    height = PANEL_INCHES + TEXT_INCHES
    figure = new_figure(width, height, face="#ffffff")
    for number, panel in enumerate(panels):
        left = (number + 0.06) / max(2, len(panels))
        side = 0.88 / max(2, len(panels))
        bottom = (TEXT_INCHES - 0.05) / height
        axes = figure.add_axes((left, bottom, side, side * width / height))
        _draw(axes, panel)
        figure.text(
            left, bottom - 0.03, "\n".join(panel.lines), color=INK, fontsize=8, va="top",
            linespacing=1.45,
        )  # fmt: skip
    figure.text(0.06 / max(2, len(panels)), 0.02, note, color="#55606b", fontsize=7.5)
    return png(figure, dpi=DPI)


def _draw(axes: Any, panel: FeaturePanel) -> None:
    axes.set_title(panel.title, color=INK, fontsize=10, loc="left")
    for kind, colour, marker, name in (
        (False, BACKGROUND_COLOUR, "o", "background patch"),
        (True, LESION_COLOUR, "^", "lesion patch"),
    ):
        points = panel.plane[panel.is_lesion == kind]
        axes.scatter(
            points[:, 0], points[:, 1], s=16, color=colour, marker=marker, alpha=0.75, linewidths=0,
            label=f"{name} (n = {len(points)})",
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE 1", fontsize=7.5, color=INK, labelpad=2)
    axes.set_ylabel("t-SNE 2", fontsize=7.5, color=INK, labelpad=2)
    for spine in axes.spines.values():
        spine.set_color(FRAME)
    axes.margins(0.12)
    axes.legend(
        fontsize=7, loc="lower right", bbox_to_anchor=(1.02, 0.99), frameon=False, borderpad=0.0,
        handletextpad=0.2,
    )  # fmt: skip
