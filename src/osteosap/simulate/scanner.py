"""The virtual scanner: stations with coil bias, gain and Rician noise, cut from a body.

Stations overlap along z. Each channel is sampled on one lattice that all its stations share, as
a scanner's table steps do when they are whole numbers of slices.
"""

from __future__ import annotations

import numpy as np
import pydantic
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from osteosap.config import StageConfig
from osteosap.exam import StationImage
from osteosap.geometry import Grid, resample
from osteosap.simulate.shapes import Field, NoiseField
from osteosap.simulate.signals import DiffusionMaps
from osteosap.volume import Volume

__all__ = ["DWI_SCALE", "T1_SCALE", "Coil", "ScannerConfig", "acquire", "scan", "station_slabs"]

T1_SCALE, DWI_SCALE = 300.0, 1500.0  # scanner units of muscle on T1, of undecayed water on DWI


class ScannerConfig(StageConfig):
    """Acquisition of the virtual scanner.

    ``t1_noise`` is the SD relative to muscle's T1 signal, ``dwi_noise`` relative to the signal of
    undecayed water; ``bias`` and ``gain`` are the SDs of the logarithm of the coil field and of
    the stations' gains; ``dwi_shift_mm`` is the SD of the misplacement of DWI along each axis.
    """

    n_stations: PositiveInt = 5
    overlap_mm: float = pydantic.Field(default=40.0, ge=0.0, le=1000.0)
    t1_spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (2.0, 2.0, 4.0)
    dwi_spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (3.0, 3.0, 4.0)
    b_values_s_per_mm2: tuple[NonNegativeFloat, ...] = pydantic.Field(
        default=(0.0, 50.0, 1000.0), min_length=1
    )
    t1_noise: NonNegativeFloat = 0.015
    dwi_noise: NonNegativeFloat = 0.006
    bias: NonNegativeFloat = 0.15
    gain: NonNegativeFloat = 0.12
    dwi_shift_mm: NonNegativeFloat = 0.8


def acquire(
    image: Field,
    grid: Grid,
    *,
    spacing_mm: tuple[float, float, float],
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[Field, Grid]:
    """Sample an image on the lattice of one sequence, with partial volume and a misplacement."""
    target = grid.with_spacing(spacing_mm)
    moved = target.affine.copy()
    moved[:3, 3] += shift_mm
    return resample(image, grid, Grid(target.shape, moved), order=1).astype(np.float32), target


class Coil:
    """Bias, gain and noise of every station of one sequence; the same for all its b-values."""

    def __init__(self, grid: Grid, *, config: ScannerConfig, rng: np.random.Generator) -> None:
        self.grid, self.config, self.rng = grid, config, rng
        self.slabs = station_slabs(grid, config)
        lo = grid.affine[:3, 3]
        hi = lo + np.array(grid.spacing_mm) * grid.shape
        axes = [
            (lo[d] + grid.spacing_mm[d] * np.arange(grid.shape[d])).astype(np.float32)
            for d in range(3)
        ]
        self.fields = []
        for slab in self.slabs:
            field = NoiseField(rng, 220.0, lo, hi).on([axes[0], axes[1], axes[2][slab]])
            gain = np.exp(rng.normal(0, config.gain))
            self.fields.append(np.exp(np.float32(config.bias) * field) * np.float32(gain))

    def stations(self, image: Field, *, noise_sd: float) -> list[Volume]:
        """Cut an image into stations: multiply by bias and gain, add Rician noise."""
        volumes = []
        for slab, field in zip(self.slabs, self.fields, strict=True):
            clean = image[:, :, slab] * field
            sd = np.float32(noise_sd)
            real = clean + sd * self.rng.standard_normal(clean.shape, dtype=np.float32)
            imaginary = sd * self.rng.standard_normal(clean.shape, dtype=np.float32)
            affine = self.grid.affine.copy()
            affine[:3, 3] += affine[:3, 2] * slab.start
            volumes.append(Volume.single(np.hypot(real, imaginary), affine, "signal"))
        return volumes


def station_slabs(grid: Grid, config: ScannerConfig) -> list[slice]:
    """Overlapping slices along K, inferior to superior, that cover the grid."""
    length, n = grid.shape[2], config.n_stations
    if n == 1:
        return [slice(0, length)]
    overlap = max(2, round(config.overlap_mm / grid.spacing_mm[2]))
    height = int(np.ceil((length + (n - 1) * overlap) / n))
    starts = [min(i * (height - overlap), length - height) for i in range(n)]
    return [slice(s, s + height) for s in starts]


def scan(
    t1: Field,
    diffusion: DiffusionMaps,
    grid: Grid,
    *,
    config: ScannerConfig,
    rng: np.random.Generator,
) -> list[StationImage]:
    """Acquire T1 and every b-value of a body as stations.

    Parameters
    ----------
    t1
        Noise-free T1 image (I, J, K) on ``grid``, in units of muscle's mean signal.
    diffusion
        Noise-free diffusion maps on ``grid``.
    grid
        Grid of the body.
    config, rng
        Protocol; source of bias, gain, noise and misplacement.

    Returns
    -------
    images
        Station images, T1 first, then DWI by b-value and station; intensities of a scanner's
        order of magnitude (0 to some thousand).
    """
    sampled, lattice = acquire(t1, grid, spacing_mm=config.t1_spacing_mm)
    coil = Coil(lattice, config=config, rng=rng)
    images = [
        StationImage(_named(volume, "t1"), "t1", source="simulated T1")
        for volume in coil.stations(sampled * T1_SCALE, noise_sd=T1_SCALE * config.t1_noise)
    ]
    s = config.dwi_shift_mm
    shift = (float(rng.normal(0, s)), float(rng.normal(0, s)), float(rng.normal(0, s)))
    weighted: dict[float, Field] = {}
    for b in config.b_values_s_per_mm2:
        weighted[b], lattice = acquire(
            diffusion.image(b), grid, spacing_mm=config.dwi_spacing_mm, shift_mm=shift
        )
    coil = Coil(lattice, config=config, rng=rng)
    for b, image in weighted.items():
        images += [
            StationImage(_named(volume, "dwi"), "dwi", b, "simulated DWI", f"simulated b{b:g}")
            for volume in coil.stations(image * DWI_SCALE, noise_sd=DWI_SCALE * config.dwi_noise)
        ]
    return images


def _named(volume: Volume, name: str) -> Volume:
    return Volume(volume.array, volume.affine, (name,))
