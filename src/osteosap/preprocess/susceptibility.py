"""The pattern that the body itself lays over the magnetic field: tissue against air."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from osteosap.geometry import Grid, resample

__all__ = ["field_pattern"]

Numbers = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

SPACING_MM = 6.0
"""Voxel at which the field is computed."""
SMOOTH_MM = 6.0
"""Sigma of the Gaussian that rounds the jumps at the skin."""


def field_pattern(tissue: Numbers, grid: Grid, station: Grid, *, mask: Numbers) -> Doubles | None:
    """Shape of the off-resonance in a station, up to a factor, as its shim leaves it.

    Tissue weakens the field against air; how, follows from where the tissue is. The main field
    is taken along S. Constant and slopes inside the mask are removed, as a scanner's shim does.

    Parameters
    ----------
    tissue
        bool (I, J, K) on ``grid``: tissue and not air, lungs and bowel gas being air; best with
        what lies some 10 cm around the station.
    station
        Where the pattern is wanted; in the world of ``grid``.
    mask
        bool on ``station``: the body.

    Returns
    -------
    pattern
        (I, J, K) on ``station``, of SD 1 inside the mask; None where nothing varies.

    References
    ----------
    Marques and Bowtell 2005, doi 10.1002/cmr.b.20034 (field of a susceptibility map)
    """
    spacing = np.maximum(grid.spacing_mm, SPACING_MM)
    small = grid.with_spacing((float(spacing[0]), float(spacing[1]), float(spacing[2])))
    part = np.asarray(resample(tissue.astype(np.float32), grid, small), np.float64)
    along = _nearest_axis(small)
    pad = [(max(n // 2, 10),) * 2 for n in part.shape]
    only = [p if a == along else (0, 0) for a, p in enumerate(pad)]
    rest = [p if a != along else (0, 0) for a, p in enumerate(pad)]
    wide = np.pad(np.pad(part, rest), only, mode="edge")  # the body goes on beyond the image
    shape = [fft.next_fast_len(n, real=True) for n in wide.shape]
    frequency = [fft.fftfreq(n) for n in shape[:2]] + [fft.rfftfreq(shape[2])]
    k = [
        f.reshape([-1 if a == b else 1 for b in range(3)]) / small.spacing_mm[a]
        for a, f in enumerate(frequency)
    ]
    up = small.affine[2, :3] / small.spacing_mm
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1.0
    kernel = 1 / 3 - (up[0] * k[0] + up[1] * k[1] + up[2] * k[2]) ** 2 / square
    kernel[0, 0, 0] = 0.0
    whole = fft.irfftn(fft.rfftn(wide, s=shape) * kernel, s=shape)
    inner = tuple(slice(p[0], p[0] + n) for p, n in zip(pad, part.shape, strict=True))
    smooth = ndimage.gaussian_filter(whole[inner], SMOOTH_MM / np.asarray(small.spacing_mm))
    field = np.asarray(resample(smooth, small, station), np.float64)
    return _shimmed(field, mask > 0)


def _nearest_axis(grid: Grid) -> int:
    """Index axis nearest to S."""
    return int(np.abs(grid.affine[2, :3] / grid.spacing_mm).argmax())


def _shimmed(field: Doubles, mask: npt.NDArray[np.bool_]) -> Doubles | None:
    """Without constant and slopes inside the mask, of SD 1 there."""
    where = np.argwhere(mask)
    if len(where) < 10:
        return None
    terms = np.column_stack([np.ones(len(where)), where])
    fit, *_ = np.linalg.lstsq(terms, field[mask], rcond=None)
    i, j, k = np.ogrid[: field.shape[0], : field.shape[1], : field.shape[2]]
    field = field - (fit[0] + fit[1] * i + fit[2] * j + fit[3] * k)
    spread = float(field[mask].std())
    return field / spread if spread > 1e-6 else None
