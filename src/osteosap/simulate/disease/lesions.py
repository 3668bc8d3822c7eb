"""Lesions in a body: find the place, shape the blob by the bone, paint one time point.

A placed lesion is a list of voxels, ordered from its core outwards: the first N of them are the
lesion at a volume of N voxels. So volumes are what was planned, a lesion that grows keeps what it
had, and the order of time points does not matter.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.body import Body
from osteosap.simulate.disease.plan import LesionPlan
from osteosap.simulate.shapes import Canvas, Ellipsoid, Field
from osteosap.simulate.tissue import T

__all__ = ["PlacedLesion", "Places", "draw_voxel", "find_places", "place_lesion"]

TRIES = 25
SOFT = (T.MUSCLE, T.FAT, T.NERVE, T.VEIN, T.TENDON)
"""Tissues into which a lesion may break out."""
_ALL_NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Places:
    """Marrow of every bone as places.

    Parameters
    ----------
    voxels
        Bone index to marrow voxels (N, 3).
    by_site
        Site to the indices of its bones that have marrow in the grid.
    """

    voxels: dict[int, npt.NDArray[np.int64]]
    by_site: dict[str, list[int]]

    def draw(self, site: str, rng: np.random.Generator) -> tuple[int, npt.NDArray[np.int64]] | None:
        """Bone index and marrow voxel (3,) at a site, by marrow volume; None if it has none."""
        bones = self.by_site.get(site)
        if not bones:
            return None
        sizes = np.array([len(self.voxels[b]) for b in bones], dtype=float)
        share = np.cumsum(sizes) / sizes.sum()
        bone = bones[min(int(np.searchsorted(share, rng.uniform())), len(bones) - 1)]
        return bone, draw_voxel(self.voxels[bone], rng)


@dataclass(frozen=True)
class PlacedLesion:
    """A lesion with its voxels.

    Parameters
    ----------
    plan
        What was drawn.
    bone
        Index of its bone.
    voxels
        (N, 3) indices, from the core outwards; the first of them are always one piece; N voxels at
        the largest volume of the plan.
    distance_mm
        (N,) level of each voxel in the blob, rising.
    """

    plan: LesionPlan
    bone: int
    voxels: npt.NDArray[np.int64]
    distance_mm: Field

    def count_at(self, timepoint: int, voxel_ml: float) -> int:
        """Voxels at a time point; at least one where the lesion is there."""
        volume = self.plan.volumes_ml[timepoint]
        wanted = max(1, round(volume / voxel_ml)) if volume > 0 else 0
        return min(wanted, len(self.voxels))


def find_places(body: Body) -> Places:
    """All marrow of a body, by bone and by site."""
    index = np.argwhere(body.tissue == T.MARROW)
    bone = body.bone[tuple(index.T)]
    index, bone = index[bone > 0], bone[bone > 0]
    order = np.argsort(bone, kind="stable")
    ids, starts = np.unique(bone[order], return_index=True)
    parts = np.split(index[order], starts[1:])
    voxels = {int(i) - 1: part for i, part in zip(ids, parts, strict=True)}
    by_site: dict[str, list[int]] = {}
    for number in voxels:
        by_site.setdefault(body.bones[number].site, []).append(number)
    return Places(voxels, by_site)


def draw_voxel(voxels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """One of some voxels (N, 3): a quantile along S, of those one along A, of those one along R.

    So the place hardly depends on the spacing. At least one voxel must be there.
    """
    for axis, share in zip((2, 1, 0), rng.uniform(size=3), strict=True):
        along = np.sort(voxels[:, axis])
        voxels = voxels[voxels[:, axis] == along[int(share * len(along))]]
    return np.asarray(voxels[0])


def place_lesion(
    body: Body, plan: LesionPlan, *, places: Places, taken: npt.NDArray[np.bool_], noise: Field
) -> PlacedLesion | None:
    """Find a place that holds a lesion at its largest; None after 25 tries.

    Parameters
    ----------
    body
        Where; not changed.
    plan
        What.
    places
        :func:`find_places` of the body.
    taken
        Bool (I, J, K): other lesions with their neighbours; the new lesion's are added.
    noise
        Smooth unit-variance field (I, J, K) that makes outlines irregular.
    """
    rng = np.random.default_rng(plan.seed)
    for _ in range(TRIES):
        drawn = places.draw(plan.site, rng)
        if drawn is None:
            return None
        bone, voxel = drawn
        if taken[tuple(voxel)]:
            continue
        placed = _grow(body, plan, bone=bone, voxel=voxel, taken=taken, noise=noise)
        if placed is not None:
            _take(taken, placed.voxels)
            return placed
    return None


def _grow(
    body: Body,
    plan: LesionPlan,
    *,
    bone: int,
    voxel: npt.NDArray[np.int64],
    taken: npt.NDArray[np.bool_],
    noise: Field,
) -> PlacedLesion | None:
    """The lesion at one place; None where the bone cannot hold its volume in one piece."""
    radius = float((plan.largest_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))
    affine = body.grid.affine
    centre = affine[:3, :3] @ voxel + affine[:3, 3]
    shape = Ellipsoid(centre, radius * plan.stretch, plan.rotation)
    box, distance = Canvas(body.grid).distance([shape], margin=4.0 + 0.9 * radius)
    distance = distance + np.float32(0.18 * radius) * noise[box]
    allowed = body.bone[box] == bone + 1
    if plan.breaks_out:
        allowed |= np.isin(body.tissue[box], SOFT) & (distance < -0.1 * radius)
    within = allowed & ~taken[box] & (distance <= 0.8 * radius + 1.0)
    offset = np.array([s.start for s in box])
    wanted = max(1, round(plan.largest_ml / body.grid.voxel_volume_ml))
    voxels, levels = _flood(within, distance, start=voxel - offset, wanted=wanted)
    if len(voxels) < wanted:
        return None
    return PlacedLesion(plan, bone, voxels + offset, levels)


def _flood(
    within: npt.NDArray[np.bool_], level: Field, *, start: npt.NDArray[np.int64], wanted: int
) -> tuple[npt.NDArray[np.int64], Field]:
    """Voxels in the order in which a rising level reaches them from a start.

    Every beginning of the list is one connected piece (26 neighbours).

    Parameters
    ----------
    within
        Bool (I, J, K): where it may go.
    level
        Float (I, J, K).
    start
        Index (3,), inside.
    wanted
        At most so many voxels.

    Returns
    -------
    voxels, levels
        (N, 3) indices and the level (N,) at which each was reached, rising.
    """
    first = tuple(int(v) for v in start)
    free = within.copy()
    if not free[first]:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.float32)
    free[first] = False
    heap, highest = [(float(level[first]), first)], -np.inf
    voxels: list[tuple[int, ...]] = []
    levels: list[float] = []
    while heap and len(voxels) < wanted:
        reached, place = heapq.heappop(heap)
        highest = max(highest, reached)
        voxels.append(place)
        levels.append(highest)
        around = tuple(slice(max(v - 1, 0), v + 2) for v in place)
        for step in np.argwhere(free[around]).tolist():
            near = tuple(s.start + n for s, n in zip(around, step, strict=True))
            heapq.heappush(heap, (float(level[near]), near))
        free[around] = False
    return np.array(voxels, np.int64), np.array(levels, np.float32)


def _take(taken: npt.NDArray[np.bool_], voxels: npt.NDArray[np.int64]) -> None:
    """Mark voxels and their neighbours, so that instances never touch."""
    lo = np.maximum(voxels.min(axis=0) - 2, 0)
    hi = np.minimum(voxels.max(axis=0) + 3, taken.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(lo, hi, strict=True))
    mask = np.zeros(tuple(hi - lo), bool)
    mask[tuple((voxels - lo).T)] = True
    taken[box] |= ndimage.binary_dilation(mask, _ALL_NEIGHBOURS)
