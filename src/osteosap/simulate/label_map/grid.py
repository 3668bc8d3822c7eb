"""The grid on which a label map is worked on: isotropic, axis-aligned, centred on the spine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.label_map.deformation import Sampler, look_up
from osteosap.simulate.label_map.names import Meaning

__all__ = ["working_grid"]

Ids = npt.NDArray[np.uint8]

WORKING_MM = 2.0
HALF_WIDTH_MM = 300.0  # of the map; the arms of a wider one are cut
LOWEST_VERTEBRA_Z = -90.0  # where the lower end of L5 comes to lie, as in a drawn person


def working_grid(
    ids: Ids, grid: Grid, meanings: list[Meaning], *, air_mm: float
) -> tuple[Ids, Grid]:
    """Bring a map onto a grid of about 2 mm with the spine at x = 0 and y = 0.

    Parameters
    ----------
    ids, grid
        uint8 (I, J, K), axes near R, A and S, at any angle and spacing.
    meanings
        What each number is.
    air_mm
        Air laid at the sides and the top; the lower face, at the femur's lower end, is a cut.
    """
    ids, grid = _field_of_view(ids, grid, meanings)
    ids, grid = _even(ids, grid, air_mm)
    return _centred(ids, grid, meanings)


def _field_of_view(ids: Ids, grid: Grid, meanings: list[Meaning]) -> tuple[Ids, Grid]:
    """Cut below the femur, with a little air at the top."""
    flags = _of_site(meanings, "femur")
    used = np.flatnonzero((ids > 0).any(axis=(0, 1)))
    femur = np.flatnonzero(look_up(flags, ids).any(axis=(0, 1)))
    part = ids[:, :, femur[0] : used[-1] + 1]
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * femur[0]
    return part, Grid((part.shape[0], part.shape[1], part.shape[2]), affine)


def _of_site(meanings: list[Meaning], site: str) -> npt.NDArray[np.bool_]:
    flags = np.zeros(256, bool)
    flags[: len(meanings)] = [m.site == site for m in meanings]
    return flags


def _even(ids: Ids, grid: Grid, air_mm: float) -> tuple[Ids, Grid]:
    """The map on an isotropic, axis-aligned grid of about 2 mm, air at its sides and top."""
    boxes = [np.flatnonzero((ids > 0).any(axis=tuple({0, 1, 2} - {a})))[[0, -1]] for a in range(3)]
    spacing = np.array(grid.spacing_mm)
    diagonal = np.allclose(grid.affine[:3, :3], np.diag(spacing), atol=1e-3 * spacing.min())
    even = np.ptp(spacing) < 0.02 * spacing.min() and 1.6 <= spacing.min() <= 2.5
    air = round(air_mm / float(spacing.min()))
    if diagonal and even:
        sides = tuple(slice(int(b[0]), int(b[1]) + 1) for b in boxes)
        out = np.pad(ids[sides], ((air, air), (air, air), (0, air)))
        start = np.array([b[0] for b in boxes]) - [air, air, 0]
        step = float(spacing.mean())
        origin = grid.affine[:3, 3] + start * spacing
        return out, Grid(out.shape, make_affine((step, step, step), tuple(origin.tolist())))
    return _resampled(ids, grid, air_mm)


def _resampled(ids: Ids, grid: Grid, air_mm: float) -> tuple[Ids, Grid]:
    """Any grid brought onto the working one; beyond the lower face the map goes on."""
    padded = np.pad(ids, ((1, 1), (1, 1), (0, 1)))
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, 0] + affine[:3, 1]
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in padded.shape])).reshape(3, -1)
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    lo, hi = world.min(axis=1), world.max(axis=1)
    lo[:2] -= air_mm
    hi += air_mm
    n = np.ceil((hi - lo) / WORKING_MM).astype(int)
    shape = (int(n[0]), int(n[1]), int(n[2]))
    inverse = np.linalg.inv(affine)
    sampler = Sampler.over(padded, np.zeros(padded.shape, np.float32))
    out = np.empty(shape, np.uint8)
    y, z = (lo[a] + WORKING_MM * np.arange(shape[a], dtype=np.float32) for a in (1, 2))
    nothing = np.zeros(256, bool)
    for i in range(shape[0]):
        x = lo[0] + WORKING_MM * i
        index = [
            np.ravel(row[0] * x + row[1] * y[:, None] + row[2] * z[None, :] + row[3]).astype(
                np.float32
            )
            for row in inverse[:3]
        ]
        out[i] = sampler.at(index, nothing)[0].reshape(shape[1:])
    origin = (float(lo[0]), float(lo[1]), float(lo[2]))
    return out, Grid(shape, make_affine((WORKING_MM,) * 3, origin))


def _centred(ids: Ids, grid: Grid, meanings: list[Meaning]) -> tuple[Ids, Grid]:
    """The spine at x = 0 and y = 0, its lower end at the height of a drawn person's; arms cut."""
    spine = look_up(_of_site(meanings, "spine"), ids)
    step = grid.spacing_mm[0]
    counts = [spine.sum(axis=tuple({0, 1, 2} - {a})) for a in range(3)]
    middle = [float((c * np.arange(len(c))).sum() / c.sum()) for c in counts[:2]]
    lowest = float(np.flatnonzero(counts[2])[0])
    reach = HALF_WIDTH_MM / step
    sides = slice(max(int(middle[0] - reach), 0), int(middle[0] + reach) + 1)
    part = np.ascontiguousarray(ids[sides])
    origin = (
        (sides.start - middle[0]) * step,
        -middle[1] * step,
        LOWEST_VERTEBRA_Z - lowest * step,
    )
    return part, Grid(
        (part.shape[0], part.shape[1], part.shape[2]), make_affine((step, step, step), origin)
    )
