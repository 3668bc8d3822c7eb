"""Smooth fields that make neighbouring stations agree where they overlap.

One scale a station leaves what coils and the ends of the magnet do to each of two stations in their
overlap. The smooth part of their log-ratio there is shared out to both, half each, and fades into
the station, so that no step is left and no station is changed far from its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Grid
from osteosap.preprocess.bias import BiasField
from osteosap.preprocess.intensity import overlap_box, overlap_signals, tissue_level
from osteosap.preprocess.stitch import Placed

__all__ = ["evened", "evening_fields"]

Floats = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]

SPACING_MM = 6.0
"""Voxel of the fields."""
SMOOTH_MM = 15.0
"""Sigma of the Gaussian that the log-ratio is smoothed by: no detail of anatomy is evened."""
FADE_MM = 40.0
"""Distance from the overlap at which a field has fallen to half."""
PRIOR = 0.02
"""Share of tissue at which the smoothed log-ratio is held half way to 0."""
MOST = 1.0
"""Log-ratio of a voxel beyond which it is not believed."""


def evening_fields(
    placed: Sequence[Placed], order: Sequence[int], scales: Sequence[float], grid: Grid
) -> list[BiasField]:
    """Field of every station, by which it is to be divided.

    Parameters
    ----------
    placed
        Stations on one grid.
    order
        Their indices along the stacking direction.
    scales
        Factor of every station.
    grid
        The grid they are placed on.
    """
    parts = [_coarse(grid, p.box) for p in placed]
    logs = [np.zeros(part.shape, np.float32) for part in parts]
    levels = [tissue_level(p) for p in placed]
    for a, b in pairwise(order):
        box, both = overlap_box(placed[a], placed[b]), overlap_signals(placed, a, b, levels)
        if box is None or both is None:
            continue
        ratio = _smooth_ratio(*both, grid, _coarse(grid, box))
        shift = np.float32(np.log(scales[a] / scales[b]))
        for station, sign in ((a, 0.5), (b, -0.5)):
            logs[station] += sign * _faded(ratio, shift, parts[station])
    return [BiasField(log, part) for log, part in zip(logs, parts, strict=True)]


def evened(placed: Placed, field: BiasField | None, grid: Grid) -> Placed:
    """A placed station divided by its field."""
    if field is None:
        return placed
    return Placed(placed.array / field.on(_part(grid, placed.box)), placed.weight, placed.start)


def _smooth_ratio(
    first: Floats, second: Floats, tissue: npt.NDArray[np.bool_], grid: Grid, part: Grid
) -> tuple[Floats, Floats, Grid]:
    """Sum and weight of the smoothed log-ratio of two signals on the coarse grid of an overlap."""
    ratio = np.zeros(tissue.shape, np.float32)
    ratio[tissue] = np.log(first[tissue] / second[tissue])
    if tissue.any():
        tissue = tissue & (np.abs(ratio - np.median(ratio[tissue])) < MOST)
    sigma = SMOOTH_MM / np.asarray(grid.spacing_mm)
    pick = tuple(
        slice((n - 1) % s // 2, None, s) for n, s in zip(tissue.shape, _steps(grid), strict=True)
    )
    total, weight = (
        np.asarray(ndimage.gaussian_filter(v.astype(np.float32), sigma, truncate=2.5)[pick])
        for v in (np.where(tissue, ratio, 0), tissue)
    )
    return total, weight, part


def _faded(ratio: tuple[Floats, Floats, Grid], shift: np.float32, part: Grid) -> Floats:
    """Log-ratio of the scaled stations on a station's grid, falling off beside the overlap."""
    total, weight, source = ratio
    values = (total + shift * weight) / (weight + PRIOR)
    matrix = np.linalg.inv(source.affine) @ part.affine
    found = ndimage.affine_transform(
        values.astype(np.float32),
        np.diag(matrix[:3, :3]),
        offset=matrix[:3, 3],
        output_shape=part.shape,
        order=1,
        mode="nearest",
    )
    for axis, n in enumerate(source.shape):
        index = np.arange(part.shape[axis]) * matrix[axis, axis] + matrix[axis, 3]
        beside = np.maximum(np.maximum(-index, index - (n - 1)), 0) * source.spacing_mm[axis]
        shape = [1, 1, 1]
        shape[axis] = -1
        found *= (0.5 ** ((beside / FADE_MM) ** 2)).reshape(shape).astype(np.float32)
    return np.asarray(found, np.float32)


def _steps(grid: Grid) -> list[int]:
    return [max(1, round(SPACING_MM / s)) for s in grid.spacing_mm]


def _part(grid: Grid, box: Box) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([s.start for s in box], np.float64)
    i, j, k = (s.stop - s.start for s in box)
    return Grid((i, j, k), affine)


def _coarse(grid: Grid, box: Box) -> Grid:
    """Every n-th voxel of a box."""
    part = _part(grid, box)
    step = _steps(grid)
    first = np.array([(n - 1) % s // 2 for n, s in zip(part.shape, step, strict=True)])
    affine = part.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    affine[:3, :3] = affine[:3, :3] * step
    i, j, k = (len(range(int(f), n, s)) for f, n, s in zip(first, part.shape, step, strict=True))
    return Grid((i, j, k), affine)
