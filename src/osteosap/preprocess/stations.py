"""How stations lie in space: their order, gaps and overlaps, and one grid for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.errors import GeometryError
from osteosap.geometry import Affine, Grid, make_affine

__all__ = ["StationLayout", "join_stations", "lay_out", "reach_mm", "span_lost"]

MAX_GAP_SLICES = 0.5
"""Gaps up to this share of a slice are rounding of positions, not missing anatomy."""


@dataclass(frozen=True)
class StationLayout:
    """Stations of one examination in order, and the grid that covers them all.

    Parameters
    ----------
    grid
        Covers every station.
    order
        Indices of the stations along the stacking direction.
    axes
        For each station, its index axis that runs along the stacking direction.
    overlaps_mm
        Between neighbours in ``order``, length ``n - 1``; 0 where they just touch.
    method
        How the grid came about: "single station", "common lattice" (no interpolation along
        aligned stations) or "axis-aligned" (everything is resampled).
    """

    grid: Grid
    order: tuple[int, ...]
    axes: tuple[int, ...]
    overlaps_mm: tuple[float, ...]
    method: str


def lay_out(grids: Sequence[Grid]) -> StationLayout:
    """Order stations, check that none is missing between two, and find one grid for them.

    Stations of equal orientation and spacing get the lattice of the central one, so that those
    an integral number of voxels away are copied and not interpolated. Others get an axis-aligned
    RAS grid with the finest spacing of all.

    Parameters
    ----------
    grids
        One per station, at least one, in any order.

    Raises
    ------
    GeometryError
        There is a gap between two stations.
    """
    if len(grids) == 1:
        return StationLayout(grids[0], (0,), (2,), (), "single station")
    centres = np.stack([_centre(g) for g in grids])
    direction = _stacking_direction(centres)
    axes = tuple(_axis_along(g, direction) for g in grids)
    order = tuple(int(i) for i in np.argsort(centres @ direction, kind="stable"))
    central = order[len(order) // 2]
    normal = grids[central].affine[:3, axes[central]] / grids[central].spacing_mm[axes[central]]
    normal = normal * np.sign(normal @ direction)
    overlaps = _overlaps(grids, order, axes, normal)
    reference = grids[central]
    if all(np.allclose(g.affine[:3, :3], reference.affine[:3, :3], atol=1e-3) for g in grids):
        grid, method = _cover(grids, reference.affine), "common lattice"
    else:
        spacing = np.min([_axis_spacing(g) for g in grids], axis=0)
        affine = make_affine((float(spacing[0]), float(spacing[1]), float(spacing[2])), (0, 0, 0))
        grid, method = _cover(grids, affine, snap=False), "axis-aligned"
    return StationLayout(grid, order, axes, overlaps, method)


def join_stations(chosen: Sequence[Grid], others: Sequence[Grid]) -> tuple[list[int], list[int]]:
    """Which further stations complete those chosen.

    A station joins if more than half of its extent from foot to head is new and no gap parts it
    from the others; joined stations carry further ones.

    Returns
    -------
    joined, apart
        Indices into ``others``: to be added, in this order; new, but with a gap in between.
    """
    grids, joined, pending = list(chosen), list[int](), list(range(len(others)))
    while True:
        pending = [n for n in pending if n not in joined and _new_share(others[n], grids) > 0.5]
        found = next((n for n in pending if _is_gapless([*grids, others[n]])), None)
        if found is None:
            return joined, pending
        joined.append(found)
        grids.append(others[found])


def span_lost(used: Sequence[Grid], lost: Sequence[Grid]) -> float:
    """Share of the extent of all stations along S that only the lost ones show."""
    low, high = np.transpose([_span(g) for g in (*used, *lost)])
    levels = np.linspace(low.min(), high.max(), 1001)
    have, had = _within(levels, used), _within(levels, [*used, *lost])
    return float((had & ~have).sum() / had.sum())


def reach_mm(grids: Sequence[Grid]) -> float:
    """From the lowest to the highest face of all stations, along S."""
    low, high = np.transpose([_span(g) for g in grids])
    return round(float(high.max() - low.min()), 1)


def _is_gapless(grids: Sequence[Grid]) -> bool:
    try:
        lay_out(grids)
    except GeometryError:
        return False
    return True


def _new_share(grid: Grid, chosen: Sequence[Grid]) -> float:
    levels = np.linspace(*_span(grid), 101)
    return float(1.0 - _within(levels, chosen).mean())


def _within(levels: npt.NDArray[np.float64], grids: Sequence[Grid]) -> npt.NDArray[np.bool_]:
    spans = [_span(g) for g in grids]
    within = [(levels >= low) & (levels <= high) for low, high in spans]
    return np.asarray(np.any(within, axis=0), dtype=np.bool_)


def _span(grid: Grid) -> tuple[float, float]:
    """Lower and upper face along S, in mm."""
    height = _corners(grid)[:, 2]
    return float(height.min()), float(height.max())


def _corners(
    grid: Grid, to_index: npt.NDArray[np.floating[Any]] | None = None
) -> npt.NDArray[np.float64]:
    """Outer corners (8, 3) of the box of a grid, in mm or in another grid's indices."""
    ends = [(-0.5, n - 0.5) for n in grid.shape]
    corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
    matrix = grid.affine if to_index is None else to_index @ grid.affine
    return np.asarray((matrix[:3, :3] @ corners + matrix[:3, 3:]).T, dtype=np.float64)


