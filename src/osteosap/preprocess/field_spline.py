"""Penalised B-splines that follow the smooth part of a log-signal, several of them together.

Eilers and Marx 1996, doi 10.1214/ss/1038425655. That fields of stations are fitted to what the
stations differ by where they overlap, and anatomy cancels, is ours; so is what is taken off besides
the fields, because the signal is lost and not shaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.linalg import block_diag, cho_factor, cho_solve

from osteosap.geometry import Grid
from osteosap.preprocess.overlaps import Overlap

__all__ = ["FieldSpline", "JointFit"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PATTERN_RIDGE = 1e-4
"""Weight of the square of a pattern's factor against the fit."""
LOSS_RIDGE = 1e-5
"""The same of the factor of a loss, which is small where little is lost."""
OVERLAP_WIDTH = 0.15
"""Logarithm by which corrected stations differ at a place that counts half."""


class FieldSpline:
    """Cubic B-splines over one coarse station, fitted to some of its tissue voxels.

    Parameters
    ----------
    log_signal, tissue
        Log-signal and the voxels of it that count, both on ``grid``.
    grid
        Of the coarse station.
    control_point_mm, max_voxels
        Distance of the control points; most voxels that are fitted, spread evenly.
    stiffness, slope_stiffness
        Weight of the spline's curvature and of its slope against the fit.
    pattern
        Known shape on ``grid`` of which the field takes what fits, besides the spline; its size
        costs next to nothing. None for nothing.
    loss
        Shape on ``grid`` by which the logarithm of the signal falls, times a factor that is fitted
        with the field but is no part of it. None: nothing is lost.
    """

    def __init__(
        self,
        log_signal: Floats,
        tissue: Mask,
        grid: Grid,
        *,
        control_point_mm: float,
        max_voxels: int,
        stiffness: float,
        slope_stiffness: float = 0.0,
        pattern: Floats | None = None,
        loss: Floats | None = None,
    ) -> None:
        pairs = list(zip(grid.shape, grid.spacing_mm, strict=True))
        self._grid = grid
        self._intervals = [max(1, round(n * s / control_point_mm)) for n, s in pairs]
        self._axes = [
            _basis(np.arange(n), n, m) for n, m in zip(grid.shape, self._intervals, strict=True)
        ]
        index = np.argwhere(tissue)
        spread = np.linspace(0, len(index) - 1, min(len(index), max_voxels))
        self.index = index[spread.astype(np.intp)]
        self._rows = _products([a[self.index[:, d]] for d, a in enumerate(self._axes)])
        at = tuple(self.index.T)
        self.signal = log_signal[at].astype(np.float64)
        self._shape = [a.shape[1] for a in self._axes]
        n = int(np.prod(self._shape))
        self._penalty = stiffness / n * _bending(self._shape) + 1e-9 * np.eye(n)
        if slope_stiffness:
            self._penalty += slope_stiffness / n * _sloping(self._shape)
        self._pattern, self._loss = pattern, None if loss is None else -loss
        for shape, ridge in self._shapes:
            self._rows = np.column_stack([self._rows, shape[at].astype(np.float64)])
            self._penalty = block_diag(self._penalty, ridge)
        self.coefficients: Doubles = np.zeros(self._rows.shape[1])

    @property
    def _shapes(self) -> list[tuple[Floats, float]]:
        """Shapes whose factors follow the coefficients of the spline, and what these cost."""
        both = ((self._pattern, PATTERN_RIDGE), (self._loss, LOSS_RIDGE))
        return [(shape, ridge) for shape, ridge in both if shape is not None]

    @property
    def with_loss(self) -> bool:
        """Whether the last coefficient is the factor of a loss."""
        return self._loss is not None

    @property
    def corrected(self) -> Doubles:
        """Log-signal of the voxels less the field, and with what is lost."""
        return np.asarray(self.signal - self._rows @ self.coefficients)

    def set_level(self, value: float) -> None:
        """Start from a constant field."""
        self.coefficients[:] = 0.0
        self.coefficients[: int(np.prod(self._shape))] = value

    def equations(self, target: Doubles, weight: Doubles) -> tuple[Doubles, Doubles]:
        """Normal equations that bring the field to the log-signal less a target."""
        root = np.sqrt(weight / weight.sum())
        rows = self._rows * root[:, None]
        return rows.T @ rows + self._penalty, rows.T @ (root * (self.signal - target))

    def rows_at(self, points: Doubles) -> Doubles:
        """What every coefficient counts at points (N, 3), RAS mm; outside, the edge holds."""
        inverse = np.linalg.inv(self._grid.affine)
        index = points @ inverse[:3, :3].T + inverse[:3, 3]
        sizes = zip(index.T, self._grid.shape, self._intervals, strict=True)
        rows = _products([_basis(np.clip(i, -0.5, n - 0.5), n, m) for i, n, m in sizes])
        for shape, _ in self._shapes:
            there = ndimage.map_coordinates(shape, index.T, order=1, mode="nearest")
            rows = np.column_stack([rows, there.astype(np.float64)])
        return rows

    @property
    def loss_factor(self) -> float:
        """Factor of the loss; NaN if it has none."""
        return float(self.coefficients[-1]) if self.with_loss else float("nan")

    def whole(self) -> Doubles:
        """The field at every voxel of the coarse grid."""
        n = int(np.prod(self._shape))
        spline = self.coefficients[:n].reshape(self._shape)
        field = np.asarray(np.einsum("ai,bj,ck,ijk->abc", *self._axes, spline, optimize=True))
        if self._pattern is not None:
            field = field + self.coefficients[n] * self._pattern
        return np.asarray(field, np.float64)


