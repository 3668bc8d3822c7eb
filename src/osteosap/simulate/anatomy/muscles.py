"""Muscles outside the trunk's wall: compartments of shoulder, arm, neck, hip and thigh.

Each compartment is a belly along a polyline in the millimetres of the reference man (right side),
x, y, z and radius a point. Overlapping bellies share a region by their distances, so that thin fat
planes run between them as fascia does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from osteosap.simulate.person import Person
from osteosap.simulate.shapes import FAR_MM, Canvas, Field, Shape, chain, overlap
from osteosap.simulate.tissue import T

__all__ = ["REGIONS", "Region", "compartments", "fascia", "paint_compartments"]

Belly = tuple[tuple[float, float, float, float], ...]

THIGH: dict[str, tuple[Belly, ...]] = {
    "rectus femoris": (((108, 118, 850, 6), (102, 134, 770, 13), (98, 136, 650, 17),
                        (90, 126, 530, 12), (82, 118, 440, 6)),),
    "vastus lateralis": (((132, 82, 775, 10), (136, 92, 700, 23), (127, 98, 600, 26),
                          (110, 96, 500, 21), (100, 98, 440, 10)),),
    "vastus intermedius": (((114, 102, 740, 13), (106, 110, 620, 18), (95, 110, 500, 16),
                            (86, 104, 440, 8)),),
    "vastus medialis": (((100, 102, 710, 8), (84, 112, 600, 17), (66, 108, 500, 22),
                         (60, 104, 445, 16), (62, 100, 415, 8)),),
    "sartorius": (((120, 116, 895, 5), (104, 134, 830, 7), (84, 144, 780, 8), (57, 126, 640, 9),
                   (36, 92, 500, 9), (36, 76, 410, 7)),),
    "adductor longus": (((16, 118, 788, 7), (44, 112, 740, 15), (66, 108, 680, 15),
                         (88, 98, 600, 6)),),
    "adductor magnus": (((38, 74, 772, 13), (54, 76, 700, 24), (68, 76, 620, 24),
                         (64, 78, 530, 15), (54, 78, 450, 6)),),
    "gracilis": (((12, 108, 778, 6), (24, 92, 690, 10), (29, 80, 570, 10), (34, 70, 430, 6)),),
    "semimembranosus": (((62, 52, 762, 8), (54, 46, 680, 15), (47, 48, 580, 20),
                         (47, 54, 490, 17), (49, 56, 415, 9)),),
    "biceps femoris": (((66, 48, 760, 9), (82, 44, 680, 17), (90, 50, 580, 19),
                        (90, 58, 490, 15), (94, 60, 410, 8)),),
    "pectineus": (((36, 120, 806, 8), (72, 114, 768, 11), (98, 92, 735, 6)),),
    "gluteus maximus": (
        ((46, 6, 912, 12), (92, 6, 870, 18), (128, 36, 790, 15), (136, 66, 730, 8)),
        ((34, 0, 868, 14), (84, -4, 820, 24), (120, 26, 755, 19), (128, 62, 700, 8)),
        ((24, 4, 822, 11), (66, -2, 772, 23), (104, 24, 720, 17), (122, 60, 680, 7)),
    ),
    "gluteus medius": (((92, 40, 930, 12), (124, 58, 885, 19), (142, 72, 835, 15),
                        (138, 74, 796, 8)),
                       ((122, 96, 918, 10), (137, 92, 865, 16), (140, 80, 806, 8))),
    "gluteus minimus": (((108, 70, 882, 11), (126, 84, 832, 11), (132, 84, 796, 6)),),
    "tensor": (((130, 116, 900, 6), (146, 110, 830, 11), (146, 98, 765, 6)),),
    "iliopsoas": (((25, 70, 1080, 7), (34, 75, 1025, 16), (45, 82, 965, 21), (57, 98, 900, 18),
                   (78, 118, 842, 16), (92, 114, 800, 13), (106, 86, 750, 7)),
                  ((80, 54, 926, 15), (94, 82, 894, 19), (94, 108, 858, 15), (90, 116, 828, 11))),
    "quadratus lumborum": (((46, 56, 1062, 7), (56, 54, 1010, 11), (72, 48, 952, 11)),),
    "obturator internus": (((48, 100, 802, 6), (55, 74, 806, 9), (58, 52, 800, 8),
                            (84, 40, 802, 6)),),
    "obturator externus": (((28, 104, 776, 8), (60, 84, 772, 11), (106, 66, 786, 6)),),
    "piriformis": (((18, 26, 850, 7), (60, 30, 836, 10), (112, 58, 802, 6)),),
    "quadratus femoris": (((80, 50, 770, 8), (120, 60, 764, 9)),),
}  # fmt: skip

SHOULDER: dict[str, tuple[Belly, ...]] = {
    "supraspinatus": (((82, 26, 1328, 8), (124, 46, 1342, 10), (164, 64, 1337, 6)),),
    "infraspinatus": (((90, 0, 1284, 9), (126, 24, 1298, 12), (176, 52, 1312, 7)),
                      ((95, -4, 1246, 9), (132, 20, 1272, 12), (176, 50, 1306, 7))),
    "teres": (((106, -2, 1206, 10), (142, 28, 1244, 12), (186, 62, 1266, 6)),),
    "subscapularis": (((84, 34, 1304, 7), (116, 46, 1294, 11), (152, 76, 1302, 9)),
                      ((102, 16, 1228, 6), (130, 44, 1264, 11), (150, 72, 1296, 8))),
    "trapezius": (((12, -8, 1344, 7), (70, 2, 1340, 9), (135, 34, 1350, 7)),),
    "rhomboid": (((12, -4, 1344, 5), (68, 6, 1300, 6)), ((12, -8, 1312, 5), (80, -6, 1252, 6))),
    "pectoralis minor": (((128, 92, 1314, 5), (102, 120, 1272, 8), (86, 138, 1234, 5)),),
    "pectoralis major": (((84, 142, 1288, 12), (118, 128, 1288, 15), (154, 108, 1280, 11),
                          (186, 86, 1252, 5)),
                         ((60, 140, 1322, 7), (118, 118, 1318, 11), (176, 92, 1270, 6))),
    "latissimus": (((118, 22, 1186, 8), (146, 38, 1232, 10), (182, 76, 1262, 5)),),
    "deltoid": (((148, 66, 1352, 8), (186, 70, 1330, 13), (206, 72, 1285, 16), (206, 72, 1235, 12),
                 (196, 70, 1185, 5)),
                ((132, 88, 1342, 7), (174, 104, 1306, 15), (194, 92, 1245, 12), (196, 74, 1190, 5)),
                ((126, 22, 1336, 7), (174, 38, 1300, 15), (196, 54, 1240, 12), (196, 68, 1190, 5))),
}  # fmt: skip

NECK: dict[str, tuple[Belly, ...]] = {
    "trapezius": (((16, 16, 1456, 7), (36, 18, 1406, 12), (84, 28, 1370, 11), (150, 50, 1354, 7)),),
    "levator": (((30, 50, 1440, 6), (54, 32, 1376, 8), (78, 26, 1338, 6)),),
    "sternomastoid": (((60, 64, 1484, 7), (50, 84, 1432, 10), (34, 110, 1382, 10),
                       (15, 134, 1332, 6)),),
    "splenius": (((28, 22, 1486, 10), (26, 24, 1436, 13), (24, 14, 1385, 12), (18, 2, 1330, 9)),),
    "semispinalis": (((13, 20, 1488, 9), (12, 22, 1440, 10), (12, 14, 1390, 10),
                      (12, 0, 1340, 7)),),
    "longus colli": (((8, 88, 1470, 4), (10, 97, 1410, 6), (10, 94, 1345, 4)),),
    "scalene": (((28, 74, 1436, 6), (38, 80, 1395, 9), (58, 90, 1352, 7)),),
    "strap": (((8, 122, 1428, 4), (13, 130, 1390, 5), (12, 136, 1340, 4)),),
    "masseter": (((58, 118, 1500, 6), (56, 110, 1466, 11), (50, 104, 1442, 6)),),
    "temporalis": (((69, 92, 1575, 5), (69, 104, 1540, 8), (58, 114, 1500, 6)),),
    "pterygoid": (((36, 112, 1494, 8), (42, 106, 1456, 7)),),
}  # fmt: skip

UPPER_ARM: dict[str, tuple[Belly, ...]] = {
    "biceps": (((178, 98, 1275, 6), (190, 98, 1205, 16), (202, 92, 1125, 18), (212, 84, 1058, 8)),),
    "brachialis": (((196, 82, 1170, 8), (207, 80, 1105, 14), (212, 78, 1052, 8)),),
    "triceps long": (((164, 48, 1270, 8), (178, 46, 1205, 17), (194, 46, 1130, 17),
                      (206, 50, 1066, 8)),),
    "triceps lateral": (((192, 50, 1245, 7), (206, 52, 1180, 14), (213, 54, 1112, 13),
                         (211, 50, 1062, 6)),),
    "coracobrachialis": (((140, 92, 1310, 5), (170, 82, 1240, 9), (188, 72, 1180, 5)),),
}  # fmt: skip

FOREARM: dict[str, tuple[Belly, ...]] = {
    "flexors": (((198, 80, 1056, 8), (206, 90, 1000, 17), (216, 98, 930, 14), (230, 106, 850, 8),
                 (234, 108, 815, 5)),),
    "extensors": (((224, 64, 1062, 8), (234, 64, 1000, 15), (238, 72, 930, 12), (243, 88, 850, 7),
                   (246, 94, 815, 4)),),
    "brachioradialis": (((220, 86, 1086, 8), (231, 98, 1020, 13), (240, 106, 940, 8),
                         (246, 108, 850, 4)),),
    "deep": (((215, 75, 1000, 12), (224, 82, 920, 12), (232, 94, 840, 7)),),
    "thenar": (((236, 116, 802, 8), (238, 126, 770, 10), (232, 124, 745, 6)),),
    "hypothenar": (((236, 94, 800, 6), (240, 104, 765, 8), (244, 112, 735, 5)),),
}  # fmt: skip


# Where fascia wraps a region: lines of (x, y, z, radius), right side.
HULLS: dict[str, tuple[Belly, ...]] = {
    "hip and thigh": (
        ((84, 82, 800, 58), (85, 82, 720, 66), (80, 83, 640, 63), (76, 84, 560, 57),
         (77, 86, 480, 47), (79, 88, 430, 40)),
        ((98, 56, 912, 34), (110, 56, 855, 46), (104, 52, 790, 52)),
        ((44, 10, 868, 24), (52, 10, 808, 40), (62, 18, 750, 36)),
    ),
    "neck": (((0, 62, 1482, 42), (0, 58, 1420, 46), (0, 50, 1370, 50)),
             ((52, 108, 1496, 15), (46, 112, 1452, 14))),
    "shoulder": (
        ((66, 38, 1348, 28), (128, 52, 1326, 34), (160, 66, 1306, 42)),
        ((112, 20, 1290, 24), (114, 14, 1230, 22)),
        ((152, 72, 1268, 36), (120, 60, 1262, 26)),
        ((92, 112, 1312, 24), (134, 92, 1302, 32)),
    ),
    "upper arm": (((176, 70, 1290, 36), (187, 70, 1240, 37), (193, 70, 1180, 36),
                   (203, 70, 1110, 34), (211, 70, 1056, 32)),),
    "forearm": (((213, 72, 1050, 32), (220, 80, 1000, 33), (226, 86, 940, 28), (234, 94, 870, 21),
                 (240, 100, 820, 17)),),
}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """Muscles that share fascia.

    Parameters
    ----------
    name
        For messages.
    bellies
        Compartment by name: polylines of (x, y, z, radius) of the right side.
    arm, forearm
        Whether the region is posed with the arm, and with the elbow.
    plane_mm
        Width of the fat planes of a lean adult.
    grow_mm
        How far muscle fills the space around its bellies within the fascia.
    """

    name: str
    bellies: Mapping[str, tuple[Belly, ...]]
    arm: bool = False
    forearm: bool = False
    plane_mm: float = 1.2
    grow_mm: float = 20.0


REGIONS = (
    Region("hip and thigh", THIGH, plane_mm=1.7, grow_mm=14.0),
    Region("shoulder", SHOULDER, grow_mm=8.0),
    Region("neck", NECK, grow_mm=13.0),
    Region("upper arm", UPPER_ARM, arm=True),
    Region("forearm", FOREARM, arm=True, forearm=True),
)


def compartments(person: Person, region: Region, *, side: float) -> dict[str, list[Shape]]:
    """Placed bellies of a region by name; ``side`` is 1 (right) or -1 (left)."""
    return {
        name: _placed(person, region, bellies, side=side)
        for name, bellies in region.bellies.items()
    }


def fascia(person: Person, region: Region, *, side: float) -> list[Shape]:
    """What wraps a region, placed; ``side`` is 1 (right) or -1 (left)."""
    return _placed(person, region, HULLS[region.name], side=side)


def _placed(
    person: Person, region: Region, bellies: tuple[Belly, ...], *, side: float
) -> list[Shape]:
    girth = person.muscle**0.6 * float(person.scale[:2].mean())
    out: list[Shape] = []
    for belly in bellies:
        rows = np.array(belly, dtype=np.float64)
        if region.arm:
            points = person.place_arm(rows[:, :3], side=side, forearm=region.forearm)
        else:
            points = person.place(rows[:, :3] * [side, 1, 1])
        out += chain(points, list(rows[:, 3] * girth))
    return out


def paint_compartments(
    canvas: Canvas,
    person: Person,
    region: Region,
    tissue: npt.NDArray[np.uint8],
    *,
    side: float,
    noise: Field,
) -> None:
    """Paint the muscles of a region over fat; fat planes run where two of them meet."""
    hull = fascia(person, region, side=side)
    parts = compartments(person, region, side=side)
    corners = [s.bounds() for shapes in (*parts.values(), hull) for s in shapes]
    box = canvas.box(
        np.min([c[0] for c in corners], 0), np.max([c[1] for c in corners], 0), margin=4
    )
    size = [s.stop - s.start for s in box]
    if min(size) <= 0:
        return
    grow = region.grow_mm
    first, second = (np.full(size, FAR_MM, dtype=np.float32) for _ in range(2))
    for shapes in parts.values():
        part, distance = canvas.distance(shapes, blend=8.0, margin=grow)
        inner, own = overlap(box, part)
        nearest, distance = first[inner], distance[own]
        np.minimum(second[inner], np.maximum(nearest, distance), out=second[inner])
        np.minimum(nearest, distance, out=nearest)
    within = np.full(size, FAR_MM, dtype=np.float32)
    part, distance = canvas.distance(hull, blend=16.0)
    inner, own = overlap(box, part)
    within[inner] = distance[own]
    rough = noise[box]
    plane = region.plane_mm * (0.7 + 0.02 * person.fat_mm) * np.clip(1 + 0.7 * rough, 0.2, 1.9)
    first += np.float32(0.7) * rough
    muscle = (first < 0) | ((within < 0) & (first < grow))
    target = tissue[box]
    target[muscle & (second - first > plane) & (target == T.FAT)] = T.MUSCLE
