"""DWI to T1: every station rigidly, then by a smooth displacement along the phase direction.

Echo-planar images are distorted along the phase direction alone, by the magnetic field. The body
bends the field in a way that its own shape tells, so a pattern computed from T1 comes first; what
it leaves is found by B-splines that cost what they bend.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from osteosap.config import StageConfig
from osteosap.errors import GeometryError, VolumeError
from osteosap.geometry import Affine, Grid, crop_grid, inside_of, resample
from osteosap.preprocess.alignment import DwiAlignment
from osteosap.preprocess.body import foreground_threshold
from osteosap.preprocess.distortion import (
    DistortionSearch,
    Level,
    evened,
    find_distortion,
    unfolded,
)
from osteosap.preprocess.information import mutual_information
from osteosap.preprocess.rigid import RigidSearch, find_rigid
from osteosap.preprocess.susceptibility import field_pattern
from osteosap.volume import Volume

__all__ = [
    "DwiAlignment",
    "DwiRegistrationConfig",
    "coverage_of",
    "mutual_information",
    "phase_axis",
    "register_station",
    "require_coverage",
    "tissue_outside",
]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_VOXELS = 2000
"""Fewest body voxels (of the working spacing) that are worth a registration."""
LEVELS = ((4.0, 8.0, 6), (2.0, 6.0, 4), (1.0, 4.0, 2))
"""Of the displacement: factor of the control distance, smoothing in mm, one voxel in how many."""
REACH_MM = 120.0
"""T1 further than this from a station is not looked at."""
MAX_FOLDED = 0.1
"""Largest share of the lattice that may fold before it is unfolded; else it is rejected."""


class DwiRegistrationConfig(StageConfig):
    """How a DWI station is brought to T1."""

    enabled: bool = True
    """Register DWI to T1; off, scanner coordinates are trusted."""
    rigid: bool = True
    """Move every station."""
    rotation: bool = False
    """Turn it, too. Distortion looks like a turn, which then cannot be told from one."""
    bspline: bool = True
    """Then displace it smoothly, for the distortion of echo-planar images."""
    spacing_mm: float = Field(default=3.0, gt=0)
    """Voxel at which images are compared."""
    search_mm: float = Field(default=12.0, ge=0)
    """Translations up to this along each axis are tried before the fine search."""
    max_shift_mm: float = Field(default=25.0, gt=0)
    """A rigid motion that moves the body further is rejected."""
    control_point_mm: float = Field(default=50.0, gt=0)
    """Distance of the control points of the finest B-spline level."""
    stiffness: float = Field(default=0.0003, ge=0)
    """Price of bending: nats per mean square (mm) of the control points' second differences."""
    iterations: int = Field(default=40, ge=1)
    """Most steps of the optimiser at each of the three levels."""
    max_displacement_mm: float = Field(default=45.0, gt=0)
    """No control point is displaced further; rejected if 1 % of the body is displaced by more."""
    min_gain: float = Field(default=0.01, ge=0)
    """A motion or displacement that adds less mutual information (nats) is rejected."""
    min_information: float = Field(default=0.2, ge=0)
    """A displacement is rejected if T1 and DWI then still share less (nats). Simulated ones share
    0.35 and more; on the one real study at hand, which lies right as it is, 0.14 to 0.16, by
    squashing the bladder."""
    directions: Literal["phase", "all"] = "phase"
    """Displace along the phase direction (the in-plane axis nearest to A-P), or then along all."""
    susceptibility: bool = True
    """Start from the pattern of the field that the body's shape on T1 predicts."""


def coverage_of(body: Numbers, target: Grid, source: Grid) -> float:
    """Share of the body (mask on ``target``, not empty) in the field of view of ``source``."""
    return float(inside_of(source, target)[body > 0].mean())


def tissue_outside(image: Numbers, grid: Grid, view: Grid) -> float:
    """Share of the tissue on an image (signal above air) that lies outside a field of view."""
    return float(1.0 - inside_of(view, grid)[image > foreground_threshold(image)].mean())


