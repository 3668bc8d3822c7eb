"""Measure candidate lesions: where, how large, which ADC, how probable.

Volumes and ADC are measurements for a reader to confirm, not a diagnosis.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from osteosap.anatomy import REGIONS, UNASSIGNED, region_of
from osteosap.config import StageConfig
from osteosap.errors import GeometryError
from osteosap.geometry import Array, Grid
from osteosap.manifest import write_text
from osteosap.regions import nearest_class

__all__ = [
    "DISCLAIMER",
    "Lesion",
    "MeasureConfig",
    "longest_diameter_mm",
    "measure_lesions",
    "measurements",
    "write_lesion_table",
]

DISCLAIMER = (
    "Research tool, not a medical device. Candidates and their measurements are to be confirmed, "
    "corrected or rejected by a reader."
)


class MeasureConfig(StageConfig):
    """Settings of the measurements."""

    touch_mm: float = Field(default=3.0, ge=0.0)
    """A lesion takes the bone class that holds most voxels inside it or this close to it."""
    nearest_mm: float = Field(default=5.0, ge=0.0)
    """Failing that, the nearest class up to this distance; farther away it is unassigned."""
    min_volume_ml: float = Field(default=1.0, gt=0.0)
    """Volume from which on lesions are also counted apart (MET-RADS-P measurability)."""


@dataclass(frozen=True)
class Lesion:
    """One candidate lesion, measured.

    Parameters
    ----------
    id
        Instance id in the lesion map.
    region
        Name of the bone class (:mod:`osteosap.anatomy`) or ``"unassigned"``.
    region_distance_mm
        From the lesion to the nearest voxel of that class; 0 inside; None when unassigned.
    met_rads_site
        MET-RADS-P site of the region; None when unassigned.
    volume_ml, n_voxels
        Voxel summation.
    longest_diameter_mm
        See :func:`longest_diameter_mm`.
    adc_mean_um2_per_s, adc_median_um2_per_s
        Over the lesion's voxels with an ADC (finite, > 0); None without any.
    probability_peak, probability_mean
        Of the network over the lesion's voxels; None without a probability map.
    centroid_ras_mm
        Mean voxel centre.
    """

    id: int
    region: str
    region_distance_mm: float | None
    met_rads_site: str | None
    volume_ml: float
    n_voxels: int
    longest_diameter_mm: float
    adc_mean_um2_per_s: float | None
    adc_median_um2_per_s: float | None
    probability_peak: float | None
    probability_mean: float | None
    centroid_ras_mm: tuple[float, float, float]

    @property
    def region_title(self) -> str:
        """The region's name for readers."""
        return _TITLES.get(self.region, "Unassigned")

    def to_row(self) -> dict[str, Any]:
        """One plain row, units in the names; what is not known is None."""
        r, a, s = self.centroid_ras_mm
        return {
            "lesion_id": self.id,
            "region": self.region,
            "region_distance_mm": _rounded(self.region_distance_mm, 1),
            "met_rads_p_site": self.met_rads_site,
            "volume_ml": _rounded(self.volume_ml, 4),
            "adc_mean_um2_per_s": _rounded(self.adc_mean_um2_per_s, 1),
            "adc_median_um2_per_s": _rounded(self.adc_median_um2_per_s, 1),
            "longest_diameter_mm": _rounded(self.longest_diameter_mm, 1),
            "probability_peak": _rounded(self.probability_peak, 4),
            "probability_mean": _rounded(self.probability_mean, 4),
            "centroid_r_mm": _rounded(r, 1),
            "centroid_a_mm": _rounded(a, 1),
            "centroid_s_mm": _rounded(s, 1),
            "n_voxels": self.n_voxels,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The lesion of a row of ``measurements.json`` (values as rounded there)."""
        r, a, s = (float(row[f"centroid_{axis}_mm"]) for axis in "ras")
        same = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        return cls(
            id=int(row["lesion_id"]),
            met_rads_site=row["met_rads_p_site"],
            centroid_ras_mm=(r, a, s),
            **same,
        )


_TITLES = {region.name: region.title for region in REGIONS}


def measure_lesions(
    lesions: Array,
    grid: Grid,
    *,
    skeleton: Array,
    probability: Array | None = None,
    adc: Array | None = None,
    config: MeasureConfig = MeasureConfig(),  # noqa: B008  (frozen)
) -> list[Lesion]:
    """Measure every instance of a lesion map, in the order of the ids.

    The region is the bone class with most voxels inside the lesion or within ``touch_mm`` of it;
    failing that the class nearest to it, up to ``nearest_mm``; failing that ``"unassigned"``
    (ribs and skull have no class; the distance in the result tells how sure a name is).

    Parameters
    ----------
    lesions
        int32 instances, shape ``grid.shape``, 0 = none.
    grid
        The lattice of all arrays.
    skeleton
        Class map.
    probability
        Lesion probability in [0, 1].
    adc
        um2/s; values that are 0, negative or not finite are left out.
    config
        Settings.

    Raises
    ------
    GeometryError
        An array does not have the shape of the grid.
    """
    named = {"lesions": lesions, "skeleton": skeleton, "probability": probability, "adc": adc}
    for what, array in named.items():
        if array is not None and array.shape != grid.shape:
            raise GeometryError(
                f"the array '{what}' has shape {array.shape}, the grid {grid.shape}",
                remedy="Resample it onto the grid of the lesions",
            )
    boxes = ndimage.find_objects(lesions)
    found = [(i, box) for i, box in enumerate(boxes, start=1) if box is not None]
    return [
        _measure(_Candidate(lesions, i, box, grid), skeleton, probability, adc, config)
        for i, box in found
    ]


def longest_diameter_mm(indices: npt.NDArray[np.integer[Any]], grid: Grid) -> float:
    """Longest 3D diameter of a set of voxels.

    The greatest distance between two voxel centres, plus the size of one voxel along that line
    (two end voxels reach half a voxel beyond their centres): a row of n cubic voxels of edge s is
    n * s long, a single voxel s. In 3D, so at least as long as what a reader measures in a slice.

    Parameters
    ----------
    indices
        Voxel indices, shape (N, 3), N >= 1.
    grid
        Their lattice.

    Returns
    -------
    diameter
        mm.
    """
    spacing = np.asarray(grid.spacing_mm)
    if len(indices) == 1:
        return float(spacing.max())
    corners = _hull_corners(indices)
    world = corners @ grid.affine[:3, :3].T
    distances = pdist(world)
    longest = int(distances.argmax())
    one, other = (int(i[longest]) for i in np.triu_indices(len(corners), k=1))
    step = (corners[one] - corners[other]) * spacing
    along = step / np.linalg.norm(step)
    return float(distances[longest] + np.linalg.norm(along * spacing))


def measurements(
    lesions: Sequence[Lesion],
    lesion_map: Array,
    *,
    adc: Array | None = None,
    config: MeasureConfig = MeasureConfig(),  # noqa: B008  (frozen)
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measurements of the whole exam: counts, burden, ADC, per region. JSON-able.

    Parameters
    ----------
    lesions
        From :func:`measure_lesions`.
    lesion_map
        The instances they were measured on.
    adc
        um2/s, on the same grid; its statistics go over the union of all lesion voxels.
    config
        Settings, written with the result.
    provenance
        Where the numbers come from (weights, versions, inputs), written as it is.
    """
    large = [x for x in lesions if x.volume_ml >= config.min_volume_ml - 1e-9]
    regions = {}
    for name in [*_TITLES, UNASSIGNED]:
        here = [x for x in lesions if x.region == name]
        if here:
            regions[name] = {
                "n_candidates": len(here),
                "n_large": sum(x in large for x in here),
                "volume_ml": round(sum(x.volume_ml for x in here), 4),
                "met_rads_p_site": here[0].met_rads_site,
            }
    values = None if adc is None else _valid_adc(adc[lesion_map != 0])
    return {
        "notice": DISCLAIMER,
        "settings": config.to_mapping(),
        "n_candidates": len(lesions),
        "n_large": len(large),
        "burden_ml": round(sum(x.volume_ml for x in lesions), 4),
        "burden_large_ml": round(sum(x.volume_ml for x in large), 4),
        "adc_um2_per_s": _adc_summary(values),
        "regions": regions,
        "lesions": [x.to_row() for x in lesions],
        "provenance": dict(provenance or {}),
    }


def write_lesion_table(lesions: Sequence[Lesion], path: Path) -> None:
    """Write one CSV row a lesion, units in the column names; whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lesion.to_row() for lesion in lesions)
    write_text(path, text.getvalue())


@dataclass(frozen=True)
class _Candidate:
    lesions: Array
    id: int
    box: tuple[slice, ...]
    grid: Grid

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Within the box."""
        return np.asarray(self.lesions[self.box] == self.id)


def _measure(
    candidate: _Candidate,
    skeleton: Array,
    probability: Array | None,
    adc: Array | None,
    config: MeasureConfig,
) -> Lesion:
    mask, grid = candidate.mask, candidate.grid
    indices = np.argwhere(mask) + [s.start for s in candidate.box]
    values = None if adc is None else _valid_adc(adc[candidate.box][mask])
    chance = None if probability is None else probability[candidate.box][mask].astype(np.float64)
    class_id, distance = _nearest_class(candidate, skeleton, config)
    region = region_of(class_id)
    centre = grid.affine[:3, :3] @ indices.mean(axis=0) + grid.affine[:3, 3]
    return Lesion(
        id=candidate.id,
        region=region.name if region else UNASSIGNED,
        region_distance_mm=distance if region else None,
        met_rads_site=region.met_rads_site if region else None,
        volume_ml=len(indices) * grid.voxel_volume_ml,
        n_voxels=len(indices),
        longest_diameter_mm=longest_diameter_mm(indices, grid),
        adc_mean_um2_per_s=_statistic(np.mean, values),
        adc_median_um2_per_s=_statistic(np.median, values),
        probability_peak=_statistic(np.max, chance),
        probability_mean=_statistic(np.mean, chance),
        centroid_ras_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
    )


def _nearest_class(
    candidate: _Candidate, skeleton: Array, config: MeasureConfig
) -> tuple[int, float]:
    """Class id (0 = none) and its distance in mm."""
    return nearest_class(
        candidate.lesions, candidate.id, candidate.box, skeleton=skeleton,
        spacing_mm=candidate.grid.spacing_mm, touch_mm=config.touch_mm,
        nearest_mm=config.nearest_mm,
    )  # fmt: skip


def _hull_corners(indices: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """The points that can be the ends of the longest diameter."""
    points = indices.astype(np.float64)
    if len(points) <= 64:
        return points
    try:
        return np.asarray(points[ConvexHull(points).vertices])
    except QhullError:  # all in one plane or on one line: joggle
        return np.asarray(points[ConvexHull(points, qhull_options="QJ").vertices])


def _valid_adc(values: Array) -> npt.NDArray[np.float64]:
    plain = values.astype(np.float64)
    return np.asarray(plain[np.isfinite(plain) & (plain > 0)])


def _adc_summary(values: npt.NDArray[np.float64] | None) -> dict[str, float | int] | None:
    if values is None or not values.size:
        return None
    points = np.percentile(values, [10, 25, 50, 75, 90])
    names = ("p10", "p25", "median", "p75", "p90")
    summary = {k: round(float(v), 1) for k, v in zip(names, points, strict=True)}
    return {"n_voxels": int(values.size), "mean": round(float(values.mean()), 1), **summary}


def _statistic(
    function: Callable[[npt.NDArray[np.float64]], Any], values: npt.NDArray[np.float64] | None
) -> float | None:
    return None if values is None or not values.size else float(function(values))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


_COLUMNS = tuple(Lesion(0, "", None, None, 0, 0, 0, None, None, None, None, (0, 0, 0)).to_row())
