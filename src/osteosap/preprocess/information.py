"""Mutual information of two samples, and how it changes with one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "information_and_slope", "mutual_information", "to_bins"]

Numbers = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Bins = npt.NDArray[np.intp]

BINS = 32
PAD = 2
"""Bins at both ends that the windows reach into."""


def mutual_information(a: Numbers, b: Numbers, mask: Numbers, *, bins: int = BINS) -> float:
    """Mutual information in nats of two images inside a mask (joint histogram).

    References
    ----------
    Maes et al. 1997, doi 10.1109/42.563664
    """
    inside = mask > 0
    samples = [to_bins(x[inside], bins=bins) for x in (a, b)]
    joint = np.bincount(samples[0] * bins + samples[1], minlength=bins * bins)
    p = joint.reshape(bins, bins) / max(int(joint.sum()), 1)
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / outer[filled])).sum())


def to_bins(values: Numbers, *, bins: int = BINS) -> Bins:
    """Bins of equal width from the 0.5th to the 99.5th percentile."""
    if values.size == 0:
        return np.zeros(0, np.intp)
    low, high = np.percentile(values, [0.5, 99.5])
    scaled = (values.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.asarray(np.clip(scaled * bins, 0, bins - 1), dtype=np.intp)


def information_and_slope(bins: Bins, values: Doubles) -> tuple[float, Doubles]:
    """Mutual information in nats of binned and of continuous samples, smooth in the latter.

    Parameters
    ----------
    bins
        (N,) from 0 to ``BINS - 1``.
    values
        (N,) in the same range; each is spread over four bins by a cubic window.

    Returns
    -------
    information, slope
        ``slope`` (N,) by every value.

    References
    ----------
    Mattes et al. 2003, doi 10.1109/TMI.2003.809072
    """
    wide = BINS + 2 * PAD
    low = np.minimum(values.astype(np.intp), BINS - 2)
    t = values - low
    s = 1 - t
    windows = (s**3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - s**2 + s**3 / 2, t**3 / 6)
    slopes = (-(s**2) / 2, 1.5 * t**2 - 2 * t, 2 * s - 1.5 * s**2, t**2 / 2)
    first = bins * wide + low + PAD - 1
    joint = np.zeros(BINS * wide)
    for n, window in enumerate(windows):
        joint += np.bincount(first + n, weights=window, minlength=joint.size)
    p = joint.reshape(BINS, wide) / max(len(values), 1)
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    ratio = np.zeros_like(p)
    filled = p > 1e-12
    ratio[filled] = np.log(p[filled] / outer[filled])
    flat = ratio.ravel()
    slope = sum(flat[first + n] * s for n, s in enumerate(slopes))
    return float((p * ratio).sum()), np.asarray(slope) / max(len(values), 1)
