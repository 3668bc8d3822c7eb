"""Off-resonance: the field that susceptibility makes, its shim, and what EPI suffers from it.

The field of a susceptibility map is its convolution with a dipole, a product in Fourier space with
1/3 - kz^2/k^2 [1, 2]; the constant is the Lorentz sphere.

References
----------
.. [1] Salomir, de Senneville, Moonen 2003, Concepts Magn Reson B 19B:26 (doi 10.1002/cmr.b.10083).
.. [2] Marques and Bowtell 2005, Concepts Magn Reson B 25B:65 (doi 10.1002/cmr.b.20034).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft, special

from osteosap.simulate.scanner.coarse import AIR_PPM, CoarseBody
from osteosap.simulate.scanner.lattice import SmoothMap, axes_of
from osteosap.simulate.shapes import Field
from osteosap.simulate.signals import FAT_SHIFT_PPM

__all__ = [
    "dephasing",
    "fat_left",
    "gradient_ppm_per_mm",
    "off_resonance_ppm",
    "shimmed_ppm",
    "susceptibility_field_ppm",
    "water_left",
]

LEGS_MM = 150.0  # the body goes on below the field of view
SHIM_LIMIT_PPM = 8.0  # a shim does not follow metal
BAND_PPM, EDGE_PPM = 1.6, 0.22  # half width and softness of the band of a suppression pulse, ours


def susceptibility_field_ppm(chi_ppm: Field, spacing_mm: tuple[float, float, float]) -> Field:
    """Relative field (ppm, along z) of a susceptibility map that is zero outside the array.

    Parameters
    ----------
    chi_ppm
        Susceptibility relative to the surroundings, (I, J, K).
    spacing_mm
        Voxel edges.

    Returns
    -------
    field_ppm
        float32 (I, J, K), with the sphere of Lorentz; its mean over the padded box is zero.
    """
    return _convolve(chi_ppm, spacing_mm, below=0)


def off_resonance_ppm(coarse: CoarseBody) -> SmoothMap:
    """Field (ppm) of a body in the scanner before any shim; its legs go on below the image."""
    chi = coarse.chi_ppm - np.float32(AIR_PPM)
    below = round(LEGS_MM / coarse.grid.spacing_mm[2])
    return SmoothMap(_convolve(chi, coarse.grid.spacing_mm, below=below), coarse.grid)


def _convolve(chi: Field, spacing_mm: tuple[float, float, float], *, below: int) -> Field:
    margin = [n // 2 for n in chi.shape]
    margin[2] = max(margin[2] // 2, below)
    padded = [fft.next_fast_len(n + m + below * (d == 2), real=d == 2)
              for d, (n, m) in enumerate(zip(chi.shape, margin, strict=True))]  # fmt: skip
    i, j, k = chi.shape
    box = np.zeros(padded, dtype=np.float32)
    box[:i, :j, :k] = chi
    if below:  # the far end of a periodic box is what lies below its start
        box[:i, :j, -below:] = chi[:, :, :1]
    kx, ky = (fft.fftfreq(padded[d], spacing_mm[d]).astype(np.float32) for d in (0, 1))
    kz = fft.rfftfreq(padded[2], spacing_mm[2]).astype(np.float32)
    square = kx[:, None, None] ** 2 + ky[None, :, None] ** 2 + kz**2
    square[0, 0, 0] = 1.0
    spectrum = fft.rfftn(box)
    spectrum *= np.float32(1 / 3) - kz**2 / square
    spectrum[0, 0, 0] = 0.0
    return np.ascontiguousarray(fft.irfftn(spectrum, s=padded)[:i, :j, :k], dtype=np.float32)


def shimmed_ppm(
    field: SmoothMap, tissue: npt.NDArray[np.bool_], *, lo_mm: float, hi_mm: float, end_ppm: float
) -> SmoothMap:
    """Field (ppm) of one station after its shim.

    Parameters
    ----------
    field
        Field of the whole body.
    tissue
        Where tissue gives signal, on the field's grid.
    lo_mm, hi_mm
        Heights between which the station lies; constant and slopes are fitted there.
    end_ppm
        Field that magnet and gradients add at the station's ends.

    Returns
    -------
    field
        The station's part of the map, with a margin.
    """
    part = field.cut(lo_mm, hi_mm)
    start = round((part.grid.affine[2, 3] - field.grid.affine[2, 3]) / field.grid.affine[2, 2])
    mask = tissue[:, :, start : start + part.grid.shape[2]]
    x, y, z = axes_of(part.grid)
    inside = mask & ((z >= lo_mm) & (z <= hi_mm))
    values = part.values.astype(np.float32)
    if inside.any():
        values = values - np.float32(np.median(values[inside]))
        fitted = inside & (np.abs(values) < SHIM_LIMIT_PPM)
        values = values - _plane(values, fitted, (x, y, z))
    along = np.clip(np.abs(z - (lo_mm + hi_mm) / 2) / max((hi_mm - lo_mm) / 2, 1e-6), 0, 1.2)
    across = 1 + 0.5 * ((x - x.mean()) / 250.0) ** 2
    values = values + (end_ppm * across[:, None] * along**4).astype(np.float32)[:, None, :]
    return SmoothMap(values.astype(np.float32), part.grid)


def _plane(
    values: Field, mask: npt.NDArray[np.bool_], axes: tuple[npt.NDArray[np.float64], ...]
) -> Field:
    """Least-squares constant and slopes of the masked values, on the whole lattice."""
    index = np.nonzero(mask)
    middle = [float(a.mean()) for a in axes]
    columns = [a[i] - m for a, i, m in zip(axes, index, middle, strict=True)]
    design = np.stack([np.ones(len(index[0])), *columns], axis=1)
    c, *_ = np.linalg.lstsq(design.T @ design, design.T @ values[index], rcond=1e-9)
    gx, gy, gz = (s * (a - m) for s, a, m in zip(c[1:], axes, middle, strict=True))
    return np.asarray(c[0] + gx[:, None, None] + gy[:, None] + gz, dtype=np.float32)


def gradient_ppm_per_mm(field: SmoothMap) -> SmoothMap:
    """Magnitude of the field's gradient."""
    parts = [
        np.gradient(field.values, s, axis=d) if field.values.shape[d] > 1 else np.float32(0)
        for d, s in enumerate(field.grid.spacing_mm)
    ]
    total = np.sqrt(sum((np.asarray(p) ** 2 for p in parts), start=np.zeros_like(field.values)))
    return SmoothMap(total.astype(np.float32), field.grid)


def _left(offset_ppm: Field) -> Field:
    """What a suppression pulse leaves at an offset from the middle of its band, 0-1."""
    outside = (np.abs(offset_ppm) - np.float32(BAND_PPM)) / np.float32(EDGE_PPM)
    return np.asarray(special.expit(outside), dtype=np.float32)


def fat_left(field_ppm: Field) -> Field:
    """Share of fat that spectral suppression misses where the field is off (0-1)."""
    return _left(field_ppm)


def water_left(field_ppm: Field) -> Field:
    """Share of water that survives: where the field is 3.4 ppm low the pulse takes water."""
    return _left(field_ppm - np.float32(FAT_SHIFT_PPM))


def dephasing(gradient_hz_per_mm: Field, *, voxel_mm: float, time_ms: float) -> Field:
    """Share of signal left (0-1) by a field gradient across a voxel over a time.

    sinc(f t) of the spread f (Hz) over the voxel, by its Gaussian of equal curvature.
    """
    turns = gradient_hz_per_mm * np.float32(voxel_mm * time_ms * 1e-3)
    return np.asarray(np.exp(-((np.float32(np.pi) * turns) ** 2) / 6), dtype=np.float32)
