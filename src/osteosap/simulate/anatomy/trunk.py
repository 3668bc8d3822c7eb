"""The trunk as nested surfaces: the cavity of chest and belly, and the muscle wall around it.

Numbers are millimetres in the reference man of :mod:`osteosap.simulate.person`. The wall is given
as thickness by level and angle, in three layers from the inside out; angles run from 0 (anterior
midline) over 90 (flank) to 180 degrees (posterior midline).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from osteosap.simulate.person import Person
from osteosap.simulate.shapes import Boxes, Canvas, Field, Points
from osteosap.simulate.tissue import T

__all__ = ["Trunk", "paint_wall"]

# Inner surface of the wall: level z, half width, posterior y, anterior y.
CAVITY = np.array(
    [
        (748, 24, 28, 96), (765, 34, 26, 108), (785, 46, 24, 122), (810, 60, 26, 140),
        (840, 74, 32, 154), (870, 90, 42, 166), (900, 102, 50, 174), (930, 106, 54, 180),
        (960, 107, 54, 184), (1000, 109, 52, 186), (1040, 114, 44, 190), (1080, 120, 30, 192),
        (1120, 123, 20, 193), (1160, 124, 15, 193), (1200, 121, 13, 187), (1240, 115, 13, 172),
        (1280, 104, 17, 155), (1310, 90, 24, 141), (1335, 68, 36, 128), (1352, 42, 50, 110),
        (1362, 14, 62, 92),
    ],
    dtype=np.float64,
)  # fmt: skip

# How visceral fat pushes the belly out: level z, anterior mm, lateral mm, per unit of `visceral`.
BELLY = np.array(
    [(780, 0, 0), (840, 12, 2), (900, 34, 8), (960, 46, 14), (1010, 46, 16), (1060, 34, 12),
     (1120, 16, 6), (1180, 5, 2), (1240, 0, 0)], dtype=np.float64,
)  # fmt: skip

# Muscles of the wall, layer by layer: rows (z, first angle, last angle, thickness mm).
WALL: tuple[dict[str, tuple[tuple[float, float, float, float], ...]], ...] = (
    {
        "intercostal": ((1075, 62, 165, 9), (1130, 22, 175, 10), (1250, 4, 178, 10),
                        (1340, 4, 178, 10), (1362, 4, 178, 7)),
        "inner oblique": ((915, 58, 112, 8), (950, 44, 132, 12), (1040, 42, 132, 11),
                          (1090, 34, 70, 7), (1120, 26, 40, 5)),
        "rectus": ((800, 2, 26, 8), (860, 2, 30, 10), (960, 2.5, 36, 11), (1060, 3, 34, 10),
                   (1140, 4, 32, 9), (1180, 5, 28, 6)),
        "quadratus": ((930, 138, 166, 8), (980, 142, 166, 13), (1050, 150, 168, 9)),
    },
    {
        "external oblique": ((925, 50, 105, 6), (960, 38, 124, 8), (1080, 36, 128, 8),
                             (1170, 45, 110, 6), (1200, 50, 90, 4)),
        "serratus": ((1140, 70, 132, 6), (1220, 66, 138, 9), (1310, 66, 120, 8)),
        "erector": ((840, 164, 178, 16), (890, 158, 178.5, 26), (960, 150, 178.5, 31),
                    (1040, 150, 178.5, 30), (1120, 151, 178.5, 22), (1220, 154, 178.5, 16),
                    (1330, 156, 178.5, 17), (1365, 150, 178.5, 17)),
    },
    {
        "pectoralis": ((1200, 24, 52, 5), (1230, 12, 64, 14), (1270, 9, 74, 19), (1305, 9, 76, 17),
                       (1335, 12, 70, 8)),
        "latissimus": ((945, 150, 168, 4), (1010, 128, 172, 5), (1100, 106, 172, 7),
                       (1190, 104, 160, 9), (1235, 108, 146, 11)),
        "trapezius": ((1105, 176, 179, 4), (1200, 166, 179.3, 6), (1290, 154, 179.3, 8),
                      (1350, 140, 179.3, 9)),
    },
)  # fmt: skip

# Subcutaneous fat of the trunk relative to the flank: level z, front, side, back; (man, woman).
FAT = {
    "male": np.array(
        [(720, 0.8, 1.0, 1.0), (800, 1.1, 1.0, 1.2), (900, 1.4, 1.2, 1.2), (980, 1.4, 1.2, 1.0),
         (1080, 1.0, 0.8, 0.7), (1200, 0.6, 0.6, 0.6), (1300, 0.5, 0.5, 0.6), (1370, 0.4, 0.4, 0.5)]
    ),
    "female": np.array(
        [(720, 1.0, 1.5, 1.5), (800, 1.3, 1.7, 1.6), (900, 1.5, 1.5, 1.4), (980, 1.4, 1.1, 1.0),
         (1080, 1.0, 0.8, 0.8), (1200, 0.8, 0.7, 0.8), (1300, 0.6, 0.6, 0.7), (1370, 0.4, 0.4, 0.5)]
    ),
}  # fmt: skip

LEAN = 0.4  # visceral fat of the reference man
_ANGLES = np.arange(181.0)


@dataclass(frozen=True)
class Trunk:
    """The cavity and the wall of one person's trunk."""

    person: Person

    @cached_property
    def levels(self) -> Points:
        """Rows (x, y, z of the centre, half width, half depth) in mm, z rising."""
        p, table = self.person, CAVITY.copy()
        for column, kind in ((3, 1), (1, 2)):
            bulge = np.interp(table[:, 0], BELLY[:, 0], BELLY[:, kind], left=0, right=0)
            table[:, column] += bulge * (p.visceral - LEAN)
        edges = [np.column_stack([x, y, table[:, 0]]) for x, y in (
            (table[:, 1], table[:, 2:].mean(1)), (-table[:, 1], table[:, 2:].mean(1)),
            (0 * table[:, 1], table[:, 2]), (0 * table[:, 1], table[:, 3]))]  # fmt: skip
        right, left, back, front = (p.place(e) for e in edges)
        half = [np.linalg.norm(a - b, axis=1) / 2 for a, b in ((right, left), (front, back))]
        return np.column_stack([(front + back) / 2, *half])

    def bounds(self, *, wall: float = 0.0) -> tuple[Points, Points]:
        """Corners (mm) of the cavity, grown by ``wall`` across."""
        rows = self.levels
        reach = np.column_stack([rows[:, 3:] + wall, np.zeros(len(rows))])
        return (rows[:, :3] - reach).min(0), (rows[:, :3] + reach).max(0)

    def outside(self, canvas: Canvas, box: Boxes) -> Field:
        """Distance (mm) outside the cavity in a box; negative inside."""
        x, y, z = canvas.mesh(box)
        cx, cy, a, b = self._sections(z[0, 0])
        dx, dy = (x - cx) / a, (y - cy) / b
        u, v = dx * dx, dy * dy
        # between an ellipse (2) and a squircle (0) in the mixed term
        k = u * v
        k *= np.float32(0.9)
        k += u * u + v * v
        np.sqrt(k, out=k)
        np.sqrt(k, out=k)
        np.maximum(k, np.float32(1e-3), out=k)
        distance = np.sqrt(u * (a * a) + v * (b * b))
        distance -= distance / k
        rows = self.levels
        over = np.maximum(z - rows[-1, 2], rows[0, 2] - z)[0, 0]
        beyond = over > 0
        distance[..., beyond] = np.hypot(np.maximum(distance[..., beyond], 0), over[beyond])
        return np.asarray(distance, dtype=np.float32)

    def angle(self, x: Field, y: Field, z: Field) -> npt.NDArray[np.uint8]:
        """Whole degrees from the front (0) to the back (180) at broadcastable points (mm)."""
        cx, cy, a, b = self._sections(z)
        degree = np.rad2deg(np.arctan2(np.abs(x - cx) / a, (y - cy) / b))
        return np.asarray(np.clip(np.rint(degree), 0, 180), dtype=np.uint8)

    def _sections(self, z: Field) -> tuple[Field, Field, Field, Field]:
        """Centre x and y, half width and half depth at levels z."""
        rows = self.levels
        cx, cy, a, b = (
            np.interp(z, rows[:, 2], rows[:, c]).astype(np.float32) for c in (0, 1, 3, 4)
        )
        return cx, cy, a, b

    def on_wall(self, level: Points, angle_deg: Points, *, depth_mm: float) -> Points:
        """Points (N, 3) of the wall, ``depth_mm`` outside the cavity; a negative angle is left.

        Parameters
        ----------
        level
            Height in the reference man (N,).
        angle_deg
            0 at the front, 180 at the back (N,).
        depth_mm
            Distance outside the cavity's surface.
        """
        rows = self.levels
        z = np.interp(level, CAVITY[:, 0], rows[:, 2])
        cx, cy, a, b = (np.interp(z, rows[:, 2], rows[:, c]) for c in (0, 1, 3, 4))
        s, c = np.sin(np.deg2rad(angle_deg)), np.cos(np.deg2rad(angle_deg))
        u, v = s * s, c * c
        k = (u * u + v * v + 0.9 * u * v) ** 0.25
        across = np.column_stack([a * s / k, b * c / k])
        reach = np.linalg.norm(across, axis=1, keepdims=True)
        across = across * (1 + depth_mm / np.maximum(reach, 1.0))
        return np.column_stack([cx + across[:, 0], cy + across[:, 1], z])

    def layer(self, index: int, z: npt.NDArray[np.float32]) -> Field:
        """Thickness (mm) of a layer of the wall: shape (len(z), 181), by level and degree."""
        reference = np.interp(z, self.levels[:, 2], CAVITY[:, 0], left=0.0, right=1e4)
        out = np.zeros((len(z), len(_ANGLES)), dtype=np.float32)
        for name, rows in WALL[index].items():
            t = np.array(rows)
            first, last, thick = (
                np.interp(reference, t[:, 0], t[:, c])[:, None] for c in (1, 2, 3)
            )
            present = (reference >= t[0, 0]) & (reference <= t[-1, 0])
            edge = np.minimum(_ANGLES - first, last - _ANGLES) / 2.5
            bulk = 1.0 if name == "intercostal" else self.person.muscle
            shape = np.sqrt(np.clip(edge, 0, 1)) * thick * bulk * present[:, None]
            np.maximum(out, shape, out=out)
        return out

    def fat(self, z: npt.NDArray[np.float32]) -> Field:
        """Thickness (mm) of subcutaneous fat: shape (len(z), 181), by level and degree."""
        reference = np.interp(z, self.levels[:, 2], CAVITY[:, 0], left=720, right=1370)
        t = FAT[self.person.sex]
        columns = np.stack([np.interp(reference, t[:, 0], t[:, c]) for c in (1, 2, 3)], axis=1)
        share = np.stack([np.interp(_ANGLES, (25, 90, 160), row) for row in columns])
        return np.asarray(np.maximum(share * self.person.fat_mm, 2.0), dtype=np.float32)


