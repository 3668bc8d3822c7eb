"""Bias of DWI from muscle, which T1 and ADC tell once a station has its place on T1.

A diffusion image alone does not tell the coils' shading from anatomy, nor from what EPI does. But
the displacement that brings it to T1 says how EPI squeezed it, and where the magnetic field changes
so fast that voxels lose signal; T1 (without bias) says where muscle is, and the ADC (which no bias
changes) that it is neither brain nor gut. What is left of all stations' muscle shares one
histogram, as T1 does in :mod:`~osteosap.preprocess.bias`; and where two stations overlap, what they
show differs by their fields, and by what a station's end does to signal.

Spins whose frequencies spread by f Hz over a voxel leave sinc(f t) of its signal after a time t: to
leading order its logarithm falls with the square of the field's slope, and that is the slope of the
displacement up to a factor, one for the whole scan. (Slopes along all axes count alike, as if
voxels were cubes; so they do in the simulator.) The factor is found in muscle with the fields, not
by physics, as t and the width of EPI's pixels in Hz are not always known. What is lost is no bias,
and kept out of the fields; images are made up for it, up to twice, all b-values alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.bias import BiasConfig, estimate_biases
from osteosap.preprocess.bias_field import BiasField
from osteosap.preprocess.overlaps import find_overlaps
from osteosap.volume import Volume

__all__ = ["biases_in_muscle"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

NEAR = 0.2
"""Muscle has a T1 signal, and an ADC, whose logarithm lies within this of the most common one."""
BIN = 0.02
"""Bin of the histogram of logarithms; it is smoothed by three of them."""
MAIN_PEAK = 0.3
"""A peak of T1 counts if it is this share of the highest; muscle is the darkest such, not fat."""
SMOOTH_MM = 1.3
"""Sigma of the Gaussian that takes the noise off T1."""
LEAST_DENSITY, MOST_DENSITY = 0.4, 2.5
"""Pile-up that is undone; where the registration finds more, it is not to be trusted."""
MOST_STEEP = 0.3
"""Steepness up to which the signal is taken to fall with it, and beyond which it falls no more:
muscle is seldom steeper, and what is found there is less certain."""
DEPTH_MM = 100.0
"""Unit of depth. Coils lie on the skin: the logarithm of a field may change in proportion to it."""
DEPTH_VOXEL_MM = 6.0
"""Voxel at which depth is measured, about."""


def biases_in_muscle(
    lowest: Sequence[Volume],
    adcs: Sequence[Floats],
    alignments: Sequence[DwiAlignment | None],
    target: tuple[Volume, Mask],
    *,
    config: BiasConfig,
) -> list[BiasField]:
    """Fields of DWI stations, found in muscle of all of them together.

    Parameters
    ----------
    lowest
        Lowest b-value of every station, with its bias.
    adcs
        um2/s on the stations' grids.
    alignments
        How the stations lie to T1; None: by scanner coordinates.
    target
        T1 without bias and the body's mask.
    config
        Settings of the bias correction.

    Returns
    -------
    fields
        A station with too little muscle gets a flat one, and the reason.
    """
    t1, body = target
    ways = [alignment or DwiAlignment(np.eye(4)) for alignment in alignments]
    smooth = ndimage.gaussian_filter(t1.array[0], SMOOTH_MM / np.asarray(t1.spacing_mm))
    log_t1 = np.where(body & (smooth > 0), np.log(np.maximum(smooth, 1e-6)), -np.inf)
    muscle = np.abs(log_t1 - _peak(log_t1[::2, ::2, ::2], darkest=True)) < NEAR
    depth = _depth(body, t1)
    masks, images, depths, losses = [], [], [], []
    for volume, way in zip(lowest, ways, strict=True):
        undone, shape = way.undone(volume.grid), volume.grid.shape
        masks.append((_at(muscle, t1, undone.points) & undone.single).reshape(shape))
        squeezed = np.clip(undone.density, LEAST_DENSITY, MOST_DENSITY).reshape(shape)
        images.append(Volume.single(volume.array[0] * squeezed, volume.affine, "dwi"))
        depths.append(depth(undone.points).reshape(shape))
        steep = np.where(undone.single, np.minimum(undone.steepness, MOST_STEEP), 0.0)
        losses.append(steep.astype(np.float32).reshape(shape))
    masks = _of_one_adc(masks, adcs)
    overlaps = (
        find_overlaps(lowest, t1.grid, mask=body, ways=ways) if config.compares_stations else []
    )
    return estimate_biases(
        images,
        masks=masks,
        patterns=depths,
        losses=losses,
        overlaps=overlaps,
        config=config.for_muscle(),
    )


def _depth(body: Mask, t1: Volume) -> Callable[[Doubles], Floats]:
    """How deep points (N, 3) lie below the surface of the body, in units of ``DEPTH_MM``."""
    step = [max(1, round(DEPTH_VOXEL_MM / s)) for s in t1.spacing_mm]
    coarse = body[:: step[0], :: step[1], :: step[2]]
    along = int(np.abs(t1.affine[2, :3] / t1.spacing_mm).argmax())  # the body goes on there
    rim = [0 if axis == along else 1 for axis in range(3)]
    inner = tuple(slice(r, n + r) for r, n in zip(rim, coarse.shape, strict=True))
    spacing = np.asarray(t1.spacing_mm) * step
    beside = np.pad(coarse, [(r, r) for r in rim])
    mm = ndimage.distance_transform_edt(beside, sampling=spacing)[inner]
    inverse = np.linalg.inv(t1.affine)

    def at(points: Doubles) -> Floats:
        index = (points @ inverse[:3, :3].T + inverse[:3, 3]) / step
        found = ndimage.map_coordinates(mm, index.T, order=1, mode="nearest")
        return np.asarray(found / DEPTH_MM, np.float32)

    return at


def _of_one_adc(masks: Sequence[Mask], adcs: Sequence[Floats]) -> list[Mask]:
    """Masks without what diffuses otherwise than most of them do, and without single voxels."""
    logs = [np.log(np.maximum(ndimage.median_filter(a, 3), 1.0)).astype(np.float32) for a in adcs]
    usual = _peak(np.concatenate([a[m] for a, m in zip(logs, masks, strict=True)]))
    near = [m & (np.abs(a - usual) < NEAR) for a, m in zip(logs, masks, strict=True)]
    return [np.asarray(ndimage.binary_opening(m), np.bool_) for m in near]


def _peak(logs: Numbers, *, darkest: bool = False) -> float:
    """Most common of some logarithms above 0, or the lowest one that is about as common."""
    values = logs[np.isfinite(logs) & (logs > 0)]
    if values.size == 0:
        return float("nan")
    n = int((values.max() - values.min()) / BIN) + 3
    edges = float(values.min()) - BIN + BIN * np.arange(n + 1)
    count = np.histogram(values, edges)[0].astype(np.float64)
    count = np.pad(ndimage.gaussian_filter1d(count, 3.0, mode="constant"), 1)
    peaks = (count[1:-1] > count[:-2]) & (count[1:-1] >= count[2:])
    high = np.flatnonzero(peaks & (count[1:-1] > MAIN_PEAK * count.max()))
    best = high[0] if darkest else int(count[1:-1].argmax())
    return float(edges[best] + BIN / 2)


def _at(mask: Mask, t1: Volume, points: Doubles) -> Mask:
    """A mask on T1 at points (N, 3); False outside."""
    inverse = np.linalg.inv(t1.affine)
    index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.intp)
    inside = ((index >= 0) & (index < mask.shape)).all(axis=1)
    found = np.zeros(len(points), bool)
    found[inside] = mask[tuple(index[inside].T)]
    return found
