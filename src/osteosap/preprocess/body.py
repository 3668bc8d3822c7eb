"""Body mask: where the patient is, arms, legs, lungs and bowel gas included."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.errors import VolumeError

__all__ = ["body_mask", "foreground_threshold", "without_saturated"]

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

DYNAMIC_RANGE = 100.0
"""Signals below the 99th percentile over this count as equally dark."""
BINS = 128
MIN_CONTRAST = 2.0
"""Least factor between the mean signals of air and of the darkest tissue."""
SMALL_PART = 0.02
"""Parts smaller than this share of the largest one (table, coil markers) are dropped."""
SATURATED_SHARE = 0.0005
"""If more of the tissue (and 10 voxels) has exactly the highest value, it is a clipped one."""
MIN_SHARE = 0.005
"""A mask that covers less of the volume is taken for empty."""


def foreground_threshold(array: Array) -> float:
    """Signal level that parts tissue from air: the lower Otsu threshold of three log-classes.

    Air, muscle-like and fat-like signal are three clusters of the log-signal. Two classes would
    part fat from everything else wherever air is rare, as in a field of view that the pelvis
    fills. Where the two darker classes are closer than a factor of ``MIN_CONTRAST``, both are
    air and the upper threshold is taken.

    Parameters
    ----------
    array
        Any shape, not negative.

    Returns
    -------
    threshold
        In units of the signal.

    Raises
    ------
    VolumeError
        The signal is zero or constant.

    References
    ----------
    Otsu 1979, doi 10.1109/TSMC.1979.4310076
    """
    sample = array.ravel()[:: max(1, array.size // 400_000)].astype(np.float64)
    top = float(np.percentile(sample, 99))
    if top <= 0:
        top = float(sample.max())
    if not top > 0:
        raise VolumeError("the image holds no signal", remedy="Export the series again")
    logs = np.log(np.clip(sample, top / DYNAMIC_RANGE, top))
    if not np.ptp(logs) > 0:
        raise VolumeError(
            f"the signal is constant ({top:g}), expected tissue and air",
            remedy="Export the series again",
        )
    counts, edges = np.histogram(logs, bins=BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    n = np.concatenate([[0], np.cumsum(counts)])
    mass = np.concatenate([[0.0], np.cumsum(counts * centres)])
    lower, upper = _three_classes(n, mass)
    means = [
        (mass[stop] - mass[start]) / max(n[stop] - n[start], 1)
        for start, stop in ((0, lower), (lower, upper))
    ]
    same = means[1] - means[0] < np.log(MIN_CONTRAST)
    return float(np.exp(edges[upper if same else lower]))


def _three_classes(n: Array, mass: Array) -> tuple[int, int]:
    """Bin edges (lower, upper) that maximise the variance between three classes.

    ``n`` and ``mass`` are cumulated counts and cumulated counts times value, from 0, per edge.
    """
    edge = np.arange(n.size)

    def between(start: Array, stop: Array) -> Array:
        count = n[stop] - n[start]
        return np.asarray((mass[stop] - mass[start]) ** 2 / np.maximum(count, 1))

    first, second = np.meshgrid(edge, edge, indexing="ij")
    score = between(np.zeros_like(first), first) + between(first, second)
    score = score + between(second, np.full_like(second, n.size - 1))
    score[(first < 1) | (second <= first) | (second >= n.size - 1)] = -np.inf
    # Empty bins between two classes leave many equal optima: take the middle one.
    best = np.argwhere(score >= score.max() - 1e-9 * abs(score.max()))
    lower, upper = best[len(best) // 2]
    return int(lower), int(upper)


def body_mask(t1: Array) -> npt.NDArray[np.bool_]:
    """Mask of the patient's body on a T1 volume.

    Smooth, threshold (:func:`foreground_threshold`), close gaps, drop small parts, fill holes in
    every axial slice.

    Parameters
    ----------
    t1
        Shape (I, J, K), RAS axes (K runs to the head), not negative.

    Returns
    -------
    mask
        bool, same shape.

    Raises
    ------
    VolumeError
        The image is constant, not finite, or nothing of a body's size stands out. There is no
        silent fallback to "everything is body".
    """
    if not np.isfinite(t1).all():
        raise VolumeError("the T1 holds NaN or infinite values", remedy="Export the series again")
    smooth = ndimage.uniform_filter(t1.astype(np.float32, copy=False), 3, mode="nearest")
    mask = smooth > foreground_threshold(smooth)
    padded = np.pad(mask, 3, mode="edge")
    for axis in range(3):  # closing by a box, separable
        padded = ndimage.maximum_filter1d(padded.view(np.uint8), 5, axis=axis).view(np.bool_)
    for axis in range(3):
        padded = ndimage.minimum_filter1d(padded.view(np.uint8), 5, axis=axis).view(np.bool_)
    mask = np.ascontiguousarray(padded[3:-3, 3:-3, 3:-3])
    for axis in range(3):  # opening: cut noise and ghosts off the skin
        mask = ndimage.minimum_filter1d(mask.view(np.uint8), 3, axis=axis).view(np.bool_)
    mask = _large_parts(mask)
    for axis in range(3):
        mask = ndimage.maximum_filter1d(mask.view(np.uint8), 3, axis=axis).view(np.bool_)
    for k in range(mask.shape[2]):
        mask[:, :, k] = ndimage.binary_fill_holes(mask[:, :, k])
    share = float(mask.mean())
    if share < MIN_SHARE:
        raise VolumeError(
            f"no body found on the T1: {share:.2%} of the volume stands out, "
            f"expected at least {MIN_SHARE:.1%}",
            remedy="Check that the series is a T1 of the patient and not noise",
        )
    return np.asarray(mask, dtype=np.bool_)


def _large_parts(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest connected part and all others of at least ``SMALL_PART`` of its size."""
    labels, n = ndimage.label(mask)
    if n <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes >= SMALL_PART * sizes.max()
    return np.asarray(keep[labels])


def without_saturated(signal: Array, tissue: Mask) -> Mask:
    """Tissue but for the highest value, where many voxels share it: there the scale ended."""
    if not tissue.any():
        return tissue
    clipped = tissue & (signal >= signal[tissue].max())
    many = max(SATURATED_SHARE * tissue.sum(), 10)
    return tissue & ~clipped if clipped.sum() > many else tissue
