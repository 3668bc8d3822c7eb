"""Signal equations: from tissue parameters to noise-free T1 and diffusion signals.

Spin echo T1: S = PD (1 - exp(-TR/T1)) exp(-TE/T2). Spoiled gradient echo: the Ernst equation, and
water and fat interfere by their chemical shift. Diffusion EPI: S = PD exp(-TE/T2)
(1 - exp(-TR/T1)) exp(-b ADC) for water; fat is kept apart and unsuppressed, for what suppression
leaves of it is the scanner's matter. STIR inverts water: |1 - 2 exp(-TI/T1) + exp(-TR/T1)|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import PositiveFloat

from osteosap.config import StageConfig
from osteosap.simulate.body import Body
from osteosap.simulate.disease.painting import Disease
from osteosap.simulate.relaxation import LARMOR_HZ_PER_T, fat_relaxation_ms, table_at
from osteosap.simulate.shapes import Field
from osteosap.simulate.tissue import T, TissueTable

__all__ = [
    "FAT_ADC_UM2_PER_S",
    "FAT_SHIFT_PPM",
    "DiffusionMaps",
    "SequenceConfig",
    "Signals",
    "simulate_signals",
]

FAT_SHIFT_PPM = -3.4  # main peak of fat against water
FAT_ADC_UM2_PER_S = 19.0  # Steidle et al. 2011, Magn Reson Med (doi 10.1002/mrm.22699)
T2_STAR_SHARE = 0.5  # T2* of T2, ours
_PLANES = 8  # planes worked on at a time: they stay in the cache
MINERAL_LOSS = 0.9  # share of signal that fully sclerotic matrix takes away, ours


class SequenceConfig(StageConfig):
    """Sequence parameters of the virtual scanner.

    Parameters
    ----------
    field_strength_t
        Tesla; relaxation follows, and the scanner's off-resonance in Hz.
    t1_sequence
        "tse" or "gre".
    t1_tr_ms, t1_te_ms
        Of the turbo spin echo.
    gre_flip_deg, gre_tr_ms, gre_te_ms
        Of the spoiled gradient echo; water and fat are in phase at 4.6 ms at 1.5 T.
    dwi_tr_ms, dwi_te_ms
        Of the diffusion EPI.
    fat_suppression
        "spectral" fails where the field is off, "stir" does not and costs signal of water.
    """

    field_strength_t: float = pydantic.Field(default=1.5, ge=0.5, le=3.0)
    t1_sequence: Literal["tse", "gre"] = "tse"
    t1_tr_ms: PositiveFloat = 550.0
    t1_te_ms: PositiveFloat = 10.0
    gre_flip_deg: float = pydantic.Field(default=15.0, gt=0.0, lt=180.0)
    gre_tr_ms: PositiveFloat = 7.0
    gre_te_ms: PositiveFloat = 4.6
    dwi_tr_ms: PositiveFloat = 6000.0
    dwi_te_ms: PositiveFloat = 68.0
    fat_suppression: Literal["spectral", "stir"] = "spectral"

    @property
    def hz_per_ppm(self) -> float:
        """Frequency of one part per million of the field."""
        return self.field_strength_t * LARMOR_HZ_PER_T * 1e-6


@dataclass(frozen=True)
class DiffusionMaps:
    """Noise-free maps (I, J, K) from which every b-value follows.

    Parameters
    ----------
    water
        Water signal at b = 0.
    fat
        Signal of fat as if nothing suppressed it; it hardly diffuses.
    adc_um2_per_s
        ADC of the water.
    """

    water: Field
    fat: Field
    adc_um2_per_s: Field

    def image(self, b_value_s_per_mm2: float, *, fat_left: float = 0.0) -> Field:
        """Noise-free diffusion-weighted image at one b-value with a share of fat left."""
        b = b_value_s_per_mm2 * 1e-6
        image = self.water * np.exp(-np.float32(b) * self.adc_um2_per_s)
        if fat_left:
            image += np.float32(fat_left * np.exp(-b * FAT_ADC_UM2_PER_S)) * self.fat
        return np.asarray(image, dtype=np.float32)


@dataclass(frozen=True)
class Signals:
    """Noise-free signals of a body with its disease.

    Parameters
    ----------
    t1
        Float32 (I, J, K), in units of muscle's mean.
    diffusion
        Maps in units of undecayed water.
    """

    t1: Field
    diffusion: DiffusionMaps


def simulate_signals(
    body: Body, disease: Disease, table: TissueTable, *, texture: Field, config: SequenceConfig
) -> Signals:
    """Noise-free signals of a body with its disease.

    Parameters
    ----------
    body, disease
        Tissue map, marrow, cortex; lesions.
    table
        Tissue parameters of this person at 1.5 T.
    texture
        Smooth unit-variance field (I, J, K): 5 % of signal, 8 % of ADC.
    config
        Field strength and sequence timing.
    """
    table = table_at(table, config.field_strength_t)
    weights = _Weights(*_t1_weights(table, config), *_diffusion_weights(table, config))
    shape = body.grid.shape
    t1, water, fat, adc = (np.empty(shape, dtype=np.float32) for _ in range(4))
    for first in range(0, shape[0], _PLANES):
        part = slice(first, first + _PLANES)
        share = _fat_share(body, disease, table, part)
        density = 1 + np.float32(0.05) * texture[part]
        density *= 1 - np.float32(MINERAL_LOSS) * disease.mineral[part]
        soft = 1 - body.cortex[part]
        t1[part] = _t1_image(body, weights, share, part=part, config=config) * density
        density *= soft
        fat[part] = np.take(weights.dwi_fat, body.tissue[part]) * share * density
        water[part] = np.take(weights.dwi_water, body.tissue[part]) * (1 - share) * density
        adc[part] = _adc(body, disease, table, part) * np.exp(np.float32(0.08) * texture[part])
    muscle = body.tissue == T.MUSCLE
    if muscle.any():
        t1 /= t1[muscle].mean()
    return Signals(t1, DiffusionMaps(water, fat, adc))


@dataclass(frozen=True)
class _Weights:
    """Signal of pure water and of pure fat, by tissue id."""

    t1_water: Field
    t1_fat: Field
    dwi_water: Field
    dwi_fat: Field


def _t1_image(
    body: Body, weights: _Weights, fat_share: Field, *, part: slice, config: SequenceConfig
) -> Field:
    """T1-weighted signal without texture: water and fat pools, cortex as a share of the voxel."""
    tissue, cortex = body.tissue[part], body.cortex[part]
    image = np.take(weights.t1_water, tissue) * (1 - fat_share)
    fat = np.take(weights.t1_fat, tissue) * fat_share
    if config.t1_sequence == "gre":  # the two pools are out of step by the chemical shift
        phase = 2e-3 * np.pi * FAT_SHIFT_PPM * config.hz_per_ppm * config.gre_te_ms
        image = np.hypot(image + np.float32(np.cos(phase)) * fat, np.float32(np.sin(phase)) * fat)
    else:
        image += fat
    image *= 1 - cortex
    image += weights.t1_water[T.CORTEX] * cortex
    return np.asarray(image, dtype=np.float32)


def _adc(body: Body, disease: Disease, table: TissueTable, part: slice) -> Field:
    """ADC of the water: by tissue, mixed of tumour and marrow in lesions."""
    adc = np.take(table.adc_um2_per_s, body.tissue[part])
    inside = np.nonzero(disease.lesions[part])
    tumour = disease.infiltration[part][inside]
    mixed = tumour * disease.adc_um2_per_s[part][inside]
    adc[inside] = mixed + (1 - tumour) * table.adc_um2_per_s[T.MARROW]
    return np.asarray(adc, dtype=np.float32)


def _t1_weights(table: TissueTable, config: SequenceConfig) -> tuple[Field, Field]:
    """T1-weighted signal of pure water and of pure fat of every tissue."""
    fat_t1, fat_t2 = fat_relaxation_ms(config.field_strength_t)

    def weight(t1: npt.ArrayLike, t2: npt.ArrayLike) -> Field:
        t1, t2 = np.asarray(t1, np.float64), np.asarray(t2, np.float64)
        if config.t1_sequence == "tse":
            signal = (1 - np.exp(-config.t1_tr_ms / t1)) * np.exp(-config.t1_te_ms / t2)
        else:
            e1, flip = np.exp(-config.gre_tr_ms / t1), np.deg2rad(config.gre_flip_deg)
            signal = np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1)
            signal = signal * np.exp(-config.gre_te_ms / (T2_STAR_SHARE * t2))
        return np.asarray(table.proton_density * signal, dtype=np.float32)

    return weight(table.t1_ms, table.t2_ms), weight(fat_t1, fat_t2)


def _diffusion_weights(table: TissueTable, config: SequenceConfig) -> tuple[Field, Field]:
    """Signal at b = 0 of pure water and of pure, unsuppressed fat of every tissue."""
    fat_t1, fat_t2 = fat_relaxation_ms(config.field_strength_t)
    late = np.exp(-config.dwi_tr_ms / table.t1_ms)
    recovery = 1 - late
    if config.fat_suppression == "stir":  # inverted so long before that fat is at zero
        inversion_ms = fat_t1 * np.log(2 / (1 + np.exp(-config.dwi_tr_ms / fat_t1)))
        recovery = np.abs(1 - 2 * np.exp(-inversion_ms / table.t1_ms) + late)
    water = table.proton_density * np.exp(-config.dwi_te_ms / table.t2_ms) * recovery
    fat_weight = np.exp(-config.dwi_te_ms / fat_t2) * (1 - np.exp(-config.dwi_tr_ms / fat_t1))
    fat = table.proton_density * np.float32(fat_weight)
    return water.astype(np.float32), fat.astype(np.float32)


def _fat_share(body: Body, disease: Disease, table: TissueTable, part: slice) -> Field:
    """Share of fat in every voxel: by tissue, by place in marrow, replaced by tumour in lesions."""
    tissue, marrow_fat = body.tissue[part], body.marrow_fat[part]
    share = np.take(table.fat_fraction, tissue)
    np.copyto(share, marrow_fat, where=tissue == T.MARROW)
    inside = np.nonzero(disease.lesions[part])
    keep = 1 - disease.infiltration[part][inside]
    share[inside] = keep * np.maximum(marrow_fat[inside], 0.4) + 0.03 * (1 - keep)
    return np.asarray(share, dtype=np.float32)
