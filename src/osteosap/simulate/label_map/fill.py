"""What a label map leaves open: the outline of the body, fat, muscle, and fluid around the brain.

Segmentations name bones and organs, seldom the muscles of the limbs and hardly ever the skin. Gaps
are filled by rule: fat under the skin and among the organs, muscle in the walls and around the long
bones. Thicknesses are ours. Most is done at twice the voxel size, then brought back smoothly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.label_map.deformation import look_up, squared_distance
from osteosap.simulate.label_map.parts import (
    AIR,
    CSF_FILL,
    DISC_GAP,
    FAT_FILL,
    HALO,
    MUSCLE_FILL,
    Parts,
)
from osteosap.simulate.shapes import Field
from osteosap.simulate.tissue import T

__all__ = ["HALO_MM", "fill_body"]

Mask = npt.NDArray[np.bool_]

HALO_MM = 20.0
"""How far outside the map's body extra fat may reach."""

ORGANS = (
    T.LIVER, T.SPLEEN, T.KIDNEY, T.STOMACH, T.BOWEL_CONTENT, T.URINE, T.PANCREAS, T.HEART,
    T.LUNG, T.PROSTATE, T.ADRENAL, T.UTERUS, T.BILE,
)  # fmt: skip
# Muscle around the shaft of a long bone (mm), at its lower end, at 0.2, 0.6 and 0.85 of its
# height, and at its upper end.
SLEEVE_AT = (0.0, 0.2, 0.6, 0.85, 1.0)
SLEEVES = {
    "femur": (6.0, 26.0, 36.0, 30.0, 22.0),
    "humerus": (6.0, 18.0, 24.0, 22.0, 18.0),
    "forearm": (8.0, 10.0, 14.0, 18.0, 16.0),
}
ARM, TRUNK = ("humerus", "forearm", "hand"), ("spine", "rib", "pelvis", "sternum", "femur")
DOME_MM = 46.0  # gap between an organ and the diaphragm that is closed
VENTRICLE_MM = 20.0  # half the width of gaps inside the brain that are fluid
CAVITY_VOXELS = 9  # coarse ones: half the width of gaps among organs that are fat
PLANE_VOXELS = 2  # gaps between named muscles up to twice this wide stay fat
UNDER_SKIN_MM = {"skin": 10.0, "loose": 4.0, "": 5.0}
"""Fat that the map's own outline has under the skin, by kind of envelope."""


