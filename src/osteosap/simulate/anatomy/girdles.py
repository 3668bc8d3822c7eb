"""The shoulder girdle, the sternum and the arms.

Numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`, measured on the
BodyParts3D atlas.
"""

from __future__ import annotations

import numpy as np

from osteosap.simulate.anatomy.bone import CLAVICLE, HUMERUS, SCAPULA, STERNUM, Bone, Placer
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Box, Ellipsoid, Points, RoundCone, Shape, Triangle, chain

__all__ = ["arm_bones", "shoulder_bones", "sternum"]

HEAD_CENTRE, HEAD_MM = (166.0, 70.0, 1310.0), 22.0


def sternum(person: Person) -> Bone:
    """Manubrium, body and xiphoid."""
    r = person.radius
    p = person.place([(0, 144, 1319), (0, 163, 1282), (0, 188, 1232), (0, 201, 1194)])
    xiphoid = person.place((0, 203, 1172))
    shapes: list[Shape] = []
    for a, b, w in ((p[0], p[1], 25.5), (p[1], p[2], 18), (p[2], p[3], 19)):
        up = (a - b) / np.linalg.norm(a - b)
        right = np.array([1.0, 0.0, 0.0]) - up[0] * up
        right /= np.linalg.norm(right)
        axes = np.column_stack([right, np.cross(up, right), up])
        half = np.array([r(w), r(8), np.linalg.norm(a - b) / 2 + 1.5])
        shapes.append(Box((a + b) / 2, axes, half, rounding=4.0))
    shapes.append(RoundCone(p[3], xiphoid, r(7), r(4)))
    return Bone("sternum", STERNUM, tuple(shapes), 0.45, "sternum")


def _scapula(person: Person, at: Placer, name: str, side: float) -> Bone:
    r = person.radius
    glenoid, superior, inferior, acromion, tip, coracoid, middle = at(
        [
            (145, 69, 1305), (78, 35, 1345), (100, 7, 1205), (158, 51, 1349), (162, 71, 1351),
            (130, 99, 1323), (102, 13, 1295),
        ]
    )  # fmt: skip
    root, edge = at([(72, 17, 1307), (84, 7, 1250)])
    beak = at([(140, 79, 1331)])[0]
    shapes: list[Shape] = [
        Ellipsoid(glenoid, np.array([r(10), r(13), r(18)])),
        Triangle(glenoid, superior, middle, r(2.2)),
        Triangle(superior, root, middle, r(2.2)),
        Triangle(root, edge, middle, r(2.2)),
        Triangle(edge, inferior, middle, r(2.4)),
        Triangle(inferior, glenoid, middle, r(2.4)),
        *chain(np.stack([glenoid, inferior]), [r(6.5), r(5)]),
        *chain(np.stack([superior, root, edge, inferior]), [r(3.5)] * 4),
        *chain(np.stack([root, middle - [0, 4, 0], acromion, tip]), [r(4), r(6), r(7), r(6)]),
        *chain(np.stack([glenoid, beak, coracoid]), [r(8), r(7), r(6)]),
    ]
    head = person.place_arm([HEAD_CENTRE], side=side)[0]
    return Bone(
        f"scapula {name}", SCAPULA, tuple(shapes), 1.0, "scapula",
        cuts=(Ellipsoid(head, np.full(3, r(HEAD_MM))),), gap_mm=2.6,
    )  # fmt: skip


def _clavicle(person: Person, at: Placer, name: str) -> Bone:
    r = person.radius
    points = at(
        [(20, 136, 1322), (45, 132, 1331), (75, 111, 1338), (105, 79, 1345), (128, 62, 1350),
         (146, 56, 1352)]
    )  # fmt: skip
    shapes = chain(points, [r(v) for v in (10.5, 7.6, 6.2, 6.2, 7, 6.5)])
    return Bone(f"clavicle {name}", CLAVICLE, tuple(shapes), 1.5, "clavicle")


