"""Lattices of the scanner: where the body lies, how voxels average it, smooth maps on top.

Everything the scanner does is separable along its axes, so that resampling is three small matrix
products a station. A body that lies turned on the table is first brought to the scanner's axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import diric

from osteosap.geometry import Affine, Grid, make_affine
from osteosap.simulate.scanner.turning import turn
from osteosap.simulate.shapes import Field

__all__ = [
    "Axis",
    "BodySampler",
    "Pose",
    "SmoothMap",
    "averaging",
    "axes_of",
    "covering_grid",
    "sample_axis",
    "zero_filling",
]

Axis = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """How the body lies in the scanner: turned about a point, then moved.

    Parameters
    ----------
    rotation_deg
        Turns about x, y and z (degrees), applied in this order.
    translation_mm
        Move along x, y and z after the turn.
    centre_mm
        The point of the body about which it turns.
    """

    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, rotation_sd_deg: float = 1.5, shift_sd_mm: float = 10.0
    ) -> Pose:
        """Another position on the table: each turn and move normal, cut at two SDs."""
        turns = rotation_sd_deg * np.clip(rng.normal(size=3), -2, 2)
        moves = shift_sd_mm * np.clip(rng.normal(size=3), -2, 2)
        return cls(
            (float(turns[0]), float(turns[1]), float(turns[2])),
            (float(moves[0]), float(moves[1]), float(moves[2])),
        )

    @property
    def affine(self) -> Affine:
        """4x4, body mm to scanner mm (RAS); a truth map's posed affine is ``affine @ its own``."""
        a, b, c = np.deg2rad(self.rotation_deg)
        turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        matrix = np.eye(4)
        matrix[:3, :3] = turn_z @ turn_y @ turn_x
        centre = np.asarray(self.centre_mm)
        matrix[:3, 3] = centre - matrix[:3, :3] @ centre + self.translation_mm
        return matrix

    @property
    def turned(self) -> bool:
        """Whether the body's axes differ from the scanner's."""
        return any(angle != 0.0 for angle in self.rotation_deg)

    def place(self, grid: Grid) -> Grid:
        """The body's grid in the scanner."""
        return Grid(grid.shape, self.affine @ grid.affine)


