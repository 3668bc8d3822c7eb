"""The brain: grey folds over white matter, nuclei, ventricles, cerebellum, stem.

Numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`.
"""

from __future__ import annotations

import numpy as np

from osteosap.simulate.anatomy.envelope import chain_of
from osteosap.simulate.anatomy.head import HEAD_HI, HEAD_LO, Cranium
from osteosap.simulate.body import Body
from osteosap.simulate.shapes import Canvas, NoiseField, Shape
from osteosap.simulate.tissue import T

__all__ = ["paint_brain"]

# Lines of (x, y, z, radius), right side: thalamus, lentiform nucleus, caudate head and body.
NUCLEI = (
    ((10, 78, 1556, 9), (14, 62, 1556, 9)),
    ((24, 104, 1555, 8), (28, 82, 1553, 8)),
    ((12, 116, 1566, 6), (16, 88, 1578, 4)),
)
# Lateral ventricle from front to back horn, its temporal horn.
VENTRICLES = (
    ((7, 120, 1566, 4), (8, 100, 1576, 5), (12, 66, 1580, 6), (20, 44, 1566, 7), (24, 20, 1560, 3)),
    ((20, 44, 1566, 6), (34, 66, 1536, 3.5), (32, 88, 1524, 2.5)),
)
SYLVIAN = (((22, 118, 1532, 2), (50, 98, 1546, 2.5), (60, 70, 1556, 1.5)),)
STEM = (((0, 74, 1534, 14), (0, 76, 1512, 14), (0, 69, 1490, 9), (0, 66, 1474, 6.5)),)
# Suprasellar, third ventricle, behind the midbrain, cisterna magna.
CISTERNS = (
    ((0, 92, 1528, 8), (0, 94, 1512, 5)),
    ((0, 76, 1545, 2.5), (0, 62, 1548, 3)),
    ((0, 50, 1532, 5), (0, 44, 1536, 4)),
    ((0, 56, 1486, 7), (0, 50, 1476, 6)),
)
FOURTH = (((0, 60, 1514, 4), (0, 56, 1500, 5), (0, 58, 1490, 3)),)


def paint_brain(canvas: Canvas, body: Body, cranium: Cranium, rng: np.random.Generator) -> None:
    """Grey folds over white matter, sulci, ventricles, deep nuclei, cerebellum, brainstem."""
    person, box = body.person, cranium.box
    wasting = float(np.clip((person.age_years - 50.0) / 40.0, 0, 1))
    lo, hi = person.place([HEAD_HI, HEAD_LO])
    lo, hi = np.minimum(lo, hi) - 20, np.maximum(lo, hi) + 20
    axes = [canvas.axes[d][box[d]] for d in range(3)]
    first, second, fine = (NoiseField(rng, mm, lo, hi).on(axes) for mm in (13.0, 16.0, 6.0))
    fold = np.minimum(np.abs(first), np.abs(second))  # two families of folds that cross
    depth = -cranium.distance
    x, y, z = canvas.mesh(box)
    tissue = body.tissue[box]
    inside = depth > 0
    middle = person.place((0, 79, 1530))
    callosum = ((y - middle[1]) / 42) ** 2 + ((z - middle[2] - 26) / 24) ** 2 < 1
    fissure = (np.abs(x - middle[0] + 1.2 * second) < 0.8) & (z > middle[2] - 10) & ~callosum
    width = 0.07 + 0.07 * wasting
    sulcus = (fold < width) & (depth < 19) | (depth < 2.2 + 1.5 * wasting) | fissure
    ribbon = (fold < width + 0.22) & (depth < 21) | (depth < 5.5 + wasting)
    tissue[inside] = T.BRAIN_WHITE
    tissue[inside & ribbon] = T.BRAIN_GREY
    tissue[inside & sulcus] = T.CSF
    # below the tentorium: cerebellum with fine folia
    tent = person.place((0, 46, 1516))
    low = inside & (z < tent[2] - 0.25 * (y - tent[1])) & (y < person.place((0, 88, 1500))[1])
    gap = low & (z > tent[2] - 1.8 - 0.25 * (y - tent[1]))
    tissue[low] = T.BRAIN_GREY
    tissue[low & (depth > 9) & (np.abs(fine) > 0.35)] = T.BRAIN_WHITE
    tissue[low & (depth < 2.2)] = T.CSF
    tissue[gap] = T.CSF
    _paint_deep(canvas, body, 1.0 + 0.5 * wasting)


def _paint_deep(canvas: Canvas, body: Body, wide: float) -> None:
    """Nuclei, ventricles widened by a factor, cisterns and stem."""
    person = body.person
    horns = tuple(tuple((x, y, z, r * wide) for x, y, z, r in line) for line in VENTRICLES)
    both = (1.0, -1.0)
    grey: list[Shape] = [s for side in both for s in chain_of(person, NUCLEI, side=side)]
    fluid: list[Shape] = [
        s for side in both for s in chain_of(person, (*horns, *SYLVIAN), side=side)
    ]
    for shapes, value in (
        (grey, T.BRAIN_GREY),
        (chain_of(person, CISTERNS), T.CSF),
        (chain_of(person, STEM), T.BRAIN_WHITE),
        (fluid, T.CSF),
        (chain_of(person, FOURTH), T.CSF),
    ):
        box, distance = canvas.distance(shapes, blend=2.0)
        inside = (distance < 0) & (body.bone[box] == 0)
        body.tissue[box][inside] = value
