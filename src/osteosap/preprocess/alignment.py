"""How one DWI station lies to T1: a rigid motion, then a smooth displacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.errors import GeometryError
from osteosap.geometry import Affine, Grid

__all__ = ["DwiAlignment", "Undone"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

ON_FACE = 1e-3
"""Voxels by which a point may miss an outer face and still count as inside."""
SLAB = 16
"""Planes of the target that are interpolated at once."""
UNDO_STEPS = 12
"""Steps of the search for the place that a displacement carries to a voxel ..."""
UNDO_DAMPING = 0.7
"""... of this share of what is missing ..."""
UNDONE_MM = 0.5
"""... which has found it if its last step was shorter."""
UNDO_SPACING_MM = 6.0
"""Voxel on which it is searched."""


@dataclass(frozen=True)
class Undone:
    """Where on T1 the voxels of a DWI grid come from, in C order, and what EPI did to their signal.

    Parameters
    ----------
    points
        (N, 3), RAS mm on T1.
    density
        (N,), factor on the DWI's signal that undoes pile-up, see :meth:`DwiAlignment.density`.
    single
        bool (N,), whether the displacement can be undone there.
    steepness
        (N,), sum of the squares of the displacement's slopes (mm per mm). EPI is displaced by the
        magnetic field, and where that changes within a voxel, signal is lost besides.
    """

    points: npt.NDArray[np.float64]
    density: Floats
    single: npt.NDArray[np.bool_]
    steepness: Floats


@dataclass(frozen=True)
class DwiAlignment:
    """Where one DWI station shows what T1 shows.

    A point x of T1 (RAS mm) is found on the DWI at ``y + displacement(y)`` with ``y = rigid @ x``.

    Parameters
    ----------
    rigid
        4x4, T1 world to DWI world (RAS mm); identity where it was rejected.
    displacement_mm
        float32 (3, I, J, K) on ``displacement_grid``, RAS mm, read linearly and at its border
        continued; None where there is none.
    displacement_grid
        Coarse grid in the DWI's world.
    rigid_accepted, bspline_accepted
        Whether each step was kept.
    before, after_rigid, after
        Mutual information in nats inside the body; NaN where nothing was compared.
    shift_mm
        Largest movement of the body by the rigid motion.
    largest_displacement_mm
        Displacement that 99 % of the body do not exceed.
    reason
        One sentence a step for the record.
    warning
        What a reader should know; empty if nothing.
    """

    rigid: Affine
    displacement_mm: Floats | None = None
    displacement_grid: Grid | None = None
    rigid_accepted: bool = False
    bspline_accepted: bool = False
    before: float = float("nan")
    after_rigid: float = float("nan")
    after: float = float("nan")
    shift_mm: float = 0.0
    largest_displacement_mm: float = 0.0
    reason: str = ""
    warning: str = ""

    def points(self, xyz_mm: Numbers) -> npt.NDArray[np.float64]:
        """Where points (N, 3) of T1 are found on the DWI, RAS mm."""
        places = np.asarray(xyz_mm, np.float64) @ self.rigid[:3, :3].T + self.rigid[:3, 3]
        if self.displacement_mm is None or self.displacement_grid is None:
            return np.asarray(places)
        moves = [self._at(places, d) for d in self.displacement_mm]
        return np.asarray(places + np.stack(moves, axis=1))

    def density(self, xyz_mm: Numbers) -> npt.NDArray[np.float64]:
        """Factor (N,) on the DWI's signal that undoes pile-up, at points (N, 3) of T1.

        Signal is conserved, so that what is squeezed is bright (Chang and Fitzpatrick 1992,
        doi 10.1109/42.158935). Not above 0 where the displacement folds.
        """
        places = np.asarray(xyz_mm, np.float64) @ self.rigid[:3, :3].T + self.rigid[:3, 3]
        if self.displacement_mm is None or self.displacement_grid is None:
            return np.ones(len(places))
        return self._at(places, self._stretch())

    def resample(
        self, array: Numbers, source: Grid, target: Grid, *, order: int = 1, fill: float = 0.0
    ) -> Floats:
        """An array of the station on a grid of T1, interpolated once.

        As with :func:`osteosap.geometry.resample`, the image reaches to the faces of its outer
        voxels.

        Parameters
        ----------
        array
            Shape (I, J, K) on ``source``.
        source, target
            The station's grid; a grid in the world of T1, best a box that the station reaches.
        order
            0 nearest, 1 linear, 3 cubic spline.
        fill
            Value where the DWI does not reach.
        """
        if array.shape != source.shape:
            raise GeometryError(
                f"the array has shape {array.shape}, its grid {source.shape}",
                remedy="Pass the grid that belongs to the array",
            )
        matrix = np.linalg.inv(source.affine) @ self.rigid @ target.affine
        data = array.astype(np.float32, copy=False)
        if order > 0:
            step = np.linalg.norm(matrix[:3, :3], axis=1)
            sigma = 0.5 * np.sqrt(np.maximum(step**2 - 1.0, 0.0))
            if (sigma > 0.05).any():
                data = ndimage.gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
        if order > 1:
            data = ndimage.spline_filter(data, order, output=np.float32, mode="nearest")
        out = np.full(target.shape, fill, np.float32)
        for start in range(0, target.shape[0], SLAB):
            planes = slice(start, min(start + SLAB, target.shape[0]))
            index = self._index_of(source, target, planes, matrix)
            inside = np.ones(index.shape[1:], bool)
            for place, n in zip(index, source.shape, strict=True):
                inside &= (place >= -0.5 - ON_FACE) & (place <= n - 0.5 + ON_FACE)
            if not inside.any():
                continue
            values = ndimage.map_coordinates(
                data, index[:, inside], order=order, mode="nearest", prefilter=False
            )
            out[planes][inside] = values
        return out

    def undone(self, grid: Grid) -> Undone:
        """Where on T1 every voxel of a DWI grid comes from, and what EPI has done to its signal."""
        seen, back = _points(grid), np.linalg.inv(self.rigid)
        place, density = seen, np.ones(len(seen), np.float32)
        single, steepness = np.ones(len(seen), bool), np.zeros(len(seen), np.float32)
        if self.displacement_mm is not None and self.displacement_grid is not None:
            maps = _between(*self._undone_on(_coarser(grid)), grid).reshape(6, -1)
            place = seen + maps[:3].T
            density, single, steepness = maps[3], maps[4] > 0.5, maps[5]
        return Undone(place @ back[:3, :3].T + back[:3, 3], density, single, steepness)

    def _undone_on(self, grid: Grid) -> tuple[Floats, Grid]:
        """Maps (6, I, J, K): the way back (3), density, whether there is a way, steepness."""
        assert self.displacement_mm is not None
        seen = place = _points(grid)
        for _ in range(UNDO_STEPS):
            moves = [
                self._at(place, d) if d.any() else np.zeros(len(seen)) for d in self.displacement_mm
            ]
            step = UNDO_DAMPING * (seen - np.stack(moves, axis=1) - place)
            place = place + step
        single = np.abs(step).max(axis=1) < UNDONE_MM
        density, steepness = (self._at(place, m) for m in (self._stretch(), self._steepness()))
        maps = np.stack([*(place - seen).T, density, single, steepness])
        return np.asarray(maps.reshape(6, *grid.shape), np.float32), grid

    def _at(self, points: npt.NDArray[np.float64], values: Numbers) -> npt.NDArray[np.float64]:
        """Values on the displacement's grid at points (N, 3) of the DWI's world."""
        assert self.displacement_grid is not None
        inverse = np.linalg.inv(self.displacement_grid.affine)
        index = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
        out = ndimage.map_coordinates(values, index, order=1, mode="nearest", output=np.float64)
        return np.asarray(out)

    def _stretch(self) -> npt.NDArray[np.float64]:
        """Volume of a voxel of the displacement's grid once it is displaced, over its own."""
        assert self.displacement_grid is not None
        assert self.displacement_mm is not None
        turn = np.linalg.inv(self.displacement_grid.affine)[:3, :3]
        moves = np.tensordot(turn, self.displacement_mm.astype(np.float64), axes=1)
        slopes = np.stack([np.stack(np.gradient(m)) for m in moves])
        return np.asarray(np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)))

    def _steepness(self) -> npt.NDArray[np.float64]:
        """Sum of the squares of the displacement's slopes, on its grid."""
        assert self.displacement_grid is not None
        assert self.displacement_mm is not None
        spacing = self.displacement_grid.spacing_mm
        slopes = [s for move in self.displacement_mm for s in np.gradient(move, *spacing)]
        return np.asarray(np.square(slopes, dtype=np.float64).sum(axis=0))

    def _index_of(self, source: Grid, target: Grid, planes: slice, matrix: Affine) -> Floats:
        """Source indices (3, n, J, K) of some planes of the target."""
        i, j, k = np.ogrid[planes, : target.shape[1], : target.shape[2]]
        rows = [
            matrix[a, 0] * i + matrix[a, 1] * j + (matrix[a, 2] * k + matrix[a, 3])
            for a in range(3)
        ]
        index = np.stack(rows)
        if self.displacement_mm is None or self.displacement_grid is None:
            return index
        part = target.affine.copy()
        part[:3, 3] += part[:3, 0] * planes.start
        to_coarse = np.linalg.inv(self.displacement_grid.affine) @ self.rigid @ part
        turn = np.linalg.inv(source.affine)[:3, :3]
        moves = np.tensordot(turn, self.displacement_mm, axes=1)
        for axis, move in enumerate(moves):
            if np.abs(move).max() < 1e-6:
                continue
            index[axis] += ndimage.affine_transform(
                move,
                to_coarse[:3, :3],
                offset=to_coarse[:3, 3],
                output_shape=index.shape[1:],
                order=1,
                mode="nearest",
                output=np.float64,
            )
        return index


def _points(grid: Grid) -> npt.NDArray[np.float64]:
    """Centres of the voxels (N, 3), RAS mm, in C order."""
    index = np.indices(grid.shape, dtype=np.float64).reshape(3, -1).T
    return np.asarray(index @ grid.affine[:3, :3].T + grid.affine[:3, 3])


def _coarser(grid: Grid) -> Grid:
    """A grid over the same box, fine enough for a smooth displacement but at its outer faces."""
    i, j, k = (max(float(s), UNDO_SPACING_MM) for s in grid.spacing_mm)
    return grid.with_spacing((i, j, k))


def _between(maps: Floats, coarse: Grid, grid: Grid) -> Floats:
    """Maps (N, I, J, K) of a coarser grid over the same box, linearly on the finer one."""
    matrix = np.linalg.inv(coarse.affine) @ grid.affine
    return np.stack(
        [
            ndimage.affine_transform(
                one,
                np.diag(matrix[:3, :3]),
                offset=matrix[:3, 3],
                output_shape=grid.shape,
                order=1,
                mode="nearest",
            )
            for one in maps
        ]
    )
