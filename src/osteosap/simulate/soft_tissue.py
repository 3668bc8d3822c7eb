"""The body around the skeleton: outline, fat, muscle, cavities and organs, painted in order.

Later structures overwrite earlier ones: skin, fat, muscle, cavities, organs, and then (in
:mod:`osteosap.simulate.anatomy`) bone, discs, cord and brain. Numbers are millimetres in the
reference man, measured on the BodyParts3D atlas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Canvas, Ellipsoid, Field, RoundCone, Shape, chain
from osteosap.simulate.tissue import T

__all__ = ["paint_body"]

Points = npt.NDArray[np.float64]

# Trunk, neck and head: level z, half width, posterior y, anterior y.
OUTLINE = np.array(
    [
        (742, 112, 14, 146), (760, 140, 0, 158), (791, 158, -14, 166), (831, 164, -22, 176),
        (871, 160, -14, 192), (911, 149, -2, 202), (951, 139, 10, 200), (991, 124, 10, 198),
        (1031, 128, 0, 206), (1071, 136, -5, 214), (1111, 145, -9, 219), (1151, 152, -13, 219),
        (1191, 160, -18, 218), (1231, 166, -18, 207), (1271, 176, -13, 191), (1311, 186, -8, 172),
        (1340, 158, 0, 154), (1362, 108, 10, 142), (1385, 66, 20, 134), (1410, 58, 26, 134),
        (1428, 60, 28, 150), (1445, 64, 24, 178), (1471, 72, 6, 186), (1511, 79, -16, 190),
        (1551, 83, -24, 184), (1591, 79, -14, 172), (1620, 56, 8, 148), (1638, 26, 40, 116),
        (1646, 4, 70, 86),
    ]
)  # fmt: skip

# Extra subcutaneous fat relative to the flank.
FAT_PROFILE = np.array(
    [(690, 1.0), (831, 1.2), (951, 1.1), (1111, 0.8), (1271, 0.5), (1345, 0.4), (1390, 0.3),
     (1471, 0.2), (1650, 0.12)]
)  # fmt: skip

# Thoracic and abdominal cavity: level z, half width, posterior y, anterior y.
THORAX = np.array(
    [(1120, 116, 18, 180), (1160, 120, 14, 182), (1200, 119, 11, 180), (1240, 113, 10, 172),
     (1280, 100, 14, 160), (1310, 84, 22, 148), (1335, 62, 34, 132), (1356, 30, 52, 112)]
)  # fmt: skip
ABDOMEN = np.array(
    [(770, 44, 40, 110), (800, 58, 30, 126), (840, 82, 26, 152), (880, 96, 40, 174),
     (920, 104, 62, 182), (960, 106, 58, 182), (1000, 106, 52, 182), (1040, 110, 40, 188),
     (1080, 114, 28, 190), (1120, 116, 20, 186), (1170, 112, 22, 180), (1200, 90, 50, 160)]
)  # fmt: skip


@dataclass(frozen=True)
class Loft:
    """A column of ellipses along z, carried into a person's body.

    Parameters
    ----------
    person
        Whose body.
    table
        Rows (z, half width, posterior y, anterior y) of the reference man, z rising.
    power
        Exponent of the superellipse (2 = ellipse).
    """

    person: Person
    table: Points
    power: float = 2.3

    def depth(self, canvas: Canvas) -> tuple[tuple[slice, slice, slice], Field]:
        """Approximate depth (mm) below the surface inside the loft's box; negative outside."""
        centres = np.column_stack([np.zeros(len(self.table)), self.table[:, 2:].mean(1)])
        middle = self.person.place(np.column_stack([centres, self.table[:, 0]]))
        half_x = self.table[:, 1] * self.person.scale[0]
        half_y = np.diff(self.table[:, 2:], axis=1)[:, 0] / 2 * self.person.scale[1]
        reach = np.column_stack([half_x, half_y, np.zeros_like(half_x)])
        box = canvas.box((middle - reach).min(0), (middle + reach).max(0), margin=2.0)
        x, y, z = canvas.mesh(box)
        columns = [np.interp(z[0, 0], middle[:, 2], c) for c in (*middle[:, :2].T, half_x, half_y)]
        cx, cy, a, b = (c.astype(np.float32)[None, None, :] for c in columns)
        power = np.float32(self.power)
        k = (np.abs((x - cx) / a) ** power + np.abs((y - cy) / b) ** power) ** (1 / power)
        depth = (1 - k) * np.minimum(a, b)
        inside = (z >= middle[0, 2]) & (z <= middle[-1, 2])
        return box, np.where(inside, depth, np.float32(-1e3))


