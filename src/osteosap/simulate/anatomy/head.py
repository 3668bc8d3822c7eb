"""The skull: a vault with two tables and diploe, the bones of base and face, the mandible.

Numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteosap.simulate.anatomy.bone import Bone, paint_bone
from osteosap.simulate.anatomy.envelope import chain_of
from osteosap.simulate.body import Body
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Boxes, Canvas, Ellipsoid, Field, Shape, smooth_min
from osteosap.simulate.tissue import T

__all__ = ["Cranium", "cranium_of", "paint_skull", "skull_bones"]

VAULT_MM, TABLE_MM = 6.3, 1.6
HEAD_LO, HEAD_HI = (95.0, 205.0, 1425.0), (-95.0, -35.0, 1655.0)

FACE = (
    ((62, 88, 1500, 5), (62, 126, 1500, 5), (46, 152, 1500, 6), (36, 156, 1492, 6)),
    ((52, 144, 1530, 6), (32, 168, 1541, 7), (0, 176, 1543, 8)),
    ((50, 148, 1530, 5), (47, 152, 1502, 5)),
    ((6, 180, 1530, 4), (8, 178, 1508, 4)),
    ((20, 166, 1500, 5), (20, 162, 1466, 8), (0, 172, 1464, 7)),
    ((34, 132, 1500, 6), (30, 130, 1466, 7), (20, 160, 1464, 7)),
    ((10, 90, 1497, 8), (34, 80, 1496, 10), (62, 64, 1494, 10)),
    ((60, 56, 1490, 11), (58, 62, 1474, 7)),
    ((22, 66, 1474, 6), (20, 44, 1474, 6), (8, 28, 1482, 6)),
    ((12, 116, 1498, 5), (34, 122, 1500, 5)),
)  # right half: zygoma, brow, orbit, nose, upper jaw, petrous bone, mastoid, foramen magnum
JAW = (
    (50, 92, 1494, 6),
    (49, 98, 1468, 7),
    (45, 108, 1446, 7),
    (30, 140, 1436, 7),
    (0, 160, 1432, 8),
)
TEETH = ((26, 134, 1459, 4), (22, 152, 1458, 4), (0, 166, 1457, 4))


@dataclass(frozen=True)
class Cranium:
    """The cranial cavity on the grid: box, distance (mm) to its surface (negative inside)."""

    box: Boxes
    distance: Field


def cranium_of(canvas: Canvas, person: Person) -> Cranium:
    """The cavity: vault, temporal and posterior fossae, above a floor that steps down backwards."""
    lo, hi = person.place([HEAD_HI, HEAD_LO])
    box = canvas.box(np.minimum(lo, hi), np.maximum(lo, hi))
    x, y, z = canvas.mesh(box)
    k = person.head_size

    def ball(centre: tuple[float, ...], radii: tuple[float, ...]) -> Field:
        shape = Ellipsoid(person.place(centre), np.array(radii) * k)
        return shape.distance(x, y, z)

    vault = ball((0, 74, 1561), (68, 87, 72))
    floor = person.place((0, 79, 1517))
    slope = (floor[2] - z) + np.float32(0.28) * (y - floor[1])
    out = np.maximum(vault, slope * np.float32(0.95))
    for centre, radii in (
        ((38, 92, 1516), (24, 34, 24)), ((-38, 92, 1516), (24, 34, 24)),
        ((0, 47, 1508), (44, 35, 30)),
    ):  # fmt: skip
        out = smooth_min(out, ball(centre, radii), 14.0)
    return Cranium(box, out)


def skull_bones(person: Person) -> list[Bone]:
    """Face with skull base, and mandible; the vault is painted around the cavity."""
    base: list[Shape] = []
    for side in (1.0, -1.0):
        base += chain_of(person, FACE, side=side)
    base += chain_of(
        person, (((0, 104, 1502, 10), (0, 80, 1476, 7)), ((0, 168, 1520, 4), (0, 130, 1506, 4)))
    )
    jaw = [s for side in (1.0, -1.0) for s in chain_of(person, (JAW,), side=side)]
    return [
        Bone("skull base and face", 0, tuple(base), 1.5, "skull"),
        Bone("mandible", 0, tuple(jaw), 2.2, "skull"),
    ]


def paint_skull(canvas: Canvas, body: Body, cranium: Cranium, *, index: int, noise: Field) -> None:
    """Face, base and mandible, then the vault around the cavity.

    Parameters
    ----------
    canvas, body, cranium
        Where.
    index
        Place in ``body.bones`` of the skull; the mandible follows it.
    noise
        Smooth unit-variance field (I, J, K).
    """
    for k, bone in enumerate(skull_bones(body.person)):
        paint_bone(canvas, body, bone, index=index + k, noise=noise)
    box, inner = cranium.box, cranium.distance
    outer = inner - np.float32(VAULT_MM) * body.person.head_size + np.float32(0.4) * noise[box]
    shell = (inner > 0) & (outer < 0)
    middle = np.minimum(-outer, inner)
    spacing = max(float(min(canvas.grid.spacing_mm)), 0.5)
    cortex = np.clip((TABLE_MM - middle) / spacing + 0.5, 0, 1)
    tissue = body.tissue[box]
    tissue[shell] = T.MARROW
    tissue[shell & (cortex > 0.7)] = T.CORTEX
    body.cortex[box][shell] = cortex[shell]
    body.bone[box][shell] = index + 1
    body.skeleton[box][shell] = 0
    body.clear_bone(box, inner <= 0)
