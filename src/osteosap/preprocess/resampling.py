"""Resampling that respects the faces of the outer voxels and the edge of a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid, resample

__all__ = ["inside_of", "resample_masked", "resample_to_faces"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def resample_to_faces(array: Numbers, source: Grid, target: Grid) -> Floats:
    """Linear resampling whose image ends at the faces of the outer voxels, not at their centres.

    A slice of 5 mm is an image of 5 mm; stopping at its centre loses 2.5 mm at either end.

    Parameters
    ----------
    array
        Shape (I, J, K) on ``source``.

    Returns
    -------
    array
        float32 on ``target``; 0 outside the box of ``source``.
    """
    if source.same_as(target, tolerance_mm=1e-3):
        return array.astype(np.float32, copy=False)
    outer = source.affine.copy()
    outer[:3, 3] -= source.affine[:3, :3].sum(axis=1)
    padded = np.pad(array.astype(np.float32, copy=False), 1, mode="edge")
    i, j, k = padded.shape
    values = np.asarray(resample(padded, Grid((i, j, k), outer), target), dtype=np.float32)
    values[~inside_of(source, target)] = 0.0
    return values


def resample_masked(array: Numbers, mask: Numbers, source: Grid, target: Grid) -> Floats:
    """As :func:`resample_to_faces`, but averaging only voxels inside a mask; 0 outside it.

    Voxels at the mask's edge are not mixed with the zeros outside: a rim of halved ADC would
    look like restricted diffusion.

    Parameters
    ----------
    array, mask
        Shape (I, J, K) on ``source``.

    Returns
    -------
    array
        float32 on ``target``.
    """
    kept = np.where(mask > 0, array, 0).astype(np.float32)
    if source.same_as(target, tolerance_mm=1e-3):
        return kept
    share = resample_to_faces((mask > 0).astype(np.float32), source, target)
    values = resample_to_faces(kept, source, target)
    out = np.zeros(target.shape, np.float32)
    np.divide(values, share, out=out, where=share >= 0.5)
    return out


def inside_of(source: Grid, target: Grid) -> npt.NDArray[np.bool_]:
    """Which voxels of ``target`` have their centre in the box of ``source``."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    axes = [np.arange(n, dtype=np.float32) for n in target.shape]
    inside = np.ones(target.shape, bool)
    for a, n in enumerate(source.shape):
        i, j, k = (np.float32(matrix[a, c]) * axes[c] for c in range(3))
        place = i[:, None, None] + j[None, :, None] + (k + np.float32(matrix[a, 3]))[None, None, :]
        inside &= (place >= -0.501) & (place <= n - 0.499)
    return inside
