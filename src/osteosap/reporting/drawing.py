"""Drawing of slices and projections in mm, in radiological display.

The page: the patient's right is on the left of coronal and axial images, anterior on the left of
sagittal ones; up is superior, or anterior on axial images. One mm is equally long both ways.
matplotlib is used without its global state.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from osteosap.geometry import Array, Grid

__all__ = [
    "AXIAL",
    "CORONAL",
    "DARK",
    "LIGHT",
    "SAGITTAL",
    "Page",
    "draw_contour",
    "draw_grey",
    "draw_labels",
    "halo_of",
    "mark",
    "new_figure",
    "png",
    "top",
]

SAGITTAL, CORONAL, AXIAL = 0, 1, 2
"""The array axis that a view drops."""

_SIDES = {SAGITTAL: ("A", "P"), CORONAL: ("R", "L"), AXIAL: ("R", "L")}
DARK, LIGHT = "#14181d", "#ffffff"
"""Colours of letters and bars on light and on dark images."""


@dataclass(frozen=True)
class Page:
    """Where the voxels of a view lie on the page.

    Parameters
    ----------
    grid
        RAS lattice of the volume.
    dropped_axis
        :data:`SAGITTAL`, :data:`CORONAL` or :data:`AXIAL`.
    """

    grid: Grid
    dropped_axis: int

    @property
    def axes(self) -> tuple[int, int]:
        """Array axes that run across (from right to left of the page) and up."""
        first, second = (a for a in range(3) if a != self.dropped_axis)
        return first, second

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the page in mm."""
        a, b = self.axes
        spacing, shape = self.grid.spacing_mm, self.grid.shape
        return 0.0, shape[a] * spacing[a], 0.0, shape[b] * spacing[b]

    @property
    def sides(self) -> tuple[str, str]:
        """Letters of the left and the right edge."""
        return _SIDES[self.dropped_axis]

    def lay(self, image: Array) -> Array:
        """Rows and columns as shown, lowest row first; ``image`` has the two axes (and colour)."""
        return image[::-1].swapaxes(0, 1)

    def place(self, index: npt.ArrayLike) -> tuple[float, float]:
        """Page position in mm of a 3D voxel index."""
        a, b = self.axes
        voxel = np.asarray(index, dtype=np.float64)
        spacing, shape = self.grid.spacing_mm, self.grid.shape
        return (
            float((shape[a] - 0.5 - voxel[a]) * spacing[a]),
            float((voxel[b] + 0.5) * spacing[b]),
        )

    def around(self, low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the box of voxels from ``low`` to ``high`` (inclusive)."""
        a, b = self.axes
        half = np.asarray(self.grid.spacing_mm) / 2
        one, other = self.place(low), self.place(high)
        return other[0] - half[a], one[0] + half[a], one[1] - half[b], other[1] + half[b]


def new_figure(width_inches: float, height_inches: float, *, face: str) -> Figure:
    """An empty figure on matplotlib's Agg canvas."""
    figure = Figure(figsize=(width_inches, height_inches), facecolor=face)
    FigureCanvasAgg(figure)
    return figure


def draw_grey(
    axes: Any,
    image: Array,
    page: Page,
    *,
    window: tuple[float, float],
    inverted: bool = False,
) -> Any:
    """Show a 2D array (of the page's two array axes) in greys; returns matplotlib's image."""
    shown = axes.imshow(
        page.lay(image),
        cmap="gray_r" if inverted else "gray",
        vmin=window[0],
        vmax=max(window[1], window[0] + 1e-6),
        extent=page.extent,
        origin="lower",
        aspect="equal",
        interpolation="bilinear",
    )
    axes.set_axis_off()
    return shown


def draw_labels(
    axes: Any, labels: Array, page: Page, *, colours: dict[int, str], alpha: float
) -> None:
    """Lay the colours of a 2D label map over the page; labels without a colour stay clear."""
    layer = np.zeros((*labels.shape, 4), np.float32)
    for value, colour in colours.items():
        layer[labels == value] = (*to_rgb(colour), alpha)
    axes.imshow(
        page.lay(layer),
        extent=page.extent,
        origin="lower",
        aspect="equal",
        interpolation="nearest",
    )


def draw_contour(axes: Any, mask: Array, page: Page, *, colour: str, dashed: bool = False) -> None:
    """Outline a 2D mask along its voxel edges; an empty one draws nothing."""
    rows, columns = (np.flatnonzero(np.any(mask, axis=a)) for a in (1, 0))
    if not rows.size:
        return
    # Voxels are blown up so that the line follows their edges and not their centres.
    box = np.asarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], dtype=np.float64)
    laid = page.lay(box)
    fine = np.pad(np.repeat(np.repeat(laid, 4, axis=0), 4, axis=1), 1)
    low, high = np.zeros(3), np.zeros(3)
    low[list(page.axes)], high[list(page.axes)] = (rows[0], columns[0]), (rows[-1], columns[-1])
    left, right, bottom, upper = page.around(low, high)
    x = left + (right - left) * (np.arange(fine.shape[1]) - 0.5) / (fine.shape[1] - 2)
    y = bottom + (upper - bottom) * (np.arange(fine.shape[0]) - 0.5) / (fine.shape[0] - 2)
    style = "dashed" if dashed else "solid"
    axes.contour(x, y, fine, levels=[0.5], colors=[colour], linewidths=1.3, linestyles=style)


def mark(axes: Any, page: Page, *, colour: str, bar_mm: float) -> None:
    """Letter the left and right edges and draw a scale bar, inside the limits of the axes."""
    (left, right), (bottom, top_edge) = axes.get_xlim(), axes.get_ylim()
    width, height = right - left, top_edge - bottom
    halo = [withStroke(linewidth=2.0, foreground=halo_of(colour))]
    style = {"color": colour, "fontsize": 8, "path_effects": halo, "clip_on": False}
    for x, side, where in ((0.02, page.sides[0], "left"), (0.98, page.sides[1], "right")):
        axes.text(
            left + x * width, bottom + 0.985 * height, side, ha=where, va="top",
            fontweight="bold", **style,
        )  # fmt: skip
    start, level = left + 0.04 * width, bottom + 0.02 * height
    axes.plot(
        [start, start + bar_mm], [level, level], color=colour, linewidth=2.0,
        solid_capstyle="butt", path_effects=[withStroke(linewidth=3.5, foreground=halo_of(colour))],
    )  # fmt: skip
    label = f"{bar_mm / 10:g} cm"
    axes.text(start, level + 0.008 * height, label, ha="left", va="bottom", **style)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top_edge)


def halo_of(colour: str) -> str:
    """What a line or letter of a colour is surrounded by, to be seen on any grey."""
    return "white" if colour == DARK else "black"


def top(image: Array, percentile: float) -> float:
    """Upper end of a display window: a percentile of the positive values; 1 without any."""
    plain = np.asarray(image, dtype=np.float64)
    positive = plain[plain > 0]
    return float(np.percentile(positive, percentile)) if positive.size else 1.0


def png(figure: Figure, *, dpi: int) -> bytes:
    """The figure as PNG bytes; no date or software text inside, so that bytes repeat."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor(),
        metadata={"Software": None},
    )  # fmt: skip
    return buffer.getvalue()
