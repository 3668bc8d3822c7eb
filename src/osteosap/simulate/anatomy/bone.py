"""What a bone is, and how one is painted: a solid with a cortical shell of its own thickness.

Cortical thickness, mm. Vertebral shell and endplates measure 0.35 and look at least twice as thick
on clinical images [1]_; 0.6 is used, and 1.2 in the thicker arches (ours). A rib's local maximum is
1.4 on average, 0.9 to 2.6 [2]_; 1.0 is used all over. The femoral shaft thins with age: shafts
follow :attr:`osteosap.simulate.person.Person.cortex`. Other values are ours, of the order that
anatomy texts give: thick at the middle of the long bones, thin at their ends and in flat bones.

References
----------
.. [1] Silva, Wang, Keaveny, Hayes 1994, Bone 15:409 (doi 10.1016/8756-3282(94)90817-6).
.. [2] Holcombe, Kang, Derstine, Wang, Agnew 2019, J Anat 235:883 (PMID 31225915).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from osteosap.simulate.body import Body
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import FAR_MM, Canvas, Field, Points, Shape, smooth_min
from osteosap.simulate.tissue import T

__all__ = ["Bone", "Placer", "paint_bone"]

CERVICAL, THORACIC, LUMBAR, PELVIS, FEMUR, HUMERUS, SCAPULA, CLAVICLE, STERNUM = range(1, 10)

Placer = Callable[[Sequence[Sequence[float]]], Points]


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
        Thickness of the cortical shell: one value, or one a shape.
    site
        Key of the lesion-site weights: "spine", "pelvis", "rib", ...
    cuts
        Solids that the bone leaves free by ``gap_mm``: the head in its socket.
    gap_mm
        Width of the joint.
    filling
        Tissue of the gap; joint cartilage has a film of fluid in its middle.
    blend_mm
        Fillet where the shapes meet.
    """

    name: str
    class_id: int
    shapes: tuple[Shape, ...]
    cortex_mm: float | tuple[float, ...]
    site: str
    cuts: tuple[Shape, ...] = ()
    gap_mm: float = 3.0
    filling: T = T.CARTILAGE
    blend_mm: float = 3.0


def side_placer(person: Person, rng: np.random.Generator, *, side: float) -> Placer:
    """Placer of right-side landmarks on one side, with a small random shift of that side."""
    wobble = rng.normal(0, 1.0, size=3)

    def at(points: Sequence[Sequence[float]]) -> Points:
        return person.place(np.asarray(points, dtype=np.float64) * [side, 1, 1] + wobble)

    return at


def paint_bone(canvas: Canvas, body: Body, bone: Bone, *, index: int, noise: Field) -> None:
    """Paint one bone where no bone is yet: marrow within a cortical shell.

    Parameters
    ----------
    canvas, body
        Where.
    bone, index
        What, and its place in ``body.bones``.
    noise
        Smooth unit-variance field (I, J, K) that makes the surface irregular.
    """
    box, distance, cortex = _solid(canvas, bone)
    if distance.size == 0:
        return
    distance = distance + np.float32(0.35) * noise[box]
    free = body.bone[box] == 0
    if bone.cuts:
        cut = np.full(distance.shape, FAR_MM, dtype=np.float32)
        for shape in bone.cuts:
            np.minimum(cut, shape.distance(*canvas.mesh(box)), out=cut)
        joint = free & (distance < 0) & (cut < bone.gap_mm)
        body.tissue[box][joint] = bone.filling
        if bone.filling == T.CARTILAGE:
            body.tissue[box][joint & (np.abs(cut - bone.gap_mm / 2) < 0.5)] = T.JOINT_FLUID
        distance = np.maximum(distance, np.float32(bone.gap_mm) - cut)
    spacing = float(min(canvas.grid.spacing_mm))
    inside = free & (distance < 0)
    shell = np.clip((cortex + distance) / max(spacing, 0.5) + 0.5, 0.0, 1.0)
    body.tissue[box][inside] = T.MARROW
    body.tissue[box][inside & (shell > 0.7)] = T.CORTEX
    body.cortex[box][inside] = shell[inside]
    body.bone[box][inside] = index + 1
    body.skeleton[box][inside] = bone.class_id


def _solid(canvas: Canvas, bone: Bone) -> tuple[tuple[slice, slice, slice], Field, Field]:
    """Box, distance (mm) to the bone's surface, and cortical thickness (mm) near each voxel."""
    if isinstance(bone.cortex_mm, float | int):
        box, distance = canvas.distance(bone.shapes, blend=bone.blend_mm)
        return box, distance, np.full(1, bone.cortex_mm, dtype=np.float32)
    corners = [s.bounds() for s in bone.shapes]
    lo, hi = np.min([c[0] for c in corners], axis=0), np.max([c[1] for c in corners], axis=0)
    box = canvas.box(lo, hi, margin=3.0)
    distance = np.full([s.stop - s.start for s in box], FAR_MM, dtype=np.float32)
    cortex = np.zeros_like(distance)
    for shape, thick in zip(bone.shapes, bone.cortex_mm, strict=True):
        part, near = canvas.distance([shape])
        inner = tuple(
            slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True)
        )
        cortex[inner] = np.where(near < distance[inner], np.float32(thick), cortex[inner])
        distance[inner] = smooth_min(distance[inner], near, bone.blend_mm)
    return box, distance, ndimage.uniform_filter(cortex, 3)
