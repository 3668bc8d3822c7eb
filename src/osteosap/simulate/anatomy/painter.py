"""Painting solids into a tissue map, at landmarks of the reference man."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from osteosap.simulate.anatomy.trunk import Trunk
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Boxes, Canvas, Ellipsoid, Field, Points, Shape, chain, overlap
from osteosap.simulate.tissue import T

__all__ = ["SOFT", "Landmark", "Painter", "among", "turn"]

SOFT = (T.FAT, T.MUSCLE)
Landmark = tuple[float, float, float]


@dataclass(frozen=True)
class Painter:
    """A tissue map to paint on, and whose.

    Parameters
    ----------
    canvas, person, trunk
        Where and who.
    tissue
        uint8 map (I, J, K).
    noise
        Smooth unit-variance field (I, J, K) that makes surfaces irregular.
    """

    canvas: Canvas
    person: Person
    trunk: Trunk
    tissue: npt.NDArray[np.uint8]
    noise: Field

    def solid(
        self,
        shapes: Sequence[Shape],
        tissue: T,
        *,
        over: tuple[T, ...] | None = None,
        rough: float = 0.0,
        wall: tuple[T, float] | None = None,
        blend: float = 0.0,
        clip: tuple[Boxes, Field] | None = None,
    ) -> None:
        """Paint a union of shapes.

        Parameters
        ----------
        shapes, tissue
            What, of what.
        over
            Paint only over these tissues.
        rough
            Irregularity of the surface (mm).
        wall
            Tissue and thickness (mm) of a wall just inside the surface.
        blend
            Fillet (mm) where the shapes meet.
        clip
            A box and a distance (mm) on it; nothing is painted where it is positive, or off it.
        """
        box, distance = self.canvas.distance(shapes, blend=blend)
        if distance.size == 0:
            return
        if clip is not None:
            limit = np.full(distance.shape, 1e3, dtype=np.float32)
            own, other = overlap(box, clip[0])
            limit[own] = clip[1][other]
            distance = np.maximum(distance, limit)
        if rough:
            distance = distance + np.float32(rough) * self.noise[box]
        target = self.tissue[box]
        inside = distance < 0
        if over is not None:
            inside &= among(target, over)
        target[inside] = tissue
        if wall is not None:
            target[inside & (distance > -wall[1])] = wall[0]

    def ball(
        self, centre: Landmark, radii: Landmark, *, rotation: Points | None = None
    ) -> Ellipsoid:
        """Ellipsoid at a reference landmark, radii scaled with the body."""
        return Ellipsoid(self.person.place(centre), np.array(radii) * self.person.scale, rotation)

    def tube(self, points: Sequence[Landmark], radius: float | Sequence[float]) -> list[Shape]:
        """Tube along reference landmarks; one radius (mm) or one a point."""
        radii = [radius] * len(points) if isinstance(radius, float | int) else radius
        return chain(self.person.place(points), radii)

    def mirrored(self, points: Sequence[Landmark], radius: float | Sequence[float]) -> list[Shape]:
        """Tubes along landmarks of the right side, and along their mirror images."""
        left = [(-x, y, z) for x, y, z in points]
        return [*self.tube(points, radius), *self.tube(left, radius)]


def among(target: npt.NDArray[np.uint8], tissues: tuple[T, ...]) -> npt.NDArray[np.bool_]:
    """Whether each voxel is one of some tissues, by table."""
    table = np.zeros(256, dtype=bool)
    table[list(tissues)] = True
    return np.asarray(table[target])


def turn(angle: float, *, axis: int = 1) -> Points:
    """Rotation by an angle (radians) about a world axis (1: anterior)."""
    c, s = np.cos(angle), np.sin(angle)
    out = np.eye(3)
    u, v = ((1, 2), (2, 0), (0, 1))[axis]
    out[u, u], out[u, v], out[v, u], out[v, v] = c, -s, s, c
    return out
