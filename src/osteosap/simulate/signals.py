"""Signal equations: from tissue parameters to noise-free T1, DWI and ADC images.

Spin echo T1: S = PD (1 - exp(-TR/T1)) exp(-TE/T2). Spoiled gradient echo: the Ernst equation.
Diffusion EPI with fat suppression: S = PD exp(-TE/T2) (1 - exp(-TR/T1)) exp(-b ADC) for water,
plus a small share of fat that suppression leaves and that does not diffuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import NonNegativeFloat, PositiveFloat

from osteosap.config import StageConfig
from osteosap.simulate.body import Body
from osteosap.simulate.disease import Disease
from osteosap.simulate.shapes import Field
from osteosap.simulate.tissue import FAT_T1_MS, FAT_T2_MS, T, TissueTable

__all__ = ["DiffusionMaps", "SequenceConfig", "diffusion_maps", "t1_image"]


class SequenceConfig(StageConfig):
    """Sequence parameters of the virtual scanner (1.5 T)."""

    t1_sequence: Literal["tse", "gre"] = "tse"
    t1_tr_ms: PositiveFloat = 550.0
    t1_te_ms: PositiveFloat = 10.0
    gre_flip_deg: float = pydantic.Field(default=12.0, gt=0.0, lt=180.0)
    gre_tr_ms: PositiveFloat = 4.5
    gre_te_ms: PositiveFloat = 2.2
    dwi_tr_ms: PositiveFloat = 6000.0
    dwi_te_ms: PositiveFloat = 68.0
    residual_fat: NonNegativeFloat = 0.04


@dataclass(frozen=True)
class DiffusionMaps:
    """Noise-free maps (I, J, K) from which every b-value follows.

    Parameters
    ----------
    b0
        Water signal at b = 0.
    fat
        Signal of fat that suppression left; it does not diffuse.
    adc_um2_per_s
        ADC of the water.
    """

    b0: Field
    fat: Field
    adc_um2_per_s: Field

    def image(self, b_value_s_per_mm2: float) -> Field:
        """Noise-free diffusion-weighted image at one b-value."""
        decay = np.exp(-np.float32(b_value_s_per_mm2 * 1e-6) * self.adc_um2_per_s)
        return np.asarray(self.b0 * decay + self.fat, dtype=np.float32)


def t1_image(
    body: Body, disease: Disease, table: TissueTable, *, texture: Field, config: SequenceConfig
) -> Field:
    """Noise-free T1-weighted image (I, J, K), arbitrary units (about 0 to 1)."""

    def weight(pd: Field, t1: Field, t2: Field) -> Field:
        if config.t1_sequence == "gre":
            e1 = np.exp(-config.gre_tr_ms / t1)
            flip = np.deg2rad(config.gre_flip_deg)
            signal = np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1)
            signal = signal * np.exp(-config.gre_te_ms / np.maximum(t2 * 0.5, 1.0))
        else:
            signal = (1 - np.exp(-config.t1_tr_ms / t1)) * np.exp(-config.t1_te_ms / t2)
        return np.asarray(pd * signal, dtype=np.float32)

    water = weight(table.proton_density, table.t1_ms, table.t2_ms)
    fat = weight(table.proton_density, _fat(table, FAT_T1_MS), _fat(table, FAT_T2_MS))
    share = _fat_fraction(body, disease, table)
    image = water[body.tissue] * (1 - share) + fat[body.tissue] * share
    cortex = water[T.CORTEX]
    image = image * (1 - body.cortex) + cortex * body.cortex
    return np.asarray(image * (1 + 0.05 * texture), dtype=np.float32)


def diffusion_maps(
    body: Body, disease: Disease, table: TissueTable, *, texture: Field, config: SequenceConfig
) -> DiffusionMaps:
    """Noise-free diffusion maps of a body with its disease."""
    decay = np.exp(-config.dwi_te_ms / table.t2_ms) * (1 - np.exp(-config.dwi_tr_ms / table.t1_ms))
    water = (table.proton_density * decay).astype(np.float32)
    share = _fat_fraction(body, disease, table)
    b0 = water[body.tissue] * (1 - share) * (1 - body.cortex)
    left = config.residual_fat * np.exp(-config.dwi_te_ms / FAT_T2_MS)
    fat = (table.proton_density * np.float32(left))[body.tissue] * share
    adc = table.adc_um2_per_s[body.tissue]
    inside = disease.lesions > 0
    mixed = disease.infiltration * disease.adc_um2_per_s
    adc[inside] = (mixed + (1 - disease.infiltration) * table.adc_um2_per_s[T.MARROW])[inside]
    adc *= np.exp(np.float32(0.08) * texture)
    return DiffusionMaps(
        (b0 * (1 + 0.05 * texture)).astype(np.float32), fat.astype(np.float32), adc
    )


def _fat_fraction(body: Body, disease: Disease, table: TissueTable) -> Field:
    share = table.fat_fraction[body.tissue]
    marrow = body.tissue == T.MARROW
    share[marrow] = body.marrow_fat[marrow]
    inside = disease.lesions > 0
    keep = 1 - disease.infiltration[inside]
    share[inside] = keep * np.maximum(body.marrow_fat[inside], 0.4) + 0.03 * (1 - keep)
    return np.asarray(share, dtype=np.float32)


def _fat(table: TissueTable, value: float) -> npt.NDArray[np.float32]:
    return np.full(table.t1_ms.shape, value, dtype=np.float32)
