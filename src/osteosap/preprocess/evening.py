"""Smooth fields that make neighbouring stations agree where they overlap.

One scale a station leaves what coils and the ends of the magnet do to each of two stations in their
overlap. The smooth part of their log-ratio there is taken off both, each by as much as the other
counts when the two are blended: at its end, where a station is worst, it follows its neighbour.
The blend stays what it is, but for a mean of logarithms in place of a mean; what two stations still
differ by is detail, of movement or distortion. (Where three stations overlap, it is not all gone.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Grid
from osteosap.preprocess.bias_field import BiasField
from osteosap.preprocess.intensity import overlap_box, overlap_signals, tissue_level
from osteosap.preprocess.stitch import Placed

__all__ = ["evened", "evening_fields"]

Floats = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]

SPACING_MM = 4.0
"""Voxel of the fields."""
SMOOTH_MM = 4.0
"""Sigma of the Gaussian that the log-ratio is smoothed by, a voxel of DWI: what of a difference
counts as smooth, and not as detail or noise."""
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
        for one, other, sign in ((a, b, 1.0), (b, a, -1.0)):
            share = _share_of_other(placed[one], placed[other], grid)
            logs[one] += np.float32(sign) * share * _on(parts[one], ratio, shift)
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
    pick = tuple(slice(f, None, n) for f, n in zip(*_picked(tissue.shape, grid), strict=True))
    total, weight = (
        np.asarray(ndimage.gaussian_filter(v.astype(np.float32), sigma, truncate=2.5)[pick])
        for v in (np.where(tissue, ratio, 0), tissue)
    )
    return total, weight, part


def _on(part: Grid, ratio: tuple[Floats, Floats, Grid], shift: np.float32) -> Floats:
    """Log-ratio of the scaled stations on a station's grid; beside the overlap its edge holds."""
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
    return np.asarray(found, np.float32)


def _share_of_other(one: Placed, other: Placed, grid: Grid) -> Floats:
    """Share that another station has in the blend, on a station's coarse grid.

    Where neither counts, beside the body, it is that of the nearest voxel where one does.
    """
    first, step = _picked(one.array.shape, grid)
    index = [np.arange(f, n, s) for f, n, s in zip(first, one.array.shape, step, strict=True)]
    own = np.broadcast_to(one.weight, one.array.shape)[np.ix_(*index)]
    theirs = np.zeros(own.shape, np.float32)
    places = [i + a - b for i, a, b in zip(index, one.start, other.start, strict=True)]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, other.array.shape, strict=True)]
    reached = [p[i] for p, i in zip(places, inside, strict=True)]
    whole = np.broadcast_to(other.weight, other.array.shape)
    theirs[np.ix_(*inside)] = whole[np.ix_(*reached)]
    total = own + theirs
    share = np.divide(theirs, total, out=np.zeros_like(total), where=total > 0)
    if (total > 0).all() or not total.any():
        return np.asarray(share)
    nearest = ndimage.distance_transform_edt(
        total == 0,
        sampling=np.asarray(grid.spacing_mm) * step,
        return_distances=False,
        return_indices=True,
    )
    return np.asarray(share[tuple(nearest)])


def _steps(grid: Grid) -> list[int]:
    return [max(1, round(SPACING_MM / s)) for s in grid.spacing_mm]


def _part(grid: Grid, box: Box) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([s.start for s in box], np.float64)
    i, j, k = (s.stop - s.start for s in box)
    return Grid((i, j, k), affine)


def _picked(shape: tuple[int, ...], grid: Grid) -> tuple[list[int], list[int]]:
    """First voxel and step along every axis by which a box of the grid is thinned out."""
    step = _steps(grid)
    return [(n - 1) % s // 2 for n, s in zip(shape, step, strict=True)], step


def _coarse(grid: Grid, box: Box) -> Grid:
    """Every n-th voxel of a box."""
    part = _part(grid, box)
    first, step = _picked(part.shape, grid)
    affine = part.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(first)
    affine[:3, :3] = affine[:3, :3] * step
    i, j, k = (len(range(f, n, s)) for f, n, s in zip(first, part.shape, step, strict=True))
    return Grid((i, j, k), affine)
