"""Which bone a lesion lies in: suggested by a skeleton map, never guessed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from osteosap.anatomy import N_CLASSES
from osteosap.geometry import Array

__all__ = ["nearest_class"]


def nearest_class(
    lesions: Array,
    lesion_id: int,
    box: Sequence[slice],
    *,
    skeleton: Array,
    spacing_mm: tuple[float, float, float],
    touch_mm: float,
    nearest_mm: float,
) -> tuple[int, float]:
    """Bone class of a lesion, and its distance.

    The class with most voxels inside the lesion or within ``touch_mm`` of it; failing that the
    nearest one, up to ``nearest_mm``. Searched in the lesion's box and around it alone.

    Parameters
    ----------
    lesions
        Instances (I, J, K).
    lesion_id, box
        The lesion and a box that holds it.
    skeleton
        Class map of the same shape.
    spacing_mm
        Of both.

    Returns
    -------
    class_id, distance_mm
        0 and 0.0 where no bone is near enough.
    """
    reach = max(touch_mm, nearest_mm)
    wide = tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n, margin in (
            (s, n, int(np.ceil(reach / step)))
            for s, n, step in zip(box, skeleton.shape, spacing_mm, strict=True)
        )
    )
    classes = skeleton[wide].astype(np.int64)
    if not classes.any():
        return 0, 0.0
    outside = lesions[wide] != lesion_id
    distance = ndimage.distance_transform_edt(outside, sampling=spacing_mm)
    bone = classes > 0
    votes = np.bincount(classes[bone & (distance <= touch_mm)], minlength=N_CLASSES)
    if votes.any():
        winner = int(votes.argmax())
    else:
        masked = np.where(bone, distance, np.inf)
        winner = int(classes.flat[masked.argmin()])
    nearest = float(distance[classes == winner].min())
    return (winner, nearest) if nearest <= reach else (0, 0.0)
