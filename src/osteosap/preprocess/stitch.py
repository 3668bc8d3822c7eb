"""Feathered stitching of the stations of one channel onto one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Affine, Grid, covering_box, crop_grid, inside_of, resample
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.stations import StationLayout
from osteosap.volume import Volume

__all__ = ["Placed", "blend", "place_station", "place_stations"]

Floats = npt.NDArray[np.float32]

ALIGNED = 0.05
"""A station within this many voxels of the lattice is copied, not interpolated."""
ALONG = 1e-6
"""Voxels by which a station's slice may change along an axis of the grid and still be the same."""


@dataclass(frozen=True)
class Placed:
    """A station on the common grid.

    Parameters
    ----------
    array
        float32, the box of the grid that the station covers.
    weight
        float32, broadcasts to ``array``: distance in mm to the station's end along the stacking
        axis, 0 outside the station.
    start
        First voxel of the box in the grid.
    """

    array: Floats
    weight: Floats
    start: tuple[int, int, int]

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Slices of the box in the grid."""
        i, j, k = (slice(s, s + n) for s, n in zip(self.start, self.array.shape, strict=True))
        return i, j, k


def place_stations(volumes: Sequence[Volume], layout: StationLayout) -> list[Placed]:
    """Put every station (one channel each, in the layout's station order) on the common grid."""
    return [
        place_station(volume, layout.grid, axis=axis)
        for volume, axis in zip(volumes, layout.axes, strict=True)
    ]


def place_station(
    volume: Volume, grid: Grid, *, axis: int = 2, alignment: DwiAlignment | None = None
) -> Placed:
    """Put one station on a grid; copied where its voxels fall on the grid's, else linear.

    Parameters
    ----------
    volume
        One channel.
    grid
        Target.
    axis
        Index axis of the station along which the stations are stacked.
    alignment
        From the grid's world to the station's; None where both are one.
    """
    array = volume.array[0].astype(np.float32, copy=False)
    if alignment is not None:
        return _place_through(array, volume, grid, axis=axis, alignment=alignment)
    matrix = np.linalg.inv(grid.affine) @ volume.affine
    offset = matrix[:3, 3]
    start = np.rint(offset).astype(int)
    moved = matrix @ np.append(np.asarray(array.shape) - 1.0, 1.0)
    wanted = start + np.asarray(array.shape) - 1
    aligned = (
        np.abs(offset - start).max() < ALIGNED
        and np.abs(moved[:3] - wanted).max() < ALIGNED
        and np.abs(matrix[:3, :3] - np.eye(3)).max() < ALIGNED
        and bool((start >= 0).all())
        and bool((wanted < grid.shape).all())
    )
    if aligned:
        n = array.shape[axis]
        profile = _feather(np.arange(n, dtype=np.float64), n) * volume.spacing_mm[axis]
        shape = [1, 1, 1]
        shape[axis] = n
        weight = profile.reshape(shape).astype(np.float32)
        return Placed(array, weight, (int(start[0]), int(start[1]), int(start[2])))
    return _interpolate(array, volume, grid, axis)


def blend(
    placed: Sequence[Placed], shape: tuple[int, int, int], *, scales: Sequence[float] | None = None
) -> Floats:
    """Weighted mean of placed stations.

    Parameters
    ----------
    placed
        Stations on one grid.
    shape
        Of that grid.
    scales
        Factor of every station; None means 1.

    Returns
    -------
    array
        float32; 0 where no station reaches.
    """
    factors = [1.0] * len(placed) if scales is None else list(scales)
    if len(placed) == 1 and placed[0].array.shape == shape and placed[0].weight.all():
        only = placed[0].array
        return only if factors[0] == 1.0 else only * np.float32(factors[0])
    total = np.zeros(shape, np.float32)
    weights = np.zeros(shape, np.float32)
    for station, factor in zip(placed, factors, strict=True):
        total[station.box] += station.array * (station.weight * np.float32(factor))
        weights[station.box] += station.weight
    np.divide(total, weights, out=total, where=weights > 0)
    total[weights == 0] = 0.0
    return total


def _feather(position: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.float64]:
    """Slices to the nearer outer face of a station of ``n`` slices; 0 outside."""
    return np.maximum(np.minimum(position + 0.5, n - 0.5 - position), 0.0)


def _interpolate(array: Floats, volume: Volume, grid: Grid, axis: int) -> Placed:
    box = covering_box(volume.grid, grid)
    part = crop_grid(grid, box)
    values = np.asarray(resample(array, volume.grid, part), np.float32)
    start = (box[0].start, box[1].start, box[2].start)
    return Placed(values, _weight_on(part, volume, axis), start)


def _place_through(
    array: Floats, volume: Volume, grid: Grid, *, axis: int, alignment: DwiAlignment
) -> Placed:
    """Interpolate once through an alignment, in the box that the station reaches."""
    moved = Volume(volume.array, np.linalg.inv(alignment.rigid) @ volume.affine, volume.channels)
    box = covering_box(moved.grid, grid)
    part = crop_grid(grid, box)
    values = alignment.resample(array, volume.grid, part)
    start = (box[0].start, box[1].start, box[2].start)
    return Placed(values, _weight_on(part, moved, axis), start)


def _weight_on(part: Grid, volume: Volume, axis: int) -> Floats:
    """Feather weights of a station on a grid of any orientation, 0 outside the station."""
    matrix: Affine = np.linalg.inv(volume.affine) @ part.affine
    place: npt.NDArray[np.float64] = np.full((1, 1, 1), matrix[axis, 3])
    for c, n in enumerate(part.shape):
        if abs(matrix[axis, c]) * n > ALONG:  # else the station's slices are those of the grid
            shape = [1, 1, 1]
            shape[c] = n
            place = place + (matrix[axis, c] * np.arange(n, dtype=np.float64)).reshape(shape)
    weight = _feather(place, volume.array.shape[1 + axis]) * volume.spacing_mm[axis]
    return np.asarray(weight * inside_of(volume.grid, part), np.float32)
