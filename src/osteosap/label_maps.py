"""Label maps on another grid: bone classes and lesion instances keep their volume and place.

Nearest-neighbour sampling loses lesions smaller than a voxel and shifts maps by up to half a voxel
where voxel centres coincide with faces; both functions here go by the share of each voxel that a
label fills.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Array, Grid, covering_box, crop_grid, resample

__all__ = ["resample_classes", "resample_lesions"]


def resample_classes(classes: Array, source: Grid, target: Grid) -> npt.NDArray[np.uint8]:
    """Class map on another grid: the class with the largest share of each voxel."""
    if source.same_as(target, tolerance_mm=1e-3):
        return classes.astype(np.uint8)
    result = np.zeros(target.shape, dtype=np.uint8)
    best = np.full(target.shape, 0.5, dtype=np.float32)
    best[_share(classes != 0, source, target) >= 0.5] = 0.0
    for number in np.unique(classes):
        if number == 0:
            continue
        share = _share(classes == number, source, target)
        wins = share > best
        best[wins] = share[wins]
        result[wins] = number
    return result


def resample_lesions(lesions: Array, source: Grid, target: Grid) -> npt.NDArray[np.int32]:
    """Instance map on another grid; no lesion vanishes and volumes are kept.

    Each lesion takes as many target voxels as its volume fills, at least one: those it covers
    most. A lesion outside the target is left out.

    Parameters
    ----------
    lesions
        Integers (I, J, K), 0 = none.
    source, target
        Grids with the same directions or not.
    """
    if source.same_as(target, tolerance_mm=1e-3):
        return lesions.astype(np.int32)
    result = np.zeros(target.shape, dtype=np.int32)
    ratio = source.voxel_volume_ml / target.voxel_volume_ml
    for number, box in enumerate(ndimage.find_objects(lesions.astype(np.int32)), start=1):
        if box is None:
            continue
        wide = tuple(
            slice(max(0, s.start - 4), min(n, s.stop + 4))
            for s, n in zip(box, source.shape, strict=True)
        )
        mask = lesions[wide] == number
        inside = covering_box(crop_grid(source, wide), target)
        if any(s.stop <= s.start for s in inside):
            continue
        share = _share(mask, crop_grid(source, wide), crop_grid(target, inside))
        share[result[inside] > 0] = 0.0
        wanted = max(1, round(float(mask.sum()) * ratio))
        order = _by_share(share)[:wanted]
        order = order[share.ravel()[order] > 1e-6]
        view = result[inside]
        view[np.unravel_index(order, share.shape)] = number
    return result


def _by_share(share: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Flat indices by falling share; of equal shares those nearest the lesion's centre first.

    Taking equal ones in raster order would shift every lesion to one side.
    """
    weights = share.astype(np.float64)
    distance = np.zeros(share.shape)
    for places in np.indices(share.shape):
        centre = (places * weights).sum() / max(weights.sum(), 1e-12)
        distance += (places - centre) ** 2
    return np.lexsort((distance.ravel(), -np.round(share.ravel(), 3)))


def _share(mask: npt.NDArray[np.bool_], source: Grid, target: Grid) -> npt.NDArray[np.float32]:
    """How much of each target voxel a mask fills."""
    return resample(mask.astype(np.float32), source, target).astype(np.float32, copy=False)
