"""Eddy currents: higher b-values are shifted and stretched along the phase direction.

Diffusion gradients induce currents that outlast them. Along the phase direction an image is then
displaced by an amount that changes linearly with the place: a shift, two shears and a stretch. Only
these four numbers are sought, and since all stations of a protocol have the same gradients, their
medians over the stations count, if the stations agree. One station alone has no witness and is left
as it is: on the one real study at hand (a single station), what is left of the fat at high b, which
lies elsewhere, looks like a displacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from osteosap.config import StageConfig
from osteosap.errors import VolumeError
from osteosap.geometry import Grid
from osteosap.preprocess.body import foreground_threshold
from osteosap.preprocess.itk import one_thread, to_sitk
from osteosap.volume import Volume

__all__ = ["Eddy", "EddyConfig", "common_eddy", "correct_eddy", "find_eddy"]

Numbers = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

MIN_VOXELS = 2000
"""Fewest tissue voxels that are worth a search."""
MIN_STATIONS = 3
"""Fewest stations that can vouch for one another."""
BINS = 24
SAMPLES = 40_000
SEED = 42


class EddyConfig(StageConfig):
    """How higher b-values are brought to the lowest one of their station."""

    enabled: bool = True
    """Undo the displacement by eddy currents."""
    min_b_s_per_mm2: float = Field(default=200.0, ge=0)
    """Lower b-values are left as they are: currents grow with b."""
    max_displacement_mm: float = Field(default=8.0, gt=0)
    """A displacement beyond this is rejected."""


@dataclass(frozen=True)
class Eddy:
    """Displacement of one image against the lowest b-value.

    Parameters
    ----------
    line
        (4,): displacement in voxels along the phase axis = ``line[0] + line[1:] @ index``, the
        index of a voxel counted from the middle of the station.
    axis
        Phase axis of the image.
    largest_mm
        Largest displacement of tissue.
    reason
        One sentence for the record.
    """

    line: Doubles
    axis: int
    largest_mm: float = 0.0
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether anything is to be undone."""
        return bool(np.any(self.line))


def find_eddy(lowest: Volume, image: Volume, *, axis: int, config: EddyConfig) -> Eddy:
    """Displacement of an image against the lowest b-value (Mattes mutual information).

    Parameters
    ----------
    lowest, image
        One channel each, on one grid.
    axis
        Index axis of the phase direction.

    References
    ----------
    The linear model: Jezzard et al. 1998, doi 10.1002/mrm.1910390518. Mattes et al. 2003,
    doi 10.1109/TMI.2003.809072.
    """
    nothing = np.zeros(4)
    try:
        tissue = lowest.array[0] > foreground_threshold(lowest.array[0])
    except VolumeError:
        return Eddy(nothing, axis, reason="not sought: no signal")
    if tissue.sum() < MIN_VOXELS:
        said = f"not sought: {int(tissue.sum())} tissue voxels, {MIN_VOXELS} needed"
        return Eddy(nothing, axis, reason=said)
    try:
        line = _sought(lowest, image, ndimage.binary_dilation(tissue), axis)
    except RuntimeError:  # of SimpleITK: the search left the image
        return Eddy(nothing, axis, reason="not found: the search left the image")
    where = np.argwhere(tissue) - (np.asarray(tissue.shape) - 1) / 2
    largest = float(np.abs(line[0] + where @ line[1:]).max()) * lowest.spacing_mm[axis]
    if largest > config.max_displacement_mm:
        limit = config.max_displacement_mm
        return Eddy(nothing, axis, reason=f"rejected: up to {largest:.1f} mm (limit {limit:g})")
    return Eddy(line, axis, largest, f"up to {largest:.1f} mm")


