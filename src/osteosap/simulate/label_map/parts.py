"""From labels to parts: every bone a place of its own, everything else by what it is.

Bones of one label are told apart by connected component and side, ribs by their order, vertebrae by
the discs between them or, without discs, by their share of the spine's height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Grid
from osteosap.simulate.label_map.deformation import look_up
from osteosap.simulate.label_map.names import VERTEBRAE, Meaning
from osteosap.simulate.tissue import T

__all__ = ["AIR", "CSF_FILL", "DISC_GAP", "FAT_FILL", "HALO", "MUSCLE_FILL", "Parts", "split_parts"]

Ids = npt.NDArray[np.uint8]
Slices = tuple[slice, ...]

AIR, HALO, FAT_FILL, MUSCLE_FILL, CSF_FILL, DISC_GAP = range(6)
FIXED = (
    Meaning(T.AIR), Meaning(T.AIR), Meaning(T.FAT), Meaning(T.MUSCLE), Meaning(T.CSF),
    Meaning(T.DISC),
)  # fmt: skip
"""Parts that every map has: air, air beside the body, and what fills gaps between labels."""

BOTTOM_UP = VERTEBRAE[::-1]
# Heights (mm) of the boundaries L5-S1 up to C1-C2, and of the top of C1, in the BodyParts3D atlas.
LADDER = np.array([
    909.6, 942.6, 972.9, 1007.1, 1039.5, 1069.8, 1099.0, 1127.1, 1154.8, 1181.3, 1206.9, 1233.5,
    1259.2, 1284.4, 1307.2, 1328.2, 1348.2, 1366.3, 1382.0, 1397.4, 1414.0, 1429.6, 1446.3, 1465.0,
    1483.0,
])  # fmt: skip
LOWEST_THORACIC, LOWEST_CERVICAL = 5, 17  # boundaries T12-L1 and C7-T1 on the ladder
SLOPE = np.array([0.25] * 5 + [0.75] * 12 + [0.25] * 7)
"""How steeply a boundary falls behind the canal: spinous processes point down."""


@dataclass
class Parts:
    """A map of parts under construction.

    Parameters
    ----------
    array
        uint8 (I, J, K) on ``grid``, indices into ``meanings``.
    grid
        Axis-aligned RAS grid.
    meanings
        One entry a part; the first six are fixed.
    """

    array: Ids
    grid: Grid
    meanings: list[Meaning] = field(default_factory=lambda: list(FIXED))
    _known: dict[Meaning, int] = field(default_factory=dict)

    @classmethod
    def of(cls, array: Ids, grid: Grid, meanings: Sequence[Meaning]) -> Parts:
        """Parts that are known already; the array is copied."""
        known = {m: i for i, m in enumerate(meanings) if i >= len(FIXED)}
        return cls(array.copy(), grid, list(meanings), known)

    def id_of(self, meaning: Meaning) -> int:
        """Index of a part, made where it is new."""
        if meaning not in self._known:
            self._known[meaning] = len(self.meanings)
            self.meanings.append(meaning)
        return self._known[meaning]

    def chosen(self, **wanted: object) -> npt.NDArray[np.bool_]:
        """(256,) which parts have all the given attributes."""
        flags = np.zeros(256, bool)
        for index, meaning in enumerate(self.meanings):
            flags[index] = all(getattr(meaning, k) == v for k, v in wanted.items())
        flags[: len(FIXED)] = False
        return flags

    def bones(self) -> npt.NDArray[np.bool_]:
        """(256,) which parts are bone."""
        flags = np.zeros(256, bool)
        flags[[i for i, m in enumerate(self.meanings) if m.site]] = True
        return flags

    def world(self, box: Slices, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Places (N, 3) in mm of the voxels of a mask inside a box."""
        index = np.argwhere(mask) + [s.start for s in box]
        return np.asarray(index * np.array(self.grid.spacing_mm) + self.grid.affine[:3, 3])


