"""Figures of an exam as PNG bytes: projections, a panel of all channels, lesion close-ups.

All in radiological display (:mod:`osteosap.reporting.drawing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from osteosap.anatomy import REGIONS
from osteosap.errors import VolumeError
from osteosap.exam import Exam
from osteosap.geometry import Array, Grid
from osteosap.reporting.drawing import (
    AXIAL,
    CORONAL,
    DARK,
    LIGHT,
    SAGITTAL,
    Page,
    draw_contour,
    draw_grey,
    draw_labels,
    mark,
    new_figure,
    png,
    top,
)
from osteosap.reporting.findings import Lesion
from osteosap.volume import Volume

__all__ = [
    "ADC_WINDOW_UM2_PER_S",
    "LESION_COLOUR",
    "b1000_projections",
    "body_box",
    "body_height_mm",
    "display_windows",
    "exam_panel",
    "lesion_close_up",
    "region_colour",
]

ADC_WINDOW_UM2_PER_S = (0.0, 2500.0)
"""Grey window of ADC images."""

LESION_COLOUR = "#e4003a"
"""Colour of lesions where regions are not told apart."""

_UNASSIGNED_COLOUR = "#e6007e"
DPI = 110
_MARGIN_INCHES = 0.45
_TITLE_INCHES = 0.32
_MAX_PROJECTIONS_INCHES = 10.0
_MAX_PANEL_INCHES = 14.0
_ORDER = ("t1", "b1000", "adc")
_BRIGHTEST = {"t1": 99.5, "b1000": 98.0}  # percentiles; the brain would darken all else on b1000
_SPINE = (1, 2, 3)
_Box = tuple[float, float, float, float]
_COLOURS = {region.id: region.colour for region in REGIONS}
_BY_NAME = {region.name: region.colour for region in REGIONS}


def region_colour(name: str) -> str:
    """Colour of a region by name; magenta for ``"unassigned"``."""
    return _BY_NAME.get(name, _UNASSIGNED_COLOUR)


def b1000_projections(
    images: Volume,
    lesions: Array,
    *,
    findings: Sequence[Lesion],
    n_numbered: int = 12,
    height_inches: float = 9.0,
) -> bytes:
    """Coronal and sagittal maximum projections of b1000, lesions coloured by region.

    Parameters
    ----------
    images
        With channel ``b1000``.
    lesions
        Instances, shape of the grid.
    findings
        Measured lesions; they give the colours.
    n_numbered
        The largest so many lesions carry their id.
    height_inches
        Of the figure; less where it would become too wide.

    Returns
    -------
    png
        Inverted grey, as diffusion projections are read.
    """
    b1000, grid = images.channel("b1000"), images.grid
    low, high = body_box(images)
    colours = {x.id: region_colour(x.region) for x in findings}
    largest = sorted(findings, key=lambda x: -x.volume_ml)[:n_numbered]
    pages = [Page(grid, CORONAL), Page(grid, SAGITTAL)]
    boxes = [page.around(low, high) for page in pages]
    scale = _inches_per_mm(boxes, height_inches, _MAX_PROJECTIONS_INCHES)
    limits = [_with_margins(box, _MARGIN_INCHES / scale) for box in boxes]
    widths = [right - left for left, right, _, _ in limits]
    figure = new_figure(sum(widths) * scale, (limits[0][3] - limits[0][2]) * scale, face="white")
    coronal = b1000.max(axis=CORONAL)
    window = (float(np.percentile(coronal, 8.0)), top(coronal, 99.0))
    for page, limit, box in zip(pages, limits, _columns(widths), strict=True):
        axes = figure.add_axes(box)
        grey = b1000.max(axis=page.dropped_axis)
        draw_grey(axes, grey, page, window=window, inverted=True)
        shown = lesions.max(axis=page.dropped_axis)
        draw_labels(axes, shown, page, colours=colours, alpha=0.85)
        axes.set_xlim(limit[0], limit[1])
        axes.set_ylim(limit[2], limit[3])
        mark(axes, page, colour=DARK, bar_mm=_bar_mm(limit))
        _number(axes, page, largest, inches_per_mm=scale)
    return png(figure, dpi=DPI)


def exam_panel(
    exam: Exam,
    *,
    maps: Literal["projected", "slice"] = "projected",
    caption: str = "",
    height_inches: float = 8.0,
) -> bytes:
    """T1, b1000, ADC, skeleton and lesions side by side, coronal, at the plane of the spine.

    What the exam does not have is left out.

    Parameters
    ----------
    exam
        Images and, where known, skeleton and lesion maps on their grid.
    maps
        Show the maps projected along the whole body, or in the plane of the slice only.
    caption
        Short text in the upper left corner: "simulated".
    height_inches
        Of the figure; less where it would become too wide.
    """
    images, grid = exam.images, exam.images.grid
    page = Page(grid, CORONAL)
    plane = spine_plane(exam)
    limit = page.around(*body_box(images))
    windows = display_windows(images)
    suffix = ", projected" if maps == "projected" else ""
    panels: list[tuple[str, str | Volume]] = [(_title(n), n) for n in _ORDER if n in windows]
    panels += [(f"Skeleton{suffix}", exam.skeleton)] if exam.skeleton is not None else []
    panels += [(f"Lesions{suffix}", exam.lesions)] if exam.lesions is not None else []
    scale = _inches_per_mm([limit] * len(panels), height_inches, _MAX_PANEL_INCHES)
    width, height = (limit[1] - limit[0]) * scale, (limit[3] - limit[2]) * scale
    figure = new_figure(width * len(panels), height + _TITLE_INCHES, face="black")
    share = height / (height + _TITLE_INCHES)
    for box, (title, what) in zip(_columns([1.0] * len(panels)), panels, strict=True):
        axes = figure.add_axes((box[0], 0.0, box[2], share))
        if isinstance(what, str):
            slice_ = images.channel(what)[:, plane]
            image = draw_grey(axes, slice_, page, window=windows[what])
            if what == "adc":
                _adc_bar(figure, image, axes)
        else:
            _draw_map(axes, images, what, page, plane=plane if maps == "slice" else None)
        axes.set_xlim(limit[0], limit[1])
        axes.set_ylim(limit[2], limit[3])
        mark(axes, page, colour=LIGHT, bar_mm=_bar_mm(limit))
        middle = (box[0] + box[2] / 2, share + 0.35 * (1 - share))
        figure.text(*middle, title, color=LIGHT, fontsize=11, ha="center")
    figure.text(0.004, share + 0.35 * (1 - share), caption, color=LIGHT, fontsize=9)
    return png(figure, dpi=DPI)


def lesion_close_up(
    images: Volume,
    lesions: Array,
    lesion: Lesion,
    *,
    windows: Mapping[str, tuple[float, float]] | None = None,
    half_width_mm: float = 45.0,
    pane_inches: float = 2.0,
) -> bytes:
    """Axial T1, b1000 and, where known, ADC around one lesion, at its largest slice.

    The lesion's outline is solid, those of other lesions are dashed.

    Parameters
    ----------
    images
        With channels ``t1``, ``b1000`` and perhaps ``adc``.
    lesions
        Instances.
    lesion
        Which one.
    windows
        From :func:`display_windows`, where many close-ups are made of one exam.
    half_width_mm
        From the lesion's centre to the edge of the image; larger for lesions that need it.
    pane_inches
        Edge of one image.
    """
    grid = images.grid
    level, (first, second) = _largest_slice(lesions, lesion, grid)
    page = Page(grid, AXIAL)
    x, y = page.place((first, second, level))
    half = max(half_width_mm, 0.75 * lesion.longest_diameter_mm)
    windows = windows or display_windows(images)
    mask = lesions[:, :, level] == lesion.id
    others = (lesions[:, :, level] != 0) & ~mask
    figure = new_figure(pane_inches * len(windows), pane_inches, face="black")
    for box, (name, window) in zip(_columns([1.0] * len(windows)), windows.items(), strict=True):
        axes = figure.add_axes(box)
        draw_grey(axes, images.channel(name)[:, :, level], page, window=window)
        draw_contour(axes, others, page, colour=LESION_COLOUR, dashed=True)
        draw_contour(axes, mask, page, colour=LESION_COLOUR)
        axes.set_xlim(x - half, x + half)
        axes.set_ylim(y - half, y + half)
        mark(axes, page, colour=LIGHT, bar_mm=20.0)
        style: dict[str, Any] = {"color": LIGHT, "fontsize": 8, "ha": "center", "va": "top"}
        axes.text(0.5, 0.985, _title(name), transform=axes.transAxes, **style)
    return png(figure, dpi=DPI)


def display_windows(images: Volume) -> dict[str, tuple[float, float]]:
    """Grey window of every channel shown, in the order shown."""
    return {
        name: ADC_WINDOW_UM2_PER_S
        if name == "adc"
        else (0.0, top(images.channel(name)[::2, ::2, ::2], _BRIGHTEST[name]))
        for name in _ORDER
        if name in images.channels
    }


def body_height_mm(images: Volume) -> float:
    """Length of the imaged body, head to foot."""
    low, high = body_box(images)
    return (high[2] - low[2] + 1) * images.spacing_mm[2]


def spine_plane(exam: Exam) -> int:
    """Index of the coronal plane with most spine among those that T1 and b1000 both show.

    Without a spine there, the middle of those planes within the body.
    """
    shown = np.ones(exam.images.grid.shape[1], dtype=bool)
    if "b1000" in exam.images.channels:
        share = (exam.images.channel("b1000") != 0).mean(axis=(0, 2))
        shown = share >= 0.5 * share.max()
    if exam.skeleton is not None:
        spine = np.isin(exam.skeleton.array[0], _SPINE).sum(axis=(0, 2)) * shown
        if spine.any():
            return int(spine.argmax())
    low, high = body_box(exam.images)
    inside = np.flatnonzero(shown)
    inside = inside[(inside >= low[1]) & (inside <= high[1])]
    return int(inside[len(inside) // 2]) if inside.size else int((low[1] + high[1]) // 2)


def _draw_map(axes: Any, images: Volume, volume: Volume, page: Page, *, plane: int | None) -> None:
    array = volume.array[0]
    is_lesions = volume.channels[0] == "lesions"
    name = "b1000" if is_lesions else "t1"
    image = images.channel(name)
    if plane is not None:
        grey, labels = image[:, plane], array[:, plane]
        highest = display_windows(images)[name][1]
    else:
        grey = image.max(axis=CORONAL) if is_lesions else image.mean(axis=CORONAL)
        labels, highest = array.max(axis=CORONAL), top(grey, 98.5 if is_lesions else 99.5)
    dimmed = 1.0 if is_lesions else 1.6
    draw_grey(axes, grey, page, window=(0.0, dimmed * highest))
    if is_lesions:
        lesions = np.not_equal(labels, 0)
        draw_labels(axes, lesions, page, colours={1: LESION_COLOUR}, alpha=0.9)
    else:
        draw_labels(axes, labels, page, colours=_COLOURS, alpha=0.75)


def _number(axes: Any, page: Page, lesions: Sequence[Lesion], *, inches_per_mm: float) -> None:
    """Ids in the margins, joined to their lesions by thin lines; ids never overlap."""
    (left, right), (bottom, up) = axes.get_xlim(), axes.get_ylim()
    inverse = np.linalg.inv(page.grid.affine)
    gap = 0.2 / inches_per_mm
    sides: dict[bool, list[tuple[float, float, int]]] = {True: [], False: []}
    for lesion in lesions:
        x, y = page.place((inverse @ [*lesion.centroid_ras_mm, 1.0])[:3])
        sides[x < (left + right) / 2].append((x, y, lesion.id))
    for is_left, items in sides.items():
        items.sort(key=lambda item: item[1])
        # clear of the scale bar below and of the letters above
        levels = _spread([y for _, y, _ in items], gap, bottom + 3 * gap, up - 3 * gap)
        edge = (
            left + 0.055 * (up - bottom) * 0.6 if is_left else right - 0.055 * (up - bottom) * 0.6
        )
        for (x, y, identity), level in zip(items, levels, strict=True):
            axes.plot([edge, x], [level, y], color=DARK, linewidth=0.5, alpha=0.7)
            axes.text(
                edge, level, str(identity), ha="right" if is_left else "left", va="center",
                fontsize=10, color=DARK,
            )  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, up)


def _spread(levels: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted levels pushed apart to at least ``gap``, kept below ``high`` where they fit."""
    spread: list[float] = []
    for level in levels:
        spread.append(max(level, spread[-1] + gap if spread else low))
    ceiling = high
    for i in range(len(spread) - 1, -1, -1):
        spread[i] = min(spread[i], ceiling)
        ceiling = spread[i] - gap
    return spread


