"""The spine: vertebrae with their arches, discs, canal, cord, roots and ganglia.

Numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`, measured on the
BodyParts3D atlas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteosap.simulate.anatomy.bone import CERVICAL, LUMBAR, THORACIC, Bone
from osteosap.simulate.body import Body
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import (
    Canvas,
    Ellipsoid,
    EllipticCylinder,
    Points,
    RoundCone,
    Shape,
    Triangle,
    chain,
)
from osteosap.simulate.tissue import T

__all__ = [
    "Vertebra",
    "build_vertebrae",
    "canal_path",
    "ganglion",
    "paint_canal",
    "paint_disc",
    "paint_roots",
    "spine_bones",
]

# Centres (y, z) of the 23 discs from C2-C3 down to L5-S1.
DISCS = np.array(
    [
        (76.4, 1446.3), (81.0, 1429.6), (83.9, 1414.0), (84.9, 1397.4), (82.6, 1382.0),
        (78.3, 1366.3), (73.4, 1348.2), (65.7, 1328.2), (57.6, 1307.2), (50.7, 1284.4),
        (48.9, 1259.2), (47.2, 1233.5), (50.6, 1206.9), (55.8, 1181.3), (61.2, 1154.8),
        (67.1, 1127.1), (76.1, 1099.0), (84.3, 1069.8), (93.3, 1039.5), (98.2, 1007.1),
        (95.0, 972.9), (82.8, 942.6), (70.5, 909.6),
    ]
)  # fmt: skip
C2_TOP = (72.0, 1475.0)
CANAL_MM = {CERVICAL: 9.5, THORACIC: 9.0, LUMBAR: 11.0}


@dataclass(frozen=True)
class Vertebra:
    """Placed frame of one vertebra: body centre, axes (x, y, z columns), half sizes, canal."""

    name: str
    class_id: int
    level: int
    centre: Points
    axes: Points
    half_width: float
    half_depth: float
    half_height: float
    canal: Points
    disc_below: Points
    disc_half_height: float


def build_vertebrae(person: Person) -> list[Vertebra]:
    """Frames of C2 to L5 (C1 is drawn with C2), top to bottom."""
    discs = np.column_stack([np.zeros(len(DISCS)), DISCS])
    tops = np.vstack([[(0.0, *C2_TOP)], discs])
    placed = person.place(tops)
    frames = []
    for level in range(len(DISCS)):
        class_id = CERVICAL if level < 6 else THORACIC if level < 18 else LUMBAR
        number = level + 2 if level < 6 else level - 5 if level < 18 else level - 17
        thoracic = np.clip((level - 6) / 11.0, 0, 1)
        lumbar = np.clip((level - 18) / 4.0, 0, 1)
        if class_id == CERVICAL:
            width, depth, disc, canal_gap = 14.1, 10.2, 2.4, 15.2
        elif class_id == THORACIC:
            width, depth, disc = 14.2 + 6.9 * thoracic, 12.2 + 5.2 * thoracic, 2.2
            canal_gap = depth + 7.0
        else:
            width, depth, disc, canal_gap = 23.5 + 3.6 * lumbar, 18.3, 4.6, 28.1
        upper, lower = placed[level], placed[level + 1]
        up = (upper - lower) / np.linalg.norm(upper - lower)
        right = np.cross([0.0, 1.0, 0.0], up)
        right /= np.linalg.norm(right)
        axes = np.column_stack([right, np.cross(up, right), up])
        centre = (upper + lower) / 2
        frames.append(
            Vertebra(
                name=f"{'CTL'[class_id - 1]}{number}",
                class_id=class_id,
                level=level,
                centre=centre,
                axes=axes,
                half_width=person.radius(width),
                half_depth=person.radius(depth),
                half_height=float(np.linalg.norm(upper - lower)) / 2 - disc,
                canal=centre - axes[:, 1] * person.radius(canal_gap),
                disc_below=lower,
                disc_half_height=disc,
            )
        )
    return frames


def spine_bones(person: Person, vertebrae: list[Vertebra]) -> list[Bone]:
    """C2 to L5, then C1."""
    return [*(_vertebra(person, v) for v in vertebrae), _atlas_vertebra(person)]


def _vertebra(person: Person, v: Vertebra) -> Bone:
    """Body with endplates, pedicles, laminae, facets, transverse and spinous processes."""
    r = person.radius
    x, y, z = v.axes.T
    cervical, lumbar = v.class_id == CERVICAL, v.class_id == LUMBAR
    canal = r(CANAL_MM[v.class_id])
    spinous = 24.0 if lumbar else 22.0 if not cervical else 13.0 + 2.8 * v.level
    drop = 7.0 if lumbar else 20.0 if not cervical else 5.0
    reach = 38.0 if lumbar else 33.0 - 0.6 * (v.level - 6) if not cervical else 24.0
    thick = 6.3 if lumbar else 5.1 if not cervical else 4.4
    back = v.canal - y * (canal + r(thick))
    body = EllipticCylinder(
        v.centre, v.axes, v.half_width, v.half_depth, v.half_height, waist=2.2 if lumbar else 1.3
    )
    shapes: list[Shape] = [body]
    for side in (1.0, -1.0):
        root = v.centre + side * x * v.half_width * 0.74 - y * v.half_depth * 0.62
        pedicle = root + z * v.half_height * 0.38
        corner = v.canal + side * x * (canal + r(thick * 0.7)) - y * 3 + z * v.half_height * 0.3
        facet = corner - y * r(4)
        tip = v.canal + side * x * r(reach) - y * r(11.0 if not cervical else -4.0)
        tip = tip + z * r(2.0 if not cervical else -4.0)
        up, down = z * v.half_height * 1.15, z * v.half_height * 1.1
        shapes += [
            RoundCone(pedicle, corner, r(thick * 1.15), r(thick)),
            RoundCone(corner, back - z * 3, r(thick * 0.8), r(thick * 0.85)),
            RoundCone(corner, tip, r(thick * 0.85), r(thick * 0.7)),
            RoundCone(facet, facet + up - y * 1, r(thick * 1.05), r(thick * 0.8)),
            RoundCone(facet, facet - down - y * 4, r(thick * 1.05), r(thick * 0.8)),
        ]
    end = back - y * r(spinous) - z * r(drop)
    shapes.append(Triangle(back + z * r(4), back - z * r(9), end, r(thick * 0.55)))
    shapes.append(RoundCone(end + z * r(4), end - z * r(4), r(thick * 0.75), r(thick * 0.75)))
    cortex = (0.6, *[1.2] * (len(shapes) - 1))  # thin round the body, thick in the arch
    return Bone(v.name, v.class_id, tuple(shapes), cortex, "spine", blend_mm=2.0)


def _atlas_vertebra(person: Person) -> Bone:
    r = person.radius
    p = person.place([(0, 88, 1472), (17, 80, 1470), (22, 68, 1470), (15, 50, 1470), (0, 42, 1470)])
    mirrored = person.place(
        [(0, 88, 1472), (-17, 80, 1470), (-22, 68, 1470), (-15, 50, 1470), (0, 42, 1470)]
    )
    dens = person.place([(0, 76, 1455), (0, 78, 1482)])
    wings = person.place([(20, 68, 1470), (38, 66, 1470), (-20, 68, 1470), (-38, 66, 1470)])
    radii = [r(v) for v in (5, 7, 9, 5, 5)]
    shapes = [
        *chain(p, radii),
        *chain(mirrored, radii),
        RoundCone(dens[0], dens[1], r(8.5), r(5.5)),
        RoundCone(wings[0], wings[1], r(6), r(3)),
        RoundCone(wings[2], wings[3], r(6), r(3)),
    ]
    return Bone("C1", CERVICAL, tuple(shapes), 1.2, "spine")


def paint_disc(canvas: Canvas, body: Body, v: Vertebra) -> None:
    """The disc below a vertebra: nucleus within a dark outer ring."""
    shape = EllipticCylinder(
        v.disc_below, v.axes, v.half_width * 1.03, v.half_depth * 1.03, v.disc_half_height
    )
    box, distance = canvas.distance([shape])
    ring = EllipticCylinder(v.disc_below, v.axes, v.half_width - 1.6, v.half_depth - 1.6, 40.0)
    inside = distance < 0
    outer = inside & (ring.distance(*canvas.mesh(box)) > 0)
    body.tissue[box][inside] = T.DISC
    body.tissue[box][outer] = T.TENDON
    body.clear_bone(box, inside)


def canal_path(person: Person, vertebrae: list[Vertebra]) -> Points:
    """Midline of the canal from the foramen magnum to S2: shape (N, 3)."""
    top = person.place([(0, 66, 1492), (0, 64, 1478)])
    low = person.place([(0, 46, 905), (0, 27, 880)])
    return np.vstack([top, [v.canal for v in vertebrae], low])


def paint_canal(canvas: Canvas, body: Body, vertebrae: list[Vertebra]) -> None:
    """Canal cleared of bone: epidural fat and veins, the sac with its cord down to L1, roots."""
    path = canal_path(body.person, vertebrae)
    n = len(path)
    wide = [CANAL_MM[v.class_id] for v in vertebrae]
    canal = chain(path, [10.0, 10.0, *wide, 9.5, 7.0])
    sac_mm = np.array([9.0, 8.5, *[w - 1.6 for w in wide], 6.0, 3.0])
    sac = chain(path, list(sac_mm))
    cord_mm = np.interp(
        np.arange(n), [0, 2, 5, 8, 14, 17, 19, 20], [6, 5.6, 5.8, 4.8, 4.4, 5.0, 3.2, 1.2]
    )
    cord = chain(path[:21], list(cord_mm[:21]))
    tail = [
        RoundCone(path[19] + [dx, dy, 0], path[-2] + [1.4 * dx, dy - 1, 0], 0.9, 0.9)
        for dx, dy in ((-3.5, -3.0), (-1.5, -4.5), (1.5, -4.5), (3.5, -3.0), (0.0, -2.5))
    ]
    veins = []
    for v, w in zip(vertebrae, wide, strict=True):
        for side in (1.0, -1.0):
            start = v.canal + v.axes[:, 1] * (w - 0.5) + side * 3.0 * v.axes[:, 0]
            veins.append(RoundCone(start, start - [0.0, 0.0, 12.0], 1.4, 1.4))
    for shapes, value in (
        (canal, T.FAT), (veins, T.VEIN), (sac, T.CSF), (cord, T.CORD), (tail, T.NERVE),
    ):  # fmt: skip
        box, distance = canvas.distance(shapes)
        inside = distance < 0
        body.tissue[box][inside] = value
        body.clear_bone(box, inside)


def ganglion(person: Person, v: Vertebra, side: float) -> Points:
    """Place (3,) of the dorsal root ganglion in the foramen below a vertebra's pedicle."""
    x, y, z = v.axes.T
    canal = person.radius(CANAL_MM[v.class_id])
    out = canal + (3.5 if v.class_id != LUMBAR else 5.0)
    lower = v.half_height * 0.62 if v.class_id != CERVICAL else v.half_height * 0.8
    return np.asarray(v.canal + side * x * out - z * lower + y * 1.5, dtype=np.float64)


