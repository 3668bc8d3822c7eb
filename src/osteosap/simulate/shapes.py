"""Solid shapes as signed distance functions, and the canvas that paints them.

Every shape knows its bounding box and its signed distance (mm, negative inside) at any point,
so that anatomy can be painted at any spacing and only where it is. Distances are exact for
segments and triangles and first-order for ellipsoids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid, make_affine

__all__ = [
    "Box",
    "Boxes",
    "Canvas",
    "Ellipsoid",
    "EllipticCylinder",
    "Field",
    "Lattice",
    "NoiseField",
    "Points",
    "RoundCone",
    "Shape",
    "Triangle",
    "chain",
    "overlap",
    "smooth_min",
]

Points = npt.NDArray[np.float64]
Field = npt.NDArray[np.float32]
Boxes = tuple[slice, slice, slice]
FAR_MM = np.float32(1e3)


class Shape(Protocol):
    """A solid: bounding box (lo, hi) in mm, and signed distance at broadcastable x, y, z."""

    def bounds(self) -> tuple[Points, Points]:
        """Lower and upper corner in mm."""
        ...

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm, negative inside."""
        ...


@dataclass(frozen=True)
class RoundCone:
    """A segment a-b with a radius that runs from ``radius_a`` to ``radius_b`` (mm)."""

    a: Points
    b: Points
    radius_a: float
    radius_b: float

    def bounds(self) -> tuple[Points, Points]:
        """Lower and upper corner in mm."""
        r = max(self.radius_a, self.radius_b)
        return np.minimum(self.a, self.b) - r, np.maximum(self.a, self.b) + r

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm, negative inside."""
        px, py, pz = (v - np.float32(c) for v, c in zip((x, y, z), self.a, strict=True))
        d = (self.b - self.a).astype(np.float32)
        t = np.clip((px * d[0] + py * d[1] + pz * d[2]) / max(float(d @ d), 1e-6), 0, 1)
        radius = np.float32(self.radius_a) + t * np.float32(self.radius_b - self.radius_a)
        q = (px - t * d[0]) ** 2 + (py - t * d[1]) ** 2 + (pz - t * d[2]) ** 2
        return np.asarray(np.sqrt(q) - radius, dtype=np.float32)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; ``rotation`` columns are its axes."""

    centre: Points
    radii: Points
    rotation: Points | None = None

    def bounds(self) -> tuple[Points, Points]:
        """Lower and upper corner in mm."""
        axes = np.eye(3) if self.rotation is None else self.rotation
        reach = np.sqrt(((axes * self.radii) ** 2).sum(axis=1))
        return self.centre - reach, self.centre + reach

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm (first order), negative inside."""
        p = _local(x, y, z, self.centre, self.rotation)
        r = np.asarray(self.radii, dtype=np.float32)
        k0 = np.sqrt(sum((c / s) ** 2 for c, s in zip(p, r, strict=True)))
        k1 = np.sqrt(sum((c / (s * s)) ** 2 for c, s in zip(p, r, strict=True)))
        return np.asarray(k0 * (k0 - 1) / np.maximum(k1, 1e-6), dtype=np.float32)


@dataclass(frozen=True)
class EllipticCylinder:
    """A drum: elliptic section (rx, ry), half height along the third axis, waist in mm."""

    centre: Points
    rotation: Points
    rx: float
    ry: float
    half_height: float
    waist: float = 0.0

    def bounds(self) -> tuple[Points, Points]:
        """Lower and upper corner in mm."""
        half = np.array([self.rx, self.ry, self.half_height])
        reach = np.abs(self.rotation * half).sum(axis=1)
        return self.centre - reach, self.centre + reach

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm, negative inside."""
        u, v, w = _local(x, y, z, self.centre, self.rotation)
        narrow = np.float32(self.waist) * np.clip(1 - (w / np.float32(self.half_height)) ** 2, 0, 1)
        k0 = np.sqrt((u / np.float32(self.rx)) ** 2 + (v / np.float32(self.ry)) ** 2)
        radial = (k0 - 1) * np.float32(min(self.rx, self.ry)) + narrow
        return np.asarray(np.maximum(radial, np.abs(w) - self.half_height), dtype=np.float32)


