"""The body around the skeleton, painted in order: outline, wall, limb muscles, cavities, organs.

Later structures overwrite earlier ones; :mod:`osteosap.simulate.anatomy.build` then paints bone,
discs, canal and head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from osteosap.simulate.anatomy.abdomen import paint_abdomen
from osteosap.simulate.anatomy.bone import Bone
from osteosap.simulate.anatomy.chest import Cavity, dome_of, paint_chest
from osteosap.simulate.anatomy.envelope import paint_envelope
from osteosap.simulate.anatomy.muscles import REGIONS, paint_compartments
from osteosap.simulate.anatomy.neck import paint_neck
from osteosap.simulate.anatomy.nodes_nerves import paint_nodes
from osteosap.simulate.anatomy.painter import Painter
from osteosap.simulate.anatomy.pelvic_organs import paint_pelvis
from osteosap.simulate.anatomy.ribs import paint_cartilage
from osteosap.simulate.anatomy.trunk import paint_wall
from osteosap.simulate.body import BODY_HI, BODY_LO
from osteosap.simulate.shapes import NoiseField
from osteosap.simulate.tissue import T

__all__ = ["paint_body"]

STREAK_MM, STREAK_LENGTH = 6.0, 5.0  # across, and how many times longer upright


def paint_body(paint: Painter, bones: Sequence[Bone], *, rng: np.random.Generator) -> None:
    """Paint everything but the skeleton and the nervous system into the tissue map.

    Parameters
    ----------
    paint
        Map of zeros, and whose body.
    bones
        The skeleton, which skin must cover.
    rng
        Source of organ sizes and places.
    """
    canvas, tissue, noise = paint.canvas, paint.tissue, paint.noise
    outer = [bone.shapes for bone in bones if bone.site != "rib"]
    paint_envelope(canvas, paint.trunk, tissue, bones=outer, noise=noise)
    box, outside = paint_wall(canvas, paint.trunk, tissue, noise=noise)
    lift = float(rng.normal(0, 6))
    cavity = Cavity(box, outside, dome_of(paint, box, lift_mm=lift))
    for side in (1.0, -1.0):
        for region in REGIONS:
            paint_compartments(canvas, paint.person, region, tissue, side=side, noise=noise)
    _streak_muscle(paint, rng)
    paint_chest(paint, cavity, rng)
    paint_abdomen(paint, cavity, rng)
    paint_pelvis(paint, rng)
    paint_neck(paint, rng)
    paint_cartilage(canvas, paint.trunk, tissue)
    paint_nodes(paint, rng)


def _streak_muscle(paint: Painter, rng: np.random.Generator) -> None:
    """Fat along the fibres within muscle: more of it in the old and the fat."""
    field = NoiseField(rng, STREAK_MM, BODY_LO, BODY_HI)
    x, y, z = paint.canvas.axes
    streaks = field.on([x, y, z / np.float32(STREAK_LENGTH)])
    wasting = np.clip((paint.person.age_years - 35.0) / 50.0, 0.0, 1.0)
    level = 2.5 - 0.8 * wasting - 0.012 * paint.person.fat_mm
    paint.tissue[(paint.tissue == T.MUSCLE) & (streaks > level)] = T.FAT