def _adc_bar(figure: Any, image: Any, axes: Any) -> None:
    """A bar of greys at the lower right, at the level of the scale bar."""
    box, (_, height) = axes.get_position(original=True), figure.get_size_inches()
    low_end = box.y0 + 0.02 * box.height
    inner = figure.add_axes((box.x0 + 0.56 * box.width, low_end, 0.4 * box.width, 0.06 / height))
    bar = figure.colorbar(image, cax=inner, orientation="horizontal", ticks=[])
    bar.outline.set_edgecolor(LIGHT)
    low, high = ADC_WINDOW_UM2_PER_S
    inner.set_title(f"{low:.0f} to {high:.0f} µm²/s", color=LIGHT, fontsize=8, pad=3)


def _title(name: str) -> str:
    return name if name == "b1000" else name.upper()


def _largest_slice(lesions: Array, lesion: Lesion, grid: Grid) -> tuple[int, tuple[float, float]]:
    """Axial level at which a lesion's area is largest, and the centre (i, j) of that area.

    Looked for around the centroid only: no voxel of a lesion is farther away than its diameter.
    """
    centre = (np.linalg.inv(grid.affine) @ [*lesion.centroid_ras_mm, 1.0])[:3]
    reach = lesion.longest_diameter_mm / np.asarray(grid.spacing_mm) + 1
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.ceil(centre + reach).astype(int) + 1
    mask = lesions[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == lesion.id
    if not mask.any():
        raise VolumeError(
            f"lesion {lesion.id} is not in the lesion map where it was measured",
            remedy="Pass the map that the findings were measured on",
        )
    level = int(mask.sum(axis=(0, 1)).argmax())
    i, j = np.argwhere(mask[:, :, level]).mean(axis=0) + low[:2]
    return int(level + low[2]), (float(i), float(j))


def body_box(images: Volume) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First and last voxel (inclusive) along each axis of what is not air, on T1 or b1000."""
    name = "t1" if "t1" in images.channels else "b1000"
    image = images.channel(name)
    body = np.greater(image, 0.1 * top(image[::2, ::2, ::2], 95.0))
    low, high = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        share = body.mean(axis=others)
        inside = np.flatnonzero(share > 0.02 * share.max())
        low.append(int(inside[0]) if inside.size else 0)
        high.append(int(inside[-1]) if inside.size else image.shape[axis] - 1)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _inches_per_mm(boxes: Sequence[_Box], height_inches: float, width_inches: float) -> float:
    """Scale at which boxes side by side have the height, or the width where that is less."""
    width = sum(right - left for left, right, _, _ in boxes)
    return min(height_inches / (boxes[0][3] - boxes[0][2]), width_inches / width)


def _bar_mm(box: _Box) -> float:
    """Length of the scale bar: 10 cm, or 5 cm where that is more than a third of the width."""
    return 100.0 if box[1] - box[0] > 300.0 else 50.0


def _with_margins(box: _Box, side_mm: float) -> _Box:
    left, right, bottom, up = box
    above = 0.02 * (up - bottom)
    return left - side_mm, right + side_mm, bottom - above, up + above


def _columns(widths: Sequence[float]) -> list[_Box]:
    """Boxes (left, bottom, width, height) of axes side by side over the whole figure."""
    shares = np.asarray(widths, dtype=np.float64) / sum(widths)
    starts = np.cumsum(shares) - shares
    return [(float(x), 0.0, float(w), 1.0) for x, w in zip(starts, shares, strict=True)]
