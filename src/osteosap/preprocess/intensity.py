"""One scale per station, so that neighbouring stations agree where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from osteosap.preprocess.body import foreground_threshold
from osteosap.preprocess.stitch import Placed

__all__ = ["StationScales", "station_scales"]

MIN_VOXELS = 50
"""Fewest tissue voxels of an overlap that give a ratio."""


@dataclass(frozen=True)
class StationScales:
    """Scales of stations, and what is left of their disagreement.

    Parameters
    ----------
    scales
        Factor of every station; 1 for the central one.
    voxels
        Tissue voxels in the overlap that set each station's scale; 0 for the central one and
        where there was no signal.
    mismatch
        For each neighbouring pair in order: median absolute relative difference in the overlap
        after scaling; NaN where there was no signal.
    warnings
        Overlaps without signal.
    """

    scales: tuple[float, ...]
    voxels: tuple[int, ...]
    mismatch: tuple[float, ...]
    warnings: tuple[str, ...]


def station_scales(placed: Sequence[Placed], order: Sequence[int]) -> StationScales:
    """Scale stations from the centre outwards by the median ratio of signals in the overlaps.

    The ratio is the median of log-signal differences over voxels that are tissue in both
    stations, so that it does not depend on which of the two comes first. A station whose overlap
    holds no signal takes its inner neighbour's scale (relative scale 1), with a warning.

    Parameters
    ----------
    placed
        Stations on one grid (for DWI: of the lowest b-value; the scales hold for all of them).
    order
        Indices of the stations along the stacking direction.

    References
    ----------
    Ceranka et al. 2023, doi 10.1016/j.cmpb.2023.107811
    """
    n = len(order)
    levels = [foreground_threshold(station.array) for station in placed]
    scales, voxels, warnings = [1.0] * n, [0] * n, []
    centre = n // 2
    pairs = [(order[p], order[p + 1]) for p in range(centre, n - 1)]
    pairs += [(order[p], order[p - 1]) for p in range(centre, 0, -1)]
    for inner, outer in pairs:
        ratios = _log_ratios(placed, inner, outer, levels)
        if ratios.size < MIN_VOXELS:
            scales[outer] = scales[inner]
            warnings.append(
                f"stations {order.index(inner) + 1} and {order.index(outer) + 1}: "
                f"{ratios.size} tissue voxels in their overlap, {MIN_VOXELS} needed; "
                "their intensities were not matched"
            )
            continue
        scales[outer] = scales[inner] * float(np.exp(np.median(ratios)))
        voxels[outer] = int(ratios.size)
    mismatch = [
        _mismatch(_log_ratios(placed, a, b, levels), scales[a] / scales[b])
        for a, b in pairwise(order)
    ]
    return StationScales(tuple(scales), tuple(voxels), tuple(mismatch), tuple(warnings))


def _log_ratios(
    placed: Sequence[Placed], inner: int, outer: int, levels: Sequence[float]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """log(inner / outer) of the voxels that are tissue in both stations."""
    a, b = placed[inner], placed[outer]
    start = np.maximum(a.start, b.start)
    stop = np.minimum(np.add(a.start, a.array.shape), np.add(b.start, b.array.shape))
    if (stop <= start).any():
        return np.empty(0, np.float32)
    parts = []
    for station, level in ((a, levels[inner]), (b, levels[outer])):
        box = tuple(
            slice(int(lo - s), int(hi - s))
            for lo, hi, s in zip(start, stop, station.start, strict=True)
        )
        signal = station.array[box]
        weight = np.broadcast_to(station.weight, station.array.shape)[box]
        parts.append((signal, (signal > level) & (weight > 0)))
    tissue = parts[0][1] & parts[1][1]
    return np.asarray(np.log(parts[0][0][tissue] / parts[1][0][tissue]), np.float32)


def _mismatch(ratios: np.ndarray[tuple[int, ...], np.dtype[np.float32]], applied: float) -> float:
    if ratios.size < MIN_VOXELS:
        return float("nan")
    return float(np.median(np.abs(np.expm1(ratios + np.log(applied)))))