def common_eddy(found: Sequence[Eddy], shape: tuple[int, ...]) -> Eddy:
    """What the stations of one protocol and b-value have in common: the median of each number.

    Parameters
    ----------
    found
        One a station; those that found nothing do not count.
    shape
        Of a station. The stations must differ from their median by less than it is large, at
        places half way from the middle to the corners.
    """
    nothing, axis = np.zeros(4), found[0].axis
    good = [eddy for eddy in found if eddy.accepted]
    if len(good) < MIN_STATIONS:
        said = f"{len(good)} of {len(found)} stations found a displacement, {MIN_STATIONS} needed"
        return Eddy(nothing, axis, reason=f"left as it is: {said}")
    lines = np.stack([eddy.line for eddy in good])
    line = np.median(lines, axis=0)
    ends = np.array(list(product((-1, 1), repeat=3))) * np.asarray(shape) / 4
    places = np.column_stack([np.ones(len(ends)), ends])
    size = float(np.sqrt(((places @ line) ** 2).mean()))
    apart = float(np.median(np.sqrt(((places @ (lines - line).T) ** 2).mean(axis=0))))
    agreement = f"{len(good)} of {len(found)} stations: {size:.2f} voxels, {apart:.2f} apart"
    if apart >= size:
        return Eddy(nothing, axis, reason=f"left as it is, {agreement}")
    largest = float(np.median([eddy.largest_mm for eddy in good]))
    return Eddy(line, axis, largest, f"up to {largest:.1f} mm; median of {agreement}")


def correct_eddy(image: Volume, eddy: Eddy) -> Volume:
    """The image with the displacement undone (cubic, along one axis), on its own grid."""
    if not eddy.accepted:
        return image
    array = image.array[0].astype(np.float32)
    matrix = np.eye(3)
    matrix[eddy.axis] += eddy.line[1:]
    middle = (np.asarray(array.shape) - 1) / 2
    offset = np.zeros(3)
    offset[eddy.axis] = eddy.line[0] - eddy.line[1:] @ middle
    moved = ndimage.affine_transform(array, matrix, offset, order=3, mode="nearest")
    moved = np.clip(moved, 0.0, array.max())  # cubic interpolation overshoots
    return Volume(np.asarray(moved[None], np.float32), image.affine, image.channels)


def _sought(lowest: Volume, image: Volume, mask: npt.NDArray[np.bool_], axis: int) -> Doubles:
    """The four numbers, by gradient descent over an affine of which only one row is free."""
    import SimpleITK as sitk  # noqa: N813

    shape = lowest.array.shape[1:]
    index_grid = Grid((shape[0], shape[1], shape[2]), np.eye(4))  # voxels as if of 1 mm
    images = [to_sitk(_rooted(v), index_grid) for v in (lowest, image)]
    one_thread()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(to_sitk(mask.astype(np.uint8), index_grid))
    drawn = SAMPLES / mask.sum()
    if drawn < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(drawn * mask.mean(), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    middle = (np.asarray(shape, np.float64) - 1) / 2
    start = sitk.AffineTransform(3)
    start.SetCenter([float(c) for c in middle])
    method.SetInitialTransform(start, inPlace=True)
    free = np.zeros(12)
    free[3 * axis : 3 * axis + 3] = 1.0
    free[9 + axis] = 1.0
    method.SetOptimizerWeights([float(f) for f in free])
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=0.5, minStep=0.005, numberOfIterations=60, relaxationFactor=0.6
    )
    method.Execute(*images)
    matrix = np.asarray(start.GetMatrix(), np.float64).reshape(3, 3) - np.eye(3)
    shift = np.asarray(start.GetTranslation(), np.float64)[axis]
    return np.round(np.concatenate([[shift], matrix[axis]]), 6)


def _rooted(volume: Volume) -> npt.NDArray[np.float32]:
    """Square root of the signal, smoothed a little: noise weighs less."""
    root = np.sqrt(np.maximum(volume.array[0].astype(np.float32), 0))
    return np.asarray(ndimage.gaussian_filter(root, 0.7), np.float32)