def split_parts(ids: Ids, grid: Grid, meanings: list[Meaning]) -> Parts:
    """Parts of a map of labels.

    Parameters
    ----------
    ids
        uint8 (I, J, K): index into ``meanings``.
    grid
        Axis-aligned RAS grid with x = 0 in the midline.
    meanings
        The first is the background.
    """
    parts = Parts(np.zeros(ids.shape, np.uint8), grid)
    table = np.zeros(256, np.uint8)
    split: list[int] = []
    for index, meaning in enumerate(meanings):
        if meaning.paired or (meaning.site == "spine" and meaning.place not in VERTEBRAE):
            split.append(index)
        elif meaning.envelope:
            table[index] = FAT_FILL
        elif index:
            table[index] = parts.id_of(meaning)
    parts.array[...] = look_up(table, ids)
    boxes = ndimage.find_objects(ids, max_label=len(meanings) - 1)
    spine = [i for i in split if meanings[i].site == "spine" and boxes[i - 1] is not None]
    for index in split:
        box = boxes[index - 1]
        if box is None or index in spine:
            continue
        mask = ids[box] == index
        if meanings[index].place == "rib":
            _split_ribs(parts, box, mask, meanings[index])
        else:
            _split_sides(parts, box, mask, meanings[index])
    if spine:
        _split_spine(parts, ids, [(i, meanings[i]) for i in spine])
    return parts


def _named(meaning: Meaning, place: str, side: str = "") -> Meaning:
    return Meaning(meaning.tissue, meaning.site, meaning.class_id, place, side)


