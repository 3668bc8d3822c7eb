"""One scale per station, so that neighbours agree where they overlap, and a tissue in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.errors import VolumeError
from osteosap.preprocess.body import foreground_threshold
from osteosap.preprocess.stitch import Placed

__all__ = [
    "StationScales",
    "overlap_box",
    "overlap_signals",
    "seam_mismatch",
    "station_scales",
    "tissue_level",
]

Floats = npt.NDArray[np.float32]

Equation = tuple[dict[int, float], float]
"""Factor by unknown, and what their sum should be."""

MIN_VOXELS = 50
"""Fewest tissue voxels of an overlap that give a ratio."""
MOST_OFF = 0.3
"""Logarithm by which the level of a tissue may be off what the overlaps say."""
NEXT_TO_NOTHING = 1e-3
"""Factor of an equation that decides only where no other does."""


@dataclass(frozen=True)
class StationScales:
    """Scales of stations, and what is left of their disagreement.

    Parameters
    ----------
    scales
        Factor of every station; 1 for the central one.
    voxels
        Tissue voxels in the overlap with each station's inner neighbour; 0 for the central one
        and where there was no signal.
    mismatch
        For each neighbouring pair in order: median absolute relative difference in the overlap
        after scaling, voxel by voxel, noise included; NaN where there was no signal. See
        :func:`seam_mismatch` for one without noise.
    warnings
        Overlaps without signal, and levels that were left out.
    """

    scales: tuple[float, ...]
    voxels: tuple[int, ...]
    mismatch: tuple[float, ...]
    warnings: tuple[str, ...]


def station_scales(
    placed: Sequence[Placed], order: Sequence[int], *, levels: Sequence[float | None] | None = None
) -> StationScales:
    """Scale stations so that they agree in their overlaps, and in the level of one tissue.

    The ratio of two neighbours is the median of log-signal differences over voxels that are tissue
    in both, so that it does not depend on which of the two comes first. Errors of overlaps add up
    from station to station, less so where levels are given: then every overlap and every level is
    one equation of least squares. An overlap that holds no signal says nothing, with a warning;
    where nothing else links its stations, their relative scale is 1.

    Parameters
    ----------
    placed
        Stations on one grid (for DWI: of the lowest b-value; the scales hold for all of them).
    order
        Indices of the stations along the stacking direction.
    levels
        Logarithm of the signal that each station has in a tissue that should be equally bright in
        all of them; None where that is not known. One that is far from what the overlaps say is
        left out, with a warning.

    References
    ----------
    Ceranka et al. 2023, doi 10.1016/j.cmpb.2023.107811; levels of a tissue are ours.
    """
    n = len(order)
    cuts = [tissue_level(station) for station in placed]
    voxels, warnings = [0] * n, []
    centre = n // 2
    pairs = [(order[p], order[p + 1]) for p in range(centre, n - 1)]
    pairs += [(order[p], order[p - 1]) for p in range(centre, 0, -1)]
    overlaps: list[Equation] = []
    for inner, outer in pairs:
        ratios = _log_ratios(placed, inner, outer, cuts)
        if ratios.size < MIN_VOXELS:
            overlaps.append(({outer: NEXT_TO_NOTHING, inner: -NEXT_TO_NOTHING}, 0.0))
            warnings.append(
                f"stations {order.index(inner) + 1} and {order.index(outer) + 1}: "
                f"{ratios.size} tissue voxels in their overlap, {MIN_VOXELS} needed; "
                "their intensities were not matched there"
            )
            continue
        overlaps.append(({outer: 1.0, inner: -1.0}, float(np.median(ratios))))
        voxels[outer] = int(ratios.size)
    told = np.count_nonzero(voxels) == n - 1  # otherwise only levels link some stations
    known, far = _believed(levels or (), _least_squares(overlaps, n) if told else None)
    warnings += [
        f"station {order.index(i) + 1}: the level of its muscle is {np.expm1(abs(v)):.0%} off what "
        "the overlaps say, and was not used to match it"
        for i, v in sorted(far.items())
    ]
    common = n  # the level that all stations are brought to
    equations = [({i: 1.0, common: -1.0}, -level) for i, level in known.items()]
    logs = _least_squares(overlaps + equations, n + 1)
    scales = [float(np.exp(logs[i] - logs[order[centre]])) for i in range(n)]
    mismatch = [
        _mismatch(_log_ratios(placed, a, b, cuts), scales[a] / scales[b])
        for a, b in pairwise(order)
    ]
    return StationScales(tuple(scales), tuple(voxels), tuple(mismatch), tuple(warnings))


def _believed(
    levels: Sequence[float | None], by_overlaps: npt.NDArray[np.float64] | None
) -> tuple[dict[int, float], dict[int, float]]:
    """Known levels by station; and by how much those that are left out are off the overlaps."""
    known = {i: level for i, level in enumerate(levels) if level is not None}
    if by_overlaps is None:
        return known, {}
    scaled = {i: float(by_overlaps[i]) + level for i, level in known.items()}
    usual = float(np.median(list(scaled.values()))) if scaled else 0.0
    far = {i: v - usual for i, v in scaled.items() if abs(v - usual) > MOST_OFF}
    return {i: level for i, level in known.items() if i not in far}, far


def _least_squares(equations: Sequence[Equation], n: int) -> npt.NDArray[np.float64]:
    """Unknowns that fit equations (factor by unknown, right side) best, and are small."""
    matrix = np.zeros((len(equations), n))
    for row, (factors, _) in zip(matrix, equations, strict=True):
        row[list(factors)] = list(factors.values())
    return np.asarray(np.linalg.lstsq(matrix, np.array([r for _, r in equations]), rcond=None)[0])


def seam_mismatch(
    placed: Sequence[Placed],
    order: Sequence[int],
    scales: Sequence[float],
    *,
    block: tuple[int, int, int] = (5, 5, 3),
) -> tuple[float, ...]:
    """How much neighbouring stations disagree in the level of their signal where they overlap.

    The median over tissue of the relative difference of local means. Voxel by voxel, noise alone
    is a difference of several per cent on DWI; means over blocks of about a centimetre are nearly
    free of it, and still see any seam that a reader could.

    Parameters
    ----------
    placed
        Stations on one grid.
    order
        Indices of the stations along the stacking direction.
    scales
        Factor of every station.
    block
        Voxels of the blocks along I, J and K; one that is longer than the overlap is cut to it.

    Returns
    -------
    mismatch
        For each neighbouring pair in order; NaN where too little tissue is in both.
    """
    levels = [tissue_level(station) for station in placed]
    found = []
    for a, b in pairwise(order):
        both = overlap_signals(placed, a, b, levels)
        if both is None:
            found.append(float("nan"))
            continue
        first, second, tissue = both
        scaled = first * np.float32(scales[a]), second * np.float32(scales[b])
        found.append(_block_mismatch(scaled, tissue, block))
    return tuple(found)


def tissue_level(station: Placed) -> float:
    """Signal above which a station shows tissue, told from where its weight is not 0."""
    shown = station.array[np.broadcast_to(station.weight, station.array.shape) > 0]
    try:
        return foreground_threshold(shown if shown.size else station.array)
    except VolumeError:  # no signal there: nothing counts as tissue
        return float("inf")


def _block_mismatch(
    signals: tuple[Floats, Floats], tissue: npt.NDArray[np.bool_], block: tuple[int, int, int]
) -> float:
    """Median relative difference of the means of two images over blocks of tissue."""
    if tissue.sum() < MIN_VOXELS:
        return float("nan")
    size = [min(n, m) for n, m in zip(block, tissue.shape, strict=True)]
    means = [
        ndimage.uniform_filter(np.where(tissue, signal, 0), size, mode="constant")
        for signal in signals
    ]
    share = ndimage.uniform_filter(tissue.astype(np.float32), size, mode="constant")
    middle = tissue & (share >= 0.5)
    if not middle.any():
        return float("nan")
    x, y = (m[middle].astype(np.float64) for m in means)
    return float(np.median(2 * np.abs(x - y) / (x + y)))


def overlap_signals(
    placed: Sequence[Placed], inner: int, outer: int, levels: Sequence[float]
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]] | None:
    """Signals of two stations on their common box, and the voxels that are tissue in both."""
    a, b = placed[inner], placed[outer]
    common = overlap_box(a, b)
    if common is None:
        return None
    signals, tissue = [], np.ones(tuple(s.stop - s.start for s in common), bool)
    for station, level in ((a, levels[inner]), (b, levels[outer])):
        box = tuple(
            slice(c.start - s, c.stop - s) for c, s in zip(common, station.start, strict=True)
        )
        weight = np.broadcast_to(station.weight, station.array.shape)[box]
        signals.append(station.array[box])
        tissue &= (signals[-1] > level) & (weight > 0)
    return signals[0], signals[1], tissue


def overlap_box(a: Placed, b: Placed) -> tuple[slice, slice, slice] | None:
    """Slices of the grid that two placed stations share; None if there are none."""
    start = np.maximum(a.start, b.start)
    stop = np.minimum(np.add(a.start, a.array.shape), np.add(b.start, b.array.shape))
    if (stop <= start).any():
        return None
    i, j, k = (slice(int(lo), int(hi)) for lo, hi in zip(start, stop, strict=True))
    return i, j, k


def _log_ratios(
    placed: Sequence[Placed], inner: int, outer: int, levels: Sequence[float]
) -> Floats:
    """log(inner / outer) of the voxels that are tissue in both stations."""
    both = overlap_signals(placed, inner, outer, levels)
    if both is None:
        return np.empty(0, np.float32)
    first, second, tissue = both
    return np.asarray(np.log(first[tissue] / second[tissue]), np.float32)


def _mismatch(ratios: Floats, applied: float) -> float:
    if ratios.size < MIN_VOXELS:
        return float("nan")
    return float(np.median(np.abs(np.expm1(ratios + np.log(applied)))))
