"""Look-alikes outside bone that are bright on b1000: lymph nodes by station, the nerve plexuses.

Stations, numbers and sizes of nodes are ours; most lie near vessels, some right beside bone.
"""

from __future__ import annotations

import numpy as np

from osteosap.simulate.anatomy.painter import SOFT, Landmark, Painter
from osteosap.simulate.anatomy.spine import Vertebra, ganglion
from osteosap.simulate.shapes import RoundCone, chain
from osteosap.simulate.tissue import T

__all__ = ["NODE_STATIONS", "paint_nodes", "paint_plexuses"]

# Stations of lymph nodes (right side): place, spread (mm), mean number a side.
NODE_STATIONS: dict[str, tuple[Landmark, float, float]] = {
    "axillary": ((132, 88, 1262), 17.0, 5.0),
    "cervical": ((42, 94, 1412), 12.0, 5.0),
    "supraclavicular": ((46, 104, 1352), 10.0, 1.5),
    "inguinal": ((62, 132, 782), 12.0, 5.0),
    "external iliac": ((56, 108, 850), 11.0, 3.0),
    "internal iliac": ((46, 66, 850), 9.0, 2.0),
    "common iliac": ((30, 98, 915), 9.0, 1.5),
    "presacral": ((10, 44, 862), 9.0, 1.5),
    "retroperitoneal": ((20, 108, 1000), 11.0, 2.5),
    "paravertebral": ((30, 56, 1150), 14.0, 1.5),
    "internal mammary": ((22, 166, 1250), 12.0, 1.2),
    "mediastinal": ((16, 100, 1286), 11.0, 2.5),
    "mesenteric": ((16, 138, 970), 16.0, 2.0),
}


def paint_nodes(paint: Painter, rng: np.random.Generator) -> None:
    """Ovoid lymph nodes, some with a fatty hilum."""
    for place, spread, mean in NODE_STATIONS.values():
        for side in (1.0, -1.0):
            for _ in range(int(rng.poisson(mean))):
                away = rng.normal(0, spread, 3) * [0.7, 0.7, 1.3]
                long_axis = float(np.clip(rng.lognormal(np.log(4.6), 0.35), 2.5, 12.0))
                step = rng.normal(size=3)
                hilum = bool(rng.uniform() < 0.4)
                centre = paint.person.place(np.array(place) * [side, 1, 1] + away)
                step *= long_axis * 0.7 / np.linalg.norm(step)
                radius = long_axis * 0.6
                body = RoundCone(centre - step / 2, centre + step / 2, radius, radius)
                paint.solid([body], T.NODE, over=SOFT)
                if hilum and long_axis > 6.0:
                    side_step = np.array([0.35 * radius, 0.0, 0.0])
                    core = RoundCone(centre - side_step, centre + side_step, 0.35 * radius, 1.0)
                    paint.solid([core], T.FAT, over=(T.NODE,))


def paint_plexuses(paint: Painter, vertebrae: list[Vertebra]) -> None:
    """Brachial plexus to the axilla; lumbosacral plexus to the femoral and sciatic nerves."""
    by_name = {v.name: v for v in vertebrae}
    for side in (1.0, -1.0):

        def at(points: list[Landmark], side: float = side) -> list[np.ndarray]:
            return list(paint.person.place(np.array(points) * [side, 1, 1]))

        for name in ("C5", "C6", "C7", "T1"):
            start = ganglion(paint.person, by_name[name], side)
            middle = at([(46, 84, 1366), (82, 86, 1342), (118, 86, 1316), (146, 80, 1276)])
            paint.solid(
                chain(np.array([start, *middle]), [2.4, 2.6, 2.8, 2.8, 2.2]), T.NERVE, over=SOFT
            )
        arm = paint.person.place_arm([(150, 80, 1272), (172, 76, 1210), (190, 70, 1130)], side=side)
        paint.solid(chain(arm, [2.6, 2.2, 2.0]), T.NERVE, over=SOFT)
        for name in ("L2", "L3", "L4"):
            start = ganglion(paint.person, by_name[name], side)
            course = at([(54, 80, 930), (66, 106, 870), (76, 124, 806)])
            paint.solid(chain(np.array([start, *course]), [2.2, 2.4, 2.4, 2.2]), T.NERVE, over=SOFT)
        sciatic = at([(44, 44, 848), (62, 38, 828), (78, 46, 796), (94, 50, 765), (84, 60, 680),
                      (76, 64, 560), (76, 66, 440)])  # fmt: skip
        for name in ("L4", "L5"):
            start = ganglion(paint.person, by_name[name], side)
            trunk = at([(38, 56, 892)])
            paint.solid(
                chain(np.array([start, *trunk, sciatic[0]]), [2.4, 2.8, 3.4]), T.NERVE, over=SOFT
            )
        for x, y, z in ((27, 44, 880), (24, 33, 862), (21, 24, 845)):
            root = at([(x, y, z)])
            paint.solid(chain(np.array([*root, sciatic[0]]), [2.8, 3.2]), T.NERVE, over=SOFT)
        paint.solid(
            chain(np.array(sciatic), [4.2, 4.6, 4.8, 4.6, 4.2, 4.0, 3.0]), T.NERVE, over=SOFT
        )
