"""Distortion of an image along one axis: signal is carried to where its frequency puts it.

Each source voxel becomes an interval whose moved ends are shared out over the target voxels: signal
is conserved, thinned out where the field stretches the line and piled up where it folds it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from osteosap.simulate.scanner.lattice import Axis
from osteosap.simulate.shapes import Field

__all__ = ["Warp"]


class Warp:
    """Carries images along y from a source line to a target line.

    Parameters
    ----------
    ends_mm
        Moved lower and upper ends of every source voxel (I, J + 1, K): ends of neighbours agree.
    source_mm
        Voxel edge of the source along y before it moved.
    target
        Centres (mm) of the target voxels along y.
    target_mm
        Their edge.
    """

    def __init__(self, ends_mm: Field, *, source_mm: float, target: Axis, target_mm: float) -> None:
        self._n, self._share = len(target), source_mm / target_mm
        first = np.float32(target[0] - target_mm / 2)
        ends = (ends_mm - first) / np.float32(target_mm)
        parts = int(np.ceil(1.5 * source_mm / target_mm))
        self._pieces = [self._piece(ends, p / parts, (p + 1) / parts) for p in range(parts)]
        i, _, k = ends_mm.shape
        # one bin of waste before and two behind the image
        self._shape = (i, self._n + 3, k)
        self._parts = parts

    def _piece(self, ends: Field, start: float, stop: float) -> tuple[npt.NDArray[np.intp], Field]:
        """Flat index of the lower target voxel of a part of each source voxel, and its share."""
        width = ends[:, 1:] - ends[:, :-1]
        a = ends[:, :-1] + np.float32(start) * width
        b = ends[:, :-1] + np.float32(stop) * width
        lo, hi = np.minimum(a, b), np.maximum(a, b)
        bin_of = np.clip(np.floor(lo), -1, self._n)
        share = np.clip((bin_of + 1 - lo) / np.maximum(hi - lo, np.float32(1e-6)), 0, 1)
        i, _, k = lo.shape
        index = bin_of.astype(np.intp) + 1
        index += (np.arange(i) * (self._n + 3))[:, None, None]
        index *= k
        index += np.arange(k)
        return index.ravel(), share.ravel()

    def __call__(self, image: Field) -> Field:
        """The distorted image (I, n_target, K) of a source image (I, J, K)."""
        mass = (image * np.float32(self._share / self._parts)).ravel()
        i, n, k = self._shape
        total = np.zeros(i * n * k, dtype=np.float64)
        for index, share in self._pieces:
            lower = mass * share
            total += np.bincount(index, lower, minlength=total.size)
            total[k:] += np.bincount(index, mass - lower, minlength=total.size)[:-k]
        return total.reshape(i, n, k)[:, 1:-2].astype(np.float32)
