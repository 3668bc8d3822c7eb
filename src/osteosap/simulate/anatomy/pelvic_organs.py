"""Pelvic organs and vessels of both sexes, genitals, breasts.

Organ sizes are ours, near the reference adults of ICRP Publication 89
(doi 10.1016/S0146-6453(03)00002-2); the prostate grows with age, womb and ovaries shrink.
"""

from __future__ import annotations

import numpy as np

from osteosap.simulate.anatomy.envelope import breast
from osteosap.simulate.anatomy.painter import Landmark, Painter, turn
from osteosap.simulate.shapes import Ellipsoid
from osteosap.simulate.tissue import T

__all__ = ["paint_pelvis"]

ILIAC = [(3, 120, 966), (18, 106, 935), (36, 92, 905), (50, 96, 870), (62, 118, 826),
         (66, 126, 800), (66, 124, 760), (60, 112, 690), (58, 96, 600), (52, 78, 520),
         (64, 60, 440), (70, 56, 400)]  # fmt: skip
INTERNAL = [(38, 88, 898), (44, 66, 868), (48, 56, 836)]


def paint_pelvis(paint: Painter, rng: np.random.Generator) -> None:
    """Paint bladder, the organs of the person's sex, iliac and femoral vessels."""
    fill = float(np.clip(rng.lognormal(0.0, 0.2), 0.7, 1.45))
    bladder = paint.ball((0, 90, 803 + 10 * fill), (35 * fill, 28 * fill, 23 * fill))
    if paint.person.sex == "male":
        paint.solid([bladder], T.URINE, over=_ROOM, wall=(T.MUSCLE, 3.5))
        _paint_man(paint, rng)
    else:
        _paint_womb(paint, rng)
        paint.solid([bladder], T.URINE, over=_ROOM, wall=(T.MUSCLE, 3.5))
        _paint_breasts(paint, rng)
    _paint_vessels(paint)
    _paint_floor(paint)


_ROOM = (T.FAT, T.BOWEL_CONTENT, T.BOWEL_WALL, T.GAS, T.UTERUS)


def _paint_man(paint: Painter, rng: np.random.Generator) -> None:
    age = paint.person.age_years
    g = float(
        np.clip((0.92 + 0.006 * max(age - 40.0, 0.0)) * np.exp(rng.normal(0, 0.08)), 0.8, 1.5)
    )
    paint.solid([paint.ball((0, 76, 785), (24 * g, 16 * g, 17 * g))], T.PROSTATE, rough=0.8)
    vesicle = [(4, 62, 802), (18, 56, 810), (32, 54, 812)]
    paint.solid(paint.mirrored(vesicle, [4.5, 6.5, 4.5]), T.SEMINAL_VESICLE,
                over=(T.FAT, T.URINE, T.MUSCLE), rough=1.2)  # fmt: skip
    for side in (1.0, -1.0):
        drop = float(rng.normal(0, 3))
        paint.solid([paint.ball((side * 18, 146, 706 + drop), (13, 14, 20))], T.TESTIS)
        paint.solid([paint.ball((side * 18, 137, 714 + drop), (6, 5, 16))], T.MUSCLE, over=(T.FAT,))
        cord = [(side * 18, 142, 726), (side * 22, 142, 780), (side * 44, 138, 808)]
        paint.solid(paint.tube(cord, 4.0), T.VEIN, over=(T.FAT,))
        body = [(side * 14, 76, 762), (side * 9, 112, 764), (side * 7, 146, 778),
                (side * 7, 172, 752), (side * 7, 180, 716)]  # fmt: skip
        paint.solid(paint.tube(body, [5, 7, 8, 8, 7]), T.PENIS, over=_SOFT)
    urethra = [(0, 66, 760), (0, 110, 754), (0, 142, 764), (0, 166, 746), (0, 174, 712)]
    paint.solid(paint.tube(urethra, [9, 7, 6, 6, 8]), T.PENIS, over=_SOFT)


_SOFT = (T.FAT, T.MUSCLE, T.SKIN)


