"""Coils, breathing, ghosts and noise: what is laid over an image before it is shown."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.body import BODY_HI, BODY_LO
from osteosap.simulate.scanner.coarse import CoarseBody
from osteosap.simulate.scanner.lattice import Axis, SmoothMap, axes_of
from osteosap.simulate.scanner.protocol import ArtefactConfig
from osteosap.simulate.shapes import Field, NoiseField

__all__ = [
    "breathe",
    "breathing_ghosts",
    "breathing_map",
    "coil_bias",
    "half_view_ghost",
    "rician",
    "surface_depth_mm",
]

COIL_WAVELENGTH_MM = 220.0
COIL_DEPTH_MM = 50.0  # the surface is brighter over this depth, ours
TABLE_MM = 200.0  # how far a posed body may leave the box of bodies


def surface_depth_mm(coarse: CoarseBody) -> Field:
    """Depth (mm) below the surface of the body; 0 outside."""
    sampling = coarse.grid.spacing_mm
    padded = np.pad(coarse.inside, ((1, 1), (1, 1), (0, 0)))
    depth = ndimage.distance_transform_edt(padded, sampling=sampling)
    return np.asarray(depth[1:-1, 1:-1], dtype=np.float32)


def coil_bias(
    coarse: CoarseBody,
    depth_mm: Field,
    *,
    lo_mm: float,
    hi_mm: float,
    config: ArtefactConfig,
    rng: np.random.Generator,
) -> SmoothMap:
    """Multiplicative field of the coils of one station and one sequence.

    Its logarithm is a smooth random field plus a surface that is brighter than the depth.

    Parameters
    ----------
    coarse, depth_mm
        The body in the scanner and its depth map.
    lo_mm, hi_mm
        Heights between which the station lies.
    config, rng
        Strengths; source of the random field.
    """
    part = SmoothMap(depth_mm, coarse.grid).cut(lo_mm, hi_mm)
    field = NoiseField(rng, COIL_WAVELENGTH_MM, BODY_LO - TABLE_MM, BODY_HI + TABLE_MM)
    values = np.float32(config.bias) * field.on([a.astype(np.float32) for a in axes_of(part.grid)])
    near = np.exp(-part.values / np.float32(COIL_DEPTH_MM))
    values += np.float32(config.surface_bias) * (near - np.float32(0.4))
    smooth = ndimage.gaussian_filter(values, 12.0 / np.array(part.grid.spacing_mm))
    return SmoothMap(np.exp(smooth, dtype=np.float32), part.grid)


def breathing_map(coarse: CoarseBody) -> SmoothMap | None:
    """How much each place moves with the breath (0-1): front of chest and upper abdomen.

    Most at the diaphragm, less towards the apex of the lung and the pelvis; nothing at the level of
    the spine and behind it. None without lungs.
    """
    if not coarse.lung.any():
        return None
    x, y, z = axes_of(coarse.grid)
    index = np.nonzero(coarse.lung)
    base, top = np.percentile(z[index[2]], [4, 99])
    left, right = np.percentile(x[index[0]], [1, 99])
    above = np.clip(1 - (z - base) / max(top - base, 1.0), 0, 1) ** 0.7
    along = np.where(z >= base, above, np.exp(-(((base - z) / 110.0) ** 2)))
    front = _spine_front(coarse, y, fallback=float(np.percentile(y[index[1]], 25)))
    rise = np.clip((y[:, None] - front) / 45.0, 0, 1)
    rise = rise * rise * (3 - 2 * rise)
    across = np.clip(1 - (np.maximum(left - x, x - right) - 15.0) / 30.0, 0, 1)
    values = across[:, None, None] * (rise * along)
    return SmoothMap(values.astype(np.float32), coarse.grid)


def _spine_front(coarse: CoarseBody, y: Axis, *, fallback: float) -> npt.NDArray[np.float64]:
    """Height y (mm) of the front of the spine at every level; smooth."""
    has = coarse.spine.any(axis=0)
    front = np.where(has, y[:, None], -np.inf).max(axis=0)
    known = np.isfinite(front)
    if not known.any():
        return np.full(front.shape, fallback)
    levels = np.arange(front.size)
    filled = np.interp(levels, levels[known], front[known])
    return np.asarray(ndimage.gaussian_filter1d(filled, 20.0 / coarse.grid.spacing_mm[2]))


def breathe(
    image: Field, moving: Field, *, amplitude_mm: float, spacing_mm: tuple[float, float, float]
) -> Field:
    """Blur an image along z, and half as much along y, where the body moves with the breath.

    Parameters
    ----------
    image, moving
        Image (I, J, K) and share of movement (0-1) there.
    amplitude_mm
        Peak to peak along z; a sine of it has a SD of 0.35 of it.
    spacing_mm
        Voxel edges.
    """
    sigma = 0.35 * amplitude_mm
    if sigma == 0.0 or not moving.any():
        return image
    blurred = ndimage.gaussian_filter1d(image, sigma / spacing_mm[2], axis=2, mode="nearest")
    blurred = ndimage.gaussian_filter1d(blurred, sigma / 2 / spacing_mm[1], axis=1, mode="nearest")
    return np.asarray(image + moving * (blurred - image), dtype=np.float32)


def breathing_ghosts(
    image: Field, moving: Field, *, strength: float, rng: np.random.Generator
) -> Field:
    """Add copies of what moves, displaced along y by fractions of the field of view.

    The displacement is the ratio of repetition time to breath, the phase of each order is chance.
    """
    share = float(rng.uniform(0.12, 0.35))
    phases = rng.uniform(0, 2 * np.pi, size=4)
    if strength == 0.0 or not moving.any():
        return image
    breath = image * moving
    out = image.copy()
    for order, phase in zip((1, -1, 2, -2), phases, strict=True):
        weight = np.float32(strength * np.cos(phase) * np.sqrt(2) / abs(order) ** 1.5)
        out += weight * np.roll(breath, round(order * share * image.shape[1]), axis=1)
    return np.abs(out)


def half_view_ghost(image: Field, *, strength: float) -> Field:
    """Add the ghost of EPI: the image again, half the field of view further along y."""
    if strength == 0.0:
        return image
    ghost = np.roll(image, image.shape[1] // 2, axis=1)
    return np.asarray(image + np.float32(strength) * ghost, dtype=np.float32)


def rician(clean: Field, *, noise_sd: float, averages: int, rng: np.random.Generator) -> Field:
    """Mean of magnitude images with complex Gaussian noise.

    Parameters
    ----------
    clean
        Noise-free magnitudes (I, J, K).
    noise_sd
        SD of the averaged image where the signal is strong; 0 returns the magnitudes.
    averages
        Number of magnitude images; each has ``sqrt(averages)`` times the noise.
    rng
        Source of noise.
    """
    if noise_sd == 0.0:
        return np.abs(clean)
    sd = np.float32(noise_sd * np.sqrt(averages))
    total = np.zeros(clean.shape, dtype=np.float32)
    for _ in range(averages):
        real = rng.standard_normal(clean.shape, dtype=np.float32)
        real *= sd
        real += clean
        imaginary = rng.standard_normal(clean.shape, dtype=np.float32)
        imaginary *= sd
        real *= real
        imaginary *= imaginary
        real += imaginary
        total += np.sqrt(real, out=real)
    total /= np.float32(averages)
    return total