def paint_wall(
    canvas: Canvas, trunk: Trunk, tissue: npt.NDArray[np.uint8], *, noise: Field
) -> tuple[Boxes, Field]:
    """Paint the muscle wall of the trunk into ``tissue``; fat planes lie between the layers.

    Parameters
    ----------
    canvas, trunk
        Where and whose.
    tissue
        uint8 map (I, J, K); muscle goes over fat only.
    noise
        Smooth unit-variance field (I, J, K).

    Returns
    -------
    box, outside
        Index slices of the trunk and the distance (mm) outside the cavity there.
    """
    lo, hi = trunk.bounds(wall=62.0)
    box = canvas.box(lo, hi)
    outside = trunk.outside(canvas, box)
    target = tissue[box]
    shell = np.nonzero((target == T.FAT) & (outside > -1.0))
    x, y, z = (canvas.axes[d][box[d]] for d in range(3))
    degree = trunk.angle(x[shell[0]], y[shell[1]], z[shell[2]])
    depth = outside[shell]
    rough = depth + np.float32(0.8) * noise[box][shell]
    place = shell[2] * len(_ANGLES) + degree
    base = np.zeros((len(z), len(_ANGLES)), dtype=np.float32)
    muscle = np.zeros(len(degree), dtype=bool)
    for index, plane in enumerate((0.0, 1.6, 2.2)):
        layer = trunk.layer(index, z)
        low = (base + np.where(layer > 1.5, np.float32(plane), 0)).ravel()[place]
        base = base + layer
        muscle |= (rough > low) & (rough < base.ravel()[place])
    # the white line between the straight muscles, and their sheath
    ends = trunk.person.place([(0, 120, 830), (0, 160, 1150)])[:, 2]
    level = z[shell[2]]
    line = (degree <= 2) & (depth > 1.0) & (depth < 5.0) & (level > ends[0]) & (level < ends[1])
    painted = np.where(line, T.TENDON, np.where(muscle, T.MUSCLE, T.FAT))
    target[shell] = painted.astype(np.uint8)
    return box, outside