def paint_body(
    canvas: Canvas,
    person: Person,
    tissue: npt.NDArray[np.uint8],
    *,
    noise: Field,
    rng: np.random.Generator,
) -> None:
    """Paint everything but the skeleton and the nervous system into the tissue map.

    Parameters
    ----------
    canvas, person
        Where and who.
    tissue
        uint8 map (I, J, K) of zeros; filled in place.
    noise
        Smooth unit-variance field (I, J, K) that makes surfaces irregular.
    rng
        Source of organ sizes and places.
    """
    _paint_envelope(canvas, person, tissue, noise)
    _paint_cavities(canvas, person, tissue, noise)
    painter = _Painter(canvas, person, tissue, noise)
    _paint_thorax(painter, rng)
    _paint_abdomen(painter, rng)
    _paint_pelvis(painter, rng)
    _paint_neck_and_head(painter, rng)
    _paint_nodes(painter, rng)


@dataclass(frozen=True)
class _Painter:
    canvas: Canvas
    person: Person
    tissue: npt.NDArray[np.uint8]
    noise: Field

    def solid(
        self,
        shapes: list[Shape],
        tissue: T,
        *,
        over: tuple[T, ...] | None = None,
        rough: float = 0.0,
        wall: tuple[T, float] | None = None,
    ) -> None:
        """Paint a union of shapes: only over some tissues, with a rough surface, with a wall."""
        box, distance = self.canvas.distance(shapes)
        if distance.size == 0:
            return
        if rough:
            distance = distance + np.float32(rough) * self.noise[box]
        target = self.tissue[box]
        inside = distance < 0
        if over is not None:
            inside &= np.isin(target, over)
        target[inside] = tissue
        if wall is not None:
            target[inside & (distance > -wall[1])] = wall[0]

    def ball(self, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Shape:
        """Ellipsoid at a reference landmark, radii scaled with the body."""
        return Ellipsoid(self.person.place(centre), np.array(radii) * self.person.scale)

    def tube(self, points: Sequence[tuple[float, float, float]], radius: float) -> list[Shape]:
        """Tube of one radius (mm) along reference landmarks."""
        return chain(self.person.place(points), [radius] * len(points))


def _paint_envelope(
    canvas: Canvas, person: Person, tissue: npt.NDArray[np.uint8], noise: Field
) -> None:
    """Skin, subcutaneous fat and muscle of trunk, head and limbs."""
    extra = person.fat_mm - 8.0
    outline = OUTLINE.astype(np.float64)
    grow = extra * np.interp(outline[:, 0], FAT_PROFILE[:, 0], FAT_PROFILE[:, 1])
    outline[:, 1] += grow
    outline[:, 2] -= grow * 0.5
    outline[:, 3] += grow
    box, depth = Loft(person, outline).depth(canvas)
    level = np.interp(
        canvas.mesh(box)[2], person.place([(0, 90, z) for z in FAT_PROFILE[:, 0]])[:, 2],
        FAT_PROFILE[:, 1],
    ).astype(np.float32)  # fmt: skip
    fat = np.maximum(np.float32(person.fat_mm) * level, 2.5) + 1.5 * noise[box]
    _layer(tissue[box], depth, fat)
    for points, radii, share in _limbs(person):
        box, distance = canvas.distance(chain(points, [r + extra * 0.4 for r in radii]))
        _layer(tissue[box], -distance, np.maximum(person.fat_mm * share + 1.0 * noise[box], 2.0))


def _layer(target: npt.NDArray[np.uint8], depth: Field, fat_mm: Field) -> None:
    """Skin, fat and muscle by depth; muscle is never covered by another part's fat."""
    body = depth > 0
    muscle = depth > fat_mm
    target[body & (target == T.AIR)] = T.FAT
    target[body & ~muscle & (depth < 1.8) & (target != T.MUSCLE)] = T.SKIN
    target[body & (depth > 3.0) & (target == T.SKIN)] = T.FAT
    target[muscle] = T.MUSCLE


def _limbs(person: Person) -> list[tuple[Points, list[float], float]]:
    """Thighs and arms: placed polylines, radii (mm), fat share."""
    girth = float(person.scale[0])
    limbs = []
    for side in (1.0, -1.0):
        thigh = person.place(
            [(side * 82, 86, 780), (side * 76, 86, 690), (side * 68, 84, 590),
             (side * 66, 80, 480), (side * 68, 80, 390), (side * 68, 78, 340)]
        )  # fmt: skip
        limbs.append((thigh, [78 * girth, 74 * girth, 64 * girth, 54, 50, 52], 0.6))
        arm = person.place(
            [(side * 166, 70, 1305), (side * 180, 70, 1260), (side * 198, 69, 1130),
             (side * 212, 68, 1045), (side * 226, 84, 930), (side * 236, 98, 815),
             (side * 242, 116, 720)]
        )  # fmt: skip
        shoulder = person.place((side * 165, 70, 1312))
        angle = -side * person.arm_angle_rad
        c, s = np.cos(angle), np.sin(angle)
        p = arm - shoulder
        turned = np.stack([c * p[:, 0] + s * p[:, 2], p[:, 1], -s * p[:, 0] + c * p[:, 2]], -1)
        limbs.append((turned + shoulder, [48, 50, 44, 38, 40, 30, 24], 0.35))
    return limbs


def _paint_cavities(
    canvas: Canvas, person: Person, tissue: npt.NDArray[np.uint8], noise: Field
) -> None:
    """Fat planes between muscles, abdominal fat, mediastinum and lungs."""
    planes = np.abs(noise) < 0.045
    tissue[planes & (tissue == T.MUSCLE)] = T.FAT
    box, depth = Loft(person, ABDOMEN, power=2.2).depth(canvas)
    tissue[box][depth > 0] = T.FAT
    box, depth = Loft(person, THORAX, power=2.1).depth(canvas)
    x, y, z = canvas.mesh(box)
    middle = person.place((0, 90, 1160))
    dome = middle[2] + 22 * np.cos((x - middle[0]) / 60) - ((y - middle[1]) / 90) ** 2 * 55
    hollow = (depth > 0) & (z > dome)
    tissue[box][(depth > 0) & (z > dome - 5) & ~hollow] = T.MUSCLE  # diaphragm
    tissue[box][hollow] = T.FAT
    spine = person.place((0, 52, 1230))
    wide = 24 - 0.10 * (y - spine[1])
    lung = hollow & (depth > 2.0) & (np.abs(x - middle[0]) > np.maximum(wide, 12))
    tissue[box][lung] = T.LUNG


def _paint_thorax(paint: _Painter, rng: np.random.Generator) -> None:
    size = float(rng.normal(1.0, 0.06))
    heart = Ellipsoid(
        paint.person.place((-16, 122, 1218)),
        np.array([50, 44, 46]) * size * paint.person.scale,
        _turn(0.5),
    )
    paint.solid([heart], T.HEART, rough=1.5)
    for centre, radius in (((-32, 124, 1212), 24), ((8, 130, 1216), 22), ((-6, 96, 1246), 19)):
        paint.solid([paint.ball(centre, (radius, radius * 0.9, radius))], T.BLOOD, rough=1.0)
    arch = [(6, 118, 1240), (6, 122, 1290), (-8, 100, 1308), (-20, 74, 1296), (-22, 62, 1240)]
    paint.solid(paint.tube(arch, 13), T.BLOOD)
    aorta = [(-22, 62, 1240), (-18, 66, 1150), (-8, 106, 1060), (-6, 128, 1000), (-4, 118, 962)]
    paint.solid(paint.tube(aorta, 10.5), T.BLOOD)
    cava = [(20, 118, 1300), (22, 112, 1230), (24, 100, 1140), (20, 122, 1050), (14, 118, 958)]
    paint.solid(paint.tube(cava, 10.5), T.BLOOD)
    paint.solid(paint.tube([(0, 96, 1400), (0, 88, 1330), (0, 82, 1290)], 8.5), T.GAS)
    paint.solid(paint.tube([(-2, 84, 1395), (-4, 72, 1250), (-10, 92, 1125)], 7.0), T.BOWEL_WALL)


def _paint_abdomen(paint: _Painter, rng: np.random.Generator) -> None:
    free = (T.FAT, T.LIVER)
    s = float(np.clip(rng.normal(1.0, 0.09), 0.8, 1.25))
    liver = [
        paint.ball((60, 112, 1124), (58 * s, 66 * s, 68 * s)),
        paint.ball((8, 146, 1136), (62 * s, 38 * s, 36 * s)),
    ]
    paint.solid(liver, T.LIVER, over=(T.FAT,), rough=2.0)
    paint.solid([paint.ball((48, 156, 1066), (11, 12, 20))], T.BILE)
    p = float(np.clip(rng.lognormal(0.1, 0.16), 0.8, 1.6))
    paint.solid([paint.ball((-94, 72, 1098), (21 * p, 34 * p, 42 * p))], T.SPLEEN, over=free)
    paint.solid([paint.ball((-52, 128, 1116), (42, 44, 52))], T.STOMACH, over=free,
                wall=(T.BOWEL_WALL, 4.0), rough=2.0)  # fmt: skip
    pancreas = [(42, 128, 1026), (10, 132, 1046), (-30, 118, 1062), (-70, 92, 1074)]
    paint.solid(paint.tube(pancreas, 10.5), T.PANCREAS, over=(T.FAT,), rough=1.5)
    _paint_bowel(paint, rng)
    for side, z in ((1.0, 1022.0), (-1.0, 1040.0)):
        k = float(np.clip(rng.normal(1.0, 0.07), 0.8, 1.2))
        kidney = Ellipsoid(
            paint.person.place((side * 64, 72, z + rng.normal(0, 6))),
            np.array([26, 23, 54]) * k * paint.person.scale,
            _turn(-0.15 * side),
        )
        pelvis = paint.ball((side * 54, 76, z), (9, 10, 16))
        paint.solid([kidney], T.KIDNEY, rough=1.0)
        paint.solid([pelvis], T.FAT)
        psoas = [(side * 26, 86, 1060), (side * 42, 88, 985), (side * 62, 96, 900),
                 (side * 84, 118, 840), (side * 104, 92, 770)]  # fmt: skip
        paint.solid(chain(paint.person.place(psoas), [9, 21, 23, 18, 13]), T.MUSCLE, over=(T.FAT,))


def _paint_bowel(paint: _Painter, rng: np.random.Generator) -> None:
    """Colon along its frame and a small-bowel tangle: wall outside, content or gas within."""
    colon = [(84, 116, 850), (90, 112, 930), (88, 112, 1030), (60, 158, 1046), (0, 170, 1024),
             (-60, 158, 1052), (-92, 108, 1064), (-96, 96, 960), (-92, 98, 890), (-60, 104, 850),
             (-20, 86, 868), (0, 48, 850), (0, 34, 815), (0, 44, 785)]  # fmt: skip
    steps = np.linspace(0, len(colon) - 1, 60)
    path = np.stack([np.interp(steps, range(len(colon)), c) for c in np.array(colon).T], 1)
    path = paint.person.place(path + rng.normal(0, 2.5, path.shape))
    radii = 17 + 4.5 * np.sin(np.arange(60) * 1.7) + rng.normal(0, 1.0, 60)
    paint.solid(chain(path, list(radii)), T.BOWEL_CONTENT, over=(T.FAT,),
                wall=(T.BOWEL_WALL, 3.0))  # fmt: skip
    for start in rng.choice(44, size=4, replace=False):
        part = path[start : start + 5] + np.array([0.0, 6.0, 0.0])
        paint.solid(chain(part, [8.0] * len(part)), T.GAS, over=(T.BOWEL_CONTENT,))
    walk = np.cumsum(rng.normal(0, 1, (150, 3)) * [17, 8, 14], axis=0)
    walk = (walk - walk.mean(0)) / np.abs(walk - walk.mean(0)).max(0)
    fold = np.stack([np.sin(np.arange(150) * 0.9), np.zeros(150), np.cos(np.arange(150) * 0.6)], 1)
    tangle = np.array([-4, 142, 930]) + (walk * 0.6 + fold * 0.4) * [78, 30, 92]
    paint.solid(chain(paint.person.place(tangle), [11.0] * 150), T.BOWEL_CONTENT,
                over=(T.FAT,), wall=(T.BOWEL_WALL, 3.0), rough=1.0)  # fmt: skip


def _paint_pelvis(paint: _Painter, rng: np.random.Generator) -> None:
    fill = float(np.clip(rng.lognormal(0.0, 0.2), 0.7, 1.5))
    bladder = paint.ball((0, 94, 818 + 8 * fill), (32 * fill, 26 * fill, 24 * fill))
    paint.solid([bladder], T.URINE, wall=(T.MUSCLE, 4.0))
    g = float(np.clip(rng.lognormal(0.1, 0.15), 0.8, 1.5))
    paint.solid([paint.ball((0, 80, 784), (23 * g, 16 * g, 17 * g))], T.PROSTATE, rough=0.8)
    for side in (1.0, -1.0):
        vesicle = paint.tube([(side * 4, 66, 800), (side * 26, 60, 808)], 6.0)
        paint.solid(vesicle, T.SEMINAL_VESICLE)
        gland = paint.ball((side * 19, 148, 706), (13, 15, 20))
        sac = paint.ball((side * 18, 146, 708), (19, 21, 26))
        paint.solid([sac], T.MUSCLE, over=(T.AIR, T.FAT, T.SKIN))
        paint.solid([gland], T.TESTIS)
        iliac = [(side * 4, 112, 958), (side * 32, 88, 915), (side * 52, 92, 870),
                 (side * 62, 122, 815), (side * 66, 120, 760), (side * 62, 96, 640)]  # fmt: skip
        paint.solid(paint.tube(iliac, 6.0), T.BLOOD)
        paint.solid(paint.tube([(x + side * 6, y - 9, z) for x, y, z in iliac], 6.5), T.BLOOD)
    paint.solid(paint.tube([(0, 82, 758), (0, 120, 752), (0, 158, 760), (0, 172, 726)], 12),
                T.PENIS)  # fmt: skip


def _paint_neck_and_head(paint: _Painter, rng: np.random.Generator) -> None:
    for side in (1.0, -1.0):
        paint.solid([paint.ball((side * 58, 86, 1462), (11, 19, 22))], T.SALIVARY, rough=0.8)
        paint.solid([paint.ball((side * 26, 120, 1434), (9, 15, 11))], T.SALIVARY, rough=0.6)
        paint.solid([paint.ball((side * 14, 104, 1454), (7, 9, 12))], T.LYMPHOID)
        paint.solid([paint.ball((side * 16, 108, 1364), (10, 10, 20))], T.THYROID)
        carotid = [(side * 14, 90, 1310), (side * 24, 86, 1380), (side * 30, 84, 1460)]
        paint.solid(paint.tube(carotid, 4.5), T.BLOOD)
    paint.solid([paint.ball((0, 140, 1452), (20, 26, 16))], T.MUSCLE)  # tongue
    paint.solid(paint.tube([(0, 96, 1400), (0, 98, 1440), (0, 112, 1480)], 8.0), T.GAS)
    paint.solid([paint.ball((0, 90, 1478), (11, 6, 7))], T.LYMPHOID)  # adenoid
    paint.solid([paint.ball((-6, 150, 1484), (float(rng.uniform(14, 20)), 16, 14))], T.GAS)


# Stations of lymph nodes in fat (right side): place, spread (mm), mean number.
NODE_STATIONS = (
    ((128, 82, 1262), 20.0, 4.0),  # axillary
    ((40, 92, 1410), 14.0, 5.0),  # cervical
    ((64, 124, 780), 14.0, 4.0),  # inguinal
    ((54, 100, 862), 14.0, 3.0),  # external and common iliac
    ((20, 108, 985), 12.0, 2.0),  # retroperitoneal
    ((20, 100, 1290), 14.0, 1.5),  # mediastinal
)


def _paint_nodes(paint: _Painter, rng: np.random.Generator) -> None:
    """Ovoid lymph nodes, some beside bone: bright on b1000 outside bone."""
    soft = (T.FAT, T.MUSCLE)
    for place, spread, mean in NODE_STATIONS:
        for side in (1.0, -1.0):
            for _ in range(int(rng.poisson(mean))):
                centre = paint.person.place(
                    np.array(place) * [side, 1, 1] + rng.normal(0, spread, 3) * [0.7, 0.7, 1.2]
                )
                long_axis = float(np.clip(rng.lognormal(np.log(4.6), 0.35), 2.5, 12.0))
                step = rng.normal(size=3)
                step *= long_axis * 0.7 / np.linalg.norm(step)
                shape = RoundCone(centre - step / 2, centre + step / 2, long_axis * 0.6,
                                  long_axis * 0.6)  # fmt: skip
                paint.solid([shape], T.NODE, over=soft)


def _turn(angle: float) -> Points:
    """Rotate about the anterior axis by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