def _paint_womb(paint: Painter, rng: np.random.Generator) -> None:
    late = paint.person.age_years > 52.0
    u = (0.72 if late else 1.0) * float(np.clip(np.exp(rng.normal(0, 0.1)), 0.8, 1.3))
    lean = turn(float(rng.normal(0.8, 0.25)), axis=0)
    place = (float(rng.normal(0, 4)), 84.0, 846.0)
    paint.solid([paint.ball(place, (25 * u, 21 * u, 36 * u), rotation=lean)], T.UTERUS, over=_ROOM)
    paint.solid(paint.tube([(0, 74, 826), (0, 64, 806)], [15 * u, 12]), T.UTERUS, over=_ROOM)
    thin = 2.0 if late else float(rng.uniform(3.0, 6.0))
    paint.solid([paint.ball(place, (13 * u, thin, 22 * u), rotation=lean)], T.ENDOMETRIUM,
                over=(T.UTERUS,))  # fmt: skip
    paint.solid(paint.tube([(0, 62, 804), (0, 72, 764)], [8, 6]), T.MUSCLE, over=(T.FAT,))
    for side in (1.0, -1.0):
        o = 0.65 if late else 1.0
        spot = (side * (38 + float(rng.normal(0, 4))), 72 + float(rng.normal(0, 5)), 846.0)
        paint.solid([paint.ball(spot, (10 * o, 13 * o, 17 * o))], T.OVARY, over=_ROOM)
        if not late:
            paint.solid([paint.ball(spot, (4.0, 4.5, 5.0))], T.JOINT_FLUID, over=(T.OVARY,))


def _paint_breasts(paint: Painter, rng: np.random.Generator) -> None:
    dense = float(np.clip(1.05 - 0.008 * paint.person.age_years + rng.normal(0, 0.08), 0.3, 0.95))
    for side in (1.0, -1.0):
        centre, radii = breast(paint.person, side)
        gland = Ellipsoid(centre + np.array((0.0, 6.0, 0.0)), radii * (0.45 + 0.4 * dense))
        paint.solid([gland], T.BREAST, over=(T.FAT,), rough=9.0 * (1.2 - dense))


def _paint_vessels(paint: Painter) -> None:
    """Arteries with a flow void; veins, in which slow blood keeps a signal, behind them."""
    free = (T.FAT, T.MUSCLE)
    for side in (1.0, -1.0):
        for path, radius in ((ILIAC, [7, 6, 6, 5, 5, 5, 4.5, 4, 4, 3.5, 3.5, 3.5]),
                             (INTERNAL, [4.5, 4.0, 3.0])):  # fmt: skip
            artery: list[Landmark] = [(side * x, y, z) for x, y, z in path]
            vein: list[Landmark] = [
                (side * (x + 1 if z > 880 else x - 7), y - (11 if z > 640 else 8), z)
                for x, y, z in path
            ]
            paint.solid(paint.tube(vein, [r + 1.2 for r in radius]), T.VEIN, over=free)
            paint.solid(paint.tube(artery, radius), T.BLOOD, over=free)
        saphenous = [(side * 60, 134, 790), (side * 44, 128, 690), (side * 26, 96, 540),
                     (side * 30, 66, 410)]  # fmt: skip
        paint.solid(paint.tube(saphenous, 2.2), T.VEIN, over=(T.FAT,))


def _paint_floor(paint: Painter) -> None:
    """The levator sling and the sphincter."""
    for side in (1.0, -1.0):
        sling = [(side * 12, 100, 786), (side * 24, 74, 780), (side * 14, 46, 774), (0.0, 34, 776)]
        paint.solid(paint.tube(sling, 3.0), T.MUSCLE, over=(T.FAT,))
        side_wall = [(side * 44, 70, 806), (side * 30, 64, 788), (side * 16, 52, 770)]
        paint.solid(paint.tube(side_wall, 3.0), T.MUSCLE, over=(T.FAT,))
    paint.solid(paint.tube([(0.0, 54, 762), (0.0, 46, 776)], 10.0), T.MUSCLE, over=(T.FAT,))