def covering_grid(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """Axis-aligned grid of a spacing over the box around a grid, turned or not."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape])).reshape(3, -1)
    places = (grid.affine @ np.vstack([corners, np.ones(8)]))[:3]
    lo, hi = places.min(axis=1), places.max(axis=1)
    step = np.asarray(spacing_mm)
    n = np.maximum(1, np.ceil((hi - lo) / step - 1e-6)).astype(int)
    first = lo + step / 2
    affine = make_affine(spacing_mm, (float(first[0]), float(first[1]), float(first[2])))
    return Grid((int(n[0]), int(n[1]), int(n[2])), affine)


def axes_of(grid: Grid) -> list[Axis]:
    """Coordinates (mm) of the voxel centres along each axis of an axis-aligned grid."""
    return [
        grid.affine[d, 3] + grid.affine[d, d] * np.arange(n, dtype=np.float64)
        for d, n in enumerate(grid.shape)
    ]


def averaging(source: Axis, target: Axis, *, source_mm: float, target_mm: float) -> Field:
    """Weights (n_target, n_source) that average a voxelled line over the voxels of another.

    A target voxel takes of each source voxel the share that it overlaps; nothing lies outside the
    source. Where the target is finer than the source, overlaps would only repeat source voxels:
    there the weights are linear interpolation.
    """
    distance = np.abs(target[:, None] - source[None, :])
    if target_mm < 0.99 * source_mm:
        return np.asarray(np.clip(1 - distance / source_mm, 0, None), dtype=np.float32)
    overlap = np.clip((source_mm + target_mm) / 2 - distance, 0, min(source_mm, target_mm))
    return np.asarray(overlap / target_mm, dtype=np.float32)


def zero_filling(n_acquired: int, n_reconstructed: int) -> Field:
    """Matrix (n_reconstructed, n_acquired) of zero-filled k-space over one field of view.

    Both lattices share the outer faces. A scanner that acquires 128 lines and shows 256 does this.
    """
    if n_acquired == n_reconstructed:
        return np.eye(n_acquired, dtype=np.float32)
    x = (np.arange(n_reconstructed) + 0.5) / n_reconstructed
    a = (np.arange(n_acquired) + 0.5) / n_acquired
    angle = 2 * np.pi * (x[:, None] - a[None, :])
    kernel = diric(angle, n_acquired)
    if n_acquired % 2 == 0:  # half of the line at the Nyquist frequency goes to either side
        kernel = kernel * np.cos(angle / 2)
    return np.asarray(kernel, dtype=np.float32)


def sample_axis(array: Field, weights: Field, *, axis: int) -> Field:
    """Apply weights (m, n) along one axis (n) of a 3D array."""
    i, j, k = array.shape
    if axis == 0:
        return np.asarray((weights @ array.reshape(i, -1)).reshape(-1, j, k))
    if axis == 1:
        return np.asarray(np.matmul(weights, array))
    return np.asarray((array.reshape(-1, k) @ weights.T).reshape(i, j, -1))


@dataclass(frozen=True)
class SmoothMap:
    """A smooth quantity on a coarse axis-aligned grid, linear between its points.

    Parameters
    ----------
    values
        float32 (I, J, K).
    grid
        Axis-aligned grid of the values; beyond it the outer values hold.
    """

    values: Field
    grid: Grid

    def on(self, axes: Sequence[npt.NDArray[np.floating]]) -> Field:
        """Values on the lattice spanned by three coordinate vectors (mm)."""
        out = self.values
        order = np.argsort([len(a) / n for a, n in zip(axes, out.shape, strict=True)])
        for d in order:
            out = sample_axis(out, self._weights(np.asarray(axes[d], np.float64), int(d)), axis=d)
        return out

    def _weights(self, x: Axis, d: int) -> Field:
        n = self.grid.shape[d]
        position = (x - self.grid.affine[d, 3]) / self.grid.affine[d, d]
        position = np.clip(position, 0, n - 1)
        distance = np.abs(position[:, None] - np.arange(n)[None, :])
        return np.asarray(np.clip(1 - distance, 0, None), dtype=np.float32)

    def cut(self, lo_mm: float, hi_mm: float) -> SmoothMap:
        """The part between two heights z (mm), with a margin of one point."""
        origin, step = self.grid.affine[2, 3], self.grid.affine[2, 2]
        n = self.grid.shape[2]
        first = int(np.clip(np.floor((lo_mm - origin) / step) - 1, 0, n - 1))
        stop = int(np.clip(np.ceil((hi_mm - origin) / step) + 2, first + 1, n))
        affine = self.grid.affine.copy()
        affine[2, 3] = origin + step * first
        values = self.values[:, :, first:stop]
        return SmoothMap(values, Grid((values.shape[0], values.shape[1], stop - first), affine))


class BodySampler:
    """Reads fields on the body's grid as slabs along the scanner's axes.

    Parameters
    ----------
    grid
        Axis-aligned grid of the body.
    pose
        How the body lies in the scanner.
    """

    def __init__(self, grid: Grid, pose: Pose) -> None:
        self._grid, self._placed, self._turned = grid, pose.place(grid), pose.turned
        self.grid = covering_grid(self._placed, grid.spacing_mm) if self._turned else self._placed
        self.axes = axes_of(self.grid)

    def levels(self, lo_mm: float, hi_mm: float) -> slice:
        """Planes of the slab grid that touch the heights between two z (mm)."""
        half = self.grid.spacing_mm[2] / 2
        z = self.axes[2]
        first = int(np.searchsorted(z, lo_mm - half, side="right"))
        stop = int(np.searchsorted(z, hi_mm + half, side="left"))
        first = min(first, len(z) - 1)
        return slice(first, max(stop, first + 1))

    def slabs(self, fields: Sequence[Field], levels: slice) -> list[Field]:
        """Fields between two planes, along the scanner's axes; zero outside the body's grid."""
        if not self._turned:
            return [field[:, :, levels] for field in fields]
        affine = self.grid.affine.copy()
        affine[2, 3] += affine[2, 2] * levels.start
        matrix = np.linalg.inv(self._placed.affine) @ affine
        shape = (self.grid.shape[0], self.grid.shape[1], levels.stop - levels.start)
        first, last = _reach(matrix, shape, self._grid.shape)
        matrix[2, 3] -= first
        return turn([field[:, :, first:last] for field in fields], matrix, shape)


def _reach(
    matrix: Affine, shape: tuple[int, int, int], source: tuple[int, int, int]
) -> tuple[int, int]:
    """Planes K of the source that a slab reads."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    k = (matrix @ np.vstack([corners, np.ones(8)]))[2]
    first = int(np.clip(np.floor(k.min()) - 1, 0, source[2] - 1))
    return first, int(np.clip(np.ceil(k.max()) + 2, first + 1, source[2]))
