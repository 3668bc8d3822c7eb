"""Tissues: ids of the tissue map and their MR parameters, with sources.

Values are at 1.5 T. Relaxation: [1] and [2]. ADC: within 13 % of the medians that [3] collected for
liver, kidney, pancreas, spleen, gallbladder and prostate; marrow after [5]; haemangioma and active
metastases after [7], which lie below the 1054 +- 456 of [4] (myeloma and treated ones included). A
tissue without a reference takes the nearest listed one; those numbers, proton densities and spreads
are ours. Water and fat are separate pools; ``fat_fraction`` is the fat pool's share.

References
----------
.. [1] de Bazelaire et al. 2004, Radiology 230:652 (doi 10.1148/radiol.2303021331).
.. [2] Stanisz et al. 2005, Magn Reson Med 54:507 (doi 10.1002/mrm.20605).
.. [3] Jafar, Parsai, Miquel 2016, World J Radiol 8:21 (doi 10.4329/wjr.v8.i1.21).
.. [4] Messiou et al. 2011, Eur Radiol 21:1713 (doi 10.1007/s00330-011-2116-4).
.. [5] Colombo et al. 2021: 100 healthy people, see ``benchmarks/realism_sources.yaml``.
.. [6] Traeber et al. 1996, J Magn Reson Imaging (doi 10.1002/jmri.1880060318).
.. [7] Winfield et al. 2018, Eur Radiol (doi 10.1007/s00330-017-5079-2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = ["FAT_T1_MS", "FAT_T2_MS", "TISSUES", "T", "Tissue", "TissueTable"]

FAT_T1_MS, FAT_T2_MS = 343.0, 58.0  # subcutaneous fat, [1]


class T(IntEnum):
    """Ids of the tissue map."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    CORTEX = 4
    MARROW = 5
    CARTILAGE = 6
    DISC = 7
    CSF = 8
    CORD = 9
    BRAIN_WHITE = 10
    BRAIN_GREY = 11
    LUNG = 12
    HEART = 13
    BLOOD = 14
    LIVER = 15
    SPLEEN = 16
    KIDNEY = 17
    PANCREAS = 18
    STOMACH = 19
    BOWEL_WALL = 20
    BOWEL_CONTENT = 21
    URINE = 22
    PROSTATE = 23
    SEMINAL_VESICLE = 24
    TESTIS = 25
    PENIS = 26
    NODE = 27
    SALIVARY = 28
    EYE = 29
    THYROID = 30
    BILE = 31
    LYMPHOID = 32
    GAS = 33
    LESION = 34
    HAEMANGIOMA = 35
    BONE_ISLAND = 36
    RED_PATCH = 37
    ENDPLATE_OEDEMA = 38
    ENDPLATE_FAT = 39
    HEALED_FRACTURE = 40
    SUBCHONDRAL_CYST = 41
    STRESS_OEDEMA = 42
    JOINT_FLUID = 43
    TENDON = 44
    NERVE = 45
    VEIN = 46
    ADRENAL = 47
    UTERUS = 48
    ENDOMETRIUM = 49
    OVARY = 50
    BREAST = 51
    METAL = 52


@dataclass(frozen=True)
class Tissue:
    """MR parameters of one tissue at 1.5 T."""

    id: T
    proton_density: float
    t1_ms: float
    t2_ms: float
    adc_um2_per_s: float
    fat_fraction: float = 0.0


