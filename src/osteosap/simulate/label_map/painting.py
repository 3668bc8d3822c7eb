"""From parts to a body: deformed onto a grid, layered, with marrow, and the extras parts in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.anatomy.marrow import set_marrow_fat
from osteosap.simulate.body import BODY_HI, BODY_LO, Body, BonePlace
from osteosap.simulate.label_map.deformation import (
    Deformation,
    DeformationConfig,
    look_up,
    sample_parts,
)
from osteosap.simulate.label_map.extras import paint_extras
from osteosap.simulate.label_map.fill import HALO_MM
from osteosap.simulate.label_map.parts import HALO, MUSCLE_FILL, Parts
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Canvas, Field, NoiseField
from osteosap.simulate.tissue import T

__all__ = ["deform_into_body"]

HALF_WIDTH_MM = 250.0  # a bore of 500 mm
SKIN_MM, LEAST_FAT_MM = 1.6, 1.0
CORTEX_MM = {
    "spine": 0.8, "pelvis": 1.2, "sternum": 0.45, "rib": 0.8, "scapula": 1.0, "clavicle": 1.5,
    "skull": 1.7, "forearm": 1.8, "hand": 1.0, "leg": 1.8,
}  # fmt: skip
"""Thickness of the cortical shell (mm) by site: one value where procedural bones have several."""
SHAFT_MM = {
    "femur": ((0.0, 0.1, 0.25, 0.4, 0.7, 0.8, 0.88, 1.0), (1.0, 1.3, 4.5, 6.5, 6.0, 4.0, 2.0, 0.9)),
    "humerus": (
        (0.0, 0.12, 0.25, 0.4, 0.6, 0.8, 0.9, 1.0),
        (1.2, 2.0, 3.5, 4.2, 4.2, 2.2, 1.2, 0.8),
    ),
}
"""The same along a long bone, at shares of its height from the lower end up."""
WHOLE_FEMUR_MM, CUT_FEMUR_MM = 430.0, 330.0  # one shorter than this is cut by the map's lower face


@dataclass(frozen=True)
class _Scene:
    """The body being built, with what its layers need."""

    body: Body
    part: npt.NDArray[np.uint8]
    depth: Field
    noise: Field
    parts: Parts
    boxes: list[tuple[slice, slice, slice] | None]


def deform_into_body(
    parts: Parts,
    depth: Field,
    spacing_mm: tuple[float, float, float],
    *,
    seed: int,
    person: Person,
    config: DeformationConfig,
) -> Body:
    """Deform parts onto a grid of their own and make them a body; ``parts`` is used up.

    See :func:`osteosap.simulate.label_map.source.build_body_from_labels`.
    """
    streams = [np.random.default_rng([seed, k]) for k in (101, 102, 103, 104)]
    deformation = Deformation.draw(streams[0], config)
    extra = float(
        np.clip(
            config.extra_fat_mm * np.exp(streams[1].normal(0, config.extra_fat_spread)),
            LEAST_FAT_MM,
            HALO_MM - 6.0,
        )
    )
    grid = _grid(parts, deformation, spacing_mm)
    paint_extras(parts, streams[2])
    bones = [i for i, m in enumerate(parts.meanings) if m.site]
    places = tuple(BonePlace(m.place, m.class_id, m.site) for m in parts.meanings if m.site)
    body = Body.empty(person, grid, places)
    part, deep = sample_parts(
        parts.array, depth, parts.grid, deformation=deformation, target=grid,
        layered=_layered(parts),
    )  # fmt: skip
    canvas = Canvas(grid)
    noise = NoiseField(streams[3], 18.0, BODY_LO, BODY_HI).on(canvas.axes)
    boxes = [None, *ndimage.find_objects(part, max_label=len(parts.meanings) - 1)]
    scene = _Scene(body, part, deep, noise, parts, boxes)
    _paint_tissues(scene, bones)
    _paint_skin(scene, canvas, extra)
    _paint_layers(scene)
    _paint_brain(scene)
    for index in bones:
        _paint_cortex(scene, index)
    del scene, part, deep, noise  # memory, before the last pass over the whole body
    set_marrow_fat(body, rng=streams[3])
    return body


def _layered(parts: Parts) -> npt.NDArray[np.bool_]:
    flags = np.zeros(256, bool)
    for index, meaning in enumerate(parts.meanings):
        brain = meaning.tissue == T.BRAIN_WHITE
        flags[index] = bool(meaning.site or meaning.wall or meaning.core or brain)
    flags[[HALO, MUSCLE_FILL]] = True
    return flags


def _grid(parts: Parts, deformation: Deformation, spacing_mm: tuple[float, float, float]) -> Grid:
    """Grid around the deformed body: its lower face cuts the body, the others lie in air."""
    step = 10.0
    axes = [
        np.arange(lo, hi, step).astype(np.float32) for lo, hi in zip(BODY_LO, BODY_HI, strict=True)
    ]
    places = deformation.back(axes)
    origin, spacing = parts.grid.affine[:3, 3], parts.grid.spacing_mm
    index = [
        np.rint((p - o) / s).astype(int) for p, o, s in zip(places, origin, spacing, strict=True)
    ]
    known = np.logical_and.reduce(
        [(i >= 0) & (i < n) for i, n in zip(index, parts.array.shape, strict=True)]
    )
    found = parts.array[
        tuple(np.clip(i, 0, n - 1) for i, n in zip(index, parts.array.shape, strict=True))
    ]
    inside = known & (found > HALO)
    limits = [
        axes[a][np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {a})))[[0, -1]]] for a in range(3)
    ]
    lo = np.array([float(v[0]) for v in limits]) - HALO_MM - step / 2
    hi = np.array([float(v[1]) for v in limits]) + HALO_MM + step / 2
    lo[0], hi[0] = max(lo[0], -HALF_WIDTH_MM), min(hi[0], HALF_WIDTH_MM)
    lo[2] = float(origin[2]) * deformation.scale[2]
    size = np.array(spacing_mm)
    n = np.ceil((hi - lo) / size).astype(int)
    start = lo + size / 2
    affine = make_affine(spacing_mm, (float(start[0]), float(start[1]), float(start[2])))
    return Grid((int(n[0]), int(n[1]), int(n[2])), affine)


def _paint_tissues(scene: _Scene, bones: list[int]) -> None:
    """What each part is throughout."""
    body, parts, part, boxes = scene.body, scene.parts, scene.part, scene.boxes
    tissue, skeleton = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    for index, meaning in enumerate(parts.meanings):
        tissue[index] = meaning.tissue
        skeleton[index] = meaning.class_id
    body.tissue[...] = look_up(tissue, part)
    body.skeleton[...] = look_up(skeleton, part)
    for index in bones:
        box = boxes[index]
        if box is not None:
            body.bone[box][part[box] == index] = bones.index(index) + 1


def _paint_skin(scene: _Scene, canvas: Canvas, extra_mm: float) -> None:
    """Fat and skin around the map's body, thick at the trunk, thin at head and arms."""
    body, z = scene.body, canvas.axes[2]
    hip, top = _levels(scene, "pelvis"), z[-1]
    spine = _levels(scene, "spine")
    knots = [hip[0] - 380, hip[0], hip[1], spine[1] - 120, spine[1] - 60, spine[1], float(top) + 1]
    profile = np.interp(z, knots, [0.5, 1.1, 1.2, 0.6, 0.35, 0.25, 0.15]).astype(np.float32)
    side = np.interp(np.abs(canvas.axes[0]), [160.0, 190.0], [1.0, 0.55]).astype(np.float32)
    box = scene.boxes[HALO]
    if box is None:
        return
    halo = scene.part[box] == HALO
    wanted = np.float32(extra_mm) * side[box[0], None, None] * profile[None, None, box[2]]
    wanted = wanted * (1 + np.float32(0.15) * scene.noise[box]) + np.float32(LEAST_FAT_MM)
    depth = scene.depth[box]
    view = body.tissue[box]
    view[halo & (depth < wanted + SKIN_MM)] = T.SKIN
    view[halo & (depth < wanted)] = T.FAT


