"""Sacrum, hip bones and femurs.

Numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`, measured on the
BodyParts3D atlas.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from osteosap.simulate.anatomy.bone import FEMUR, PELVIS, Bone, Placer
from osteosap.simulate.body import Body
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import (
    Box,
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

__all__ = ["femur", "hip", "paint_symphysis", "sacral_foramina", "sacrum"]

HEAD_CENTRE, HEAD_MM = (88.0, 86.0, 808.0), 24.0


def sacrum(person: Person) -> Bone:
    """Sacrum with wings, crest and open foramina; the coccyx with it."""
    r = person.radius
    rows = [  # y, z, half width, half depth, half height
        (48, 893, 54, 19, 18), (32, 874, 49, 17, 16), (15, 855, 41, 14, 15),
        (7, 836, 32, 11, 14), (5, 817, 20, 8, 12), (9, 801, 7, 5, 9),
    ]  # fmt: skip
    shapes: list[Shape] = []
    tilt = np.deg2rad(35)
    c, s = np.cos(tilt), np.sin(tilt)
    forward = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    for index, (y, z, w, d, h) in enumerate(rows):
        rotation = forward if index < 3 else None
        centre = person.place((0, y, z))
        shapes.append(Ellipsoid(centre, np.array([r(w), r(d), r(h)]), rotation))
    base = person.place((0, 56, 899))
    shapes.append(EllipticCylinder(base, forward.T, r(25), r(17), r(9)))
    crest = person.place([(0, 22, 905), (0, 4, 885), (0, -6, 855), (0, -6, 838)])
    shapes += chain(crest, [r(5)] * 4)
    shapes += chain(person.place([(42, 36, 892), (46, 24, 866)]), [r(15), r(11)])
    shapes += chain(person.place([(-42, 36, 892), (-46, 24, 866)]), [r(15), r(11)])
    holes = [
        RoundCone(front, behind, r(3.2), r(2.6))
        for place in sacral_foramina(person)
        for front, behind in (place,)
    ]
    return Bone(
        "sacrum", PELVIS, tuple(shapes), 1.0, "pelvis",
        cuts=tuple(holes), gap_mm=0.0, filling=T.FAT,
    )  # fmt: skip


def sacral_foramina(person: Person) -> list[Points]:
    """Front and back end (2, 3) of the foramina S1 to S4, right and left."""
    rows = (
        (27, 46, 880, 8, 892),
        (24, 34, 862, -2, 870),
        (21, 24, 845, -8, 850),
        (18, 18, 828, -8, 832),
    )
    return [
        person.place([(side * x, y, z), (side * x, back, top)])
        for x, y, z, back, top in rows
        for side in (1.0, -1.0)
    ]


def hip(person: Person, at: Placer, name: str, *, sacrum_bone: Bone) -> Bone:
    """Iliac wing, socket, pubis, ischium and ramus around the obturator foramen."""
    r = person.radius
    crest = at(
        [
            (40, 12, 888), (58, 20, 917), (78, 34, 938), (98, 55, 948), (117, 80, 947),
            (129, 105, 930), (127, 122, 905), (117, 120, 878), (108, 113, 855),
        ]
    )  # fmt: skip
    roof, notch = at([(96, 86, 838), (62, 46, 848)])
    shapes: list[Shape] = chain(crest, [r(v) for v in (8, 7.5, 7, 7, 7.5, 7.5, 8, 7, 8)])
    for a, b in pairwise(crest):
        shapes.append(Triangle(roof, a, b, r(4.8)))
    shapes.append(Triangle(roof, crest[0], notch, r(6)))
    si = at([(42, 22, 868), (50, 34, 884), (56, 44, 900)])
    shapes += chain(si, [r(9), r(9), r(7)])
    # acetabulum: a rim of thick bone medial, above and behind the femoral head (88, 86, 808)
    cup = at(
        [
            (98, 84, 842), (84, 104, 834), (72, 108, 812), (60, 92, 806), (62, 78, 820),
            (76, 62, 830), (92, 62, 826), (84, 56, 804), (70, 64, 790),
        ]
    )  # fmt: skip
    order = [0, 1, 2, 3, 4, 5, 6, 0, 4, 3, 8, 7, 5, 8]
    shapes += chain(cup[order], [r(8.6)] * len(order))
    pubis = at([(80, 106, 818), (48, 118, 806), (14, 122, 794)])
    shapes += chain(pubis, [r(10), r(8.5), r(10)])
    symphysis = at([(10, 121, 796), (10, 116, 776)])
    shapes += chain(symphysis, [r(9), r(7)])
    ischium = at([(76, 62, 796), (68, 54, 778), (60, 52, 764)])
    shapes += chain(ischium, [r(14), r(16), r(14)])
    ramus = at([(58, 60, 760), (34, 92, 764), (12, 114, 778)])
    shapes += chain(ramus, [r(9), r(6.5), r(7)])
    head = Ellipsoid(at([HEAD_CENTRE])[0], np.full(3, r(HEAD_MM)))
    return Bone(
        f"hip bone {name}", PELVIS, tuple(shapes), 1.2, "pelvis",
        cuts=(head, *sacrum_bone.shapes), gap_mm=2.6,
    )  # fmt: skip


def femur(person: Person, at: Placer, name: str) -> Bone:
    """Head, neck, trochanters, a shaft of thick cortex, condyles."""
    r = person.radius
    head = at([HEAD_CENTRE])[0]
    neck = at([(93, 85, 803), (117, 80, 784)])
    shaft = at(
        [
            (122, 77, 778), (121, 77, 755), (120, 79, 725), (114, 86, 680), (106, 93, 600),
            (95, 94, 520), (88, 91, 465), (82, 88, 430), (80, 86, 412),
        ]
    )  # fmt: skip
    trochanter, crest, lesser = at([(131, 66, 798), (126, 62, 776), (107, 66, 746)])
    condyles = at([(58, 76, 392), (102, 78, 392), (80, 92, 400)])
    shafts = chain(shaft, [r(v) for v in (18, 18, 16, 14, 13.6, 14.2, 17, 22, 26)])
    parts: list[tuple[Shape, float]] = [
        (Ellipsoid(head, np.full(3, r(HEAD_MM))), 0.9),
        *((s, 2.0) for s in chain(neck, [r(16.5), r(18)])),
        *zip(shafts, (2.0, 3.5, 5.5, 6.5, 6.5, 5.0, 2.5, 1.2), strict=True),
        (RoundCone(trochanter, crest, r(12), r(13)), 1.2),
        (RoundCone(crest, shaft[0], r(13), r(17)), 1.5),
        (Ellipsoid(lesser, np.full(3, r(9.0))), 1.5),
        (Ellipsoid(condyles[0], np.array([r(20), r(31), r(22)])), 1.0),
        (Ellipsoid(condyles[1], np.array([r(20), r(31), r(22)])), 1.0),
        (Ellipsoid(condyles[2], np.array([r(28), r(18), r(18)])), 1.0),
    ]
    shapes = tuple(shape for shape, _ in parts)
    cortex = tuple(mm * person.cortex for _, mm in parts)
    return Bone(f"femur {name}", FEMUR, shapes, cortex, "femur", blend_mm=6.0)


def paint_symphysis(canvas: Canvas, body: Body) -> None:
    """The disc of cartilage between the pubic bones."""
    top, low = body.person.place([(0, 122, 800), (0, 114, 772)])
    up = (top - low) / np.linalg.norm(top - low)
    axes = np.column_stack([[1.0, 0.0, 0.0], np.cross(up, [1.0, 0.0, 0.0]), up])
    half = np.array([2.4, 9.0, np.linalg.norm(top - low) / 2])
    box, distance = canvas.distance([Box((top + low) / 2, axes, half)])
    inside = (distance < 0) & (body.bone[box] > 0)
    body.tissue[box][inside] = T.CARTILAGE
    body.clear_bone(box, inside)