TISSUES: tuple[Tissue, ...] = (
    Tissue(T.AIR, 0.0, 1000, 50, 0),
    Tissue(T.SKIN, 0.55, 900, 30, 1000, 0.1),
    Tissue(T.FAT, 0.95, 900, 35, 1200, 0.93),
    Tissue(T.MUSCLE, 0.90, 900, 31, 1500, 0.04),  # T1 856 [1], 1008 [2]; T2 27 [1], 44 [2]
    Tissue(T.CORTEX, 0.06, 400, 5, 300),
    Tissue(T.MARROW, 0.85, 900, 45, 440, 0.45),  # [5]; fat fraction is set per voxel
    Tissue(T.CARTILAGE, 0.70, 1024, 30, 1400),
    Tissue(T.DISC, 0.80, 1100, 70, 1750),
    Tissue(T.CSF, 1.00, 4000, 1500, 3000),
    Tissue(T.CORD, 0.80, 745, 74, 950),  # [2]
    Tissue(T.BRAIN_WHITE, 0.70, 650, 72, 700),  # T2 [2]; T1 in vivo: white is brighter than grey
    Tissue(T.BRAIN_GREY, 0.82, 1124, 95, 890),  # [2]
    Tissue(T.LUNG, 0.12, 1200, 25, 1500),
    Tissue(T.HEART, 0.85, 1030, 40, 1900),  # [2]; moving: dark on high b
    Tissue(T.BLOOD, 0.15, 1441, 60, 3000),  # flow void in both sequences: not blood at rest
    Tissue(T.LIVER, 0.80, 586, 46, 1150, 0.03),  # [1]
    Tissue(T.SPLEEN, 0.85, 1057, 79, 830),  # [1]
    Tissue(T.KIDNEY, 0.88, 1000, 86, 1950),  # [1]
    Tissue(T.PANCREAS, 0.80, 584, 46, 1400, 0.1),  # [1]
    Tissue(T.STOMACH, 0.90, 2000, 90, 2200),
    Tissue(T.BOWEL_WALL, 0.85, 950, 60, 1250),
    Tissue(T.BOWEL_CONTENT, 0.75, 1300, 70, 1700),
    Tissue(T.URINE, 1.00, 4000, 900, 2900),
    Tissue(T.PROSTATE, 0.88, 1317, 88, 1450),  # [1]
    Tissue(T.SEMINAL_VESICLE, 0.92, 1600, 140, 1700),
    Tissue(T.TESTIS, 0.92, 1500, 130, 1200),
    Tissue(T.PENIS, 0.90, 1400, 120, 1400),
    Tissue(T.NODE, 0.86, 1000, 75, 1050),
    Tissue(T.SALIVARY, 0.82, 800, 70, 1050, 0.25),
    Tissue(T.EYE, 1.00, 3500, 500, 2800),
    Tissue(T.THYROID, 0.85, 900, 75, 1500),
    Tissue(T.BILE, 1.00, 2500, 300, 2800),
    Tissue(T.LYMPHOID, 0.86, 1050, 85, 850),  # tonsil, adenoid: as node, denser
    Tissue(T.GAS, 0.0, 1000, 50, 0),
    Tissue(T.LESION, 0.88, 1300, 58, 700, 0.03),  # T2 [6] x marrow; ADC is drawn per lesion
    Tissue(T.HAEMANGIOMA, 0.90, 900, 110, 1100, 0.55),
    Tissue(T.BONE_ISLAND, 0.15, 600, 12, 500),
    Tissue(T.RED_PATCH, 0.86, 900, 50, 500, 0.22),
    Tissue(T.ENDPLATE_OEDEMA, 0.88, 1000, 80, 1200, 0.15),
    Tissue(T.ENDPLATE_FAT, 0.92, 900, 45, 500, 0.88),  # fatty endplates (Modic 2)
    Tissue(T.HEALED_FRACTURE, 0.50, 800, 36, 800, 0.12),
    Tissue(T.SUBCHONDRAL_CYST, 0.95, 2500, 300, 2400),
    Tissue(T.STRESS_OEDEMA, 0.88, 1050, 85, 1350, 0.12),
    Tissue(T.JOINT_FLUID, 0.98, 3000, 500, 2600),
    Tissue(T.TENDON, 0.25, 900, 8, 1000),
    Tissue(T.NERVE, 0.82, 1000, 85, 1150, 0.1),  # root ganglia and plexus
    Tissue(T.VEIN, 0.60, 1441, 150, 2200),  # slow flow: signal left
    Tissue(T.ADRENAL, 0.85, 900, 60, 1000, 0.1),
    Tissue(T.UTERUS, 0.90, 1309, 117, 1500),  # myometrium [1]
    Tissue(T.ENDOMETRIUM, 0.92, 1274, 101, 1300),  # [1]
    Tissue(T.OVARY, 0.90, 1200, 110, 1350),
    Tissue(T.BREAST, 0.85, 1266, 58, 1800, 0.2),
    Tissue(T.METAL, 0.0, 1000, 50, 0),
)


@dataclass(frozen=True)
class TissueTable:
    """Arrays indexed by tissue id, with this person's deviations from the book values."""

    proton_density: npt.NDArray[np.float32]
    t1_ms: npt.NDArray[np.float32]
    t2_ms: npt.NDArray[np.float32]
    adc_um2_per_s: npt.NDArray[np.float32]
    fat_fraction: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, *, spread: float = 0.07) -> TissueTable:
        """Vary T1, T2 and ADC of each tissue log-normally by a relative ``spread``."""

        def column(name: str, relative: float) -> npt.NDArray[np.float32]:
            values = np.array([getattr(t, name) for t in TISSUES], dtype=np.float64)
            return (values * np.exp(rng.normal(0, relative, len(values)))).astype(np.float32)

        return cls(
            proton_density=column("proton_density", 0.02),
            t1_ms=column("t1_ms", spread),
            t2_ms=column("t2_ms", spread),
            adc_um2_per_s=column("adc_um2_per_s", spread),
            fat_fraction=column("fat_fraction", 0.0),
        )
