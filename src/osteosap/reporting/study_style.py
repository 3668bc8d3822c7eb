"""How the charts of a study look: colours of arms, plain axes, the stamp that says whose exams."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from osteosap.reporting.drawing import new_figure, png

__all__ = ["INK", "SOFT", "arm_colour", "chart", "finished", "number", "plain_axes", "say"]

DPI = 150
INK, SOFT, GRID, FRAME = "#16202a", "#5a6876", "#e3e8ed", "#9aa5b0"
STAMP_SIMULATED, STAMP_REAL = "#6b2fa0", "#1f5f8b"
_COLOURS = {"baseline": "#7a8794", "ssl": "#d9822b", "sap": "#1f5f8b"}
_OTHERS = ("#59a14f", "#b07aa1", "#9c755f", "#e15759")
_STAMP_INCHES = 0.26


def arm_colour(name: str) -> str:
    """Colour of an arm, the same in all figures."""
    if name in _COLOURS:
        return _COLOURS[name]
    return _OTHERS[sum(map(ord, name)) % len(_OTHERS)]


def chart(width_inches: float, height_inches: float) -> Figure:
    """An empty white figure whose axes keep clear of the stamp at its top."""
    figure = new_figure(width_inches, height_inches, face="#ffffff")
    used = 1.0 - _STAMP_INCHES / height_inches
    figure.set_layout_engine("constrained", rect=(0.0, 0.0, 1.0, used), h_pad=0.06, w_pad=0.06)
    return figure


def finished(figure: Figure, *, kind: str) -> bytes:
    """The figure as PNG, stamped with whose exams it shows."""
    stamp(figure, kind=kind)
    return png(figure, dpi=DPI)


def stamp(figure: Figure, *, kind: str, dark: bool = False) -> None:
    """Say at the upper left whose exams these are."""
    colour = STAMP_SIMULATED if kind.startswith("SIMULATED") else STAMP_REAL
    height = figure.get_figheight()
    figure.text(
        0.06 / figure.get_figwidth(), 1.0 - 0.05 / height, kind, fontsize=8, fontweight="bold",
        color="#d9b8f5" if dark else colour, ha="left", va="top",
    )  # fmt: skip


def plain_axes(axes: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Axes without a box, small letters, a light grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FRAME)
    axes.tick_params(labelsize=8, colors=INK, length=3, color=FRAME, which="major")
    axes.tick_params(length=0, which="minor")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9.5, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=8.5, color=INK)
    axes.set_ylabel(y, fontsize=8.5, color=INK)


def say(axes: Any, words: str) -> None:
    """Words in the middle of axes that have nothing to show."""
    axes.text(
        0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=8.5,
        color=SOFT, wrap=True,
    )  # fmt: skip


def number(value: float) -> str:
    """Three digits for a legend."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
