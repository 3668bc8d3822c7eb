"""Soft parts of the neck and below the skull: glands, tonsils, thyroid, vessels, airway."""

from __future__ import annotations

import numpy as np

from osteosap.simulate.anatomy.painter import SOFT, Painter
from osteosap.simulate.tissue import T

__all__ = ["paint_neck"]


def paint_neck(paint: Painter, rng: np.random.Generator) -> None:
    """Paint what lies between the skull base and the chest, over fat and muscle."""
    young = float(np.clip(1.25 - paint.person.age_years / 120.0, 0.6, 1.1))
    for side in (1.0, -1.0):
        k = float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.25))
        paint.solid([paint.ball((side * 60, 84, 1466), (9 * k, 17 * k, 22 * k))], T.SALIVARY,
                    over=SOFT, rough=1.5)  # fmt: skip
        paint.solid([paint.ball((side * 27, 122, 1432), (9 * k, 15 * k, 10 * k))], T.SALIVARY,
                    over=SOFT, rough=1.0)  # fmt: skip
        paint.solid([paint.ball((side * 12, 142, 1434), (5, 14, 5))], T.SALIVARY, over=SOFT)
        paint.solid([paint.ball((side * 15, 108, 1454), (6 * young, 8 * young, 12 * young))],
                    T.LYMPHOID, over=(*SOFT, T.GAS))  # fmt: skip
        paint.solid([paint.ball((side * 17, 104, 1364), (9 * k, 10, 21 * k))], T.THYROID,
                    over=SOFT, rough=1.0)  # fmt: skip
        carotid = [(side * 14, 92, 1320), (side * 22, 92, 1370), (side * 27, 92, 1420),
                   (side * 29, 86, 1490)]  # fmt: skip
        paint.solid(paint.tube(carotid, [4.5, 4.0, 4.0, 3.0]), T.BLOOD, over=(*SOFT, T.THYROID))
        jugular = [(side * 26, 112, 1330), (side * 32, 96, 1375), (side * 36, 88, 1425),
                   (side * 36, 78, 1486)]  # fmt: skip
        j = 1.2 if side > 0 else 1.0
        paint.solid(paint.tube(jugular, [6.5 * j, 6 * j, 5.5 * j, 4.5]), T.VEIN, over=SOFT)
        vertebral = [(side * 14, 68, 1352), (side * 14, 74, 1400), (side * 15, 72, 1470)]
        paint.solid(paint.tube(vertebral, 2.2), T.BLOOD, over=SOFT)
    paint.solid([paint.ball((0, 112, 1360), (10, 5, 8))], T.THYROID, over=SOFT)
    paint.solid([paint.ball((0, 92, 1484), (11, 5 * young, 7))], T.LYMPHOID, over=(*SOFT, T.GAS))
    paint.solid([paint.ball((0, 112, 1438), (12, 5, 8))], T.LYMPHOID, over=SOFT)
    paint.solid(paint.tube([(0, 112, 1412), (0, 108, 1384)], [14, 12]), T.CARTILAGE, over=SOFT)
    paint.solid(paint.tube([(0, 102, 1480), (0, 101, 1440), (0, 100, 1400)], [13, 12, 12]),
                T.MUSCLE, over=(T.FAT,))  # fmt: skip
    paint.solid(paint.tube([(0, 104, 1440), (0, 104, 1412), (0, 102, 1384), (0, 100, 1330)],
                           [7, 6, 8, 8]), T.GAS)  # fmt: skip
