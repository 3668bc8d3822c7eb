"""One body on a grid: tissue map, skeleton classes, marrow fat, and the bones as places."""

from __future__ import annotations

import numpy as np

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.anatomy.bone import Bone, paint_bone
from osteosap.simulate.anatomy.bones import build_bones
from osteosap.simulate.anatomy.brain import paint_brain
from osteosap.simulate.anatomy.face import paint_face
from osteosap.simulate.anatomy.head import cranium_of, paint_skull, skull_bones
from osteosap.simulate.anatomy.marrow import set_marrow_fat
from osteosap.simulate.anatomy.nodes_nerves import paint_plexuses
from osteosap.simulate.anatomy.painter import Painter
from osteosap.simulate.anatomy.pelvis import paint_symphysis
from osteosap.simulate.anatomy.soft_tissue import paint_body
from osteosap.simulate.anatomy.spine import build_vertebrae, paint_canal, paint_disc, paint_roots
from osteosap.simulate.anatomy.trunk import Trunk
from osteosap.simulate.body import BODY_HI, BODY_LO, Body, BonePlace
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Canvas, NoiseField

__all__ = ["body_grid", "build_body"]

KNEE_Z, VERTEX_Z = 400.0, 1655.0  # reference man: the field of view, mid-knee to above the vertex
HALF_WIDTH, POSTERIOR, ANTERIOR = 250.0, -46.0, 212.0


def body_grid(person: Person, spacing_mm: tuple[float, float, float]) -> Grid:
    """Grid from knee to vertex around a person (RAS, axis-aligned)."""
    bottom = person.place((0, 90, KNEE_Z))[2]
    top = person.place((0, 90, VERTEX_Z))[2] + 6.0
    back, front = person.place([(0, POSTERIOR, 850), (0, ANTERIOR, 1000)])[:, 1]
    extra = max(person.fat_mm - 8.0, 0.0)
    breasts = 26.0 if person.sex == "female" else 0.0
    front += max(extra * 1.4 + 46.0 * person.visceral, breasts + 0.6 * extra)
    lo = np.array([-HALF_WIDTH, back - extra * 1.5, bottom])
    hi = np.array([HALF_WIDTH, front, top])
    spacing = np.array(spacing_mm)
    shape = np.ceil((hi - lo) / spacing).astype(int)
    origin = lo + spacing / 2
    affine = make_affine(spacing_mm, (float(origin[0]), float(origin[1]), float(origin[2])))
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def build_body(person: Person, grid: Grid, *, seed: int) -> Body:
    """Paint a person on a grid.

    Parameters
    ----------
    person
        Proportions, posture, composition.
    grid
        Axis-aligned RAS grid, any spacing.
    seed
        Seed of organs, nodes and surface irregularities; with the person it fixes the anatomy
        at every spacing.
    """
    streams = [np.random.default_rng([seed, k]) for k in (1, 101, 102, 103)]
    canvas, trunk = Canvas(grid), Trunk(person)
    noise = NoiseField(streams[0], 18.0, BODY_LO, BODY_HI).on(canvas.axes)
    vertebrae = build_vertebrae(person)
    bones = build_bones(person, trunk, vertebrae, rng=streams[1])
    skull = skull_bones(person)
    body = Body.empty(person, grid, tuple(_place_of(b) for b in [*bones, *skull]))
    paint = Painter(canvas, person, trunk, body.tissue, noise)
    paint_body(paint, [*bones, *skull], rng=streams[2])
    for index, bone in enumerate(bones):
        paint_bone(canvas, body, bone, index=index, noise=noise)
    cranium = cranium_of(canvas, person)
    paint_skull(canvas, body, cranium, index=len(bones), noise=noise)
    paint_brain(canvas, body, cranium, streams[3])
    paint_face(paint, body, streams[3])
    paint_symphysis(canvas, body)
    for vertebra in vertebrae:
        paint_disc(canvas, body, vertebra)
    paint_canal(canvas, body, vertebrae)
    paint_roots(canvas, body, vertebrae)
    paint_plexuses(paint, vertebrae)
    set_marrow_fat(body, rng=streams[0])
    return body


def _place_of(bone: Bone) -> BonePlace:
    return BonePlace(bone.name, bone.class_id, bone.site)