def _centre(grid: Grid) -> npt.NDArray[np.float64]:
    return np.asarray(_corners(grid).mean(axis=0), dtype=np.float64)


def _stacking_direction(centres: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Unit vector, mainly towards +R, +A or +S, along which the centres spread."""
    spread = centres - centres.mean(axis=0)
    if np.abs(spread).max() < 1e-3:
        return np.array([0.0, 0.0, 1.0])
    direction = np.linalg.svd(spread, full_matrices=False)[2][0]
    return np.asarray(direction * np.sign(direction[np.abs(direction).argmax()]))


def _axis_along(grid: Grid, direction: npt.NDArray[np.float64]) -> int:
    cosines = (grid.affine[:3, :3] / grid.spacing_mm).T @ direction
    return int(np.abs(cosines).argmax())


def _axis_spacing(grid: Grid) -> npt.NDArray[np.float64]:
    """Spacing of a grid along the world axes: that of the index axis nearest to each."""
    nearest: npt.NDArray[np.intp] = np.abs(grid.affine[:3, :3] / grid.spacing_mm).argmax(axis=1)
    return np.asarray(np.asarray(grid.spacing_mm)[nearest], dtype=np.float64)


def _overlaps(
    grids: Sequence[Grid],
    order: Sequence[int],
    axes: Sequence[int],
    normal: npt.NDArray[np.float64],
) -> tuple[float, ...]:
    extents = [(_corners(grids[i]) @ normal, grids[i].spacing_mm[axes[i]]) for i in order]
    overlaps = []
    reached = float(extents[0][0].max())
    for (_, spacing_a), (corners, spacing_b) in pairwise(extents):
        overlap = reached - float(corners.min())
        if overlap < -MAX_GAP_SLICES * min(spacing_a, spacing_b):
            raise GeometryError(
                f"a gap of {-overlap:.1f} mm between two stations, "
                "expected them to overlap or touch",
                remedy="Add the missing station to the study, or run the parts separately",
            )
        overlaps.append(max(overlap, 0.0))
        reached = max(reached, float(corners.max()))
    return tuple(overlaps)


def _cover(grids: Sequence[Grid], lattice: Affine, *, snap: bool = True) -> Grid:
    """Smallest grid on a lattice that covers the boxes of all grids."""
    inverse = np.linalg.inv(lattice)
    corners = np.concatenate([_corners(g, inverse) for g in grids])
    low, high = corners.min(axis=0) + 0.5, corners.max(axis=0) - 0.5
    if snap:  # the lattice's voxels whose centres lie between the outer faces
        low, high = np.ceil(low - 0.5), np.floor(high + 0.5)
    shape = np.ceil(high - low - 1e-3).astype(int) + 1
    affine = lattice.copy()
    affine[:3, 3] = lattice[:3, 3] + lattice[:3, :3] @ low
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