def paint_roots(canvas: Canvas, body: Body, vertebrae: list[Vertebra]) -> None:
    """Fat, root and ganglion in every foramen: bright on b1000 right beside the vertebra."""
    for v in vertebrae:
        x, y, z = v.axes.T
        size = {CERVICAL: 2.8, THORACIC: 2.5, LUMBAR: 3.4}[v.class_id]
        for side in (1.0, -1.0):
            knot = ganglion(body.person, v, side)
            start = v.canal + side * x * 5.0
            end = knot + side * x * 14.0 + y * 5.0 - z * 9.0
            foramen = [RoundCone(start, knot + side * x * 4.0, size + 0.6, size + 1.4)]
            box, distance = canvas.distance(foramen)
            inside = (distance < 0) & ~np.isin(body.tissue[box], (T.CSF, T.CORD, T.NERVE))
            body.tissue[box][inside] = T.FAT
            body.clear_bone(box, inside)
            for shapes, free in (
                (
                    [RoundCone(start, knot, 1.3, 1.6), RoundCone(knot, end, 1.8, 1.6)],
                    (T.FAT, T.MUSCLE),
                ),
                (
                    [Ellipsoid(knot, np.array([size, size, size * 1.25]))],
                    (T.FAT, T.MUSCLE, T.NERVE),
                ),
            ):
                box, distance = canvas.distance(shapes)
                inside = (distance < 0) & np.isin(body.tissue[box], free)
                body.tissue[box][inside] = T.NERVE
