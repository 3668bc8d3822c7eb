"""The skeleton as solid shapes: nine classes of the paper, and skull, ribs, forearm beside them."""

from __future__ import annotations

import numpy as np

from osteosap.simulate.anatomy.bone import Bone, side_placer
from osteosap.simulate.anatomy.girdles import arm_bones, shoulder_bones, sternum
from osteosap.simulate.anatomy.pelvis import femur, hip, sacrum
from osteosap.simulate.anatomy.ribs import rib_bones
from osteosap.simulate.anatomy.spine import Vertebra, spine_bones
from osteosap.simulate.anatomy.trunk import Trunk
from osteosap.simulate.person import Person

__all__ = ["build_bones"]


def build_bones(
    person: Person, trunk: Trunk, vertebrae: list[Vertebra], *, rng: np.random.Generator
) -> list[Bone]:
    """All bones of a person but the skull, in the order in which they are painted.

    Left and right differ by small random deviations. A bone painted earlier keeps its place: the
    head of the femur before its socket.
    """
    base = sacrum(person)
    bones = [*spine_bones(person, vertebrae), base, sternum(person)]
    for side, name in ((1.0, "right"), (-1.0, "left")):
        at = side_placer(person, rng, side=side)
        bones += [
            femur(person, at, name),
            hip(person, at, name, sacrum_bone=base),
            *arm_bones(person, name, side),
            *shoulder_bones(person, at, name, side),
            *rib_bones(person, trunk, vertebrae, side=side, rng=rng),
        ]
    return bones