@dataclass(frozen=True)
class Box:
    """A box with rounded edges; ``half`` are half lengths (mm) along the axes of ``rotation``."""

    centre: Points
    rotation: Points
    half: Points
    rounding: float = 1.0

    def bounds(self) -> tuple[Points, Points]:
        """Lower and upper corner in mm."""
        reach = np.abs(self.rotation * self.half).sum(axis=1)
        return self.centre - reach, self.centre + reach

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm, negative inside."""
        local = _local(x, y, z, self.centre, self.rotation)
        q = [
            np.abs(c) - np.float32(h - self.rounding) for c, h in zip(local, self.half, strict=True)
        ]
        outside = np.sqrt(sum(np.maximum(c, 0) ** 2 for c in q))
        inside = np.minimum(np.maximum(np.maximum(q[0], q[1]), q[2]), 0)
        return np.asarray(outside + inside - np.float32(self.rounding), dtype=np.float32)


@dataclass(frozen=True)
class Triangle:
    """A flat plate: all points within ``half_thickness`` mm of the triangle a, b, c."""

    a: Points
    b: Points
    c: Points
    half_thickness: float

    def bounds(self) -> tuple[Points, Points]:
        """Lower and upper corner in mm."""
        corners = np.stack([self.a, self.b, self.c])
        t = self.half_thickness
        return corners.min(axis=0) - t, corners.max(axis=0) + t

    def distance(self, x: Field, y: Field, z: Field) -> Field:
        """Signed distance in mm, negative inside."""
        ab, ac = self.b - self.a, self.c - self.a
        normal = np.cross(ab, ac)
        p = [v - np.float32(c) for v, c in zip((x, y, z), self.a, strict=True)]
        d00, d01, d11 = float(ab @ ab), float(ab @ ac), float(ac @ ac)
        d20, d21 = _dot(p, ab), _dot(p, ac)
        scale = np.float32(1.0 / (d00 * d11 - d01 * d01))
        v = (np.float32(d11) * d20 - np.float32(d01) * d21) * scale
        w = (np.float32(d00) * d21 - np.float32(d01) * d20) * scale
        flat = np.abs(_dot(p, normal / np.linalg.norm(normal)))
        edges = np.minimum.reduce(
            [
                RoundCone(s, e, 0.0, 0.0).distance(x, y, z)
                for s, e in ((self.a, self.b), (self.b, self.c), (self.c, self.a))
            ]
        )
        over = (v >= 0) & (w >= 0) & (v + w <= 1)
        return np.asarray(np.where(over, flat, edges) - self.half_thickness, dtype=np.float32)


def chain(points: Points, radii: Sequence[float]) -> list[Shape]:
    """Round cones along a polyline (N, 3) with one radius (mm) a point."""
    return [
        RoundCone(points[i], points[i + 1], radii[i], radii[i + 1]) for i in range(len(points) - 1)
    ]


class Canvas:
    """An axis-aligned RAS grid on which shapes are painted inside their bounding boxes.

    Parameters
    ----------
    grid
        Axis-aligned grid with positive spacing.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        spacing, origin = np.array(grid.spacing_mm), grid.affine[:3, 3]
        self.axes = [
            (origin[d] + spacing[d] * np.arange(grid.shape[d])).astype(np.float32) for d in range(3)
        ]
        self._origin, self._spacing = origin, spacing

    def box(self, lo: Points, hi: Points, *, margin: float = 0.0) -> tuple[slice, slice, slice]:
        """Index slices that cover a box in mm; empty slices where it lies outside."""
        first = np.floor((lo - margin - self._origin) / self._spacing).astype(int)
        last = np.ceil((hi + margin - self._origin) / self._spacing).astype(int) + 1
        limits = np.array(self.grid.shape)
        first, last = np.clip(first, 0, limits), np.clip(last, 0, limits)
        i, j, k = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return i, j, k

    def mesh(self, box: tuple[slice, slice, slice]) -> tuple[Field, Field, Field]:
        """Open x, y, z coordinates (mm) of a box, ready to broadcast."""
        x, y, z = (self.axes[d][box[d]] for d in range(3))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def distance(
        self, shapes: Sequence[Shape], *, margin: float = 3.0, blend: float = 0.0
    ) -> tuple[tuple[slice, slice, slice], Field]:
        """Signed distance to the union of shapes inside its bounding box.

        Parameters
        ----------
        shapes
            What to unite.
        margin
            Width (mm) around each shape in which the distance is computed.
        blend
            Radius (mm) of the fillet where shapes meet; 0 leaves edges sharp.

        Returns
        -------
        box, distance
            Index slices and the distances (mm) there; +1000 away from every shape.
        """
        corners = [s.bounds() for s in shapes]
        lo = np.min([c[0] for c in corners], axis=0)
        hi = np.max([c[1] for c in corners], axis=0)
        box = self.box(lo, hi, margin=margin)
        out = np.full([s.stop - s.start for s in box], FAR_MM, dtype=np.float32)
        for shape, (low, high) in zip(shapes, corners, strict=True):
            part = self.box(low, high, margin=margin)
            inner = tuple(
                slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True)
            )
            if any(s.stop <= s.start for s in inner):
                continue
            near = shape.distance(*self.mesh(part))
            out[inner] = (
                smooth_min(out[inner], near, blend) if blend else np.minimum(out[inner], near)
            )
        return box, out