def _sides(
    parts: Parts, box: Slices, mask: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Components, their centres in mm, and their sizes in voxels."""
    label, count = ndimage.label(mask)
    places, which = parts.world(box, mask), label[mask]
    size = np.bincount(which, minlength=count + 1)[1:]
    centres = np.stack(
        [np.bincount(which, weights=c, minlength=count + 1)[1:] / size for c in places.T], axis=1
    )
    return label, centres, size


def _split_sides(parts: Parts, box: Slices, mask: npt.NDArray[np.bool_], meaning: Meaning) -> None:
    """A left and a right bone: by component, and at the midline where both hang together."""
    label, centres, size = _sides(parts, box, mask)
    x = parts.grid.affine[0, 3] + parts.grid.spacing_mm[0] * np.arange(box[0].start, box[0].stop)
    right = np.concatenate([[False], centres[:, 0] > 0])[label]
    largest = int(np.argmax(size)) + 1
    across = np.flatnonzero((label == largest).any(axis=(1, 2)))
    if x[across[0]] < -20 and x[across[-1]] > 20:
        right = np.broadcast_to((x > 0)[:, None, None], mask.shape)
    for side, where in (("right", mask & right), ("left", mask & ~right)):
        if where.any():
            name = _named(meaning, f"{meaning.place} {side}", side)
            parts.array[box][where] = parts.id_of(name)


def _split_ribs(parts: Parts, box: Slices, mask: npt.NDArray[np.bool_], meaning: Meaning) -> None:
    """Ribs by their order from the top; where a side does not show twelve, one place a side."""
    label, centres, size = _sides(parts, box, mask)
    boxes = ndimage.find_objects(label)
    large = np.flatnonzero(size * parts.grid.voxel_volume_ml > 0.3)
    chosen = np.zeros(len(size) + 1, np.uint8)
    for side, sign in (("right", 1.0), ("left", -1.0)):
        mine = [i for i in large if centres[i, 0] * sign > 0]
        mine.sort(key=lambda i: -boxes[i][2].stop)
        for order, component in enumerate(mine, start=1):
            place = f"rib {order} {side}" if len(mine) == 12 else f"ribs {side}"
            chosen[component + 1] = parts.id_of(_named(meaning, place, side))
        if mine:  # crumbs go to the nearest large piece
            for crumb in np.flatnonzero((size > 0) & (centres[:, 0] * sign > 0)):
                if chosen[crumb + 1] == 0:
                    gap = ((centres[mine] - centres[crumb]) ** 2).sum(axis=1)
                    chosen[crumb + 1] = chosen[mine[int(np.argmin(gap))] + 1]
    parts.array[box][mask] = chosen[label[mask]]


def _split_spine(parts: Parts, ids: Ids, labels: list[tuple[int, Meaning]]) -> None:
    """Vertebrae of labels that hold several."""
    masks = [(ids == index, meaning) for index, meaning in labels]
    whole = np.logical_or.reduce([m for m, _ in masks])
    box = ndimage.find_objects(whole.astype(np.uint8))[0]
    bounds = _boundaries(parts, box, [(m[box], meaning) for m, meaning in masks])
    ranges = {0: (1, 24), 1: (18, 24), 2: (6, 17), 3: (1, 5)}
    for mask, meaning in masks:
        places = parts.world(box, mask[box])
        level = np.zeros(len(places), int)
        for (y, z), slope in zip(bounds, SLOPE, strict=True):
            behind = np.maximum(y - 18.0 - places[:, 1], 0.0)
            level += places[:, 2] > z - slope * behind
        level = np.clip(level, *ranges[meaning.class_id])
        chosen = np.zeros(25, np.uint8)
        for index in np.unique(level):
            name = BOTTOM_UP[index - 1]
            chosen[index] = parts.id_of(Meaning(T.MARROW, "spine", "CTL".index(name[0]) + 1, name))
        parts.array[box][mask[box]] = chosen[level]


def _boundaries(
    parts: Parts, box: Slices, masks: list[tuple[npt.NDArray[np.bool_], Meaning]]
) -> npt.NDArray[np.float64]:
    """Places (24, 2) in y and z (mm) between the vertebrae, from L5-S1 up to C1-C2."""
    z = parts.grid.affine[2, 3] + parts.grid.spacing_mm[2] * np.arange(box[2].start, box[2].stop)
    reach = {m.class_id: z[np.flatnonzero(mask.any(axis=(0, 1)))[[0, -1]]] for mask, m in masks}
    anchors = {0: z[0]}
    for above, below, rung in ((2, 3, LOWEST_THORACIC), (1, 2, LOWEST_CERVICAL)):
        if above in reach and below in reach:
            anchors[rung] = float((reach[above][0] + reach[below][1]) / 2)
    if 1 in reach or parts.chosen(tissue=T.BRAIN_WHITE).any():
        anchors[24] = z[-1]
    discs = _discs(parts, box)
    anchors.update({rung: place[1] for rung, place in enumerate(discs)})
    rungs = sorted(anchors)
    heights = np.interp(LADDER, LADDER[rungs], [anchors[r] for r in rungs])
    scale = 1.0
    if rungs[-1] > 0:
        span = LADDER[rungs[-1]] - LADDER[rungs[0]]
        scale = float((anchors[rungs[-1]] - anchors[rungs[0]]) / span)
    above_last = np.arange(len(LADDER)) > rungs[-1]
    heights[above_last] += scale * (LADDER[above_last] - LADDER[rungs[-1]])
    rows = []
    places = parts.world(box, np.logical_or.reduce([m for m, _ in masks]))
    for rung, height in enumerate(heights[:24]):
        near = np.abs(places[:, 2] - height) < 15
        middle = float(places[near, 1].mean()) + 12.0 if near.any() else 0.0
        rows.append((discs[rung][0] if rung < len(discs) else middle, height))
    return np.array(rows)


def _discs(parts: Parts, box: Slices) -> list[tuple[float, float]]:
    """Centres (y, z) of the discs from the lowest up; none where they cannot be counted."""
    wide = tuple(slice(max(s.start - 8, 0), s.stop + 8) for s in box)
    mask = parts.chosen(tissue=T.DISC)[parts.array[wide]]
    sacrum = look_up(parts.chosen(place="sacrum"), parts.array)
    if not mask.any() or not sacrum.any():
        return []
    _, centres, size = _sides(parts, wide, mask)
    large = centres[size * parts.grid.voxel_volume_ml > 0.15]
    large = large[np.argsort(large[:, 2])]
    top = np.flatnonzero(sacrum.any(axis=(0, 1)))[-1] * parts.grid.spacing_mm[2]
    top += parts.grid.affine[2, 3]
    steps = np.diff(large[:, 2])
    regular = len(large) <= 23 and (steps.size == 0 or (steps.min() > 8 and steps.max() < 55))
    if not regular or abs(large[0, 2] - top) > 45:
        return []
    return [(float(y), float(height)) for _, y, height in large]
