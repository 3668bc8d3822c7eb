"""The body on a coarse grid in the scanner: susceptibility, outline, lung, spine.

Fields, coils and breathing are smooth; 6 mm are enough for them and cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Grid
from osteosap.simulate.body import Body
from osteosap.simulate.scanner.lattice import Pose, covering_grid
from osteosap.simulate.shapes import Field
from osteosap.simulate.tissue import T

__all__ = ["COARSE_MM", "SUSCEPTIBILITY_PPM", "CoarseBody", "coarse_body"]

COARSE_MM = 6.0
WATER_PPM, AIR_PPM = -9.05, 0.36

_OTHER_PPM = {
    T.AIR: AIR_PPM,
    T.GAS: AIR_PPM,
    T.LUNG: -4.0,
    T.CORTEX: -11.3,
    T.FAT: -8.4,
    T.METAL: 182.0,
}
SUSCEPTIBILITY_PPM: Field = np.array([_OTHER_PPM.get(t, WATER_PPM) for t in T], dtype=np.float32)
"""Volume susceptibility (SI, ppm) by tissue id.

Water, air and titanium after [1]; cortical bone after [2] (-0.90 ppm in CGS units); lung about -4
after [3]; fat a little above water, within the range of tissues of [1], ours.

References
----------
.. [1] Schenck 1996, Med Phys 23:815 (doi 10.1118/1.597854).
.. [2] Hopkins and Wehrli 1997, Magn Reson Med 37:494 (doi 10.1002/mrm.1910370404).
.. [3] Maniewski et al. 1988, as cited in "Magnetic mapping of DC fields related to tissue
   susceptibility in the human body", Advances in Biomagnetism, 1989.
"""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CoarseBody:
    """Coarse maps along the scanner's axes, all (I, J, K).

    Parameters
    ----------
    grid
        Axis-aligned grid in the scanner.
    chi_ppm
        Mean volume susceptibility.
    inside
        Body, lung and gas included.
    shimmed
        What a shim sees: tissue that gives signal.
    lung, spine
        Lung; bones whose site is the spine.
    """

    grid: Grid
    chi_ppm: Field
    inside: Mask
    shimmed: Mask
    lung: Mask
    spine: Mask


def coarse_body(body: Body, pose: Pose) -> CoarseBody:
    """Average a body over about 6 mm and bring it to the scanner's axes."""
    factor = [max(1, round(COARSE_MM / s)) for s in body.grid.spacing_mm]
    chi = _block_mean(body.tissue, factor)
    middle = tuple(slice(f // 2, None, f) for f in factor)
    tissue, bone = body.tissue[middle], body.bone[middle]
    is_spine = np.array([False] + [b.site == "spine" for b in body.bones])
    spine = is_spine[bone]
    grid = _coarse_grid(pose.place(body.grid), factor, chi.shape)
    padded = [_fit(a, chi.shape) for a in (tissue, spine)]
    tissue, spine = padded[0], padded[1].astype(bool)
    if pose.turned:
        target = covering_grid(grid, grid.spacing_mm)
        chi = _turn(chi, grid, target, order=1, fill=AIR_PPM)
        tissue = _turn(tissue, grid, target, order=0, fill=int(T.AIR))
        spine = _turn(spine.astype(np.uint8), grid, target, order=0, fill=0) > 0
        grid = target
    inside = tissue != T.AIR
    silent = (T.AIR, T.GAS, T.LUNG, T.METAL)
    return CoarseBody(
        grid=grid,
        chi_ppm=chi,
        inside=inside,
        shimmed=~np.isin(tissue, silent),
        lung=tissue == T.LUNG,
        spine=spine,
    )


def _block_mean(tissue: npt.NDArray[np.uint8], factor: list[int]) -> Field:
    """Mean susceptibility of blocks of voxels; what sticks out beyond the grid is air."""
    shape = tuple(-(-n // f) for n, f in zip(tissue.shape, factor, strict=True))
    out = np.empty(shape, dtype=np.float32)
    full = (factor[0], shape[1] * factor[1], shape[2] * factor[2])
    for i in range(shape[0]):
        plane = tissue[i * factor[0] : (i + 1) * factor[0]]
        if plane.shape != full:
            plane = _fit(plane, full)
        values = np.take(SUSCEPTIBILITY_PPM, plane)
        blocks = values.sum(axis=0).reshape(shape[1], factor[1], shape[2], factor[2])
        out[i] = blocks.sum(axis=(1, 3)) / np.float32(np.prod(factor))
    return out


def _fit(array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Cut or fill with zeros (air) at the upper ends."""
    out = np.zeros(shape, dtype=np.uint8)
    common = tuple(slice(0, min(a, b)) for a, b in zip(array.shape, shape, strict=True))
    out[common] = array[common]
    return out


def _coarse_grid(placed: Grid, factor: list[int], shape: tuple[int, ...]) -> Grid:
    f = np.asarray(factor, dtype=np.float64)
    affine = placed.affine.copy()
    affine[:3, :3] = placed.affine[:3, :3] * f
    affine[:3, 3] += placed.affine[:3, :3] @ ((f - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine)


def _turn(
    array: npt.NDArray[Any], source: Grid, target: Grid, *, order: int, fill: float
) -> npt.NDArray[Any]:
    matrix = np.linalg.inv(source.affine) @ target.affine
    return np.asarray(
        ndimage.affine_transform(
            array, matrix[:3, :3], matrix[:3, 3], target.shape, order=order, cval=fill
        )
    )