def require_coverage(share: float, *, minimum: float) -> None:
    """Raise :class:`GeometryError` if the DWI covers too little of the T1 body."""
    if share < minimum:
        raise GeometryError(
            f"the DWI covers {share:.1%} of the body on the T1, expected at least {minimum:.0%}",
            remedy="Check that T1 and DWI are of one examination and the same patient position",
        )


def register_station(
    t1: Volume, body: Numbers, dwi: Volume, *, config: DwiRegistrationConfig
) -> DwiAlignment:
    """Where a DWI station shows what T1 shows.

    Parameters
    ----------
    t1
        One channel, stitched.
    body
        Body mask on the grid of ``t1``.
    dwi
        One channel, the lowest b-value of one station; best without bias.
    config
        Settings.

    Returns
    -------
    alignment
        Scanner coordinates are trusted where nothing better is found; its reason says so.

    References
    ----------
    Mattes et al. 2003, doi 10.1109/TMI.2003.809072; order of the steps after Ceranka et al. 2023,
    doi 10.1016/j.cmpb.2023.107811; the field's pattern as a start is ours.
    """
    still = np.eye(4)
    if not config.enabled:
        return DwiAlignment(still, reason="off in the settings")
    try:
        levels = [foreground_threshold(v.array[0]) for v in (t1, dwi)]
    except VolumeError:
        return DwiAlignment(still, reason="not registered: T1 or DWI holds no signal")
    pair = _Pair.of(t1, body, dwi, level=levels[0], config=config)
    shown = int((pair.look(still)[1] & inside_of(pair.t1_grid, pair.grid)).sum())
    if shown < MIN_VOXELS:
        said = f"not registered: {shown} body voxels of {config.spacing_mm:g} mm in the station"
        return DwiAlignment(still, reason=f"{said}, {MIN_VOXELS} needed")
    before = pair.information(still)
    found = DwiAlignment(still, before=before, after_rigid=before, after=before)
    try:
        if config.rigid:
            found = _rigidly(pair, found, config)
        return _displaced(pair, found, config) if config.bspline else found
    except RuntimeError:  # of SimpleITK: nothing of the one lies on the other any more
        said = "not registered: the search left the body"
        return DwiAlignment(still, before=before, reason=said, warning=said)


