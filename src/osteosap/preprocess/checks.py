"""Refuse images whose voxel values cannot be right."""

from __future__ import annotations

import numpy as np

from osteosap.errors import GeometryError, VolumeError
from osteosap.exam import StationImage
from osteosap.volume import Volume

__all__ = ["check_image"]

RINGING = 0.01
"""Negative values down to this fraction of the maximum are interpolation ringing, set to 0."""


def check_image(image: StationImage) -> tuple[StationImage, tuple[str, ...]]:
    """Check one image and convert it to float32.

    Parameters
    ----------
    image
        One channel, at least two voxels along every axis.

    Returns
    -------
    image, warnings
        float32, not negative.

    Raises
    ------
    VolumeError
        Values are NaN, infinite, constant, or clearly negative.
    GeometryError
        The image has several channels or is a single slice.
    """
    volume, name = image.volume, image.source or image.kind
    if volume.array.shape[0] != 1 or min(volume.array.shape[1:]) < 2:
        raise GeometryError(
            f"{name}: array of shape {volume.array.shape}, expected one channel (1, I, J, K) "
            "of at least 2 voxels along every axis",
            remedy="Split the channels; leave single slices (localizers) out",
        )
    array = volume.array[0].astype(np.float32, copy=False)
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int((~np.isfinite(array)).sum())
        raise VolumeError(
            f"{name}: {bad} voxels are NaN or infinite, expected none",
            remedy="Find the step that made them; replace them only if they lie outside the body",
        )
    if low == high:
        raise VolumeError(
            f"{name}: every voxel is {low:g}, expected an image",
            remedy="Export the series again; it is empty",
        )
    if image.kind == "adc" or low >= 0:  # scanners do write small negative ADC values
        return _with_array(image, np.maximum(array, 0) if low < 0 else array), ()
    if low < -RINGING * high:
        raise VolumeError(
            f"{name}: values down to {low:g} (maximum {high:g}), expected magnitude images >= 0",
            remedy="Export magnitude images, without normalisation or phase",
        )
    count = int((array < 0).sum())
    return _with_array(image, np.maximum(array, 0)), (
        f"{name}: {count} slightly negative voxels (down to {low:g}) set to 0",
    )


def _with_array(
    image: StationImage, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> StationImage:
    volume = Volume(array[None], image.volume.affine, image.volume.channels)
    return StationImage(volume, image.kind, image.b_value_s_per_mm2, image.group, image.source)
