"""Affines, orientation, grids and resampling.

World coordinates are RAS+ in millimetres everywhere. DICOM's LPS exists only inside
:mod:`osteosap.dicom`, which converts with :func:`flip_lps_ras`, the only such function.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.errors import GeometryError

__all__ = [
    "Affine",
    "Array",
    "Grid",
    "covering_box",
    "crop_grid",
    "flip_lps_ras",
    "inside_of",
    "make_affine",
    "resample",
    "spacing_of",
    "to_ras",
]

Array = npt.NDArray[np.generic]
Affine = npt.NDArray[np.float64]

_ON_FACE = 1e-3
"""Voxels by which a centre may miss a face and still count as on it."""


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel edge lengths in mm of a 4x4 affine."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    return float(i), float(j), float(k)


def make_affine(
    spacing_mm: tuple[float, float, float], origin_mm: tuple[float, float, float]
) -> Affine:
    """Axis-aligned RAS affine from voxel spacing and the centre of voxel (0, 0, 0)."""
    affine = np.diag([*spacing_mm, 1.0]).astype(np.float64)
    affine[:3, 3] = origin_mm
    return affine


def flip_lps_ras(affine: Affine) -> Affine:
    """Convert a 4x4 affine from LPS to RAS world coordinates, or back (its own inverse)."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, dtype=np.float64)


@dataclass(frozen=True)
class Grid:
    """A voxel lattice in space.

    Parameters
    ----------
    shape
        Voxels along I, J, K.
    affine
        4x4, voxel index to RAS mm (voxel centres).
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(
                f"the affine has shape {affine.shape} or values that are not finite; "
                "expected a finite 4x4 matrix",
                remedy="Check the header of the image",
            )
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError(
                f"the affine is singular (spacing {spacing_of(affine)} mm)",
                remedy="Check the header of the image",
            )
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        return spacing_of(self.affine)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    def same_as(self, other: Grid, *, tolerance_mm: float = 0.1) -> bool:
        """Whether two grids share shape and, within a tolerance at every corner, position."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        difference = (self.affine - other.affine)[:3] @ np.vstack([corners, np.ones(8)])
        return bool(np.abs(difference).max() <= tolerance_mm)

    def require_same(self, other: Grid, *, what: str) -> None:
        """Raise :class:`GeometryError` unless both grids are the same."""
        if not self.same_as(other):
            raise GeometryError(
                f"{what} are on different grids: {self.describe()} and {other.describe()}",
                remedy="Resample one onto the other before use",
            )

    def describe(self) -> str:
        """One line: shape, spacing, position of the first voxel."""
        spacing = "x".join(f"{s:.3g}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.1f}" for o in self.affine[:3, 3])
        return f"{'x'.join(map(str, self.shape))} voxels of {spacing} mm from ({origin}) mm"

    def with_spacing(self, spacing_mm: tuple[float, float, float]) -> Grid:
        """Grid over the same box with another spacing (outer faces of the first voxel agree)."""
        old = np.asarray(self.spacing_mm)
        new = np.asarray(spacing_mm, dtype=np.float64)
        shape = np.maximum(1, np.ceil(np.asarray(self.shape) * old / new - 1e-6)).astype(int)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] / old * new
        affine[:3, 3] = self.affine[:3, 3] + self.affine[:3, :3] @ ((new / old - 1.0) / 2.0)
        return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def to_ras(array: Array, affine: Affine, *, contiguous: bool = True) -> tuple[Array, Affine]:
    """Permute and flip the last three axes so that they run closest to R, A and S.

    Parameters
    ----------
    array
        Shape (..., I, J, K).
    affine
        4x4, index to RAS mm.
    contiguous
        Copy to C order; False gives a view, in the order in which the voxels lie in memory.

    Returns
    -------
    array, affine
        The same voxels at the same places; no interpolation.
    """
    orientation = nib.orientations.io_orientation(affine)
    if np.isnan(orientation).any():
        raise GeometryError("the affine drops an axis", remedy="Check the header of the image")
    lead = array.ndim - 3
    moved = np.moveaxis(array, range(lead), range(-lead, 0)) if lead else array
    turned = nib.orientations.apply_orientation(moved, orientation)
    turned = np.moveaxis(turned, range(-lead, 0), range(lead)) if lead else turned
    new_affine = affine @ nib.orientations.inv_ornt_aff(orientation, array.shape[-3:])
    turned = np.ascontiguousarray(turned) if contiguous else turned
    return turned, np.asarray(new_affine, dtype=np.float64)


