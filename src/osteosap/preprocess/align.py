"""Station to station: move every T1 station onto its inner neighbour, from the centre outwards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from osteosap.config import StageConfig
from osteosap.errors import VolumeError
from osteosap.geometry import Affine, Grid, covering_box, crop_grid, inside_of, resample
from osteosap.preprocess.body import foreground_threshold
from osteosap.preprocess.rigid import RigidSearch, find_rigid, smoothed
from osteosap.preprocess.stations import StationLayout
from osteosap.volume import Volume

__all__ = ["AlignConfig", "StationMove", "align_stations"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

MIN_VOXELS = 2000
"""Fewest tissue voxels (of the working spacing) in an overlap that is worth a registration."""


class AlignConfig(StageConfig):
    """How the stations of T1 are moved onto each other."""

    enabled: bool = True
    """Align stations."""
    max_shift_mm: float = Field(default=20.0, gt=0)
    """A station that would move further against its neighbour is left where it is."""
    search_mm: float = Field(default=14.0, ge=0)
    """Translations up to this along each axis are tried before the fine search."""
    rotation: bool = False
    """Allow rotation; off, stations are only shifted."""
    metric: Literal["mutual information", "correlation"] = "mutual information"
    """What is maximised in the overlap."""
    spacing_mm: float = Field(default=2.5, gt=0)
    """Voxel at which the overlap is compared."""
    min_overlap_mm: float = Field(default=12.0, gt=0)
    """Stations that overlap by less are not aligned."""


@dataclass(frozen=True)
class StationMove:
    """How one station is moved.

    Parameters
    ----------
    motion
        4x4, RAS mm to RAS mm: the station's new affine is ``motion @ affine``.
    accepted
        Whether a move of its own was found; if not, it moves with its inner neighbour.
    before, after
        Correlation with the inner neighbour in the overlap (NaN where nothing was compared).
    shift_mm
        Length of the move against the inner neighbour, at the middle of the overlap.
    reason
        One sentence for the record.
    """

    motion: Affine
    accepted: bool
    before: float
    after: float
    shift_mm: float
    reason: str


def align_stations(
    volumes: Sequence[Volume],
    layout: StationLayout,
    *,
    config: AlignConfig,
    threads: int | None = 1,
) -> tuple[StationMove, ...]:
    """Move every station onto its inner neighbour, from the central station outwards.

    Nothing is resampled: what comes back moves affines. The central station stays where it is.

    Parameters
    ----------
    volumes
        One channel each, in the layout's station order; of one contrast, bias-corrected if may be.
    layout
        Their order and overlaps.
    config
        Settings.
    threads
        Pairs worked on at once; None: as many as there are cores. The result is the same.

    Returns
    -------
    moves
        One per volume, in the order of ``volumes``.

    References
    ----------
    Ceranka et al. 2023, doi 10.1016/j.cmpb.2023.107811 (mutual information in the overlap)
    """
    order = layout.order
    central = len(order) // 2
    moves: dict[int, StationMove] = {
        order[central]: StationMove(
            np.eye(4), False, float("nan"), float("nan"), 0.0, "the central station stays"
        )
    }
    outwards = [(n - 1, n) for n in range(central + 1, len(order))]
    outwards += [(n + 1, n) for n in range(central - 1, -1, -1)]

    def onto(pair: tuple[int, int]) -> StationMove:
        inner, outer = (volumes[order[n]] for n in pair)
        return _move_onto(inner, outer, layout.overlaps_mm[min(pair)], config=config)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        moved = list(pool.map(onto, outwards))
    for (inner, outer), found in zip(outwards, moved, strict=True):
        carried = moves[order[inner]].motion @ found.motion
        moves[order[outer]] = StationMove(
            carried, found.accepted, found.before, found.after, found.shift_mm, found.reason
        )
    return tuple(moves[n] for n in range(len(volumes)))


def _move_onto(
    inner: Volume, outer: Volume, overlap_mm: float, *, config: AlignConfig
) -> StationMove:
    """The move of the outer station against the inner one, neither moved before."""
    if not config.enabled:
        return _stays("off in the settings")
    if overlap_mm < config.min_overlap_mm:
        return _stays(f"not aligned: {overlap_mm:.0f} mm overlap, {config.min_overlap_mm:g} needed")
    try:
        levels = [foreground_threshold(v.array[0]) for v in (inner, outer)]
    except VolumeError:
        return _stays("not aligned: one of the two stations holds no signal")
    pair = _Overlap.of(inner, outer, levels[0], config)
    there = pair.outer_on(outer.affine)
    both = pair.tissue & (there > levels[1]) & inside_of(outer.grid, pair.grid)
    shown = int(both.sum())
    if shown < MIN_VOXELS:
        return _stays(f"not aligned: {shown} tissue voxels in the overlap, {MIN_VOXELS} needed")
    search = RigidSearch(config.metric, config.rotation, config.search_mm)
    mask = np.asarray(ndimage.binary_dilation(pair.tissue, iterations=2))
    try:
        motion = find_rigid(pair.inner, mask, pair.grid, pair.outer, outer.grid, search=search)
    except RuntimeError:  # of SimpleITK: nothing of the one lies on the other any more
        return _stays("not aligned: the search left the overlap")
    return _judged(pair, outer, mask, np.asarray(np.linalg.inv(motion), np.float64), config)


@dataclass(frozen=True)
class _Overlap:
    """Two stations, smoothed, and the lattice on which their overlap is compared."""

    inner: Floats
    tissue: npt.NDArray[np.bool_]
    grid: Grid
    outer: Floats

    @classmethod
    def of(cls, inner: Volume, outer: Volume, level: float, config: AlignConfig) -> _Overlap:
        grid = _overlap_grid(inner.grid, outer.grid, config)
        sigma_mm = config.spacing_mm / 2
        image = np.asarray(resample(smoothed(inner, sigma_mm), inner.grid, grid), np.float32)
        tissue = (image > level) & inside_of(inner.grid, grid)
        return cls(image, tissue, grid, smoothed(outer, sigma_mm))

    def outer_on(self, affine: Affine) -> Floats:
        """The outer station on the lattice, were this its affine."""
        shape = self.outer.shape
        source = Grid((shape[0], shape[1], shape[2]), affine)
        return np.asarray(resample(self.outer, source, self.grid), np.float32)


def _judged(
    pair: _Overlap,
    outer: Volume,
    mask: npt.NDArray[np.bool_],
    move: Affine,
    config: AlignConfig,
) -> StationMove:
    """The move, or none where the overlap gets no better or the move is too large."""
    moved = np.asarray(move @ outer.affine)
    common = mask & inside_of(outer.grid, pair.grid)
    common &= inside_of(Grid(outer.grid.shape, moved), pair.grid)
    before, after = (
        _correlation(pair.inner[common], pair.outer_on(affine)[common])
        for affine in (outer.affine, moved)
    )
    middle = pair.grid.affine @ np.append((np.asarray(pair.grid.shape) - 1) / 2, 1.0)
    shift = float(np.linalg.norm((move @ middle - middle)[:3]))
    said = f"correlation in the overlap {before:.4f} to {after:.4f}, shift {shift:.1f} mm"
    if shift > config.max_shift_mm:
        said = f"rejected: {said} (limit {config.max_shift_mm:g})"
        return StationMove(np.eye(4), False, before, before, shift, said)
    if not after > before:
        said = f"rejected, the overlap would get no better: {said}"
        return StationMove(np.eye(4), False, before, before, shift, said)
    return StationMove(move, True, before, after, shift, f"accepted: {said}")


def _stays(reason: str) -> StationMove:
    return StationMove(np.eye(4), False, float("nan"), float("nan"), 0.0, reason)


def _overlap_grid(inner: Grid, outer: Grid, config: AlignConfig) -> Grid:
    """Working grid along the inner station's axes over what the outer one may reach."""
    box = covering_box(outer, inner)
    margin = np.ceil(config.search_mm / np.asarray(inner.spacing_mm)).astype(int)
    slices = []
    for s, m, n in zip(box, margin, inner.shape, strict=True):
        start = min(max(s.start - int(m), 0), n - 1)
        slices.append(slice(start, max(min(s.stop + int(m), n), start + 1)))
    return crop_grid(inner, tuple(slices)).with_spacing((config.spacing_mm,) * 3)


def _correlation(a: Numbers, b: Numbers) -> float:
    if a.size < 2 or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
