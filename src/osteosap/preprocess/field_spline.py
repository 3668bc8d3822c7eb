"""Penalised B-splines that follow the smooth part of a log-signal.

Eilers and Marx 1996, doi 10.1214/ss/1038425655.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag, cho_factor, cho_solve

from osteosap.geometry import Grid

__all__ = ["FieldSpline"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PATTERN_RIDGE = 1e-4
"""Weight of the square of a pattern's factor against the fit."""


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
    ) -> None:
        pairs = zip(grid.shape, grid.spacing_mm, strict=True)
        self._axes = [_basis(n, max(1, round(n * s / control_point_mm))) for n, s in pairs]
        index = np.argwhere(tissue)
        spread = np.linspace(0, len(index) - 1, min(len(index), max_voxels))
        self.index = index[spread.astype(np.intp)]
        rows = [a[self.index[:, d]] for d, a in enumerate(self._axes)]
        self._rows: Doubles = np.einsum("ni,nj,nk->nijk", *rows).reshape(len(self.index), -1)
        at = tuple(self.index.T)
        self.signal = log_signal[at].astype(np.float64)
        self._shape = [a.shape[1] for a in self._axes]
        n = int(np.prod(self._shape))
        self._penalty = stiffness / n * _bending(self._shape) + 1e-9 * np.eye(n)
        if slope_stiffness:
            self._penalty += slope_stiffness / n * _sloping(self._shape)
        self._pattern = pattern
        if pattern is not None:
            self._rows = np.column_stack([self._rows, pattern[at].astype(np.float64)])
            self._penalty = block_diag(self._penalty, PATTERN_RIDGE)
        self._coefficients = np.zeros(self._rows.shape[1])

    @property
    def corrected(self) -> Doubles:
        """Log-signal of the voxels less the field."""
        return np.asarray(self.signal - self._rows @ self._coefficients)

    def set_level(self, value: float) -> None:
        """Start from a constant field."""
        self._coefficients[:] = 0.0
        self._coefficients[: int(np.prod(self._shape))] = value

    def fit(self, target: Doubles, weight: Doubles) -> None:
        """Bring the field to the log-signal less a target, by weighted least squares."""
        root = np.sqrt(weight / weight.sum())
        rows = self._rows * root[:, None]
        normal = rows.T @ rows + self._penalty
        right = rows.T @ (root * (self.signal - target))
        self._coefficients = cho_solve(cho_factor(normal), right)

    def whole(self) -> Doubles:
        """The field at every voxel of the coarse grid."""
        n = int(np.prod(self._shape))
        spline = self._coefficients[:n].reshape(self._shape)
        field = np.asarray(np.einsum("ai,bj,ck,ijk->abc", *self._axes, spline, optimize=True))
        if self._pattern is not None:
            field = field + self._coefficients[n] * self._pattern
        return np.asarray(field, np.float64)


def _basis(n: int, intervals: int) -> Doubles:
    """Cubic B-splines (n, intervals + 3) at the centres of n voxels."""
    position = (np.arange(n) + 0.5) / n * intervals
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
