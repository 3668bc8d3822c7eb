"""Metal in a body: a hip prosthesis, screws and rods in the spine.

Metal takes the place of bone, and the truth of the skeleton goes with it. The void around it is no
paint: signals and field make it (:mod:`osteosap.simulate.scanner.coarse`, titanium). Shapes are
ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.errors import InputError
from osteosap.simulate.body import Body
from osteosap.simulate.shapes import Canvas, Ellipsoid, Points, RoundCone, Shape
from osteosap.simulate.tissue import T

__all__ = ["ImplantKind", "paint_implant"]

ImplantKind = Literal["hip_prosthesis", "spine_screws"]

HEAD_MM, STEM_MM = 17.0, 150.0  # radius of ball and cup; length of the stem below the neck
LEVEL_MM = 34.0  # distance of instrumented levels where vertebrae have no names
LUMBAR = 3


def paint_implant(body: Body, kind: ImplantKind, *, rng: np.random.Generator) -> None:
    """Put metal into a body, in place. Call it before disease is painted.

    Parameters
    ----------
    body
        ``tissue`` becomes metal, and ``skeleton``, ``bone``, ``cortex``, ``marrow_fat`` are cleared
        there (and where the surgeon took bone away).
    kind
        "hip_prosthesis": ball, neck and stem in one femur; "spine_screws": pedicle screws at two or
        three levels and two rods.
    rng
        Source of side, levels and sizes.

    Raises
    ------
    InputError
        The body lacks the bone.
    """
    if kind == "hip_prosthesis":
        _hip_prosthesis(body, rng)
    else:
        _spine_screws(body, rng)


def _hip_prosthesis(body: Body, rng: np.random.Generator) -> None:
    femurs = _points_of(body, [i for i, b in enumerate(body.bones) if b.site == "femur"])
    sides = [p for p in femurs if len(p) and np.ptp(p[:, 2]) > 60.0]
    if not sides:
        raise InputError(
            "no femur of more than 60 mm in this body, a hip prosthesis needs one",
            remedy="Choose another implant, or an anatomy whose field of view holds the hips",
        )
    size, draw = float(rng.uniform(0.92, 1.1)), float(rng.uniform())
    points = sides[int(draw * len(sides))]
    top = points[:, 2].max()
    middle = float(np.mean([p[:, 0].mean() for p in sides])) if len(sides) > 1 else 0.0
    upper = points[points[:, 2] > top - 42.0]
    inward = np.abs(upper[:, 0] - middle)
    head = upper[inward < np.percentile(inward, 55)].mean(axis=0)
    shaft = [_level(points, top - depth) for depth in (70.0, 110.0, 150.0, 200.0)]
    neck = head + 0.8 * (shaft[0] - head)
    radii = [9.0 * size, 8.0 * size, 6.5 * size, 5.0 * size]
    stem: list[Shape] = [RoundCone(head, neck, 7.0 * size, 9.0 * size)]
    line = [neck, *shaft[1:]]
    stem += [RoundCone(a, b, r, s) for a, b, r, s in _pairs(line, radii) if b[2] > top - 230.0]
    _resect(body, head, radius=HEAD_MM * size + 9.0)
    _metal(body, [Ellipsoid(head, np.full(3, HEAD_MM * size)), *stem])


def _pairs(points: list[Points], radii: list[float]) -> list[tuple[Points, Points, float, float]]:
    return [(points[i], points[i + 1], radii[i], radii[i + 1]) for i in range(len(points) - 1)]


def _level(points: Points, z: float) -> Points:
    """Centre of a bone at a height; of its nearest level if it ends before."""
    nearest = points[np.argmin(np.abs(points[:, 2] - z)), 2]
    return np.asarray(points[np.abs(points[:, 2] - nearest) < 6.0].mean(axis=0))


def _resect(body: Body, head: Points, *, radius: float) -> None:
    """Take the femoral head away: scar in its place."""
    canvas = Canvas(body.grid)
    box, distance = canvas.distance([Ellipsoid(head, np.full(3, radius))])
    femurs = [i + 1 for i, b in enumerate(body.bones) if b.site == "femur"]
    gone = (distance < 0) & np.isin(body.bone[box], femurs)
    body.tissue[box][gone] = T.TENDON
    body.clear_bone(box, gone)


def _spine_screws(body: Body, rng: np.random.Generator) -> None:
    n, draw = int(rng.integers(2, 4)), float(rng.uniform())
    size = float(rng.uniform(0.9, 1.1))
    levels = _vertebrae(body)
    if len(levels) < 2:
        raise InputError(
            "fewer than two vertebrae in this body, screws need two",
            remedy="Choose another implant, or an anatomy whose field of view holds the spine",
        )
    n = min(n, len(levels))
    first = int(draw * (len(levels) - n + 1))
    shapes: list[Shape] = []
    heads: dict[float, list[Points]] = {1.0: [], -1.0: []}
    for points in levels[first : first + n]:
        low, high = np.percentile(points[:, 1], [2, 98])
        centre = np.array([np.median(points[:, 0]), high, points[:, 2].mean() + 2.0])
        reach = min(float(high - low) * 0.8, 55.0)
        for side in (1.0, -1.0):
            tip = centre + np.array([side * 7.0, -9.0, 0.0])
            head = centre + np.array([side * 22.0, -reach, 2.0])
            shapes += [
                RoundCone(tip, head, 2.6 * size, 3.2 * size),
                Ellipsoid(head, np.full(3, 6.5 * size)),
            ]
            heads[side].append(head + np.array([0.0, -5.0, 0.0]))
    for rod in heads.values():
        shapes += [
            RoundCone(rod[i], rod[i + 1], 2.8 * size, 2.8 * size) for i in range(len(rod) - 1)
        ]
    _metal(body, shapes)


def _vertebrae(body: Body) -> list[Points]:
    """Points (N, 3) of each lumbar vertebra, inferior to superior; thoracic ones without lumbar.

    Where one mask holds several vertebrae it is cut into slices of a vertebra's height.
    """
    for classes in ((LUMBAR,), (0, 1, 2)):
        index = [
            i
            for i, b in enumerate(body.bones)
            if b.site == "spine" and b.class_id in classes and "S" not in b.name[:1]
        ]
        levels: list[Points] = []
        for points in _points_of(body, index):
            if not len(points):
                continue
            bottom, height = points[:, 2].min(), float(np.ptp(points[:, 2]))
            parts = max(1, round(height / LEVEL_MM)) if height > 2 * LEVEL_MM else 1
            cut = np.minimum(((points[:, 2] - bottom) / max(height, 1e-6) * parts), parts - 1)
            levels += [points[cut.astype(int) == p] for p in range(parts)]
        if len(levels) >= 2:
            return sorted(levels, key=lambda p: float(p[:, 2].mean()))
    return []


def _points_of(body: Body, index: Sequence[int]) -> list[Points]:
    """Positions (N, 3) in mm of the voxels of bones."""
    boxes = ndimage.find_objects(body.bone.astype(np.int32, copy=False), len(body.bones))
    out: list[Points] = []
    for i in index:
        box = boxes[i]
        if box is None:
            out.append(np.empty((0, 3)))
            continue
        voxels = np.argwhere(body.bone[box] == i + 1) + [s.start for s in box]
        out.append(voxels @ body.grid.affine[:3, :3].T + body.grid.affine[:3, 3])
    return out


def _metal(body: Body, shapes: Sequence[Shape]) -> None:
    """Paint shapes as metal; at least the voxels that they touch by half."""
    canvas = Canvas(body.grid)
    inside: npt.NDArray[np.bool_]
    box, distance = canvas.distance(shapes)
    # thin rods would fall between coarse voxels
    inside = distance < max(0.0, 0.35 * float(np.max(body.grid.spacing_mm)) - 1.0)
    inside &= body.tissue[box] != T.AIR
    body.tissue[box][inside] = T.METAL
    body.clear_bone(box, inside)
