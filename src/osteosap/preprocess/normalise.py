"""Scaling of intensities to the network's input range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from osteosap.errors import VolumeError
from osteosap.geometry import Array

__all__ = ["scale_percentiles"]


def scale_percentiles(
    array: Array, mask: Array | None, *, low: float = 1.0, high: float = 99.0
) -> npt.NDArray[np.float32]:
    """Clip to two percentiles and scale to [0, 1].

    Parameters
    ----------
    array
        Any shape, finite.
    mask
        Same shape; percentiles are taken where it is set. None means everywhere.
    low, high
        Percentiles, 0 <= low < high <= 100.

    Returns
    -------
    scaled
        float32 in [0, 1], same shape; voxels outside the mask are scaled and clipped alike.

    Raises
    ------
    VolumeError
        The mask is empty, values are not finite, or both percentiles agree.
    """
    if not 0 <= low < high <= 100:
        raise VolumeError(
            f"percentiles {low:g} and {high:g}, expected 0 <= low < high <= 100",
            remedy="Use 1 and 99",
        )
    inside = array.ravel() if mask is None else array[mask.astype(bool, copy=False)]
    if inside.size == 0:
        raise VolumeError(
            "the mask for the intensity percentiles is empty", remedy="Check the body mask"
        )
    bottom, top = (float(v) for v in np.percentile(inside, [low, high]))
    if not (np.isfinite(bottom) and np.isfinite(top)):
        raise VolumeError("the image holds NaN or infinite values", remedy="Clean the image first")
    if not top > bottom:
        raise VolumeError(
            f"percentiles {low:g} and {high:g} are both {top:g}, expected an image with contrast",
            remedy="Check that the image covers the body and is not constant",
        )
    scaled = array.astype(np.float32)
    scaled -= np.float32(bottom)
    scaled /= np.float32(top - bottom)
    return np.clip(scaled, 0.0, 1.0, out=scaled)
