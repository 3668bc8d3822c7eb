"""Resampling that respects the edge of a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid, resample

__all__ = ["resample_masked"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def resample_masked(array: Numbers, mask: Numbers, source: Grid, target: Grid) -> Floats:
    """Linear resampling that averages only voxels inside a mask; 0 outside it.

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
    share: Numbers = resample((mask > 0).astype(np.float32), source, target)
    values = resample(kept, source, target)
    out = np.zeros(target.shape, np.float32)
    np.divide(values, share, out=out, where=share >= 0.5)
    return out
