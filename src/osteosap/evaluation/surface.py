"""Distances between the surfaces of two masks: normalised surface Dice and Hausdorff distance.

A surface runs between voxels: every corner of the voxel grid whose eight voxels are neither all
inside nor all outside carries a piece of it (a surfel) with the area of the marching-cubes
surface there. Distances are those between such corners. Areas and definition are those of
Nikolov et al. 2021 (doi 10.2196/26151) and of their package ``surface-distance`` (Apache-2.0),
from which the triangulation of the 256 cases comes; tests compare with it and with MONAI.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from osteosap.errors import ConfigError, GeometryError
from osteosap.geometry import Array

__all__ = ["SurfaceDistances", "surface_distances"]

_TRIANGLES = """
- 111 111 220220 111 202202 111111 111222400 111 111111 202202 111222400 220220 111222400
111222400 400400 111 022022 111111 040111222 111111 004111222 111111111 111111222222
111111 022022111 111202202 022111202333 111220220 022111220333 111111222400 111222400 111
111111 022022 040111222 111111 111202202 022022111 022111202333 111111 111111111 004111222
111111222222 111220220 111111222400 022111220333 111222400 220220 040111222 040111222
040040 111220220 111202220333 040111111222 040111222 111220220 040111111222 111202220333
040111222 220220220220 111220220 111220220 220220 111 111111 111111 111220220 022022
004111222 022022111 022111220333 111111 111111111 111202202 111111222400 040111222
111111222222 022111202333 111222400 202202 004111222 111202202 111202220333 004111222
004004 004111111222 004111222 111202202 004111111222 202202202202 111202202 111202220333
004111222 111202202 202202 111111 111111111 022022111 040111111222 022022111 004111111222
022022022022 022022111 111111111 111111111111 004111111222 111111111 040111111222
111111111 022022111 111111 111222400 111111222222 022111202333 040111222 022111220333
004111222 022022111 022022 111111222400 111111111 111202202 111111 111220220 111111 111111
111
"""
"""Cases 0 to 127; 255 - n has the surface of n. Of each triangle |x|, |y|, |z| of its normal, in
eighths; its length is the triangle's area in voxel faces. Bit order: :data:`_BITS`."""

_BITS = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]], dtype=np.uint8)
"""Weight of the voxel at offset (i, j, k) from a corner's first voxel."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Surfels of two masks, and how far each is from the other mask's surface.

    Parameters
    ----------
    reference_mm, prediction_mm
        Distance of each surfel to the other surface in mm; infinite where the other is empty.
    reference_mm2, prediction_mm2
        Area of each surfel in mm2.
    """

    reference_mm: npt.NDArray[np.float64]
    prediction_mm: npt.NDArray[np.float64]
    reference_mm2: npt.NDArray[np.float64]
    prediction_mm2: npt.NDArray[np.float64]

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces within a tolerance of each other (NSD); NaN without a surface.

        References
        ----------
        Nikolov et al. 2021, doi 10.2196/26151.
        """
        if tolerance_mm < 0.0:
            raise ConfigError(f"a tolerance of {tolerance_mm} mm", remedy="Use 0 mm or more")
        whole = self.reference_mm2.sum() + self.prediction_mm2.sum()
        near = (
            self.reference_mm2[self.reference_mm <= tolerance_mm].sum()
            + self.prediction_mm2[self.prediction_mm <= tolerance_mm].sum()
        )
        return float(near / whole) if whole else math.nan

    def hausdorff_mm(self, percent: float = 95.0) -> float:
        """Larger of the two directed distances that ``percent`` of the area stays within.

        NaN without any surface, infinite with one only.
        """
        values = [
            _area_percentile(distance, area, percent)
            for distance, area in (
                (self.reference_mm, self.reference_mm2),
                (self.prediction_mm, self.prediction_mm2),
            )
            if distance.size
        ]
        return max(values) if values else math.nan

    def mean_mm(self) -> float:
        """Mean of the two directed mean distances, weighted by area; NaN without a surface."""
        values = [
            float(np.average(distance, weights=area))
            for distance, area in (
                (self.reference_mm, self.reference_mm2),
                (self.prediction_mm, self.prediction_mm2),
            )
            if distance.size
        ]
        return float(np.mean(values)) if values else math.nan


def surface_distances(
    reference: Array, prediction: Array, spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Distances between the surfaces of two masks.

    Time and memory follow the boxes handed over: pass crops, not whole bodies.

    Parameters
    ----------
    reference, prediction
        Masks (I, J, K) of one grid; everything that is not 0 is inside, everything beyond the
        arrays is outside.
    spacing_mm
        Of the voxels.

    Raises
    ------
    GeometryError
        Shapes differ or are not three-dimensional.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.zeros((2, 6, 6, 6), bool)
    >>> a[1:5, 1:5, 1:5] = b[2:5, 1:5, 1:5] = True
    >>> found = surface_distances(a, b, (2.0, 2.0, 2.0))
    >>> found.surface_dice(2.0), found.hausdorff_mm(100)
    (1.0, 2.0)
    """
    if reference.shape != prediction.shape or reference.ndim != 3:
        raise GeometryError(
            f"masks of shapes {reference.shape} and {prediction.shape}, expected one shape of "
            "three axes",
            remedy="Bring both onto one grid first",
        )
    areas = _areas(spacing_mm)
    sides = [_surfels(mask != 0, areas, spacing_mm) for mask in (reference, prediction)]
    (places, area), (other_places, other_area) = sides
    return SurfaceDistances(
        _nearest(places, other_places), _nearest(other_places, places), area, other_area
    )


def _surfels(
    mask: npt.NDArray[np.bool_],
    areas: npt.NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Places (n, 3) in mm and areas (n,) of the corners that carry surface."""
    hit = np.flatnonzero(mask.any(axis=(1, 2)))
    if not hit.size:
        return np.empty((0, 3)), np.empty(0)
    padded = np.pad(mask.astype(np.uint8), 1)
    i, j, k = padded.shape
    code = np.zeros((i - 1, j - 1, k - 1), dtype=np.uint8)
    for (a, b, c), bit in np.ndenumerate(_BITS):
        code += bit * padded[a : a + i - 1, b : b + j - 1, c : c + k - 1]
    corners = np.nonzero((code != 0) & (code != 255))
    places = np.stack(corners, axis=1) * np.asarray(spacing_mm)
    return places.astype(np.float64), areas[code[corners]]


def _nearest(
    places: npt.NDArray[np.float64], others: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    if not len(places) or not len(others):
        return np.full(len(places), np.inf)
    return np.asarray(cKDTree(others).query(places)[0], dtype=np.float64)


@functools.lru_cache(maxsize=64)
def _areas(spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Area in mm2 of each of the 256 cases."""
    x, y, z = spacing_mm
    faces = np.array([y * z, x * z, x * y])
    half = []
    for case in _TRIANGLES.split():
        digits = [int(d) for d in case if d != "-"]
        normals = np.array(digits, dtype=np.float64).reshape(-1, 3) / 8.0 * faces
        half.append(float(np.linalg.norm(normals, axis=1).sum()))
    return np.array(half + half[::-1])


def _area_percentile(
    distance: npt.NDArray[np.float64], area: npt.NDArray[np.float64], percent: float
) -> float:
    order = np.argsort(distance, kind="stable")
    reached = np.cumsum(area[order]) / area.sum()
    place = min(int(np.searchsorted(reached, percent / 100.0 - 1e-12)), len(order) - 1)
    return float(distance[order[place]])
