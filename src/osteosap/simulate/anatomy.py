"""One body on a grid: tissue map, skeleton classes, marrow fat, and the bones as places."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.body import BODY_HI, BODY_LO, Body, BonePlace
from osteosap.simulate.bones import Bone, Vertebra, build_bones, build_vertebrae, rib_points
from osteosap.simulate.marrow import set_marrow_fat
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import (
    Canvas,
    Ellipsoid,
    EllipticCylinder,
    Field,
    NoiseField,
    RoundCone,
    chain,
)
from osteosap.simulate.soft_tissue import paint_body
from osteosap.simulate.tissue import T

__all__ = ["body_grid", "build_body"]

KNEE_Z, VERTEX_Z = 400.0, 1662.0  # reference man: the field of view, mid-knee to above the vertex
HALF_WIDTH, POSTERIOR, ANTERIOR = 250.0, -75.0, 275.0


def body_grid(person: Person, spacing_mm: tuple[float, float, float]) -> Grid:
    """Grid from knee to vertex around a person (RAS, axis-aligned)."""
    bottom = person.place((0, 90, KNEE_Z))[2]
    top = person.place((0, 90, VERTEX_Z))[2] + 6.0
    depth = person.scale[1]
    extra = max(person.fat_mm - 8.0, 0.0)
    lo = np.array([-HALF_WIDTH, (POSTERIOR - 90) * depth - extra * 0.6, bottom])
    hi = np.array([HALF_WIDTH, (ANTERIOR - 90) * depth + extra, top])
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
    rng = np.random.default_rng([seed, 1])
    canvas = Canvas(grid)
    noise = NoiseField(rng, 18.0, BODY_LO, BODY_HI).on(canvas.axes)
    bones = tuple(build_bones(person, rng))
    body = Body.empty(person, grid, tuple(BonePlace(b.name, b.class_id, b.site) for b in bones))
    tissue = body.tissue
    paint_body(canvas, person, tissue, noise=noise, rng=rng)
    vertebrae = build_vertebrae(person)
    _paint_brain(canvas, person, tissue, noise)
    _paint_cartilage(canvas, person, tissue)
    for index, bone in enumerate(bones):
        _paint_bone(canvas, body, bone, index=index, noise=noise)
    _paint_skull_vault(canvas, body, noise)
    for vertebra in vertebrae:
        _paint_disc(canvas, body, vertebra)
    _paint_canal(canvas, body, vertebrae)
    set_marrow_fat(body, rng=rng)
    return body


def _paint_bone(canvas: Canvas, body: Body, bone: Bone, *, index: int, noise: Field) -> None:
    box, distance = canvas.distance(bone.shapes)
    if distance.size == 0:
        return
    distance = distance + np.float32(0.35) * noise[box]
    spacing = float(min(canvas.grid.spacing_mm))
    inside = (distance < 0) & (body.bone[box] == 0)
    depth = -distance
    shell = np.clip((bone.cortex_mm - depth) / max(spacing, 0.5) + 0.5, 0.0, 1.0)
    body.tissue[box][inside] = T.MARROW
    body.tissue[box][inside & (shell > 0.7)] = T.CORTEX
    body.cortex[box][inside] = shell[inside]
    body.bone[box][inside] = index + 1
    body.skeleton[box][inside] = bone.class_id


def _paint_skull_vault(canvas: Canvas, body: Body, noise: Field) -> None:
    """Shell of the cranium around the brain: two tables with diploe between."""
    index = next(i for i, b in enumerate(body.bones) if b.site == "skull")
    vault = _cranium(body.person, thickness=6.5)
    inner = _cranium(body.person, thickness=0.0)
    box, outer = canvas.distance([vault])
    x, y, z = canvas.mesh(box)
    inside = inner.distance(x, y, z)
    outer = outer + np.float32(0.3) * noise[box]
    floor = body.person.place((0, 76, 1490))[2]
    shell = (outer < 0) & (inside > 0) & (z > floor)
    middle = np.minimum(-outer, inside)
    body.tissue[box][shell] = T.CORTEX
    body.tissue[box][shell & (middle > 1.7)] = T.MARROW
    body.cortex[box][shell] = np.clip(1.7 - middle + 0.5, 0, 1)[shell]
    body.bone[box][shell] = index + 1
    body.skeleton[box][shell] = 0


def _cranium(person: Person, *, thickness: float) -> Ellipsoid:
    radii = np.array([64.0, 84.0, 70.0]) * person.scale**0.5 + thickness
    return Ellipsoid(person.place((0, 77, 1560)), radii)


def _paint_brain(
    canvas: Canvas, person: Person, tissue: npt.NDArray[np.uint8], noise: Field
) -> None:
    inner = _cranium(person, thickness=0.0)
    box, distance = canvas.distance([inner])
    z = canvas.mesh(box)[2]
    floor = person.place((0, 76, 1492))[2]
    inside = (distance < 0) & (z > floor)
    tissue[box][inside] = T.CSF
    ripple = distance + 2.5 * noise[box]
    tissue[box][inside & (ripple < -3.0)] = T.BRAIN_GREY
    tissue[box][inside & (ripple < -8.5)] = T.BRAIN_WHITE
    for side in (1.0, -1.0):
        horn = chain(
            person.place([(side * 14, 40, 1560), (side * 12, 80, 1582), (side * 14, 108, 1572)]),
            [6.0, 7.0, 5.0],
        )
        for shapes, value in (
            (horn, T.CSF),
            ([Ellipsoid(person.place((side * 18, 84, 1562)), np.array([11.0, 17, 11]))],
             T.BRAIN_GREY),
            ([Ellipsoid(person.place((side * 31, 158, 1518)), np.array([12.0, 12, 12]))], T.EYE),
        ):  # fmt: skip
            where, d = canvas.distance(shapes)
            tissue[where][d < 0] = value


def _paint_cartilage(canvas: Canvas, person: Person, tissue: npt.NDArray[np.uint8]) -> None:
    """Costal cartilages from the ends of ribs 1-10 to the sternum."""
    for side in (1.0, -1.0):
        for index in range(10):
            end = rib_points(index)[-1]
            level = max(1315 - index * 19.0, 1190.0)
            goal = np.array([16.0, 140 + (1318 - level) * 0.52, level])
            middle = (end + goal) / 2 + [0, 6, -6]
            points = person.place(np.stack([end, middle, goal]) * [side, 1, 1])
            box, distance = canvas.distance(chain(points, [5.0, 5.0, 4.5]))
            tissue[box][distance < 0] = T.CARTILAGE


def _paint_disc(canvas: Canvas, body: Body, v: Vertebra) -> None:
    shape = EllipticCylinder(
        v.disc_below, v.axes, v.half_width * 1.02, v.half_depth * 1.02, v.disc_half_height
    )
    box, distance = canvas.distance([shape])
    inside = distance < 0
    body.tissue[box][inside] = T.DISC
    body.clear_bone(box, inside)


def _paint_canal(canvas: Canvas, body: Body, vertebrae: list[Vertebra]) -> None:
    """Thecal sac down to S2 and the cord down to L1, cleared of bone."""
    top = body.person.place([(0, 70, 1500), (0, 66, 1478)])
    low = body.person.place([(0, 42, 905), (0, 22, 878)])
    path = np.vstack([top, [v.canal for v in vertebrae], low])
    sac = chain(path, [9.0] * 20 + [8.0] * (len(path) - 22) + [6.0, 4.0])
    cord = chain(path[:21], [5.2] * 18 + [4.5, 3.5, 1.5])
    for shapes, value in ((sac, T.CSF), (cord, T.CORD)):
        box, distance = canvas.distance(shapes)
        inside = distance < 0
        body.tissue[box][inside] = value
        body.clear_bone(box, inside)
    stem = [RoundCone(path[0] + [0, 4, 30], path[0], 14.0, 9.0)]
    box, distance = canvas.distance(stem)
    body.tissue[box][(distance < 0) & (body.bone[box] == 0)] = T.BRAIN_WHITE
