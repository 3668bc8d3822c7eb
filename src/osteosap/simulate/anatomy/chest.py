"""Inside the chest: diaphragm, lungs with their vessels, heart with chambers, great vessels.

Lung fills the cavity above the diaphragm up to what stands in the middle; fat lies only where the
mediastinum has it: around the heart, the vessels and in front of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from osteosap.simulate.anatomy.painter import Painter, turn
from osteosap.simulate.shapes import Boxes, Ellipsoid, Field, Shape, overlap
from osteosap.simulate.tissue import T

__all__ = ["AORTA", "LOWER_CAVA", "Cavity", "dome_of", "inside_of_cavity", "paint_chest"]

AORTA = [(4, 126, 1238), (10, 132, 1262), (6, 128, 1288), (-8, 106, 1303), (-20, 82, 1296),
         (-25, 68, 1276), (-26, 62, 1240), (-22, 64, 1180), (-14, 74, 1130), (-7, 100, 1070),
         (-5, 122, 1010), (-4, 124, 968)]  # fmt: skip
AORTA_MM = [14, 15, 14, 13, 12.5, 12, 12, 11.5, 11, 10, 9, 8.5]
UPPER_CAVA = [(22, 128, 1322), (26, 124, 1286), (26, 116, 1244)]
LOWER_CAVA = [(26, 112, 1232), (26, 108, 1190), (28, 102, 1140), (26, 112, 1060), (20, 122, 1000),
              (16, 118, 962)]  # fmt: skip
PULMONARY = [(-20, 136, 1248), (-18, 124, 1270), (-6, 108, 1276), (26, 98, 1268)]
PULMONARY_LEFT = [(-18, 124, 1270), (-30, 100, 1276), (-44, 88, 1266)]
OESOPHAGUS = [(-2, 84, 1395), (-3, 80, 1330), (-1, 74, 1270), (-3, 76, 1210), (-10, 88, 1160),
              (-20, 104, 1132)]  # fmt: skip
TRACHEA = [(0, 100, 1400), (0, 96, 1340), (1, 88, 1288)]
BRONCHI = ([(1, 88, 1288), (26, 84, 1264), (46, 82, 1250)],
           [(1, 88, 1288), (-26, 84, 1268), (-46, 80, 1254)])  # fmt: skip
BRANCHES = (  # brachiocephalic, carotid and subclavian arteries; brachiocephalic veins
    ([(4, 112, 1304), (12, 106, 1332), (22, 92, 1352), (58, 94, 1350), (110, 84, 1310)], 5.5),
    ([(-10, 100, 1308), (-18, 96, 1340), (-24, 90, 1370)], 4.5),
    ([(-18, 86, 1304), (-28, 84, 1340), (-60, 92, 1352), (-112, 84, 1310)], 5.0),
)
VEINS = (
    ([(24, 128, 1318), (34, 122, 1340), (66, 116, 1345), (116, 96, 1306)], 6.5),
    ([(22, 130, 1314), (-14, 134, 1326), (-34, 122, 1340), (-66, 116, 1345), (-116, 96, 1306)],
     6.5),
)  # fmt: skip


@dataclass(frozen=True)
class Cavity:
    """The inside of the trunk on the grid: box, distance outside the wall (mm), dome level (mm).

    Parameters
    ----------
    box
        Index slices.
    outside
        Distance (mm) outside the cavity's surface; negative inside.
    dome
        Height (mm) of the diaphragm above each (x, y), shape (I, J, 1).
    """

    box: Boxes
    outside: Field
    dome: Field


def dome_of(paint: Painter, box: Boxes, *, lift_mm: float) -> Field:
    """Level (mm) of the diaphragm's upper face over a box, shape (I, J, 1)."""
    x, y, _ = paint.canvas.mesh(box)
    scale = paint.person.scale
    out = np.full(1, -1e4, dtype=np.float32)
    for cx, cy, z, rx, ry in ((56, 116, 1195, 92, 108), (-54, 118, 1184, 92, 108)):
        c = paint.person.place((cx, cy, z))
        u = ((x - c[0]) / (rx * scale[0])) ** 2 + ((y - c[1]) / (ry * scale[1])) ** 2
        back = np.clip((c[1] - y) / (70 * scale[1]), 0, 1.3) ** 2
        out = np.maximum(out, c[2] + lift_mm - (24 * u + 29 * back + 30 * u * u).astype(np.float32))
    return np.asarray(out, dtype=np.float32)


def paint_chest(paint: Painter, cavity: Cavity, rng: np.random.Generator) -> None:
    """Paint what lies above the diaphragm, and the diaphragm itself."""
    size = float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.2))
    heart = _heart(paint, size)
    target = paint.tissue[cavity.box]
    z = paint.canvas.mesh(cavity.box)[2]
    above = (cavity.outside < -0.5) & (z > cavity.dome)
    muscle = (cavity.outside < 0.5) & ~above & (z > cavity.dome - 4.0)
    middle = _mediastinum(paint, heart, cavity)
    target[above] = T.LUNG
    target[above & (middle < 0)] = T.FAT
    target[muscle & (z > cavity.dome - 4.0)] = T.MUSCLE
    for side in (1.0, -1.0):
        crus = [(side * 14, 92, 1030), (side * 17, 80, 1080), (side * 13, 82, 1130)]
        paint.solid(paint.tube(crus, [5.0, 7.0, 5.0]), T.MUSCLE, over=(T.FAT,))
    _paint_lung_vessels(paint, rng)
    _paint_heart(paint, heart)
    _paint_vessels(paint)