def arm_bones(person: Person, name: str, side: float) -> list[Bone]:
    """Humerus, ulna, radius, and the hand as one bone."""
    return [_humerus(person, name, side), *_forearm(person, name, side)]


def _humerus(person: Person, name: str, side: float) -> Bone:
    r = person.radius

    def arm(points: list[tuple[float, float, float]]) -> Points:
        return person.place_arm(points, side=side)

    p = arm(
        [
            HEAD_CENTRE, (177, 72, 1290), (182, 72, 1262), (185, 72, 1235), (192, 70, 1180),
            (199, 69, 1125), (206, 69, 1076), (209, 70, 1054), (197, 68, 1040), (223, 72, 1042),
        ]
    )  # fmt: skip
    greater, lesser = arm([(184, 70, 1312), (172, 88, 1304)])
    shaft = chain(p[:8], [r(v) for v in (18.5, 15.5, 12, 10.8, 10, 10.2, 12, 11)])
    parts: list[tuple[Shape, float]] = [
        (Ellipsoid(p[0], np.full(3, r(HEAD_MM))), 0.8),
        *zip(shaft, (1.2, 1.8, 3.0, 4.2, 4.2, 3.5, 2.0), strict=True),
        (Ellipsoid(greater, np.full(3, r(10.0))), 1.0),
        (Ellipsoid(lesser, np.full(3, r(7.0))), 1.0),
        (RoundCone(p[8], p[9], r(9.5), r(9)), 1.2),
        (RoundCone(p[6], p[8], r(7), r(7)), 1.5),
        (RoundCone(p[6], p[9], r(7), r(7)), 1.5),
    ]
    shapes = tuple(shape for shape, _ in parts)
    cortex = tuple(mm * person.cortex for _, mm in parts)
    return Bone(f"humerus {name}", HUMERUS, shapes, cortex, "humerus", blend_mm=5.0)


def _forearm(person: Person, name: str, side: float) -> list[Bone]:
    r = person.radius

    def arm(points: list[tuple[float, float, float]]) -> Points:
        return person.place_arm(points, side=side, forearm=True)

    ulna = arm([(206, 54, 1066), (206, 60, 1044), (209, 63, 1010), (214, 66, 960), (222, 80, 830)])
    radius = arm([(222, 78, 1038), (224, 80, 1015), (230, 86, 960), (238, 94, 860), (240, 96, 826)])
    wrist = arm([(230, 94, 812), (244, 98, 812), (232, 98, 800), (244, 102, 800)])
    hand: list[Shape] = [Ellipsoid(c, np.full(3, r(8.0))) for c in wrist]
    for spread, reach in ((-12, 62), (-4, 72), (4, 76), (12, 70)):
        ray = arm(
            [(238, 100 + spread * 0.5, 792), (241, 110 + spread, 742), (243, 113 + spread, 733),
             (245, 117 + 1.1 * spread, 738 - reach)]
        )  # fmt: skip
        hand += chain(ray, [r(5), r(4.2), r(5), r(3)])
    thumb = arm([(236, 116, 798), (238, 134, 765), (239, 140, 735)])
    hand += chain(thumb, [r(6), r(5), r(4)])
    return [
        Bone(f"ulna {name}", 0, tuple(chain(ulna, [r(v) for v in (9, 10, 7.5, 6.3, 5)])),
             (1.5, 2.0, 3.0, 3.0), "forearm"),
        Bone(f"radius {name}", 0, tuple(chain(radius, [r(v) for v in (9, 6.5, 6.8, 8, 12)])),
             (1.5, 3.0, 3.0, 1.5), "forearm"),
        Bone(f"hand {name}", 0, tuple(hand), 1.0, "hand", blend_mm=0.5),
    ]  # fmt: skip


def shoulder_bones(person: Person, at: Placer, name: str, side: float) -> list[Bone]:
    """Scapula and clavicle."""
    return [_scapula(person, at, name, side), _clavicle(person, at, name)]
