"""Divide the slices of one contrast into stations (bed positions), from headers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from osteosap.dicom.headers import ImageHeader
from osteosap.errors import StudyError

__all__ = [
    "Box",
    "axes_of",
    "box_of",
    "check_spacing",
    "overlap_fraction",
    "positions_of",
    "split_stations",
]

SAME_POSITION_MM = 0.05
"""Slices closer than this lie at one position."""
SPACING_TOLERANCE = 0.05
"""Part of the slice distance by which single distances may deviate."""
IN_PLANE_TOLERANCE_MM = 1.0
STATION_OVERLAP = 0.5
"""Parts that share more than this fraction of the smaller one are no neighbouring stations."""

Slices = tuple[ImageHeader, ...]
_LEAST_SLICES = 3


@dataclass(frozen=True)
class Box:
    """Box in mm, its sides along the LPS axes or along other axes through the same origin."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def positions_of(headers: Sequence[ImageHeader]) -> npt.NDArray[np.float64]:
    """Place of each slice along the slice normal in mm, shape (N,)."""
    orientation = np.asarray(headers[0].orientation_lps, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray([h.position_lps_mm for h in headers], dtype=np.float64) @ normal


def box_of(headers: Sequence[ImageHeader], *, axes: npt.NDArray[np.float64] | None = None) -> Box:
    """Box around all pixel centres of the slices, along LPS or the columns of ``axes`` (3, 3)."""
    corners = []
    for header in headers:
        origin = np.asarray(header.position_lps_mm)
        orientation = np.asarray(header.orientation_lps)
        across = orientation[:3] * header.pixel_spacing_mm[1] * (header.columns - 1)
        down = orientation[3:] * header.pixel_spacing_mm[0] * (header.rows - 1)
        corners += [origin, origin + across, origin + down, origin + across + down]
    points = np.asarray(corners) if axes is None else np.asarray(corners) @ axes
    return Box(points.min(axis=0), points.max(axis=0))


def axes_of(headers: Sequence[ImageHeader]) -> npt.NDArray[np.float64]:
    """Columns: along the rows, down the columns, along the slice normal; unit vectors in LPS."""
    orientation = np.asarray(headers[0].orientation_lps, dtype=np.float64)
    right, down = orientation[:3], orientation[3:]
    return np.column_stack((right, down, np.cross(right, down)))


def overlap_fraction(first: Box, second: Box) -> float:
    """Shared volume over the smaller box's volume, in 0..1; both boxes along the same axes.

    Boxes along LPS around oblique neighbours overlap much more than the neighbours do: take the
    axes of one of them (:func:`axes_of`).
    """
    shared = np.minimum(first.high, second.high) - np.maximum(first.low, second.low)
    smaller = min(float(np.prod(np.maximum(b.high - b.low, 1e-3))) for b in (first, second))
    return float(np.prod(np.maximum(shared, 0.0))) / smaller


def split_stations(headers: Sequence[ImageHeader]) -> tuple[Slices, ...]:
    """Divide slices of one contrast and one b-value into stations, from head to foot.

    Slices on different lattices in the plane are different stations. Along the normal the
    scanner's own marks decide (enhanced file, table position, frame of reference, acquisition
    number), where they leave evenly spaced stacks that are neighbours; then the order of the
    images.
    """
    stations = [s for lattice in _lattices(headers) for s in _split_along(lattice)]
    return tuple(sorted(stations, key=lambda s: -float(box_of(s).high[2])))


def check_spacing(headers: Sequence[ImageHeader], *, what: str) -> None:
    """Raise :class:`StudyError` where slices are missing or unevenly spaced."""
    unique, _ = _unique(positions_of(headers))
    if len(unique) < 2:
        raise StudyError(
            f"{what} has {len(unique)} slice position in one station, expected at least 2",
            remedy="Export the whole series again",
        )
    gaps = np.diff(unique)
    step = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - step)))
    if abs(gaps[worst] - step) <= _tolerance(step):
        return
    missing = round(float(gaps[worst]) / step) - 1
    kind = f"{missing} missing" if missing > 0 else "uneven"
    raise StudyError(
        f"{what}: the slices at {unique[worst]:.1f} and {unique[worst + 1]:.1f} mm along the stack "
        f"are {gaps[worst]:.2f} mm apart, expected {step:.2f} mm ({kind})",
        remedy="Export or copy the series again with all its slices",
    )