def _heart(paint: Painter, size: float) -> dict[str, list[Shape]]:
    """Chambers: the long axis runs from the right upper back to the left lower front."""
    tilt = turn(0.55) @ turn(-0.5, axis=2)

    def ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Ellipsoid:
        scaled = tuple(r * size for r in radii)
        return paint.ball(centre, (scaled[0], scaled[1], scaled[2]), rotation=tilt)

    return {
        "left wall": [ball((-36, 118, 1212), (40, 29, 30))],
        "left ventricle": [ball((-32, 117, 1214), (28, 17, 18))],
        "right wall": [ball((-16, 142, 1206), (40, 24, 28))],
        "right ventricle": [ball((-14, 143, 1208), (35, 19, 23))],
        "left atrium": [ball((-4, 94, 1240), (29, 18, 21))],
        "right atrium": [ball((24, 122, 1222), (21, 24, 29))],
    }


def _mediastinum(paint: Painter, heart: dict[str, list[Shape]], cavity: Cavity) -> Field:
    """Distance (mm) to everything between the lungs, on the cavity's box."""
    spine = paint.tube(
        [(0, 60, 1362), (0, 46, 1300), (0, 32, 1250), (0, 32, 1200), (0, 42, 1150), (0, 52, 1105)],
        [13, 14, 15, 16.5, 18.5, 20],
    )
    bed = [s for name in heart for s in heart[name]]
    front = paint.tube([(0, 128, 1325), (0, 146, 1280), (-2, 160, 1245), (-4, 170, 1200)], 13)
    upper = paint.tube(
        [(0, 96, 1345), (2, 104, 1312), (0, 96, 1280), (2, 88, 1240)], [26, 27, 26, 22]
    )
    lower = paint.tube([(-8, 80, 1220), (-10, 86, 1160), (-8, 92, 1120)], 18)
    cava = paint.tube(LOWER_CAVA[:3], 13)
    pad = paint.ball((-30, 152, 1184), (34, 18, 16)), paint.ball((34, 148, 1186), (16, 16, 14))
    shapes = [*spine, *bed, *front, *upper, *lower, *cava, *pad, *paint.tube(AORTA[:9], 15)]
    box, distance = paint.canvas.distance(shapes, margin=12.0, blend=10.0)
    out = np.full(cavity.outside.shape, 1e3, dtype=np.float32)
    own, other = overlap(cavity.box, box)
    out[own] = distance[other] - 1.5
    return out


def _paint_heart(paint: Painter, heart: dict[str, list[Shape]]) -> None:
    over = (T.FAT, T.LUNG, T.HEART)
    for name in ("right atrium", "left atrium", "right wall", "left wall"):
        tissue = T.BLOOD if "atrium" in name else T.HEART
        wall = (T.HEART, 3.0) if "atrium" in name else None
        paint.solid(heart[name], tissue, over=over, wall=wall, rough=0.8)
    for name in ("right ventricle", "left ventricle"):
        paint.solid(heart[name], T.BLOOD, over=(T.HEART,), rough=1.2)


def _paint_vessels(paint: Painter) -> None:
    over = (T.FAT, T.LUNG, T.MUSCLE, T.BLOOD)
    for points, radius in ((PULMONARY, 11.5), (PULMONARY_LEFT, 10.0), (UPPER_CAVA, 10.0)):
        paint.solid(paint.tube(points, radius), T.BLOOD, over=over)
    paint.solid(paint.tube(LOWER_CAVA, 11.0), T.BLOOD, over=(*over, T.LIVER))
    paint.solid(paint.tube(AORTA, AORTA_MM), T.BLOOD)
    for points, radius in BRANCHES:
        paint.solid(paint.tube(points, radius), T.BLOOD, over=over)
    for points, radius in VEINS:
        paint.solid(paint.tube(points, radius), T.VEIN, over=(T.FAT, T.LUNG, T.MUSCLE))
    for side in (1, -1):
        for points in (
            [(side * 6, 92, 1242), (side * 34, 84, 1238), (side * 52, 82, 1234)],
            [(side * 6, 92, 1236), (side * 34, 76, 1222), (side * 50, 70, 1212)],
        ):
            paint.solid(paint.tube(points, 5.5), T.BLOOD, over=over)
    paint.solid(paint.tube(OESOPHAGUS, 7.0), T.BOWEL_WALL)
    paint.solid(paint.tube(TRACHEA, 10.0), T.CARTILAGE)
    paint.solid(paint.tube(TRACHEA, 8.0), T.GAS)
    for points in BRONCHI:
        paint.solid(paint.tube(points, 6.0), T.GAS)


def _paint_lung_vessels(paint: Painter, rng: np.random.Generator) -> None:
    """Arteries and veins that fan out from each hilum and taper."""
    for side in (1.0, -1.0):
        hilum = np.array([side * 40, 84, 1256])
        for _ in range(22):
            away = rng.normal(size=3) * [0.5, 1.0, 1.3] + [side * 0.8, 0, -0.2]
            away *= rng.uniform(45, 85) / np.linalg.norm(away)
            fork = hilum + 0.5 * away + rng.normal(0, 6, 3)
            tips = hilum + away + rng.normal(0, 14, (2, 3))
            for tip in tips:
                points = [(p[0], p[1], p[2]) for p in (hilum, fork, tip)]
                paint.solid(paint.tube(points, [4.2, 2.6, 1.3]), T.VEIN, over=(T.LUNG,))


def inside_of_cavity(cavity: Cavity, depth_mm: float, z: Field) -> npt.NDArray[np.bool_]:
    """Voxels of the cavity's box below the diaphragm and at least ``depth_mm`` from both."""
    return np.asarray((cavity.outside < -depth_mm) & (z < cavity.dome - 4.0 - depth_mm))