@dataclass(frozen=True)
class _Coarse:
    """Parts at twice the voxel size, and the levels that divide the body."""

    parts: Parts
    z: npt.NDArray[np.float64]
    x: npt.NDArray[np.float64]
    step_mm: float

    @classmethod
    def of(cls, parts: Parts) -> _Coarse:
        step = 2 * parts.grid.spacing_mm[0]
        origin = parts.grid.affine[:3, 3] + step / 4
        n = [(s + 1) // 2 for s in parts.array.shape]
        return cls(
            parts, origin[2] + step * np.arange(n[2]), origin[0] + step * np.arange(n[0]), step
        )

    def has(self, flags: Mask) -> Mask:
        """Where any of the eight voxels is one of the parts flagged (256,)."""
        return _pool(look_up(flags, self.parts.array))

    def sites(self, *sites: str) -> Mask:
        flags = np.zeros(256, bool)
        for site in sites:
            flags |= self.parts.chosen(site=site)
        return flags

    def reach(self, flags: Mask) -> tuple[float, float] | None:
        """Lowest and highest z of parts."""
        levels = np.flatnonzero(look_up(flags, self.parts.array).any(axis=(0, 1)))
        if levels.size == 0:
            return None
        z = self.parts.grid.affine[2, 3] + self.parts.grid.spacing_mm[2] * levels[[0, -1]]
        return float(z[0]), float(z[1])


def fill_body(parts: Parts, envelope: str) -> None:
    """Fill every gap of ``parts`` in place and lay the halo around it.

    Parameters
    ----------
    parts
        Labels as parts; the envelope's voxels are ``FAT_FILL``.
    envelope
        "skin" (the outline is right), "loose" (it lacks muscles), "" (there is none).
    """
    _fill_canal(parts)
    _fill_brain(parts)
    if envelope == "loose":
        _fill_dome(parts)
    coarse = _Coarse.of(parts)
    body = _pool(parts.array != AIR)
    sleeve = np.zeros_like(body)
    if envelope != "skin":
        sleeve = _sleeves(coarse)
        body = _fill_out(coarse, body | sleeve, envelope)
    for k in range(body.shape[2]):  # a label of the skin alone, or organs without a label
        body[:, :, k] = ndimage.binary_fill_holes(body[:, :, k])
    outline = _double(ndimage.gaussian_filter(body.astype(np.float32), 1.0), parts.array.shape)
    inside = (outline > 0.5) | (parts.array != AIR)
    gaps = inside & ((parts.array == AIR) | (parts.array == FAT_FILL))
    muscle = _muscle(coarse, body, sleeve, envelope)
    share = _double(ndimage.gaussian_filter(muscle.astype(np.float32), 0.7), parts.array.shape)
    parts.array[gaps] = FAT_FILL
    filled = gaps & (share > 0.5)
    if envelope == "loose":
        filled &= _off_named_muscle(parts)
    parts.array[filled] = MUSCLE_FILL
    near = squared_distance(_pool(inside), 6)
    halo = np.repeat(np.repeat(np.repeat(near <= 36, 2, 0), 2, 1), 2, 2)
    halo = halo[tuple(slice(n) for n in parts.array.shape)]
    parts.array[halo & ~inside] = HALO


def _off_named_muscle(parts: Parts) -> Mask:
    """Leaves narrow gaps between named muscles, and a plane beside them, to fat."""
    named = look_up(parts.chosen(tissue=T.MUSCLE), parts.array)
    core = squared_distance(named, PLANE_VOXELS + 1) > PLANE_VOXELS**2
    return squared_distance(core, PLANE_VOXELS) <= (PLANE_VOXELS - 1) ** 2


def _muscle(coarse: _Coarse, body: Mask, sleeve: Mask, envelope: str) -> Mask:
    """Where a gap would be muscle: below the fat, not among the organs."""
    parts = coarse.parts
    organs = np.zeros(256, bool)
    for tissue in ORGANS:
        organs |= parts.chosen(tissue=tissue)
    organs[FAT_FILL] = False
    cavity = _close(coarse.has(organs), CAVITY_VOXELS)
    wall = (squared_distance(cavity, 2) <= 4) & ~cavity
    depth = np.sqrt(squared_distance(~body, 10)).astype(np.float32) * coarse.step_mm
    deep = depth > UNDER_SKIN_MM[envelope] + coarse.step_mm / 2
    muscle = deep & ~cavity
    known = parts.chosen(tissue=T.MUSCLE)
    if envelope == "loose" and known.any():
        firm = squared_distance(coarse.has(known | parts.bones()), 4) <= 16
        muscle &= firm | sleeve | wall
    return muscle


def _sleeves(coarse: _Coarse) -> Mask:
    """Muscle around the long bones."""
    out = np.zeros([(n + 1) // 2 for n in coarse.parts.array.shape], bool)
    for site, radii in SLEEVES.items():
        flags = coarse.sites(site)
        reach = coarse.reach(flags)
        if reach is None:
            continue
        height = (coarse.z - reach[0]) / max(reach[1] - reach[0], 1.0)
        if site == "femur" and reach[1] - reach[0] < 330:  # the map ends within the thigh
            height = 1 - (reach[1] - coarse.z) / 430.0
        radius = np.interp(height, SLEEVE_AT, radii) / coarse.step_mm
        levels = slice(*np.searchsorted(coarse.z, [reach[0] - 1, reach[1] + 15]))
        near = squared_distance(coarse.has(flags)[:, :, levels], 10)
        out[:, :, levels] |= near <= (radius[levels] ** 2)[None, None, :]
    return out


def _fill_out(coarse: _Coarse, body: Mask, envelope: str) -> Mask:
    """The outline: concavities of trunk and thighs closed, a margin where no skin is known."""
    hip, thorax = coarse.reach(coarse.sites("pelvis")), coarse.reach(coarse.sites("sternum"))
    crotch = hip[0] if hip else coarse.z[0]
    spine = coarse.reach(coarse.sites("spine"))
    top = thorax[1] + 25 if thorax else (spine[1] - 130 if spine else coarse.z[-1])
    if envelope == "":
        body = _margin(coarse, body, top)
    arm = _arms(coarse, body)
    out = body.copy()
    trunk = body & ~arm
    trunk[:, :, (coarse.z < crotch) | (coarse.z > top)] = False
    out |= _close(_pool(trunk), 7, refine=trunk.shape)
    for side in (coarse.x > 0, coarse.x <= 0):
        leg = body & side[:, None, None] & ~arm
        leg[:, :, coarse.z > crotch + 40] = False
        out |= _close(leg, 6)
    return out


def _margin(coarse: _Coarse, body: Mask, top: float) -> Mask:
    """Skin, fat and unnamed muscle around labels that come without an outline."""
    near = squared_distance(body, 4)
    radius = np.where(coarse.z > top + 100, 2.0, 3.5) ** 2
    neck = squared_distance(coarse.has(coarse.parts.chosen(class_id=1)), 10) <= 81
    return np.asarray((near <= radius[None, None, :]) | neck)


def _arms(coarse: _Coarse, body: Mask) -> Mask:
    """Voxels nearer to a bone of the arm than to one of the trunk."""
    arm, trunk = (_pool(coarse.has(coarse.sites(*s))) for s in (ARM, TRUNK))
    if not arm.any():
        return np.zeros_like(body)
    nearer = ndimage.distance_transform_edt(~arm) < ndimage.distance_transform_edt(~trunk)
    wide = np.repeat(np.repeat(np.repeat(nearer, 2, 0), 2, 1), 2, 2)
    return np.asarray(wide[tuple(slice(n) for n in body.shape)])


def _fill_canal(parts: Parts) -> None:
    """Thecal sac where the map has none, and discs where it has none."""
    spine = parts.chosen(site="spine") | parts.chosen(place="sacrum") | parts.chosen(tissue=T.DISC)
    inside = look_up(spine, parts.array)
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    view = parts.array[box]
    free = (view == AIR) | (view == FAT_FILL)
    column = inside[box]
    if not (parts.chosen(tissue=T.CSF)[view]).any():
        holes = np.zeros_like(free)
        for k in range(view.shape[2]):
            holes[:, :, k] = ndimage.binary_fill_holes(column[:, :, k]) & ~column[:, :, k]
        cord = parts.chosen(tissue=T.CORD)[view]
        reach = round(4.0 / parts.grid.spacing_mm[0])
        view[free & (holes | (squared_distance(cord, max(reach, 1)) <= reach**2))] = CSF_FILL
    if not parts.chosen(tissue=T.DISC).any():
        _fill_discs(parts, view, column)


def _fill_discs(parts: Parts, view: npt.NDArray[np.uint8], column: Mask) -> None:
    """Gaps along z between vertebrae, in front of the canal."""
    steps = round(12.0 / parts.grid.spacing_mm[2])
    closed = ndimage.binary_closing(column, np.ones((1, 1, steps + 1), bool))
    canal = (parts.chosen(tissue=T.CSF) | parts.chosen(tissue=T.CORD))[view] | (view == CSF_FILL)
    levels = canal.any(axis=(0, 1))
    rows = np.arange(view.shape[1])
    if not levels.any():
        return
    count = np.maximum(canal.sum(axis=(0, 1)), 1)
    middle = (canal.sum(axis=0) * rows[:, None]).sum(axis=0) / count
    middle = np.interp(np.arange(len(levels)), np.flatnonzero(levels), middle[levels])
    front = rows[:, None] > middle[None, :] + 6.0 / parts.grid.spacing_mm[1]
    free = (view == AIR) | (view == FAT_FILL)
    view[closed & ~column & front[None] & free] = DISC_GAP


def _fill_brain(parts: Parts) -> None:
    """Fluid in the sulci and around the brain."""
    flags = parts.chosen(tissue=T.BRAIN_WHITE)
    if not flags.any():
        return
    brain = look_up(flags, parts.array)
    boxes = ndimage.find_objects(brain.astype(np.uint8))
    if not boxes:
        return
    box = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in boxes[0])
    view = parts.array[box]
    reach = round(5.0 / parts.grid.spacing_mm[0])
    near = squared_distance(brain[box], reach) <= reach**2
    gaps = _close(brain[box], round(VENTRICLE_MM / parts.grid.spacing_mm[0]))
    gaps[:, :, : gaps.shape[2] // 4] = False  # not the orbits
    near |= gaps
    view[near & ((view == AIR) | (view == FAT_FILL))] = CSF_FILL


def _fill_dome(parts: Parts) -> None:
    """Raise liver, spleen and stomach to the diaphragm where the map leaves a gap above them."""
    flags = np.logical_or.reduce([parts.chosen(tissue=t) for t in (T.LIVER, T.SPLEEN, T.STOMACH)])
    boxes = ndimage.find_objects(look_up(flags, parts.array).astype(np.uint8))
    if not boxes:
        return
    rise = round(DOME_MM / parts.grid.spacing_mm[2])
    across, along, up = boxes[0]
    view = parts.array[across, along, up.start : up.stop + rise]
    gap = np.zeros(view.shape, bool)
    left = np.zeros(view.shape[:2], int)  # voxels a column may still rise
    for k in range((up.stop - up.start) // 2, view.shape[2]):
        own = flags[view[:, :, k]]
        left = np.where(own, rise, np.maximum(left - 1, 0))
        gap[:, :, k] = (left > 0) & (view[:, :, k] == FAT_FILL)
        left[~own & ~gap[:, :, k]] = 0
    nearest = ndimage.distance_transform_edt(
        ~flags[view], return_distances=False, return_indices=True
    )
    view[gap] = view[tuple(axis[gap] for axis in nearest)]


def _close(mask: Mask, reach: int, *, refine: tuple[int, ...] | None = None) -> Mask:
    """Concavities narrower than twice ``reach`` voxels filled; back on a grid twice as fine."""
    padded = np.pad(mask, reach + 1)
    grown = squared_distance(padded, reach) <= reach**2
    closed = squared_distance(~grown, reach) > reach**2
    core = closed[tuple(slice(reach + 1, -reach - 1) for _ in range(3))]
    if refine is None:
        return np.asarray(core)
    return _double(ndimage.gaussian_filter(core.astype(np.float32), 0.7), refine) > 0.5


def _pool(mask: Mask) -> Mask:
    """Half as many voxels an axis: set where any of the eight is."""
    for axis in range(3):
        if mask.shape[axis] % 2:
            width = [(0, 0)] * 3
            width[axis] = (0, 1)
            mask = np.pad(mask, width)
        view = np.moveaxis(mask, axis, 0)
        mask = np.moveaxis(view[0::2] | view[1::2], 0, axis)
    return np.ascontiguousarray(mask)


def _double(coarse: Field, shape: tuple[int, ...]) -> Field:
    """Linear interpolation onto a grid twice as fine."""
    out = coarse.astype(np.float32)
    for axis in (2, 1, 0):  # the largest pass goes along whole planes
        size = list(out.shape)
        size[axis] *= 2
        fine = np.empty(size, np.float32)
        for parity, (first, second) in enumerate(((0, 1), (1, 0))):
            near = 0.75 * out
            here = _cut(axis, second, -first or None)  # those with a neighbour on this side
            near[here] += 0.25 * out[_cut(axis, first, -second or None)]
            edge = _cut(axis, 0, 1) if parity == 0 else _cut(axis, -1, None)
            near[edge] += 0.25 * out[edge]
            fine[_cut(axis, parity, None, 2)] = near
        out = fine
    return np.ascontiguousarray(out[tuple(slice(n) for n in shape)])


def _cut(axis: int, start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
    """Index that cuts one of three axes."""
    index = [slice(None)] * 3
    index[axis] = slice(start, stop, step)
    return tuple(index)