@dataclass(frozen=True)
class _Pair:
    """T1 and one DWI station, brought to a coarse lattice along the station's axes."""

    t1: Floats
    t1_grid: Grid
    body: Mask
    tissue: Mask
    moving: Floats
    grid: Grid
    axis: int

    @classmethod
    def of(
        cls,
        t1: Volume,
        body: Numbers,
        dwi: Volume,
        *,
        level: float,
        config: DwiRegistrationConfig,
    ) -> _Pair:
        spacing = np.maximum(dwi.spacing_mm, config.spacing_mm)
        grid = dwi.grid.with_spacing((float(spacing[0]), float(spacing[1]), float(spacing[2])))
        moving = np.asarray(resample(dwi.array[0], dwi.grid, grid), np.float32)
        box = _around(dwi.grid, t1.grid)
        part = crop_grid(t1.grid, box)
        image = np.asarray(t1.array[0][box], np.float32)
        inside = np.asarray(body[box]) > 0
        tissue = inside & (image > level)
        wider = np.maximum(config.spacing_mm / np.asarray(part.spacing_mm), 1.0)
        smooth = ndimage.gaussian_filter(image, 0.5 * np.sqrt(wider**2 - 1.0))
        return cls(smooth, part, inside, tissue, moving, grid, phase_axis(dwi.grid))

    def look(self, rigid: Affine) -> tuple[Floats, Mask]:
        """T1 and the body's mask on the lattice, seen through a motion from T1 to DWI."""
        seen = Grid(self.grid.shape, np.linalg.inv(rigid) @ self.grid.affine)
        fixed = np.asarray(resample(self.t1, self.t1_grid, seen, antialias=False), np.float32)
        body = resample(self.body.astype(np.uint8), self.t1_grid, seen, order=0)
        return fixed, np.asarray(body, dtype=np.bool_)

    def warped(self, displacement: Doubles) -> Floats:
        """The DWI on the lattice with a displacement (3, I, J, K) in voxels undone."""
        index = np.indices(self.grid.shape, dtype=np.float64) + displacement
        return np.asarray(
            ndimage.map_coordinates(self.moving, index, order=1, mode="nearest"), np.float32
        )

    def information(self, rigid: Affine, displacement: Doubles | None = None) -> float:
        """Mutual information inside the body, in nats."""
        fixed, mask = self.look(rigid)
        if mask.sum() < MIN_VOXELS:
            return 0.0
        moving = self.moving if displacement is None else self.warped(displacement)
        images = [evened(image, mask) for image in (fixed, moving)]
        return mutual_information(images[0], images[1], mask)

    def motion(self, rigid: Affine, moving: Floats, search: RigidSearch) -> Affine:
        """A motion that agrees better with an image on the lattice than ``rigid``."""
        fixed, mask = self.look(rigid)
        mask = np.asarray(ndimage.binary_dilation(mask, iterations=2))
        images = [evened(image, mask) for image in (fixed, moving)]
        more = find_rigid(images[0], mask, self.grid, images[1], self.grid, search=search)
        return np.asarray(more @ rigid)

    def pattern(self, rigid: Affine, mask: Mask) -> Doubles | None:
        """Shape of the field that the body makes, on the lattice."""
        seen = Grid(self.grid.shape, np.linalg.inv(rigid) @ self.grid.affine)
        return field_pattern(self.tissue, self.t1_grid, seen, mask=mask)

    def reach(self, rigid: Affine) -> float:
        """Largest movement in mm of the body's box by a motion."""
        where = np.argwhere(self.look(np.eye(4))[1])
        low, high = where.min(axis=0), where.max(axis=0)
        ends = [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
        corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
        points = self.grid.affine[:3, :3] @ corners + self.grid.affine[:3, 3:]
        moved = rigid[:3, :3] @ points + rigid[:3, 3:]
        return float(np.linalg.norm(moved - points, axis=0).max())


def _rigidly(pair: _Pair, found: DwiAlignment, config: DwiRegistrationConfig) -> DwiAlignment:
    """The alignment with a rigid motion, if that is better."""
    motion = pair.motion(found.rigid, pair.moving, RigidSearch(reach_mm=config.search_mm))
    if config.rotation and not config.bspline:
        motion = pair.motion(motion, pair.moving, RigidSearch(rotation=True))
    after, shift = pair.information(motion), pair.reach(motion)
    said = f"mutual information {found.before:.4f} to {after:.4f}, shift {shift:.1f} mm"
    if shift > config.max_shift_mm:
        said = f"rigid alone rejected: {said} (limit {config.max_shift_mm:g})"
        return replace(found, reason=said, warning=said)
    if after < found.before + config.min_gain:
        return replace(
            found, reason=f"rigid alone rejected, gain below {config.min_gain:g}: {said}"
        )
    said = f"rigid alone accepted: {said}"
    found = replace(found, after_rigid=after, after=after, reason=said)
    return replace(found, rigid=motion, rigid_accepted=True, shift_mm=shift)


def _displaced(pair: _Pair, found: DwiAlignment, config: DwiRegistrationConfig) -> DwiAlignment:
    """The alignment with a displacement, if that is better; the motion is refined on the way."""
    search = DistortionSearch(
        pair.grid.spacing_mm,
        pair.axis,
        config.stiffness,
        config.max_displacement_mm,
        config.iterations,
    )
    rigid, pattern = found.rigid, None
    move: Doubles = np.zeros(pair.grid.shape)
    levels = [Level(f * config.control_point_mm, smooth, keep) for f, smooth, keep in LEVELS]
    for number, level in enumerate(levels):
        fixed, mask = pair.look(rigid)
        if number == 0 and config.susceptibility:
            pattern = pair.pattern(rigid, mask)
        move = find_distortion(
            fixed, mask, pair.moving, level=level, search=search, start=move, pattern=pattern
        )
        if config.rigid and number < len(levels) - 1:
            more = RigidSearch(rotation=config.rotation)
            rigid = pair.motion(rigid, pair.warped(_along(move, pair)), more)
    move, folded = unfolded(move, pair.grid.spacing_mm[pair.axis], axis=pair.axis)
    whole = _along(move, pair)
    if config.directions == "all":
        whole = _along_others(pair, rigid, whole, levels[-1], search)
    return _judged(pair, found, rigid, whole, folded=folded, config=config)


def _along(move: Doubles, pair: _Pair) -> Doubles:
    """A displacement (mm) along the phase axis as a field (3, I, J, K) in voxels."""
    field = np.zeros((3, *move.shape))
    field[pair.axis] = move / pair.grid.spacing_mm[pair.axis]
    return field


def _along_others(
    pair: _Pair, rigid: Affine, field: Doubles, level: Level, search: DistortionSearch
) -> Doubles:
    """A displacement (voxels), improved along the two axes that are not the phase's."""
    fixed, mask = pair.look(rigid)
    for axis in (a for a in range(3) if a != pair.axis):
        step = pair.grid.spacing_mm[axis]
        turned = replace(search, axis=axis)
        move = find_distortion(fixed, mask, pair.warped(field), level=level, search=turned)
        move = unfolded(move, step, axis=axis)[0] / step
        index = np.indices(pair.grid.shape, dtype=np.float64)
        index[axis] += move
        field = np.stack(
            [ndimage.map_coordinates(f, index, order=1, mode="nearest") for f in field]
        )
        field[axis] += move
    return field


def _judged(
    pair: _Pair,
    found: DwiAlignment,
    rigid: Affine,
    field: Doubles,
    *,
    folded: float,
    config: DwiRegistrationConfig,
) -> DwiAlignment:
    """The displaced alignment, or the one found before where it is not to be trusted."""
    after = pair.information(rigid, field)
    by_mm = pair.grid.affine[:3, :3]
    displacement = np.tensordot(by_mm, field, axes=1).astype(np.float32)
    length = np.linalg.norm(displacement, axis=0)
    inside = length[pair.look(rigid)[1]]
    largest, shift = float(np.percentile(inside, 99)), pair.reach(rigid)
    said = f"mutual information {found.after_rigid:.4f} to {after:.4f}, "
    said += f"99 % of the body within {largest:.1f} mm"
    problem = ""
    if after < found.after_rigid + config.min_gain:
        problem = f"gain below {config.min_gain:g}"
    elif after < config.min_information:
        problem = f"they share too little to trust it ({config.min_information:g} needed)"
    elif largest > config.max_displacement_mm:
        problem = f"beyond {config.max_displacement_mm:g} mm"
    elif folded > MAX_FOLDED:
        problem = f"{folded:.1%} of the lattice folds"
    elif shift > config.max_shift_mm:
        problem = f"it comes with a shift of {shift:.1f} mm (limit {config.max_shift_mm:g})"
    before = f"{found.reason}; " if found.reason else ""
    if problem:
        said = f"B-spline rejected, {problem}: {said}"
        return replace(found, reason=f"{before}{said}", warning=said)
    return replace(
        found,
        rigid=rigid,
        displacement_mm=displacement,
        displacement_grid=pair.grid,
        rigid_accepted=config.rigid,
        bspline_accepted=True,
        after=after,
        shift_mm=shift,
        largest_displacement_mm=largest,
        reason=f"{before}B-spline accepted, with a shift of {shift:.1f} mm: {said}",
    )


def _around(station: Grid, grid: Grid) -> tuple[slice, slice, slice]:
    """Voxels of a grid within ``REACH_MM`` of a station."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in station.shape])).reshape(3, -1)
    matrix = np.linalg.inv(grid.affine) @ station.affine
    index = matrix[:3, :3] @ corners + matrix[:3, 3:]
    reach = REACH_MM / np.asarray(grid.spacing_mm)
    ends = np.asarray(grid.shape)
    low = np.clip(np.floor(index.min(axis=1) - reach), 0, ends - 1).astype(int)
    high = np.clip(np.ceil(index.max(axis=1) + reach) + 1, low + 1, ends).astype(int)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def phase_axis(grid: Grid) -> int:
    """Phase axis of an echo-planar image: the index axis nearest to A that is not the slices'."""
    spacing = np.asarray(grid.spacing_mm)
    toward = np.abs(grid.affine[1, :3] / spacing)
    thick = int(spacing.argmax())
    if spacing[thick] > 1.2 * np.median(spacing):
        toward[thick] = -1.0
    return int(toward.argmax())
