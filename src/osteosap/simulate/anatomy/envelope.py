"""The outline of the body: skin over fat over muscle, as one smooth surface.

The skin follows what lies beneath: the muscle wall of the trunk, the bellies of the limbs, the
skull and the face, each grown by its own share of subcutaneous fat and blended into its neighbours.
It is computed once on a coarse lattice fixed in space, so it does not depend on the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.anatomy.muscles import REGIONS, compartments, fascia
from osteosap.simulate.anatomy.trunk import Trunk
from osteosap.simulate.person import Person
from osteosap.simulate.shapes import (
    Canvas,
    Ellipsoid,
    Field,
    Lattice,
    Points,
    Shape,
    chain,
    smooth_min,
)
from osteosap.simulate.tissue import T

__all__ = ["breast", "chain_of", "paint_envelope", "skin_surface"]

STEP_MM = 5.0
SKIN_MM = 2.0
SOFT_MM = 5.0
OVER_BONE_MM = 3.5
POCKET = 5  # voxels of the lattice
# Share of the flank's fat on the limbs: (man, woman).
LIMB_FAT = {
    "hip and thigh": (0.6, 1.05),
    "shoulder": (0.3, 0.4),
    "neck": (0.22, 0.25),
    "upper arm": (0.35, 0.6),
    "forearm": (0.2, 0.25),
}

KNEE = ((80, 90, 470, 40), (80, 92, 415, 46), (80, 86, 370, 46))
HAND = ((236, 100, 822, 21), (240, 108, 775, 24), (243, 114, 735, 19), (246, 118, 660, 11))
HEAD_LINES = (
    ((0, 78, 1478, 50), (0, 76, 1400, 55), (0, 74, 1350, 58)),  # neck
    ((56, 96, 1492, 16), (50, 106, 1452, 17), (34, 138, 1438, 16), (0, 160, 1434, 17)),  # jaw
    ((-56, 96, 1492, 16), (-50, 106, 1452, 17), (-34, 138, 1438, 16), (0, 160, 1434, 17)),
    ((0, 176, 1524, 7), (0, 198, 1494, 10), (0, 188, 1486, 10)),  # nose
    ((0, 170, 1466, 12), (0, 168, 1444, 13)),  # lips and chin
)  # fmt: skip
HEAD_BALLS = (
    ((0, 75, 1560), (80.5, 99.5, 86)),
    ((0, 122, 1500), (62, 56, 58)),
)
EAR = ((80, 70, 1508), (7, 14, 28))


def paint_envelope(
    canvas: Canvas,
    trunk: Trunk,
    tissue: npt.NDArray[np.uint8],
    *,
    bones: Sequence[Sequence[Shape]],
    noise: Field,
) -> None:
    """Fill the body with fat under a layer of skin.

    Parameters
    ----------
    canvas, trunk
        Where and whose.
    tissue
        uint8 map (I, J, K) of zeros.
    bones
        Solids that skin must cover, bone by bone.
    noise
        Smooth unit-variance field (I, J, K).
    """
    depth = skin_surface(trunk, bones).on(canvas.axes)
    depth += np.float32(0.5) * noise
    inside = depth < 0
    tissue[inside] = T.FAT
    inside &= depth > -SKIN_MM
    tissue[inside] = T.SKIN


def skin_surface(trunk: Trunk, bones: Sequence[Sequence[Shape]]) -> Lattice:
    """Signed distance (mm, approximate) to the skin; negative inside."""
    person = trunk.person
    lo, hi = person.place([(0, -95, 370), (0, 300, 1672)])
    lattice = Lattice(np.array([-330.0, lo[1], lo[2]]), np.array([330.0, hi[1], hi[2]]), STEP_MM)
    canvas = lattice.canvas
    core = _trunk_surface(canvas, trunk)
    head = chain_of(person, HEAD_LINES)
    head += [Ellipsoid(person.place(c), _head_radii(person, r)) for c, r in HEAD_BALLS]
    _join(canvas, core, head, fat=_share(person, 0.12, least=1.0), blend=22.0)
    for side in (1.0, -1.0):
        ear = person.place(np.array(EAR[0]) * [side, 1, 1])
        _join(canvas, core, [Ellipsoid(ear, _head_radii(person, EAR[1]))], fat=0.0, blend=6.0)
        for region in (1, 2):
            fat = _limb_fat(person, region)
            _join(canvas, core, _muscles(person, region, side), fat=fat, blend=14.0)
        _join_front(canvas, core, person, side)
    # close the pockets between shoulder blade, armpit and chest
    core = ndimage.maximum_filter(ndimage.minimum_filter(core, POCKET), POCKET)
    sides = []
    for side in (1.0, -1.0):
        half = core.copy()
        knee = chain_of(person, (KNEE,), side=side)
        _join(canvas, half, _muscles(person, 0, side), fat=_limb_fat(person, 0), blend=14.0)
        _join(canvas, half, knee, fat=_share(person, 0.25, least=2.5), blend=20.0)
        sides.append(half)
    body = np.minimum(*sides)
    for side in (1.0, -1.0):
        arm = _muscles(person, 3, side)
        _join(canvas, body, arm, fat=_limb_fat(person, 3), blend=8.0)
        lower = _muscles(person, 4, side)
        rows = np.array(HAND, dtype=np.float64)
        lower += chain(person.place_arm(rows[:, :3], side=side, forearm=True), list(rows[:, 3]))
        _join(canvas, body, lower, fat=_limb_fat(person, 4), blend=8.0)
    lattice.values = ndimage.gaussian_filter(body, SOFT_MM / STEP_MM)
    for shapes in bones:
        _join(canvas, lattice.values, shapes, fat=OVER_BONE_MM, blend=4.0, fillet=0.0)
    return lattice


def chain_of(
    person: Person, lines: Sequence[Sequence[tuple[float, ...]]], *, side: float = 1.0
) -> list[Shape]:
    """Round cones along lines of reference points (x, y, z, radius)."""
    shapes: list[Shape] = []
    for line in lines:
        rows = np.array(line, dtype=np.float64)
        girth = person.head_size if rows[0, 2] > 1430 else float(person.scale[:2].mean())
        shapes += chain(person.place(rows[:, :3] * [side, 1, 1]), list(rows[:, 3] * girth))
    return shapes


def _trunk_surface(canvas: Canvas, trunk: Trunk) -> Field:
    everywhere = (slice(None), slice(None), slice(None))
    outside = trunk.outside(canvas, everywhere)
    z = canvas.axes[2]
    wall = trunk.fat(z) + sum(trunk.layer(k, z) for k in range(3))
    wall = ndimage.gaussian_filter(wall, (2.0, 4.0), mode="nearest")
    degree = trunk.angle(*canvas.mesh(everywhere))
    return np.asarray(outside - wall[np.arange(len(z))[None, None, :], degree], dtype=np.float32)


def _join(
    canvas: Canvas,
    surface: Field,
    shapes: Sequence[Shape],
    *,
    fat: float,
    blend: float,
    fillet: float = 10.0,
) -> None:
    """Unite shapes grown by ``fat`` mm with a surface, in place."""
    box, distance = canvas.distance(shapes, margin=fat + blend + 4.0, blend=fillet)
    if distance.size == 0:
        return
    surface[box] = smooth_min(surface[box], distance - np.float32(fat), blend)


def _join_front(canvas: Canvas, surface: Field, person: Person, side: float) -> None:
    """What stands out in front: breast, or half of the scrotum with the penis."""
    if person.sex == "female":
        centre, radii = breast(person, side)
        _join(canvas, surface, [Ellipsoid(centre, radii)], fat=2.0, blend=14.0)
        return
    sac = person.place((side * 17, 146, 708))
    shaft = chain_of(person, (((0, 146, 776, 16), (0, 176, 748, 15), (0, 182, 716, 14)),))
    _join(canvas, surface, [Ellipsoid(sac, np.array([20.0, 22, 30])), *shaft], fat=2.0, blend=6.0)


def breast(person: Person, side: float) -> tuple[Points, Points]:
    """Centre and radii (mm) of a breast."""
    size = float(np.clip((person.fat_mm / 18.0) ** 0.35, 0.75, 1.35))
    centre = person.place((side * 78, 162 + 6 * size, 1236 - 8 * size))
    return centre, np.array([54.0, 44.0, 56.0]) * size * person.scale


def _muscles(person: Person, region: int, side: float) -> list[Shape]:
    parts = compartments(person, REGIONS[region], side=side)
    bellies = [shape for shapes in parts.values() for shape in shapes]
    return [*bellies, *fascia(person, REGIONS[region], side=side)]


def _limb_fat(person: Person, region: int) -> float:
    share = LIMB_FAT[REGIONS[region].name][int(person.sex == "female")]
    return _share(person, share, least=2.5)


def _share(person: Person, share: float, *, least: float) -> float:
    return max(person.fat_mm * share, least)


def _head_radii(person: Person, radii: tuple[float, ...]) -> Points:
    return np.array(radii) * person.head_size
