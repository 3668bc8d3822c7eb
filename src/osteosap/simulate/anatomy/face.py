"""The face: orbits with eyes, air in sinuses and nose, tongue and teeth.

Numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osteosap.simulate.anatomy.envelope import chain_of
from osteosap.simulate.anatomy.painter import Painter, among
from osteosap.simulate.body import Body
from osteosap.simulate.shapes import Ellipsoid, Shape
from osteosap.simulate.tissue import T

__all__ = ["paint_face"]

# Lines of (x, y, z, radius), right side.
ORBIT = (((32, 164, 1520, 15), (27, 138, 1519, 14), (14, 112, 1514, 5)),)
RECTI = (
    ((40, 156, 1520, 3), (24, 126, 1517, 3)),
    ((22, 156, 1520, 3), (20, 126, 1517, 3)),
    ((32, 152, 1531, 3), (22, 126, 1520, 3)),
    ((32, 152, 1509, 3), (22, 126, 1514, 3)),
)
OPTIC_NERVE = (((31, 150, 1519, 2.2), (16, 116, 1515, 2.2)),)
CELLS = (  # ethmoid, frontal, sphenoid
    ((7, 158, 1514, 5.5), (9, 132, 1512, 6)),
    ((9, 176, 1546, 6), (18, 174, 1550, 5)),
    ((6, 110, 1504, 9), (7, 106, 1502, 9)),
)
NOSE = (
    ((5, 182, 1488, 4), (5, 150, 1488, 5), (5, 122, 1490, 6)),
    ((5, 160, 1500, 4), (5, 130, 1500, 4)),
)
PHARYNX = (((0, 118, 1492, 9), (0, 102, 1476, 8), (0, 102, 1440, 8)),)
TEETH = (((26, 134, 1459, 4), (22, 152, 1458, 4), (0, 166, 1457, 4)),)
TONGUE_ROOT = (((0, 150, 1440, 8), (0, 126, 1436, 10)),)


def paint_face(paint: Painter, body: Body, rng: np.random.Generator) -> None:
    """Paint into and over the bones of the face; the teeth are dark and no bone."""
    person = body.person
    for side in (1.0, -1.0):
        _hollow(paint, body, chain_of(person, ORBIT, side=side), T.FAT)
        paint.solid(chain_of(person, RECTI, side=side), T.MUSCLE, over=(T.FAT,))
        paint.solid(chain_of(person, OPTIC_NERVE, side=side), T.NERVE)
        eye, lens = person.place([(side * 33, 165, 1520), (side * 33, 174, 1520)])
        paint.solid([Ellipsoid(eye, np.full(3, 12.2))], T.EYE)
        paint.solid([Ellipsoid(lens, np.array([4.5, 2.5, 4.5]))], T.MUSCLE)
        size = np.array([12.5, 15.0, 15.0]) * float(rng.uniform(0.85, 1.1))
        antrum = Ellipsoid(person.place((side * 26, 146, 1488)), size)
        _hollow(paint, body, [antrum], T.GAS, lining=1.5)
        _hollow(paint, body, chain_of(person, CELLS, side=side), T.GAS, lining=1.0)
        _hollow(paint, body, chain_of(person, NOSE, side=side), T.GAS, lining=0.8)
    _hollow(paint, body, chain_of(person, PHARYNX), T.GAS)
    tongue = Ellipsoid(person.place((0, 134, 1452)), np.array([19.0, 27.0, 15.0]))
    _hollow(paint, body, [tongue, *chain_of(person, TONGUE_ROOT)], T.MUSCLE)
    teeth = [s for side in (1.0, -1.0) for s in chain_of(person, TEETH, side=side)]
    _hollow(paint, body, teeth, T.CORTEX)


def _hollow(
    paint: Painter, body: Body, shapes: Sequence[Shape], tissue: T, *, lining: float = 0.0
) -> None:
    """Clear bone and fill with a tissue; a lining (mm) of mucosa stays at the edge."""
    box, distance = paint.canvas.distance(shapes)
    brain = (T.BRAIN_WHITE, T.BRAIN_GREY, T.CSF)
    inside = (distance < 0) & ~among(body.tissue[box], brain)
    body.clear_bone(box, inside)
    body.tissue[box][inside] = tissue
    if lining:
        body.tissue[box][inside & (distance > -lining)] = T.MUSCLE
