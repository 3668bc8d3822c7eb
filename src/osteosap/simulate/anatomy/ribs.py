"""The rib cage: ribs that run in the trunk's wall, and their cartilages to the sternum.

Levels are millimetres in the reference man of :mod:`osteosap.simulate.person`, measured on the
BodyParts3D atlas.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from osteosap.simulate.anatomy.bone import Bone
from osteosap.simulate.anatomy.spine import Vertebra
from osteosap.simulate.anatomy.trunk import Trunk
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Canvas, Points, Shape, chain
from osteosap.simulate.tissue import T

__all__ = ["paint_cartilage", "rib_bones"]

# Ribs 1 to 12: level of the angle (mm), level and angle (degrees) of the bony end.
RIBS = np.array(
    [
        (1356, 1330, 34), (1338, 1300, 36), (1318, 1268, 34), (1297, 1236, 36), (1273, 1208, 40),
        (1248, 1180, 44), (1222, 1152, 49), (1196, 1126, 55), (1168, 1100, 63), (1140, 1076, 72),
        (1112, 1050, 92), (1084, 1034, 126),
    ],
    dtype=np.float64,
)  # fmt: skip
FIRST_THORACIC, STEPS = 6, 14
DEPTH_MM = 5.0  # the middle of a rib outside the cavity's surface


def _course(index: int, shift: Points) -> tuple[Points, Points]:
    """Level (mm, reference) and angle (degrees) along a rib from its angle forward."""
    level, end_level, end = RIBS[index] + [shift[0] - 5.0, shift[1] - 9.0, 0.0]
    t = np.linspace(0, 1, STEPS)
    angle = 158.0 + (end - 158.0) * t
    return level + (end_level - level) * t**0.85, angle


def rib_bones(
    person: Person,
    trunk: Trunk,
    vertebrae: list[Vertebra],
    *,
    side: float,
    rng: np.random.Generator,
) -> list[Bone]:
    """Ribs 1 to 12 of one side: flat bands, higher than thick."""
    name = "right" if side > 0 else "left"
    bones = []
    for index in range(12):
        level, angle = _course(index, rng.normal(0, 1.5, size=2))
        wall = (
            trunk.on_wall(level, angle, depth_mm=DEPTH_MM)
            if side > 0
            else trunk.on_wall(level, -angle, depth_mm=DEPTH_MM)
        )
        v = vertebrae[FIRST_THORACIC + index]
        x, y, z = v.axes.T
        head = v.centre + side * x * (v.half_width * 0.9) - y * v.half_depth * 0.75
        head = head + z * v.half_height * 0.6
        neck = v.canal + side * x * person.radius(27.0) - y * person.radius(2.0)
        points = np.vstack([head, neck, wall])
        thick = person.radius(3.6 if index < 11 else 2.8)
        high = np.array([0.0, 0.0, person.radius(3.0 if index not in (0, 11) else 1.6)])
        shapes: list[Shape] = [
            *chain(points + high, [thick] * len(points)),
            *chain(points - high, [thick] * len(points)),
        ]
        bones.append(Bone(f"rib {index + 1} {name}", 0, tuple(shapes), 1.0, "rib"))
    return bones


def paint_cartilage(canvas: Canvas, trunk: Trunk, tissue: npt.NDArray[np.uint8]) -> None:
    """Costal cartilages from the ends of ribs 1 to 10 to the sternum or the arch above."""
    for side in (1.0, -1.0):
        for index in range(10):
            level, angle = _course(index, np.zeros(2))
            goal = np.array([1316, 1284, 1258, 1234, 1214, 1198, 1190, 1172, 1148, 1122.0])[index]
            last = (9, 9, 9, 9, 9, 8, 7, 16, 26, 38)[index]
            t = np.linspace(0, 1, 5)
            bend = -8 * np.sin(np.pi * t) * (index > 3)
            levels = level[-1] + (goal - level[-1]) * t**1.4 + bend
            angles = side * (angle[-1] + (last - angle[-1]) * t)
            points = trunk.on_wall(levels, angles, depth_mm=DEPTH_MM + 1.0)
            box, distance = canvas.distance(chain(points, [5.5] * 5))
            tissue[box][distance < 0] = T.CARTILAGE