def _levels(scene: _Scene, site: str) -> tuple[float, float]:
    """Lowest and highest z (mm) of the bones of a site."""
    ends = [b[2] for b, m in zip(scene.boxes, scene.parts.meanings, strict=False)
            if b is not None and m.site == site]  # fmt: skip
    z, step = scene.body.grid.affine[2, 3], scene.body.grid.spacing_mm[2]
    if not ends:
        return float(z), float(z)
    return (
        float(z + step * min(e.start for e in ends)),
        float(z + step * (max(e.stop for e in ends) - 1)),
    )


def _paint_layers(scene: _Scene) -> None:
    """Walls and cores of organs, gas in the bowel, fat between unnamed muscles."""
    for index, meaning in enumerate(scene.parts.meanings):
        box = scene.boxes[index]
        if box is None or not (meaning.wall or meaning.core):
            continue
        inside = scene.part[box] == index
        depth, view = scene.depth[box], scene.body.tissue[box]
        if meaning.core is not None:
            view[inside & (depth > meaning.core[1])] = meaning.core[0]
        if meaning.tissue == T.BOWEL_CONTENT:
            view[inside & (scene.noise[box] > 1.3)] = T.GAS
        if meaning.wall is not None:
            view[inside & (depth < meaning.wall[1])] = meaning.wall[0]
    box = scene.boxes[MUSCLE_FILL]
    if box is not None:
        plane = np.abs(scene.noise[box]) < 0.09
        inside = (scene.part[box] == MUSCLE_FILL) & plane & (scene.depth[box] > 2.0)
        scene.body.tissue[box][inside] = T.FAT


def _paint_brain(scene: _Scene) -> None:
    """Cortex grey, inside white, by depth below the surface, roughened."""
    for index, meaning in enumerate(scene.parts.meanings):
        box = scene.boxes[index]
        if box is None or meaning.tissue != T.BRAIN_WHITE:
            continue
        inside = scene.part[box] == index
        depth = scene.depth[box] + np.float32(1.3) * scene.noise[box]
        view = scene.body.tissue[box]
        view[inside & (depth < 4.5)] = T.BRAIN_GREY
        view[inside & (depth < 0.3)] = T.CSF


def _paint_cortex(scene: _Scene, index: int) -> None:
    """Cortical share of a bone's voxels."""
    box, meaning = scene.boxes[index], scene.parts.meanings[index]
    if box is None:
        return
    body = scene.body
    inside = scene.part[box] == index
    thickness = np.full(inside.shape[2], CORTEX_MM.get(meaning.site, 1.0), np.float32)
    if meaning.site in SHAFT_MM:
        step, n = body.grid.spacing_mm[2], inside.shape[2]
        cut = meaning.site == "femur" and n * step < CUT_FEMUR_MM
        length = WHOLE_FEMUR_MM if cut else n * step
        height = 1.0 - (n - 0.5 - np.arange(n)) * step / length
        thickness = np.interp(height, *SHAFT_MM[meaning.site]).astype(np.float32)
    spacing = max(float(min(body.grid.spacing_mm)), 0.5)
    gap = thickness[None, None, :] - scene.depth[box] - np.float32(0.3) * scene.noise[box]
    shell = np.clip(gap / spacing + 0.5, 0.0, 1.0)
    body.cortex[box][inside] = shell[inside]
    body.tissue[box][inside & (shell > 0.7)] = T.CORTEX