def overlap(a: Boxes, b: Boxes) -> tuple[Boxes, Boxes]:
    """Slices of the common part of two boxes, within the first and within the second."""
    first = [max(p.start, q.start) for p, q in zip(a, b, strict=True)]
    last = [max(min(p.stop, q.stop), f) for p, q, f in zip(a, b, first, strict=True)]
    own = [slice(f - p.start, t - p.start) for f, t, p in zip(first, last, a, strict=True)]
    other = [slice(f - q.start, t - q.start) for f, t, q in zip(first, last, b, strict=True)]
    return (own[0], own[1], own[2]), (other[0], other[1], other[2])


def smooth_min(a: Field, b: Field, blend: float) -> Field:
    """Minimum of two distances (mm) with a fillet of radius ``blend`` mm."""
    k = np.float32(blend)
    h = np.maximum(k - np.abs(a - b), 0)
    return np.asarray(np.minimum(a, b) - h * h / (4 * k), dtype=np.float32)


class Lattice:
    """Samples of a smooth field on a coarse lattice fixed in space, read at any spacing.

    Parameters
    ----------
    lo, hi
        Corners (mm) of the region.
    step_mm
        Distance of lattice points.
    """

    def __init__(self, lo: Points, hi: Points, step_mm: float) -> None:
        n = np.ceil((np.asarray(hi) - lo) / step_mm).astype(int) + 1
        self.canvas = Canvas(
            Grid(
                (int(n[0]), int(n[1]), int(n[2])),
                make_affine((step_mm,) * 3, (float(lo[0]), float(lo[1]), float(lo[2]))),
            )
        )
        self.values = np.full(self.canvas.grid.shape, FAR_MM, dtype=np.float32)

    def on(self, axes: Sequence[npt.NDArray[np.float32]]) -> Field:
        """Trilinear values on the lattice spanned by three coordinate vectors (mm)."""
        out = self.values
        for d in (2, 0, 1):  # rows first: later steps copy whole rows
            own = self.canvas.axes[d]
            at = np.clip((axes[d] - own[0]) / (own[1] - own[0]), 0, len(own) - 1.001)
            low = at.astype(int)
            t = (at - low).astype(np.float32).reshape([-1 if k == d else 1 for k in range(3)])
            below, above = np.take(out, low, axis=d), np.take(out, low + 1, axis=d)
            above -= below
            above *= t
            above += below
            out = above
        return out


class NoiseField:
    """Smooth random field of unit variance, fixed in world space, at any spacing.

    Random values on a coarse lattice, interpolated with cubic B-splines; so the same seed gives
    the same body whatever the voxel size.

    Parameters
    ----------
    rng
        Source of the lattice values.
    wavelength_mm
        Distance of lattice points.
    lo, hi
        Corners (mm) of the region the field must cover.
    """

    def __init__(
        self, rng: np.random.Generator, wavelength_mm: float, lo: Points, hi: Points
    ) -> None:
        self.step = wavelength_mm
        self.origin = np.asarray(lo, dtype=np.float64) - 2 * wavelength_mm
        n = np.ceil((np.asarray(hi) - self.origin) / wavelength_mm).astype(int) + 3
        # The integral of the squared cubic B-spline is 0.479 an axis: 0.479**-1.5 restores unit
        # variance, on average over positions, in three dimensions.
        self.values = (rng.standard_normal(tuple(n)) * 0.479**-1.5).astype(np.float32)

    def on(self, axes: Sequence[npt.NDArray[np.float32]]) -> Field:
        """Values on the lattice spanned by three coordinate vectors (mm); shape (I, J, K)."""
        ni, nj, nk = self.values.shape
        wi, wj, wk = (
            _spline_weights(a, self.origin[d], self.step, self.values.shape[d])
            for d, a in enumerate(axes)
        )
        out = wi @ self.values.reshape(ni, -1)
        out = np.matmul(wj, out.reshape(-1, nj, nk))
        return np.asarray(out.reshape(-1, nk) @ wk.T, dtype=np.float32).reshape(
            len(axes[0]), len(axes[1]), len(axes[2])
        )


def _spline_weights(x: npt.NDArray[np.float32], origin: float, step: float, n: int) -> Field:
    position = (np.asarray(x, dtype=np.float64) - origin) / step
    distance = np.abs(position[:, None] - np.arange(n)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights.astype(np.float32)


def _local(
    x: Field, y: Field, z: Field, centre: Points, rotation: Points | None
) -> tuple[Field, Field, Field]:
    p = [v - np.float32(c) for v, c in zip((x, y, z), centre, strict=True)]
    if rotation is None:
        return p[0], p[1], p[2]
    return _dot(p, rotation[:, 0]), _dot(p, rotation[:, 1]), _dot(p, rotation[:, 2])


def _dot(p: Sequence[Field], v: Points) -> Field:
    return np.asarray(
        p[0] * np.float32(v[0]) + p[1] * np.float32(v[1]) + p[2] * np.float32(v[2]),
        dtype=np.float32,
    )
