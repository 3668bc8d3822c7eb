"""The skeleton as solid shapes: nine classes of the paper, and skull, ribs, forearm beside them.

All numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`, measured on
the BodyParts3D atlas. A bone is a union of shapes with a cortical shell; its marrow is red or
yellow by site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from osteosap.simulate.person import Person
from osteosap.simulate.shapes import (
    Box,
    Ellipsoid,
    EllipticCylinder,
    RoundCone,
    Shape,
    Triangle,
    chain,
)

__all__ = ["Bone", "Vertebra", "build_bones", "build_vertebrae"]

Points = npt.NDArray[np.float64]
Placer = Callable[[Sequence[Sequence[float]]], Points]

CERVICAL, THORACIC, LUMBAR, PELVIS, FEMUR, HUMERUS, SCAPULA, CLAVICLE, STERNUM = range(1, 10)

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


@dataclass(frozen=True)
class Bone:
    """One bone.

    Parameters
    ----------
    name
        For lesion sites: "T7", "rib 4 right".
    class_id
        Skeleton class 1 to 9; 0 for bones without a class.
    shapes
        Its solid, as a union.
    cortex_mm
        Thickness of the cortical shell.
    site
        Key of the lesion-site weights: "spine", "pelvis", "rib", ...
    """

    name: str
    class_id: int
    shapes: tuple[Shape, ...]
    cortex_mm: float
    site: str


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
            width, depth, disc, canal_gap = 11.5, 8.5, 2.4, 12.5
        elif class_id == THORACIC:
            width, depth, disc, canal_gap = 13 + 6 * thoracic, 11 + 5 * thoracic, 2.2, 19.0
        else:
            width, depth, disc, canal_gap = 20.5 + 3.5 * lumbar, 16.5, 4.6, 26.0
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


def build_bones(person: Person, rng: np.random.Generator) -> list[Bone]:
    """All bones of a person; left and right differ by small random deviations."""
    bones = [_vertebra(person, v) for v in build_vertebrae(person)]
    bones += [_atlas_vertebra(person), _sacrum(person), _sternum(person), *_skull(person)]
    for side, name in ((1.0, "right"), (-1.0, "left")):
        wobble = rng.normal(0, 1.2, size=3)

        def at(
            points: Sequence[Sequence[float]], side: float = side, wobble: Points = wobble
        ) -> Points:
            return person.place(np.asarray(points) * [side, 1, 1] + wobble)

        bones += [
            _hip(person, at, name),
            _femur(person, at, name),
            _humerus(person, at, name, side),
            _scapula(person, at, name),
            _clavicle(person, at, name),
            *_forearm(person, at, name, side),
            *_ribs(person, rng, at, name),
        ]
    return bones


def _vertebra(person: Person, v: Vertebra) -> Bone:
    r = person.radius
    x, y, z = v.axes.T
    body = EllipticCylinder(v.centre, v.axes, v.half_width, v.half_depth, v.half_height, waist=1.2)
    cervical, lumbar = v.class_id == CERVICAL, v.class_id == LUMBAR
    canal_radius = r(11.0 if lumbar else 9.5)
    spinous = 30.0 if lumbar else 26.0 if not cervical else 16.0 + 2.5 * v.level
    drop = 8.0 if lumbar else 20.0 if not cervical else 5.0
    reach = 36.0 if lumbar else 31.0 if not cervical else 22.0
    thick = 5.0 if lumbar else 4.0 if not cervical else 3.2
    back = v.canal - y * (canal_radius + r(thick))
    shapes: list[Shape] = [body]
    for side in (1.0, -1.0):
        pedicle = v.centre + side * x * v.half_width * 0.72 - y * v.half_depth * 0.7 + z * 3
        corner = v.canal + side * x * (canal_radius + r(thick * 0.6)) - y * 2 + z * 2
        facet = corner - y * r(4)
        tip = v.canal + side * x * r(reach) - y * r(9.0 if not cervical else 1.0)
        shapes += [
            RoundCone(pedicle, corner, r(thick), r(thick)),
            RoundCone(corner, back, r(thick), r(thick)),
            RoundCone(corner, tip, r(thick), r(thick * 0.8)),
            RoundCone(
                facet + z * v.half_height, facet - z * v.half_height, r(thick * 1.1), r(thick * 1.1)
            ),
        ]
    end = back - y * r(spinous) - z * r(drop)
    shapes.append(Triangle(back + z * r(6), back - z * r(8), end, r(thick * 0.7)))
    shapes.append(RoundCone(end + z * r(5), end - z * r(3), r(thick * 0.8), r(thick * 0.8)))
    return Bone(v.name, v.class_id, tuple(shapes), 0.9, "spine")


def _atlas_vertebra(person: Person) -> Bone:
    r = person.radius
    p = person.place([(0, 88, 1472), (17, 80, 1470), (22, 68, 1470), (15, 50, 1470), (0, 42, 1470)])
    mirrored = person.place(
        [(0, 88, 1472), (-17, 80, 1470), (-22, 68, 1470), (-15, 50, 1470), (0, 42, 1470)]
    )
    dens = person.place([(0, 76, 1455), (0, 78, 1482)])
    wings = person.place([(20, 68, 1470), (38, 66, 1470), (-20, 68, 1470), (-38, 66, 1470)])
    radii = [r(v) for v in (4, 6, 8, 4, 4)]
    shapes = [
        *chain(p, radii),
        *chain(mirrored, radii),
        RoundCone(dens[0], dens[1], r(7), r(5)),
        RoundCone(wings[0], wings[1], r(6), r(3)),
        RoundCone(wings[2], wings[3], r(6), r(3)),
    ]
    return Bone("C1", CERVICAL, tuple(shapes), 0.9, "spine")


def _sacrum(person: Person) -> Bone:
    r = person.radius
    rows = [  # y, z, half width, half depth, half height
        (48, 893, 52, 17, 17), (32, 874, 46, 15, 15), (14, 855, 38, 12, 14),
        (6, 836, 30, 9, 13), (5, 817, 18, 7, 12), (9, 801, 7, 5, 9),
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
    return Bone("sacrum", PELVIS, tuple(shapes), 1.0, "pelvis")


def _sternum(person: Person) -> Bone:
    r = person.radius
    p = person.place([(0, 140, 1318), (0, 158, 1282), (0, 186, 1232), (0, 203, 1192)])
    xiphoid = person.place((0, 207, 1172))
    shapes: list[Shape] = []
    for a, b, w in ((p[0], p[1], 24), (p[1], p[2], 17), (p[2], p[3], 18)):
        up = (a - b) / np.linalg.norm(a - b)
        right = np.array([1.0, 0.0, 0.0]) - up[0] * up
        right /= np.linalg.norm(right)
        axes = np.column_stack([right, np.cross(up, right), up])
        half = np.array([r(w), r(7), np.linalg.norm(a - b) / 2 + 1.5])
        shapes.append(Box((a + b) / 2, axes, half, rounding=4.0))
    shapes.append(RoundCone(p[3], xiphoid, r(7), r(4)))
    return Bone("sternum", STERNUM, tuple(shapes), 1.0, "sternum")


def _skull(person: Person) -> list[Bone]:
    r = person.radius
    face = [
        Box(person.place((0, 148, 1484)), np.eye(3), np.array([r(32), r(20), r(24)]), 9.0),
        *chain(person.place([(62, 88, 1500), (58, 130, 1500), (36, 158, 1500)]), [r(5)] * 3),
        *chain(person.place([(-62, 88, 1500), (-58, 130, 1500), (-36, 158, 1500)]), [r(5)] * 3),
        Ellipsoid(person.place((0, 74, 1491)), np.array([r(55), r(66), r(9)])),
    ]
    arch = [(47, 96, 1490), (46, 102, 1450), (36, 132, 1436), (14, 160, 1430), (0, 166, 1430)]
    jaw = [
        *chain(person.place(arch), [r(7)] * 5),
        *chain(person.place([(-x, y, z) for x, y, z in arch]), [r(7)] * 5),
    ]
    return [
        Bone("skull base and face", 0, tuple(face), 2.0, "skull"),
        Bone("mandible", 0, tuple(jaw), 2.0, "skull"),
    ]


def _hip(person: Person, at: Placer, name: str) -> Bone:
    r = person.radius
    crest = at(
        [
            (40, 12, 888), (58, 20, 917), (78, 34, 938), (98, 55, 948), (117, 80, 947),
            (129, 105, 930), (127, 122, 905), (117, 120, 878), (108, 113, 855),
        ]
    )  # fmt: skip
    roof, notch = at([(96, 86, 838), (62, 46, 848)])
    shapes: list[Shape] = chain(crest, [r(v) for v in (7, 6, 5.5, 5.5, 6, 6, 6.5, 5.5, 7)])
    for a, b in pairwise(crest):
        shapes.append(Triangle(roof, a, b, r(3.6)))
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
    shapes += chain(cup[order], [r(7.5)] * len(order))
    pubis = at([(80, 106, 818), (48, 118, 806), (14, 122, 794)])
    shapes += chain(pubis, [r(9), r(7.5), r(9)])
    symphysis = at([(10, 121, 796), (10, 116, 776)])
    shapes += chain(symphysis, [r(9), r(7)])
    ischium = at([(76, 62, 796), (68, 54, 778), (60, 52, 764)])
    shapes += chain(ischium, [r(13), r(15), r(13)])
    ramus = at([(58, 60, 760), (34, 92, 764), (12, 114, 778)])
    shapes += chain(ramus, [r(9), r(6.5), r(7)])
    return Bone(f"hip bone {name}", PELVIS, tuple(shapes), 1.2, "pelvis")


def _femur(person: Person, at: Placer, name: str) -> Bone:
    r = person.radius
    head = at([(88, 86, 808)])[0]
    neck = at([(93, 85, 803), (117, 80, 784)])
    shaft = at(
        [
            (122, 77, 778), (120, 78, 735), (114, 86, 680), (106, 93, 600), (95, 94, 520),
            (86, 90, 450), (80, 86, 415),
        ]
    )  # fmt: skip
    trochanter, lesser = at([(129, 68, 796), (106, 68, 744)])
    condyles = at([(58, 76, 392), (102, 78, 392), (80, 92, 400)])
    shapes: list[Shape] = [
        Ellipsoid(head, np.full(3, r(24.0))),
        *chain(neck, [r(17), r(18)]),
        *chain(shaft, [r(v) for v in (19, 17, 14.5, 14, 14.5, 17, 26)]),
        RoundCone(trochanter, shaft[0], r(13), r(17)),
        Ellipsoid(lesser, np.full(3, r(9.0))),
        Ellipsoid(condyles[0], np.array([r(20), r(31), r(22)])),
        Ellipsoid(condyles[1], np.array([r(20), r(31), r(22)])),
        Ellipsoid(condyles[2], np.array([r(28), r(18), r(18)])),
    ]
    return Bone(f"femur {name}", FEMUR, tuple(shapes), 2.6, "femur")


def _arm(person: Person, points: Points, side: float) -> Points:
    """Rotate placed arm points about the shoulder in the coronal plane (abduction)."""
    shoulder = person.place((side * 165, 70, 1312))
    angle = -side * person.arm_angle_rad
    c, s = np.cos(angle), np.sin(angle)
    p = points - shoulder
    return np.stack([c * p[:, 0] + s * p[:, 2], p[:, 1], -s * p[:, 0] + c * p[:, 2]], -1) + shoulder


def _humerus(person: Person, at: Placer, name: str, side: float) -> Bone:
    r = person.radius
    p = _arm(
        person,
        at(
            [
                (166, 70, 1310), (178, 72, 1288), (184, 72, 1250), (192, 70, 1180),
                (202, 68, 1110), (209, 70, 1065), (198, 68, 1050), (222, 72, 1050),
            ]
        ),
        side,
    )  # fmt: skip
    tubercle = _arm(person, at([(182, 74, 1314)]), side)[0]
    shapes: list[Shape] = [
        Ellipsoid(p[0], np.full(3, r(22.0))),
        *chain(p[[0, 1, 2, 3, 4, 5]], [r(v) for v in (20, 16, 11.5, 9.5, 9.5, 12)]),
        Ellipsoid(tubercle, np.full(3, r(11.0))),
        RoundCone(p[6], p[7], r(9.5), r(9)),
    ]
    return Bone(f"humerus {name}", HUMERUS, tuple(shapes), 2.2, "humerus")


def _forearm(person: Person, at: Placer, name: str, side: float) -> list[Bone]:
    r = person.radius
    ulna = _arm(person, at([(206, 60, 1048), (214, 66, 960), (222, 80, 830)]), side)
    radius = _arm(person, at([(222, 78, 1034), (230, 86, 960), (240, 96, 830)]), side)
    hand = _arm(person, at([(234, 96, 812), (240, 110, 760), (244, 120, 700)]), side)
    return [
        Bone(f"ulna {name}", 0, tuple(chain(ulna, [r(11), r(6.5), r(5)])), 1.8, "forearm"),
        Bone(f"radius {name}", 0, tuple(chain(radius, [r(9), r(6.5), r(11)])), 1.8, "forearm"),
        Bone(f"hand {name}", 0, tuple(chain(hand, [r(12), r(11), r(7)])), 1.5, "hand"),
    ]


def _scapula(person: Person, at: Placer, name: str) -> Bone:
    r = person.radius
    glenoid, superior, inferior, acromion, tip, coracoid, middle = at(
        [
            (143, 64, 1300), (76, 30, 1340), (98, 2, 1200), (156, 46, 1344), (160, 66, 1346),
            (128, 94, 1318), (100, 8, 1290),
        ]
    )  # fmt: skip
    root, edge = at([(70, 12, 1302), (82, 2, 1245)])
    beak = at([(138, 74, 1326)])[0]
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
    return Bone(f"scapula {name}", SCAPULA, tuple(shapes), 1.0, "scapula")


def _clavicle(person: Person, at: Placer, name: str) -> Bone:
    r = person.radius
    points = at(
        [(20, 142, 1322), (45, 138, 1331), (75, 117, 1338), (105, 85, 1345), (128, 68, 1350),
         (146, 62, 1352)]
    )  # fmt: skip
    shapes = chain(points, [r(v) for v in (10, 7, 5.7, 5.7, 6.5, 6)])
    return Bone(f"clavicle {name}", CLAVICLE, tuple(shapes), 1.5, "clavicle")


# Ribs 1 to 12: half width, half depth (mm), y of the centre, level of the head, drop to the end,
# angle (degrees from the back) at which the bony rib ends.
RIBS = np.array(
    [
        (52, 42, 88, 1360, 28, 150), (74, 58, 86, 1340, 45, 148), (92, 70, 86, 1320, 62, 145),
        (105, 80, 88, 1298, 76, 142), (114, 87, 90, 1274, 86, 138), (121, 91, 92, 1249, 94, 134),
        (126, 93, 94, 1223, 98, 130), (129, 94, 96, 1197, 100, 124), (131, 93, 98, 1170, 98, 116),
        (130, 92, 100, 1143, 90, 106), (124, 90, 102, 1115, 72, 84), (114, 88, 104, 1086, 50, 58),
    ]
)  # fmt: skip


def rib_points(index: int, *, stop_deg: float | None = None) -> Points:
    """Reference polyline (13, 3) of right rib ``index`` (0-11), from its head forward."""
    half_width, half_depth, y, z, drop, end = RIBS[index]
    angle = np.deg2rad(np.linspace(14.0, end if stop_deg is None else stop_deg, 13))
    progress = (angle - angle[0]) / np.deg2rad(150.0)
    return np.column_stack(
        [
            half_width * np.sin(angle),
            y - half_depth * np.cos(angle),
            z - drop * np.sin(progress * np.pi / 2) ** 1.2,
        ]
    )


def _ribs(person: Person, rng: np.random.Generator, at: Placer, name: str) -> list[Bone]:
    bones = []
    for index in range(12):
        points = at((rib_points(index) + rng.normal(0, 1.0, size=3)).tolist())
        radius = person.radius(4.2 if index == 11 else 5.2)
        bones.append(
            Bone(f"rib {index + 1} {name}", 0, tuple(chain(points, [radius] * 13)), 0.8, "rib")
        )
    return bones
