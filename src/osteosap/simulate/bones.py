"""The skeleton as solid shapes: nine classes of the paper, and skull, ribs, forearm beside them."""

from __future__ import annotations

import numpy as np

from osteosap.simulate.bone import Bone, side_placer
from osteosap.simulate.girdles import arm_bones, shoulder_bones, sternum
from osteosap.simulate.pelvis import femur, hip, sacrum
from osteosap.simulate.person import Person
from osteosap.simulate.ribs import rib_bones
from osteosap.simulate.spine import Vertebra, spine_bones
from osteosap.simulate.trunk import Trunk

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