class JointFit:
    """Splines of stations that are fitted together, so that they agree where stations overlap.

    Parameters
    ----------
    splines
        One a station.
    overlaps
        May be none: then every spline is fitted by itself, but for the factor of a loss.
    overlap_weight
        Weight of an overlap, all of its places together, against the tissue of one station.

    Losses of all splines have one factor, not below 0: it is the same scan.
    """

    def __init__(
        self, splines: Sequence[FieldSpline], overlaps: Sequence[Overlap], *, overlap_weight: float
    ) -> None:
        self._splines = splines
        self._overlap_weight = overlap_weight
        self._overlaps = [
            (o, [splines[s].rows_at(p) for s, p in zip(o.stations, o.points, strict=True)])
            for o in overlaps
        ]
        ends = np.cumsum([len(s.coefficients) for s in splines])
        starts = [0, *ends[:-1]]
        self._parts = [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
        self._losses = [int(e) - 1 for e, s in zip(ends, splines, strict=True) if s.with_loss]

    def fit(self, drawn: Sequence[tuple[Doubles, Doubles]]) -> None:
        """Bring every field to the log-signal less a target, by weighted least squares.

        Parameters
        ----------
        drawn
            Target and weight of every voxel that is fitted, by station.
        """
        found = [s.equations(*d) for s, d in zip(self._splines, drawn, strict=True)]
        if not self._overlaps and not self._losses:
            for spline, (normal, right) in zip(self._splines, found, strict=True):
                spline.coefficients = cho_solve(cho_factor(normal), right)
            return
        whole = block_diag(*[normal for normal, _ in found])
        rights = np.concatenate([right for _, right in found])
        for overlap, rows in self._overlaps:
            ours, theirs = (self._splines[s].coefficients for s in overlap.stations)
            off = overlap.log_ratio - rows[0] @ ours + rows[1] @ theirs
            weight = self._overlap_weight / len(off) / (1 + (off / OVERLAP_WIDTH) ** 2)
            root = np.sqrt(weight)
            first, second = (r * root[:, None] for r in rows)
            a, b = (self._parts[s] for s in overlap.stations)
            whole[a, a] += first.T @ first
            whole[b, b] += second.T @ second
            cross = first.T @ second
            whole[a, b] -= cross
            whole[b, a] -= cross.T
            rights[a] += first.T @ (root * overlap.log_ratio)
            rights[b] -= second.T @ (root * overlap.log_ratio)
        solved = _solved(whole, rights, self._losses)
        for spline, part in zip(self._splines, self._parts, strict=True):
            spline.coefficients = solved[part]


def _solved(normal: Doubles, right: Doubles, same: Sequence[int]) -> Doubles:
    """Solution of normal equations in which some unknowns are one and the same, and not below 0."""
    if not same:
        return np.asarray(cho_solve(cho_factor(normal), right))
    first, rest = same[0], list(same[1:])
    normal, right = normal.copy(), right.copy()
    normal[first] += normal[rest].sum(axis=0)
    normal[:, first] += normal[:, rest].sum(axis=1)
    right[first] += right[rest].sum()
    out = np.zeros(len(right))
    free = np.setdiff1d(np.arange(len(right)), rest)
    for kept in (free, free[free != first]):
        out[kept] = cho_solve(cho_factor(normal[np.ix_(kept, kept)]), right[kept])
        if out[first] >= 0:
            break
        out[first] = 0.0
    out[rest] = out[first]
    return out


def _products(rows: Sequence[Doubles]) -> Doubles:
    """Tensor products (N, IJK) of three bases (N, I), (N, J), (N, K)."""
    return np.asarray(np.einsum("ni,nj,nk->nijk", *rows).reshape(len(rows[0]), -1))


def _basis(index: Numbers, n: int, intervals: int) -> Doubles:
    """Cubic B-splines (N, intervals + 3) at indices (N,) of an axis of n voxels."""
    position = (np.asarray(index, np.float64) + 0.5) / n * intervals
    away = np.abs(position[:, None] - np.arange(-1, intervals + 2)[None])
    near = 2 / 3 - away**2 + away**3 / 2
    far = np.clip(2 - away, 0, None) ** 3 / 6
    return np.where(away < 1, near, far)


def _sloping(shape: Sequence[int]) -> Doubles:
    """Penalty matrix on first differences of coefficients."""
    ones = [np.eye(m) for m in shape]
    slope = [np.diff(o, axis=0) for o in ones]
    total = np.zeros((int(np.prod(shape)),) * 2)
    for d in range(3):
        parts = [slope[e].T @ slope[e] if e == d else ones[e] for e in range(3)]
        total += np.kron(np.kron(parts[0], parts[1]), parts[2])
    return total


def _bending(shape: Sequence[int]) -> Doubles:
    """Penalty matrix on second differences of coefficients, mixed ones twice."""
    ones = [np.eye(m) for m in shape]
    slope = [np.diff(o, axis=0) for o in ones]
    curve = [np.diff(o, 2, axis=0) for o in ones]
    total = np.zeros((int(np.prod(shape)),) * 2)
    for d in range(3):
        parts = [curve[e].T @ curve[e] if e == d else ones[e] for e in range(3)]
        total += np.kron(np.kron(parts[0], parts[1]), parts[2])
        parts = [ones[e] if e == d else slope[e].T @ slope[e] for e in range(3)]
        total += 2 * np.kron(np.kron(parts[0], parts[1]), parts[2])
    return total
