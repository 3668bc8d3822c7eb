"""What stations show at the same places: anatomy cancels, and what is left is mostly bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.errors import VolumeError
from osteosap.geometry import Grid
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.body import foreground_threshold, without_saturated
from osteosap.volume import Volume

__all__ = ["Overlap", "find_overlaps"]

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

VOXEL_MM = 8.0
"""Distance of the places that are compared, about."""
SMOOTH_MM = 3.0
"""Sigma of the Gaussian that takes the noise off a station."""
TRUSTED_DENSITY = 0.5, 2.0
"""Pile-up of a place between these is undone; others are not compared."""
MIN_PLACES, MAX_PLACES = 50, 2000
"""Fewest places of an overlap, and most of them, spread evenly."""


@dataclass(frozen=True)
class Overlap:
    """What two stations show at the same places of the body.

    Parameters
    ----------
    stations
        Which two.
    points
        Where the places lie in the world of the one and of the other, (N, 3) in RAS mm.
    log_ratio
        (N,), logarithm of the first one's signal over that of the second.
    """

    stations: tuple[int, int]
    points: tuple[Doubles, Doubles]
    log_ratio: Doubles


def find_overlaps(
    volumes: Sequence[Volume],
    grid: Grid,
    *,
    mask: Mask | None = None,
    ways: Sequence[DwiAlignment] | None = None,
) -> list[Overlap]:
    """Every two stations that show tissue at the same places, with EPI's pile-up undone.

    Parameters
    ----------
    volumes
        Stations, finite; the first channel is read.
    grid, mask
        Places to compare: voxels of a grid, thinned out; only those of a mask if there is one.
    ways
        How every station lies to the grid's world; None: by scanner coordinates.
    """
    if len(volumes) < 2:
        return []
    step = [max(1, round(VOXEL_MM / s)) for s in grid.spacing_mm]
    whole = np.broadcast_to(True, grid.shape) if mask is None else mask
    index = np.argwhere(whole[:: step[0], :: step[1], :: step[2]]) * step
    places = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    ways = [DwiAlignment(np.eye(4))] * len(volumes) if ways is None else ways
    shown = [_shown(volume, way, places) for volume, way in zip(volumes, ways, strict=True)]
    found = []
    for a, b in combinations(range(len(volumes)), 2):
        log_ratio = shown[a][1] - shown[b][1]
        both = np.flatnonzero(np.isfinite(log_ratio))
        if len(both) < MIN_PLACES:
            continue
        some = both[np.linspace(0, len(both) - 1, min(len(both), MAX_PLACES)).astype(np.intp)]
        points = shown[a][0][some], shown[b][0][some]
        found.append(Overlap((a, b), points, log_ratio[some]))
    return found


def _shown(volume: Volume, way: DwiAlignment, places: Doubles) -> tuple[Doubles, Doubles]:
    """Where places (N, 3) are seen on a station, and the logarithm of the signal there.

    NaN where there is no tissue, or pile-up that is not to be trusted.
    """
    points, density = way.points(places), way.density(places)
    inverse = np.linalg.inv(volume.affine)
    index = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
    image = volume.array[0].astype(np.float32)
    try:
        level = foreground_threshold(image)
    except VolumeError:  # no signal there: nothing counts as tissue
        level = float("inf")
    tissue = image > level
    clipped = tissue & ~without_saturated(image, tissue)
    smooth = ndimage.gaussian_filter(image, SMOOTH_MM / np.asarray(volume.spacing_mm))
    signal = ndimage.map_coordinates(smooth, index, order=1, mode="constant", cval=0.0)
    low, high = TRUSTED_DENSITY
    good = (signal > level) & (density > low) & (density < high)
    if clipped.any():
        near = ndimage.binary_dilation(clipped).astype(np.float32)
        good &= ndimage.map_coordinates(near, index, order=1, mode="constant", cval=0.0) == 0
    logs = np.log(np.where(good, signal * density, 1.0), dtype=np.float64)
    return points, np.where(good, logs, np.nan)
