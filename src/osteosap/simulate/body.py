"""A body on a grid: what every source of anatomy makes, and disease, signals and scanner read.

Two sources make one: :mod:`osteosap.simulate.anatomy.build` paints a drawn person from shapes,
:mod:`osteosap.simulate.label_map.source` deforms a label map of a real one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Field

__all__ = ["BODY_HI", "BODY_LO", "Body", "BonePlace"]

# A box (mm) that holds every body: random fields cover it whatever the grid.
BODY_LO, BODY_HI = np.array([-420.0, -300.0, -760.0]), np.array([420.0, 400.0, 860.0])


@dataclass(frozen=True)
class BonePlace:
    """One bone as a place for lesions.

    Parameters
    ----------
    name
        For the truth table: "T7", "rib 4 right".
    class_id
        Skeleton class 1 to 9; 0 for bones without a class.
    site
        Key of the lesion-site weights: "spine", "pelvis", "rib", ...
    """

    name: str
    class_id: int
    site: str


@dataclass(frozen=True)
class Body:
    """A person painted on a grid.

    Parameters
    ----------
    person
        Who: sex, age, marrow, proportions.
    grid
        Axis-aligned RAS grid.
    tissue
        uint8 (I, J, K), ids of :class:`osteosap.simulate.tissue.T`.
    skeleton
        uint8 (I, J, K), classes 1-9 of :mod:`osteosap.anatomy`.
    bone
        int16 (I, J, K): index into ``bones`` plus one; 0 outside bone.
    marrow_fat
        float32 (I, J, K): fat fraction of marrow, 0-1; 0 outside bone.
    cortex
        float32 (I, J, K): share of the voxel that is cortical bone, 0-1.
    bones
        All bones.
    """

    person: Person
    grid: Grid
    tissue: npt.NDArray[np.uint8]
    skeleton: npt.NDArray[np.uint8]
    bone: npt.NDArray[np.int16]
    marrow_fat: Field
    cortex: Field
    bones: tuple[BonePlace, ...]

    @classmethod
    def empty(cls, person: Person, grid: Grid, bones: tuple[BonePlace, ...]) -> Body:
        """A body of air, to be painted."""
        shape = grid.shape
        return cls(
            person=person,
            grid=grid,
            tissue=np.zeros(shape, dtype=np.uint8),
            skeleton=np.zeros(shape, dtype=np.uint8),
            bone=np.zeros(shape, dtype=np.int16),
            marrow_fat=np.zeros(shape, dtype=np.float32),
            cortex=np.zeros(shape, dtype=np.float32),
            bones=bones,
        )

    def clear_bone(self, box: tuple[slice, slice, slice], inside: npt.NDArray[np.bool_]) -> None:
        """Take bone away where ``inside`` (shape of ``box``) holds: canal, disc, implant."""
        for array in (self.skeleton, self.bone, self.cortex, self.marrow_fat):
            array[box][inside] = 0
