"""Figures of image quality as PNG bytes: before and after preprocessing, seams, ADC.

The pictures are planes that the preprocessing kept (``exam/snapshots.npz``). Every figure is None
where what it needs is absent: one station has no seams, an exam may have no ADC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import ndimage

from osteosap.geometry import Array, Grid, make_affine
from osteosap.reporting.drawing import (
    CORONAL,
    LIGHT,
    SAGITTAL,
    Page,
    draw_grey,
    mark,
    new_figure,
    png,
    top,
)

__all__ = ["adc_chart", "before_after", "overlay", "seam_chart"]

Pictures = Mapping[str, Array]

DPI = 110
PANEL_INCHES = 7.2
MAX_WIDTH_INCHES = 12.0
HEADING_INCHES = 0.45
LONG_MM = 700.0
"""Longer bodies are drawn in two parts where detail matters."""
MARGIN = 0.045
"""Strip left of each picture for the stations, as a share of the height."""
PLANES = {"cor": (CORONAL, "coronal"), "sag": (SAGITTAL, "sagittal")}
BRIGHTEST = {"t1": 98.0, "low": 95.0, "dwi": 92.0}
EDGE_SIGMA_MM = 5.0
EDGE_SHARE = 0.10
"""The strongest so many of the edges of the DWI inside the body are drawn."""
STATION_COLOUR, EDGE_COLOUR = "#4da3ff", "#ffb000"
BEFORE, AFTER, RANGE = "#9aa5b0", "#1f5f8b", "#e8f1f8"
TISSUE_COLOURS = {"marrow": "#b3541e", "muscle": "#1f5f8b"}
INK = "#16202a"
CHANNELS = {"t1": "T1", "dwi": "DWI, lowest b"}


@dataclass(frozen=True)
class _Panel:
    """One picture of a row: its key, plane and title, the part from foot to head it shows."""

    key: str
    plane: str
    title: str
    part: tuple[float, float] = (0.0, 1.0)


def before_after(pictures: Pictures, name: str, *, title: str) -> bytes | None:
    """Coronal and sagittal planes of a channel, as acquired and as corrected, side by side.

    Parameters
    ----------
    pictures
        ``{name}_before_cor`` (I, K) and ``_sag`` (J, K), the same with ``after``; the pixel of a
        plane in mm, ``spacing_mm_cor`` and ``spacing_mm_sag`` (2,); ``stations_mm`` (N, 2), lower
        and upper face of each station from the foot.
    name
        ``"t1"``, ``"low"`` or ``"dwi"``.
    title
        Of the channel, in the heading of each picture.
    """
    panels = [
        _Panel(f"{name}_{when}_{plane}", plane, f"{title}, {words}\n{how}")
        for plane, (_, words) in PLANES.items()
        for when, how in (("before", "as acquired"), ("after", "corrected"))
        if f"{name}_{when}_{plane}" in pictures
    ]
    return _row(pictures, panels) if len(panels) > 1 else None


def overlay(pictures: Pictures, *, plane: str = "sag") -> bytes | None:
    """Edges of the lowest b-value on T1, as acquired and as registered; long bodies in two parts.

    Parameters
    ----------
    pictures
        As for :func:`before_after`; ``t1`` and ``low`` are used.
    plane
        ``"sag"`` or ``"cor"``.
    """
    whens = [
        (when, how)
        for when, how in (("before", "as acquired"), ("after", "registered"))
        if _fit(pictures, f"t1_{when}_{plane}", f"low_{when}_{plane}")
    ]
    if len(whens) < 2:
        return None
    long = _page(pictures, f"t1_after_{plane}", plane).extent[3] > LONG_MM
    parts = {"upper part": (0.5, 1.0), "lower part": (0.0, 0.5)} if long else {"": (0.0, 1.0)}
    panels = [
        _Panel(
            f"t1_{when}_{plane}", plane, f"DWI edges on T1{', ' * bool(words)}{words}\n{how}", part
        )
        for words, part in parts.items()
        for when, how in whens
    ]
    edges = {f"t1_{when}_{plane}": pictures[f"low_{when}_{plane}"] for when, _ in whens}
    return _row(pictures, panels, edges=edges)


def seam_chart(
    seams: Sequence[Mapping[str, Any]], *, limits: Mapping[str, float] | None = None
) -> bytes | None:
    """How far neighbouring stations differ where they overlap, before and after.

    Parameters
    ----------
    seams
        Mappings with ``channel`` ("t1" or "dwi"), ``pair``, ``mismatch_before`` and
        ``mismatch_after`` (relative, None where unknown).
    limits
        Expected at most, by channel; drawn as a line.
    """
    known = [s for s in seams if s.get("mismatch_after") is not None]
    groups = {c: [s for s in known if s.get("channel") == c] for c in CHANNELS}
    shown = {c: rows for c, rows in groups.items() if rows}
    if not shown:
        return None
    tallest = max(len(rows) for rows in shown.values())
    figure = new_figure(5.2, 1.15 + 0.27 * tallest, face="white")
    for place, (channel, rows) in enumerate(shown.items()):
        axes = figure.add_subplot(1, len(shown), place + 1)
        _dumbbells(axes, rows, limit=(limits or {}).get(channel))
        axes.set_ylim(tallest - 0.4, -0.6)
        axes.set_title(CHANNELS[channel], fontsize=9, color=INK, loc="left")
        if place == 0:
            axes.set_ylabel("stations", fontsize=8, color=INK)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False, handletextpad=0.3
    )
    figure.subplots_adjust(
        left=0.12, right=0.97, top=1 - 0.26 / figure.get_figheight(),
        bottom=0.72 / figure.get_figheight(), wspace=0.28,
    )  # fmt: skip
    return png(figure, dpi=DPI)


def adc_chart(adc: Mapping[str, Any]) -> bytes | None:
    """ADC in marrow-like and muscle-like tissue, expected ranges of the median shaded.

    Parameters
    ----------
    adc
        From :class:`osteosap.preprocess.quality.QualityReport`.
    """
    tissues = [name for name in TISSUE_COLOURS if name in adc]
    if not tissues:
        return None
    edges = np.asarray(adc["edges_um2_per_s"], dtype=np.float64)
    figure = new_figure(5.2, 1.0 + 0.75 * len(tissues), face="white")
    for place, name in enumerate(tissues):
        axes = figure.add_subplot(len(tissues), 1, place + 1)
        _adc_axes(axes, edges, adc[name], name=name)
        if place + 1 < len(tissues):
            axes.tick_params(labelbottom=False)
    figure.axes[-1].set_xlabel("ADC (µm²/s)", fontsize=8, color=INK)
    height = figure.get_figheight()
    figure.subplots_adjust(
        left=0.03, right=0.96, top=1 - 0.1 / height, bottom=0.48 / height, hspace=0.12
    )
    return png(figure, dpi=DPI)


def _fit(pictures: Pictures, *keys: str) -> bool:
    """Whether pictures are there and of one shape."""
    return all(k in pictures for k in keys) and len({pictures[k].shape for k in keys}) == 1


def _row(
    pictures: Pictures, panels: Sequence[_Panel], *, edges: Mapping[str, Array] | None = None
) -> bytes:
    """Pictures side by side at one scale, with their stations."""
    pages = [_page(pictures, panel.key, panel.plane) for panel in panels]
    limits = [tuple(end * page.extent[3] for end in panel.part)
              for panel, page in zip(panels, pages, strict=True)]  # fmt: skip
    height_mm = max(high - low for low, high in limits)
    margin_mm = MARGIN * height_mm
    widths = [page.extent[1] + margin_mm for page in pages]
    scale = min(PANEL_INCHES / height_mm, MAX_WIDTH_INCHES / sum(widths))
    high_inches = height_mm * scale
    figure = new_figure(sum(widths) * scale, high_inches + HEADING_INCHES, face="black")
    share = high_inches / (high_inches + HEADING_INCHES)
    left = 0.0
    for panel, page, width, (low, high) in zip(panels, pages, widths, limits, strict=True):
        axes = figure.add_axes((left / sum(widths), 0.0, width / sum(widths), share))
        picture = pictures[panel.key]
        draw_grey(axes, picture, page, window=(0.0, _brightest(picture, panel.key)))
        if edges:
            _draw_edges(axes, edges[panel.key], page)
        _draw_stations(axes, pictures.get("stations_mm"), page, margin_mm=margin_mm)
        axes.set_xlim(0.0, page.extent[1])
        axes.set_ylim(low, high)
        bar = 100.0 if page.extent[1] > 250.0 and high - low > 300.0 else 50.0
        mark(axes, page, colour=LIGHT, bar_mm=bar)
        axes.set_xlim(-margin_mm, page.extent[1])
        figure.text(
            (left + (width + margin_mm) / 2) / sum(widths), 1.0 - 0.12 * (1.0 - share),
            panel.title, color=LIGHT, fontsize=9, ha="center", va="top", linespacing=1.25,
        )  # fmt: skip
        left += width
    return png(figure, dpi=DPI)


def _brightest(picture: Array, key: str) -> float:
    """Upper end of the grey window: a percentile of what is no air."""
    tissue = picture[np.greater(picture, 0.1 * top(picture, 99.0))]
    return top(tissue, BRIGHTEST[key.split("_", maxsplit=1)[0]])


def _page(pictures: Pictures, key: str, plane: str) -> Page:
    """The page of a plane: a grid one voxel thick."""
    dropped, (n, m) = PLANES[plane][0], pictures[key].shape
    first, second = (float(s) for s in np.asarray(pictures[f"spacing_mm_{plane}"]).ravel()[:2])
    shape, spacing = ((n, 1, m), (first, 1.0, second))
    if dropped == SAGITTAL:
        shape, spacing = (1, n, m), (1.0, first, second)
    return Page(Grid(shape, make_affine(spacing, (0.0, 0.0, 0.0))), dropped)


def _draw_stations(axes: Any, stations_mm: Array | None, page: Page, *, margin_mm: float) -> None:
    """Each station as a bar beside the picture, and the middle of each overlap as a fine line."""
    if stations_mm is None or len(stations_mm) < 2:
        return
    spans = np.asarray(stations_mm, dtype=np.float64)
    spans = spans[np.argsort(spans[:, 0])]
    for n, (low, high) in enumerate(spans):
        x = -margin_mm * (0.62 if n % 2 else 0.30)
        axes.plot(
            [x, x], [low + 2.0, high - 2.0], color=STATION_COLOUR, linewidth=1.6,
            solid_capstyle="butt",
        )  # fmt: skip
    for (_, high), (low, _) in pairwise(spans):
        middle = (high + low) / 2
        axes.plot(
            [-0.2 * margin_mm, page.extent[1]], [middle, middle], color=STATION_COLOUR,
            linewidth=0.6, alpha=0.55, linestyle=(0, (4, 4)),
        )  # fmt: skip


def _draw_edges(axes: Any, picture: Array, page: Page) -> None:
    """Strong edges of a picture as thin lines: where its Laplacian of Gaussian crosses zero."""
    a, b = page.axes
    spacing = page.grid.spacing_mm[a], page.grid.spacing_mm[b]
    plain = np.asarray(picture, dtype=np.float64)
    plain = np.sqrt(np.clip(plain, 0.0, top(plain, 99.5)))  # fluid must not take all edges
    sigma = [EDGE_SIGMA_MM / s for s in spacing]
    strength = ndimage.gaussian_gradient_magnitude(plain, sigma)
    if not strength.max() > 0:
        return
    limit = float(np.quantile(strength[plain > 0], 1.0 - EDGE_SHARE))
    crossing = np.where(strength >= limit, ndimage.gaussian_laplace(plain, sigma), np.nan)
    left, right, bottom, upper = page.extent
    laid = page.lay(crossing)
    x = left + (np.arange(laid.shape[1]) + 0.5) * (right - left) / laid.shape[1]
    y = bottom + (np.arange(laid.shape[0]) + 0.5) * (upper - bottom) / laid.shape[0]
    axes.contour(x, y, np.ma.masked_invalid(laid), levels=[0.0], colors=[EDGE_COLOUR],
                 linewidths=1.0)  # fmt: skip


def _dumbbells(axes: Any, rows: Sequence[Mapping[str, Any]], *, limit: float | None) -> None:
    """A line a seam, from before to after."""
    for place, seam in enumerate(rows):
        after, before = 100.0 * seam["mismatch_after"], seam.get("mismatch_before")
        label = {"label": "corrected"} if place == 0 else {}
        if before is not None:
            first = {"label": "as acquired"} if place == 0 else {}
            axes.plot(
                [100.0 * before, after], [place, place], color=BEFORE, linewidth=1.2, zorder=1
            )
            axes.plot(100.0 * before, place, "o", color=BEFORE, markersize=5.5, **first)
        axes.plot(after, place, "o", color=AFTER, markersize=5.5, zorder=3, **label)
    if limit is not None:
        axes.axvline(
            100.0 * limit, color="#c77700", linewidth=1.0, linestyle="--", label="expected below"
        )
    axes.set_yticks(range(len(rows)), [" / ".join(map(str, s.get("pair", ()))) for s in rows])
    axes.set_xlim(left=0.0)
    axes.set_xlabel("difference in the overlap (%)", fontsize=8, color=INK)
    _plain(axes)
    axes.grid(axis="x", color="#dde3e9", linewidth=0.6)
    axes.set_axisbelow(True)


def _adc_axes(axes: Any, edges: Array, tissue: Mapping[str, Any], *, name: str) -> None:
    """One tissue: counts, the range its median should lie in, the median."""
    counts = np.asarray(tissue["counts"], dtype=np.float64)
    colour = TISSUE_COLOURS[name]
    low, high = tissue["expected"]
    peak = max(float(counts[1:-1].max(initial=0.0)), 1.0)
    axes.axvspan(low, high, color=RANGE, zorder=0)
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.45, zorder=2)
    median = min(float(tissue["median"]), float(edges[-1]))
    axes.axvline(median, color=colour, linewidth=1.6, zorder=3)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0.0, 1.15 * peak)
    axes.set_yticks([])
    words = (
        f"{name}-like voxels, median {_rounded(float(tissue['median']))}\n"
        f"expected {low:.0f} to {high:.0f} (shaded)"
    )
    right = median < 0.5 * (edges[0] + edges[-1])
    axes.text(
        0.985 if right else 0.015, 0.9, words, transform=axes.transAxes, fontsize=8, color=INK,
        ha="right" if right else "left", va="top", linespacing=1.3,
    )  # fmt: skip
    _plain(axes)
    axes.spines["left"].set_visible(False)


def _rounded(value: float) -> str:
    return f"{value:.3g}" if value < 10 else f"{value:.0f}"


def _plain(axes: Any) -> None:
    """Axes without a box, small letters."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa5b0")
    axes.tick_params(labelsize=8, colors=INK, length=3, color="#9aa5b0")
