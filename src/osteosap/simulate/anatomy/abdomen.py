"""Inside the belly: liver, spleen, stomach, pancreas, kidneys, adrenals, bowel in its fat.

Liver, spleen and stomach press against the diaphragm and the wall: they are cut by the cavity.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from osteosap.simulate.anatomy.chest import Cavity
from osteosap.simulate.anatomy.painter import Landmark, Painter, turn
from osteosap.simulate.anatomy.trunk import BELLY, LEAN
from osteosap.simulate.shapes import Boxes, Field, Points, overlap
from osteosap.simulate.tissue import T

__all__ = ["paint_abdomen"]

COLON = [  # caecum to anus
    (84, 118, 868), (94, 108, 900), (98, 102, 940), (98, 100, 985), (92, 108, 1022),
    (76, 138, 1034), (44, 162, 1010), (4, 170, 990), (-40, 164, 1014), (-76, 138, 1050),
    (-98, 100, 1072), (-104, 88, 1040), (-104, 88, 985), (-101, 94, 930), (-92, 104, 890),
    (-66, 106, 862), (-34, 92, 850), (-6, 84, 872), (16, 66, 880), (10, 50, 862), (0, 36, 838),
    (0, 27, 812), (0, 32, 790), (0, 50, 764),
]  # fmt: skip
COLON_MM = [27, 26, 25, 24, 22, 21, 20, 19, 19, 19, 19, 16, 15, 15, 14, 14, 15, 15, 14, 14, 16, 18,
            15, 8]  # fmt: skip
DUODENUM = [(24, 146, 1066), (46, 130, 1066), (54, 112, 1034), (46, 114, 1000), (10, 126, 992),
            (-28, 126, 1012)]  # fmt: skip
STOMACH = [(-50, 104, 1146), (-64, 130, 1114), (-58, 152, 1078), (-32, 164, 1056), (0, 160, 1056),
           (24, 146, 1066)]  # fmt: skip


def paint_abdomen(paint: Painter, cavity: Cavity, rng: np.random.Generator) -> None:
    """Paint the organs between diaphragm and pelvis, and the bowel down to the anus."""
    limit = np.maximum(cavity.outside, paint.canvas.mesh(cavity.box)[2] - cavity.dome + 4.0)
    clip = (cavity.box, np.asarray(limit, dtype=np.float32))
    _paint_liver(paint, clip, rng)
    _paint_left_upper(paint, clip, rng)
    _paint_kidneys(paint, rng)
    _paint_bowel(paint, (cavity.box, cavity.outside + np.float32(2.0)), rng)
    _paint_vessels(paint)


def spread(paint: Painter, points: Points) -> list[Landmark]:
    """Reference points (N, 3) carried outward where visceral fat makes room."""
    v = paint.person.visceral - LEAN
    forward = np.interp(points[:, 2], BELLY[:, 0], BELLY[:, 1]) * v * 0.55
    aside = 1 + np.interp(points[:, 2], BELLY[:, 0], BELLY[:, 2]) * v * 0.8 / 110
    front = np.clip((points[:, 1] - 90) / 70, 0, 1)
    moved = np.column_stack([points[:, 0] * aside, points[:, 1] + forward * front, points[:, 2]])
    return [(float(x), float(y), float(z)) for x, y, z in moved]


def _paint_liver(paint: Painter, clip: tuple[Boxes, Field], rng: np.random.Generator) -> None:
    size = float(np.clip(rng.normal(0, 1), -2, 2))
    person, box = paint.person, clip[0]
    lo, hi = person.place([(-100, 20, 1015), (150, 270, 1205)])
    part = paint.canvas.box(np.minimum(lo, hi), np.maximum(lo, hi))
    own, other = overlap(part, box)
    middle = person.place((0, 90, 1100))
    x, y, z = (
        (v - np.float32(m)) / np.float32(s)
        for v, m, s in zip(paint.canvas.mesh(part), middle, person.scale, strict=True)
    )
    y, z = y + 90, z + 1100
    under = 1053 - 9 * size + 0.66 * np.clip(112 - x, 0, 140) + 0.15 * np.clip(100 - y, 0, 50)
    under = under - 0.25 * np.clip(y - 135, 0, 40)
    left = -78 - 8 * size - x  # positive beyond the left lobe's tip
    lobe = 20 + 1.1 * np.clip(30 - x, 0, 30) + 0.1 * np.clip(-x, 0, 80) - 0.5 * y  # left: in front
    spine = 42 - np.sqrt((x / 1.05) ** 2 + ((y - 46) / 1.0) ** 2)
    gone = np.maximum.reduce(np.broadcast_arrays(under - z, left, lobe, spine)).astype(np.float32)
    gone += np.float32(2.0) * paint.noise[part]
    limit = np.full(gone.shape, 1e3, dtype=np.float32)
    limit[own] = clip[1][other] + 1.0
    target = paint.tissue[part]
    target[(np.maximum(gone, limit) < 0) & (target == T.FAT)] = T.LIVER
    paint.solid([paint.ball((46, 150, 1070), (12, 17, 21), rotation=turn(0.4))], T.BILE,
                over=(T.FAT, T.LIVER))  # fmt: skip
    trunk = [(14, 122, 1052), (28, 122, 1084), (42, 122, 1104)]
    paint.solid(paint.tube(trunk, 6.5), T.VEIN, over=(T.FAT, T.LIVER))
    branches = (
        ([(42, 122, 1104), (70, 110, 1110), (94, 100, 1100)], [5.5, 4.0, 2.0]),
        ([(42, 122, 1104), (68, 140, 1126), (88, 150, 1130)], [5.0, 3.5, 2.0]),
        ([(40, 122, 1104), (10, 146, 1130), (-30, 160, 1150)], [5.0, 3.5, 1.5]),
        ([(28, 102, 1168), (64, 96, 1150), (96, 86, 1120)], [5.0, 4.0, 2.0]),
        ([(28, 104, 1168), (58, 132, 1150), (72, 158, 1112)], [4.5, 3.5, 1.5]),
        ([(26, 106, 1170), (4, 140, 1158), (-16, 164, 1150)], [4.0, 3.0, 1.5]),
        ([(70, 110, 1110), (84, 84, 1080), (92, 80, 1056)], [3.5, 2.5, 1.5]),
    )
    for points, radii in branches:
        paint.solid(paint.tube(points, radii), T.VEIN, over=(T.LIVER,))


def _paint_left_upper(paint: Painter, clip: tuple[Boxes, Field], rng: np.random.Generator) -> None:
    """Spleen, stomach with its gas, pancreas."""
    s = float(np.clip(rng.lognormal(-0.1, 0.11), 0.7, 1.25))
    spleen = paint.ball((-92, 80, 1092), (26 * s, 42 * s, 51 * s), rotation=turn(0.35))
    paint.solid([spleen], T.SPLEEN, over=(T.FAT, T.LIVER), clip=clip, rough=1.5)
    fill = float(np.clip(rng.normal(0.95, 0.12), 0.65, 1.25))
    radii = [r * fill for r in (36, 37, 33, 26, 19, 11)]
    path = spread(paint, np.array(STOMACH))
    paint.solid(paint.tube(path, radii), T.STOMACH, over=(T.FAT, T.LIVER), blend=10.0, clip=clip,
                rough=2.0, wall=(T.BOWEL_WALL, 4.5))  # fmt: skip
    gas = np.array(path[1:4]) + np.array((2.0, 15.0, 10.0))
    paint.solid(paint.tube([(g[0], g[1], g[2]) for g in gas], [0.45 * r for r in radii[1:4]]),
                T.GAS, over=(T.STOMACH,))  # fmt: skip
    bulk = 1.0 - 0.004 * max(paint.person.age_years - 50.0, 0.0)
    pancreas = [
        (40, 130, 1024),
        (30, 132, 1042),
        (4, 136, 1048),
        (-30, 128, 1058),
        (-70, 104, 1070),
    ]
    paint.solid(paint.tube(pancreas, [15 * bulk, 15 * bulk, 11 * bulk, 12 * bulk, 10 * bulk]),
                T.PANCREAS, over=(T.FAT,), rough=2.0)  # fmt: skip


def _paint_kidneys(paint: Painter, rng: np.random.Generator) -> None:
    for side, level in ((1.0, 1019.0), (-1.0, 1036.0)):
        k = float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15))
        z = level + float(rng.normal(0, 6))
        tilt = turn(0.18 * side)
        place = (side * 62, 83, z)
        paint.solid(
            [paint.ball(place, (27 * k, 24 * k, 54 * k), rotation=tilt)], T.KIDNEY, rough=1.0
        )
        inner = (side * 52, 87, z)
        paint.solid([paint.ball(inner, (14, 10, 24), rotation=tilt)], T.FAT, over=(T.KIDNEY,),
                    rough=1.5)  # fmt: skip
        paint.solid([paint.ball((side * 48, 88, z - 2), (8, 5, 13))], T.URINE)
        ureter = [(side * 42, 88, z - 16), (side * 38, 92, 975), (side * 40, 88, 905),
                  (side * 44, 70, 850), (side * 20, 70, 812)]  # fmt: skip
        paint.solid(paint.tube(ureter, 2.0), T.URINE, over=(T.FAT,))
        top = z + 55
        paint.solid(
            [*paint.tube([(side * 34, 92, top), (side * 30, 86, top - 16)], 3.0),
             *paint.tube([(side * 33, 90, top), (side * 42, 82, top - 14)], 2.8)],
            T.ADRENAL, over=(T.FAT, T.LIVER),
        )  # fmt: skip


def _paint_bowel(paint: Painter, clip: tuple[Boxes, Field], rng: np.random.Generator) -> None:
    """Colon along its frame, then loops of small bowel: wall outside, content or gas within."""
    knots = np.array(COLON, dtype=np.float64)
    knots[6:9, 2] += rng.normal(-10, 16) * np.array([0.7, 1.0, 0.8])
    steps = np.linspace(0, len(knots) - 1, 96)
    path = np.stack([np.interp(steps, range(len(knots)), c) for c in knots.T], 1)
    path += _smooth(rng.normal(0, 5.0, path.shape)) * np.minimum(1, (95 - steps[:, None]) / 8)
    radii = np.interp(steps, range(len(knots)), COLON_MM)
    radii *= 1 + 0.13 * np.sin(np.arange(96) * 2.1) + rng.normal(0, 0.05, 96)
    places = spread(paint, path)
    paint.solid(paint.tube(places, list(radii)), T.BOWEL_CONTENT, over=(T.FAT,), clip=clip,
                wall=(T.BOWEL_WALL, 2.5))  # fmt: skip
    for start in rng.choice(86, size=7, replace=False):
        part = [(x, y + 5, z) for x, y, z in places[start : start + 5]]
        paint.solid(paint.tube(part, list(0.55 * radii[start : start + 5])), T.GAS,
                    over=(T.BOWEL_CONTENT,))  # fmt: skip
    paint.solid(paint.tube(spread(paint, np.array(DUODENUM, dtype=np.float64)), 11.0),
                T.BOWEL_CONTENT, over=(T.FAT,), wall=(T.BOWEL_WALL, 3.0))  # fmt: skip
    _paint_small_bowel(paint, clip, rng)


def _paint_small_bowel(paint: Painter, clip: tuple[Boxes, Field], rng: np.random.Generator) -> None:
    """Loops that sweep from left above to right below in two layers."""
    n, rows = 26, 11
    loops = []
    for row in range(rows):
        t = np.linspace(0, 1, n)
        sweep = (2 * t - 1) * (1 if row % 2 else -1)
        level = 1028 - 20 * row
        reach = 84 - 30 * abs(row - 4) / 6
        y = 146 + 24 * np.sin(2 * np.pi * (2.4 * t + rng.uniform()))
        z = level + 9 * np.cos(2 * np.pi * (2.4 * t + rng.uniform())) - 8 * sweep
        loops.append(np.column_stack([sweep * reach - 4, y, z]))
    path = np.vstack(loops) + _smooth(rng.normal(0, 9.0, (n * rows, 3)))
    places = spread(paint, path)
    start = 0
    while start < len(places) - 1:
        length = int(rng.integers(5, 12))
        part = places[start : start + length + 1]
        kind = rng.uniform()
        radius = float(rng.uniform(12.0, 16.0)) if kind < 0.75 else 7.0
        content = T.BOWEL_CONTENT if kind < 0.68 else T.GAS if kind < 0.75 else T.BOWEL_WALL
        if len(part) > 1:
            paint.solid(paint.tube(part, radius), content, over=(T.FAT,), clip=clip,
                        wall=(T.BOWEL_WALL, 2.2), rough=0.8)  # fmt: skip
        start += length


def _smooth(steps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of five neighbours along the first axis, so that a path bends instead of jittering."""
    kernel = np.ones(5) / np.sqrt(5)
    columns = [np.convolve(c, kernel, mode="same") for c in steps.T]
    return np.stack(columns, axis=1)


def _paint_vessels(paint: Painter) -> None:
    """Renal, splenic and mesenteric vessels, and the fan of the mesentery."""
    free = (T.FAT,)
    paint.solid(paint.tube([(24, 112, 1036), (46, 92, 1022)], 4.5), T.VEIN, over=free)
    paint.solid(
        paint.tube([(20, 116, 1046), (-8, 132, 1046), (-46, 92, 1036)], 4.5), T.VEIN, over=free
    )
    paint.solid(
        paint.tube([(14, 122, 1056), (-30, 112, 1068), (-74, 84, 1080)], 4.0), T.VEIN, over=free
    )
    for x in (-50, -20, 10, 40, 66):
        fan = [(4, 128, 1046), (6, 138, 1000), (0.6 * x, 140, 960), (x, 148, 925)]
        paint.solid(paint.tube(fan, [4.5, 4.0, 2.5, 1.5]), T.VEIN, over=free)
        paint.solid(paint.tube([(a - 6, b, c) for a, b, c in fan], [3.5, 3.0, 2.0, 1.2]), T.BLOOD,
                    over=free)  # fmt: skip
