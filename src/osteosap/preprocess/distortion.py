"""Distortion of echo-planar images: a smooth displacement along one axis, by mutual information.

SimpleITK's B-spline registration knows neither one direction alone nor a price for bending; with
one direction a voxel stays on its line, and the whole search is a few array operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize, sparse

from osteosap.preprocess.information import BINS, information_and_slope, to_bins

__all__ = ["DistortionSearch", "Level", "evened", "find_distortion", "spline_basis", "unfolded"]

Numbers = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEAST_STRETCH = 0.1
"""Least length of a displaced voxel, as a share of its own."""


@dataclass(frozen=True)
class Level:
    """One level of the search.

    Parameters
    ----------
    distance_mm
        Of the control points.
    smooth_mm
        FWHM-like width of the smoothing of both images: twice the sigma of a Gaussian.
    keep
        Every how many-th voxel of the mask is looked at.
    """

    distance_mm: float
    smooth_mm: float
    keep: int = 1


@dataclass(frozen=True)
class DistortionSearch:
    """How to search.

    Parameters
    ----------
    spacing_mm
        Of the voxels along the three axes.
    axis
        Index axis along which voxels are displaced.
    stiffness
        Price of bending in nats: times the mean square of the second differences (mm) of
        neighbouring control points.
    max_mm
        Bound of the displacement of control points.
    iterations
        Most steps of the optimiser.
    """

    spacing_mm: tuple[float, float, float]
    axis: int
    stiffness: float
    max_mm: float
    iterations: int


def find_distortion(
    fixed: Numbers,
    mask: Mask,
    moving: Numbers,
    *,
    level: Level,
    search: DistortionSearch,
    start: Doubles | None = None,
    pattern: Doubles | None = None,
) -> Doubles:
    """Displacement that makes two images on one grid share most information.

    Parameters
    ----------
    fixed, moving
        Shape (I, J, K).
    mask
        Voxels of ``fixed`` that count.
    start
        Displacement in mm to start from, (I, J, K); what is found is added.
    pattern
        Displacement in mm, (I, J, K), a multiple of which costs nothing.

    Returns
    -------
    displacement
        In mm, (I, J, K): a voxel of ``fixed`` is found so far along the axis on ``moving``.

    References
    ----------
    Mattes et al. 2003, doi 10.1109/TMI.2003.809072 (information, B-splines); the rest is ours
    """
    problem = _Problem(fixed, mask, moving, level, search)
    problem.start = np.zeros(fixed.shape) if start is None else start
    if pattern is not None:
        problem.pattern = pattern
    return problem.solve()


def evened(image: Numbers, mask: Mask) -> npt.NDArray[np.float32]:
    """The image with its histogram inside a mask made even, 0 to 1.

    A diffusion image has fluid many times brighter than marrow, which bins of equal width would
    put into one.
    """
    share = np.linspace(0, 1, 101)
    values, first = np.unique(np.quantile(image[mask], share), return_index=True)
    return np.interp(image, values, share[first]).astype(np.float32)


def spline_basis(n: int, spacing: float, distance: float) -> Doubles:
    """Cubic B-splines (n, control points) on a line of voxels, at most ``distance`` apart."""
    length = (n - 1) * spacing
    cells = max(1, int(np.ceil(length / distance)))
    place = np.linspace(0, cells, n) if n > 1 else np.zeros(1)
    t = np.abs(place[:, None] - np.arange(-1, cells + 2)[None, :])
    inner, outer = 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6
    return np.asarray(np.where(t < 1, inner, outer))


def unfolded(displacement: Doubles, step_mm: float, *, axis: int) -> tuple[Doubles, float]:
    """A displacement along an axis under which no two voxels of a line change places.

    Where they would, they are put between the furthest place reached before them and the nearest
    one reached after them; elsewhere nothing changes.

    Parameters
    ----------
    displacement
        (I, J, K) in mm.

    Returns
    -------
    displacement, folded
        A voxel keeps at least ``LEAST_STRETCH`` of its length; share of voxels that had less.
    """
    lines = np.moveaxis(displacement, axis, -1)
    n = lines.shape[-1]
    place = lines + np.arange(n) * (step_mm * (1 - LEAST_STRETCH))
    folded = float((np.diff(place, axis=-1) < 0).mean()) if n > 1 else 0.0
    highest = np.maximum.accumulate(place, axis=-1)
    lowest = np.minimum.accumulate(place[..., ::-1], axis=-1)[..., ::-1]
    flat = (highest + lowest) / 2 - np.arange(n) * (step_mm * (1 - LEAST_STRETCH))
    return np.ascontiguousarray(np.moveaxis(flat, -1, axis)), folded


class _Problem:
    """One level: what a set of control points costs, and the slope of that."""

    def __init__(
        self, fixed: Numbers, mask: Mask, moving: Numbers, level: Level, search: DistortionSearch
    ) -> None:
        self.search, self.shape = search, fixed.shape
        spacing = np.asarray(search.spacing_mm)
        sigma = level.smooth_mm / 2 / spacing
        sigma = np.where(sigma > 0.4, sigma, 0.0)
        images = [
            ndimage.gaussian_filter(np.asarray(i, np.float32), sigma) for i in (fixed, moving)
        ]
        fixed, moving = (evened(i, mask) for i in images)
        self.bases = [
            sparse.csr_array(spline_basis(n, float(s), level.distance_mm))
            for n, s in zip(fixed.shape, spacing, strict=True)
        ]
        self.points = tuple(b.shape[1] for b in self.bases)
        self.start: Doubles = np.zeros(fixed.shape)
        self.pattern: Doubles | None = None
        # a third of the voxels means a lattice that is even in all directions
        i, j, k = np.nonzero(mask)
        kept = (i + j + k) % level.keep == 0
        self.where = (i[kept], j[kept], k[kept])
        self.fixed_bin = to_bins(fixed[self.where])
        lines = np.moveaxis(moving, search.axis, -1) * (BINS - 1)
        self.n = lines.shape[-1]
        self.values = np.ascontiguousarray(lines, np.float64)
        self.slopes = np.gradient(self.values, axis=-1).ravel()
        other = [a for a in range(3) if a != search.axis]
        row = self.where[other[0]] * fixed.shape[other[1]] + self.where[other[1]]
        self.row, self.place = row * self.n, self.where[search.axis].astype(np.float64)
        self.values = self.values.ravel()

    def displacement(self, free: Doubles) -> Doubles:
        """In mm, (I, J, K)."""
        x: Doubles = free[: int(np.prod(self.points))].reshape(self.points)
        for axis, basis in enumerate(self.bases):
            x = _applied(basis, x, axis)
        x = x + self.start
        return x if self.pattern is None else x + free[-1] * self.pattern

    def cost(self, free: Doubles) -> tuple[float, Doubles]:
        """Bending less information, in nats, and its slope by every free number."""
        step = self.search.spacing_mm[self.search.axis]
        value, slope = self._sample(self.displacement(free)[self.where] / step)
        information, by_value = information_and_slope(self.fixed_bin, value)
        by_mm = np.zeros(self.shape)
        by_mm[self.where] = -by_value * slope / step
        x = by_mm
        for axis, basis in enumerate(self.bases):
            x = _applied(basis.T, x, axis)
        bending, by_point = self._bending(free[: x.size].reshape(self.points))
        gradient = (x + by_point).ravel()
        if self.pattern is not None:
            gradient = np.append(gradient, float((by_mm * self.pattern).sum()))
        return bending - information, gradient

    def solve(self) -> Doubles:
        """The displacement where the cost is least."""
        n = int(np.prod(self.points)) + (self.pattern is not None)
        unit = np.sqrt(n)  # the first step is one of about 1 mm everywhere

        def scaled(z: Doubles) -> tuple[float, Doubles]:
            cost, gradient = self.cost(z * unit)
            return 100 * cost, 100 * unit * gradient

        found = optimize.minimize(
            scaled,
            np.zeros(n),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-self.search.max_mm / unit, self.search.max_mm / unit)] * n,
            options={"maxiter": self.search.iterations, "ftol": 1e-6},
        )
        return self.displacement(found.x * unit)

    def _sample(self, move: Doubles) -> tuple[Doubles, Doubles]:
        """Values of the moving image and their slopes by voxels, by cubic interpolation."""
        at = self.place + move
        outside = (at < 0) | (at > self.n - 1)
        at = np.clip(at, 0, self.n - 1 - 1e-6)
        low = np.minimum(at.astype(np.intp), max(self.n - 2, 0))
        t, i = at - low, self.row + low
        a, b, da, db = self.values[i], self.values[i + 1], self.slopes[i], self.slopes[i + 1]
        rise = b - a
        c2, c3 = 3 * rise - 2 * da - db, da + db - 2 * rise
        value = a + t * (da + t * (c2 + t * c3))
        slope = da + t * (2 * c2 + 3 * t * c3)
        slope[outside | (value < 0) | (value > BINS - 1)] = 0.0
        return np.clip(value, 0, BINS - 1), slope

    def _bending(self, x: Doubles) -> tuple[float, Doubles]:
        total, gradient = 0.0, np.zeros_like(x)
        for a in range(3):
            for b in range(a + 1):
                weight = self.search.stiffness / x.size * (1 if a == b else 2)
                y = np.diff(np.diff(x, axis=a), axis=b)
                total += weight * float((y**2).sum())
                gradient += 2 * weight * _transposed_diff(_transposed_diff(y, b), a)
        return total, gradient


def _applied(matrix: Any, x: Doubles, axis: int) -> Doubles:
    """A sparse matrix along one axis; no BLAS, whose sums hang on the number of cores."""
    lines = np.moveaxis(x, axis, 0)
    out = matrix @ lines.reshape(lines.shape[0], -1)
    return np.asarray(np.moveaxis(out.reshape(-1, *lines.shape[1:]), 0, axis))


def _transposed_diff(y: Doubles, axis: int) -> Doubles:
    ends = [(0, 0)] * y.ndim
    ends[axis] = (1, 1)
    return np.asarray(-np.diff(np.pad(y, ends), axis=axis))
