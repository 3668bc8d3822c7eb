"""Relaxation times at other field strengths than the 1.5 T of the tissue table.

T(B) = T(1.5 T) r^log2(B / 1.5 T), where r is the measured ratio of 3 T to 1.5 T: abdomen, marrow,
fat and pelvis after [1], brain, cord, heart, cartilage and blood after [2]. Tissues that nobody
lists take the means of [1] (T1 21 % longer, T2 8 % shorter); fluids keep theirs.

References
----------
.. [1] de Bazelaire et al. 2004, Radiology 230:652 (doi 10.1148/radiol.2303021331).
.. [2] Stanisz et al. 2005, Magn Reson Med 54:507 (doi 10.1002/mrm.20605).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from osteosap.simulate.tissue import FAT_T1_MS, FAT_T2_MS, T, TissueTable

__all__ = ["LARMOR_HZ_PER_T", "fat_relaxation_ms", "table_at"]

LARMOR_HZ_PER_T = 42.577e6
TABLE_FIELD_T = 1.5

_OTHER = (1.21, 0.92)  # means of [1]
_FAT = (382 / 343, 68 / 58)
_RATIOS: dict[T, tuple[float, float]] = {
    T.MUSCLE: (898 / 856, 29 / 27),
    T.MARROW: (586 / 549, 1.0),
    T.LIVER: (809 / 586, 34 / 46),
    T.SPLEEN: (1328 / 1057, 61 / 79),
    T.KIDNEY: (1142 / 966, 76 / 87),
    T.PANCREAS: (725 / 584, 43 / 46),
    T.PROSTATE: (1597 / 1317, 74 / 88),
    T.UTERUS: (1514 / 1309, 79 / 117),
    T.ENDOMETRIUM: (1453 / 1274, 59 / 101),
    T.BRAIN_WHITE: (1084 / 884, 69 / 72),
    T.BRAIN_GREY: (1820 / 1124, 99 / 95),
    T.CORD: (993 / 745, 78 / 74),
    T.HEART: (1471 / 1030, 47 / 40),
    T.CARTILAGE: (1168 / 1024, 27 / 30),
    T.BLOOD: (1932 / 1441, 275 / 290),
    T.VEIN: (1932 / 1441, 275 / 290),
    T.ENDPLATE_FAT: _FAT,
    T.FAT: _OTHER,  # the water of fatty tissue; its fat: fat_relaxation_ms
}
_FLUIDS = (T.CSF, T.URINE, T.EYE, T.BILE, T.SUBCHONDRAL_CYST, T.JOINT_FLUID, T.STOMACH)


def table_at(table: TissueTable, field_strength_t: float) -> TissueTable:
    """The table with T1 and T2 of another field strength.

    Parameters
    ----------
    table
        At 1.5 T.
    field_strength_t
        Tesla.
    """
    if field_strength_t == TABLE_FIELD_T:
        return table
    ratios = np.array([_RATIOS.get(t, (1.0, 1.0) if t in _FLUIDS else _OTHER) for t in T])
    factor = (ratios ** np.log2(field_strength_t / TABLE_FIELD_T)).astype(np.float32)
    return dataclasses.replace(
        table, t1_ms=table.t1_ms * factor[:, 0], t2_ms=table.t2_ms * factor[:, 1]
    )


def fat_relaxation_ms(field_strength_t: float) -> tuple[float, float]:
    """T1 and T2 (ms) of fat at a field strength."""
    power = np.log2(field_strength_t / TABLE_FIELD_T)
    return float(FAT_T1_MS * _FAT[0] ** power), float(FAT_T2_MS * _FAT[1] ** power)