def resample(
    array: Array,
    source: Grid,
    target: Grid,
    *,
    order: int = 1,
    fill: float = 0.0,
    antialias: bool = True,
) -> Array:
    """Resample one 3D array from its grid onto another.

    The image reaches to the faces of its outer voxels, not only to their centres: a slice of
    5 mm is an image of 5 mm. Between the outer centres and the faces lies the outer voxel's value.

    Parameters
    ----------
    array
        Shape (I, J, K) on ``source``.
    source, target
        Grids in RAS mm, with the same directions or not.
    order
        0 nearest, 1 linear, 3 cubic spline.
    fill
        Value outside the source (:func:`inside_of`).
    antialias
        Smooth before sampling where the target is coarser (never with ``order=0``).

    Returns
    -------
    array
        Shape ``target.shape``; float32 unless ``order=0``, which keeps the type.
    """
    if array.shape != source.shape:
        raise GeometryError(
            f"the array has shape {array.shape}, its grid {source.shape}",
            remedy="Pass the grid that belongs to the array",
        )
    data = array if order == 0 else array.astype(np.float32, copy=False)
    if source.same_as(target, tolerance_mm=1e-3):
        return data
    result = np.full(target.shape, fill, dtype=data.dtype)
    box = covering_box(source, target)
    if any(s.stop <= s.start for s in box):
        return result
    part = crop_grid(target, box)
    matrix = np.linalg.inv(source.affine) @ part.affine
    if order > 0 and antialias:
        step = np.linalg.norm(matrix[:3, :3], axis=1)
        sigma = 0.5 * np.sqrt(np.maximum(step**2 - 1.0, 0.0))
        if (sigma > 0.05).any():
            data = ndimage.gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
    off_diagonal = matrix[:3, :3] - np.diag(np.diag(matrix[:3, :3]))
    diagonal = bool(np.abs(off_diagonal).max() < 1e-9)
    ndimage.affine_transform(
        data,
        np.diag(matrix[:3, :3]) if diagonal else matrix[:3, :3],
        offset=matrix[:3, 3],
        output_shape=part.shape,
        output=result[box],
        order=order,
        mode="nearest",
        prefilter=order > 1,
    )
    result[box][~inside_of(source, part)] = fill
    return result


def inside_of(source: Grid, target: Grid) -> npt.NDArray[np.bool_]:
    """Which voxels of ``target`` have their centre inside the outer faces of ``source``."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    j, k = np.ogrid[: target.shape[1], : target.shape[2]]
    inside = np.ones(target.shape, bool)
    for axis, n in enumerate(source.shape):
        plane = matrix[axis, 1] * j + matrix[axis, 2] * k + matrix[axis, 3]
        for i in range(target.shape[0]):  # plane by plane: whole-body grids have 26 M voxels
            place = plane + matrix[axis, 0] * i
            inside[i] &= (place >= -0.5 - _ON_FACE) & (place <= n - 0.5 + _ON_FACE)
    return inside


def crop_grid(grid: Grid, box: tuple[slice, ...]) -> Grid:
    """The grid of ``array[box]``; slices need explicit, non-negative bounds."""
    affine = grid.affine.copy()
    affine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ [s.start for s in box]
    i, j, k = (s.stop - s.start for s in box)
    return Grid((i, j, k), affine)


def covering_box(source: Grid, target: Grid) -> tuple[slice, slice, slice]:
    """Voxels of ``target`` that the faces of ``source`` enclose, as non-negative slices."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in source.shape])).reshape(3, -1)
    places = (np.linalg.inv(target.affine) @ source.affine @ np.vstack([corners, np.ones(8)]))[:3]
    start = np.clip(np.floor(places.min(axis=1)), 0, target.shape).astype(int)
    stop = np.clip(np.ceil(places.max(axis=1)) + 1, 0, target.shape).astype(int)
    slices = [slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)]
    return slices[0], slices[1], slices[2]