def _tolerance(step: float) -> float:
    return max(SAME_POSITION_MM, SPACING_TOLERANCE * step)


def _unique(positions: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Positions in rising order without repeats, and how often each occurs."""
    ordered = np.sort(positions)
    starts = np.flatnonzero(np.r_[True, np.diff(ordered) > SAME_POSITION_MM])
    counts = np.diff(np.r_[starts, len(ordered)])
    return ordered[starts], [int(c) for c in counts]


def _is_stack(headers: Sequence[ImageHeader]) -> bool:
    """Whether the slices are evenly spaced, with equally many images at each position."""
    unique, counts = _unique(positions_of(headers))
    if len(unique) < _LEAST_SLICES or len(set(counts)) > 1:
        return False
    gaps = np.diff(unique)
    step = float(np.median(gaps))
    return bool(np.abs(gaps - step).max() <= _tolerance(step))


def _lattices(headers: Sequence[ImageHeader]) -> list[Slices]:
    """Group slices whose pixel lattices continue one another along the normal."""
    groups: list[list[ImageHeader]] = []
    keys: list[npt.NDArray[np.float64]] = []
    limits = np.asarray([1e-3] * 6 + [0.5, 0.5, 1e-3, 1e-3] + [IN_PLANE_TOLERANCE_MM] * 2)
    for header in headers:
        orientation = np.asarray(header.orientation_lps)
        origin = np.asarray(header.position_lps_mm)
        in_plane = (origin @ orientation[:3], origin @ orientation[3:])
        shape = (header.rows, header.columns, *header.pixel_spacing_mm)
        key = np.asarray((*orientation, *shape, *in_plane))
        for group, other in zip(groups, keys, strict=True):
            if (np.abs(key - other) <= limits).all():
                group.append(header)
                break
        else:
            groups.append([header])
            keys.append(key)
    return [tuple(g) for g in groups]


def _split_along(headers: Slices) -> list[Slices]:
    marks: tuple[Callable[[ImageHeader], object], ...] = (
        lambda h: None if h.frame is None else h.path,
        lambda h: h.table_position,
        lambda h: h.frame_of_reference,
        lambda h: h.acquisition_number,
    )
    proposals = [_by_mark(headers, mark) for mark in marks]
    for proposal in proposals:
        if _are_stations(proposal) and all(_is_stack(p) for p in proposal):
            return proposal
    if _is_stack(headers):
        return [headers]
    walked = _by_order(headers)
    if _are_stations(walked) and all(_is_stack(p) for p in walked):
        return walked
    # An incomplete stack: keep the scanner's stations so that the gap is reported where it is.
    for proposal in (*proposals, walked):
        if _are_stations(proposal) and min(len(p) for p in proposal) >= _LEAST_SLICES:
            return proposal
    return [headers]


def _by_mark(headers: Slices, mark: Callable[[ImageHeader], object]) -> list[Slices]:
    groups: dict[object, list[ImageHeader]] = {}
    for header in headers:
        groups.setdefault(mark(header), []).append(header)
    return [tuple(g) for g in groups.values()]


def _by_order(headers: Slices) -> list[Slices]:
    """Start a new station wherever the table jumps back in the order of the images."""
    ordered = sorted(headers, key=lambda h: h.order)
    steps = np.diff(positions_of(ordered))
    moves = steps[np.abs(steps) > SAME_POSITION_MM]
    forward = np.sign(np.median(moves)) if len(moves) else 1.0
    backwards = np.flatnonzero(steps * forward < -SAME_POSITION_MM)
    breaks = [0, *(int(i) + 1 for i in backwards), len(ordered)]
    return [tuple(ordered[a:b]) for a, b in pairwise(breaks)]


def _are_stations(parts: Sequence[Slices]) -> bool:
    """Whether parts lie beside one another, with little overlap."""
    if len(parts) < 2:
        return False
    axes = axes_of(parts[0])
    boxes = [box_of(p, axes=axes) for p in parts]
    return all(
        overlap_fraction(a, b) <= STATION_OVERLAP
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
    )
