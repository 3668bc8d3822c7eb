"""Per lesion: where it is, in which bone, and how far its surface is from what it touches.

Every lesion is looked at in its own box; nothing here passes over a whole body for one lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.anatomy import UNASSIGNED, region_of
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.matching import Box, boxes_of
from osteosap.evaluation.metrics import LesionScore
from osteosap.evaluation.surface import surface_distances
from osteosap.geometry import Array, Grid
from osteosap.regions import nearest_class

__all__ = ["LesionMaps", "add_details"]


@dataclass(frozen=True)
class LesionMaps:
    """Maps of one exam on one grid.

    Parameters
    ----------
    grid
        Of all.
    reference, prediction
        int32 components (I, J, K).
    skeleton
        Class map that names regions, or None.
    probability
        Lesion probability, or None.
    inside
        Voxels of the region of interest, or None for everywhere.
    """

    grid: Grid
    reference: Array
    prediction: Array
    skeleton: Array | None = None
    probability: Array | None = None
    inside: npt.NDArray[np.bool_] | None = None


def add_details(
    references: Sequence[LesionScore],
    predictions: Sequence[LesionScore],
    *,
    maps: LesionMaps,
    config: EvaluateConfig,
) -> tuple[tuple[LesionScore, ...], tuple[LesionScore, ...]]:
    """The same scores with surface distances, regions, centres and peaks.

    A lesion that touches nothing has a surface Dice of 0 and no distances; one without a voxel
    (lost by resampling) has no place either.
    """
    sides = (_Side(maps.reference), _Side(maps.prediction))
    found = [
        tuple(_detailed(score, own, other, maps=maps, config=config) for score in scores)
        for scores, own, other in (
            (references, sides[0], sides[1]),
            (predictions, sides[1], sides[0]),
        )
    ]
    return found[0], found[1]


class _Side:
    """Components and the box of each."""

    def __init__(self, components: Array) -> None:
        self.components = components
        self.boxes = boxes_of(components)


def _detailed(
    score: LesionScore, own: _Side, other: _Side, *, maps: LesionMaps, config: EvaluateConfig
) -> LesionScore:
    box = own.boxes.get(score.id)
    if box is None:
        return replace(score, nsd=0.0)
    values = _place(score.id, own.components, box, maps) | _surface(score, own, other, maps, config)
    if maps.skeleton is not None:
        class_id, _ = nearest_class(
            own.components, score.id, box, skeleton=maps.skeleton, spacing_mm=maps.grid.spacing_mm,
            touch_mm=min(3.0, config.region_distance_mm), nearest_mm=config.region_distance_mm,
        )  # fmt: skip
        region = region_of(class_id)
        values["region"] = region.name if region else UNASSIGNED
    return replace(score, **values)


def _place(lesion_id: int, components: Array, box: Box, maps: LesionMaps) -> dict[str, Any]:
    mask = components[box] == lesion_id
    centre = np.argwhere(mask).mean(axis=0) + [s.start for s in box]
    world = maps.grid.affine[:3, :3] @ centre + maps.grid.affine[:3, 3]
    values: dict[str, Any] = {"centre_ras_mm": tuple(float(x) for x in world)}
    if maps.probability is not None:
        values["probability_peak"] = float(np.max(maps.probability[box][mask]))
    return values


def _surface(
    score: LesionScore, own: _Side, other: _Side, maps: LesionMaps, config: EvaluateConfig
) -> dict[str, Any]:
    if not score.hit:
        return {"nsd": 0.0}
    joint = _union([own.boxes[score.id], *(other.boxes[i] for i in score.matches)])
    distances = surface_distances(
        own.components[joint] == score.id,
        np.isin(other.components[joint], score.matches),
        maps.grid.spacing_mm,
    )
    return {
        "nsd": distances.surface_dice(config.nsd_tolerance_mm),
        "hausdorff95_mm": distances.hausdorff_mm(95.0),
        "surface_distance_mm": distances.mean_mm(),
    }


def _union(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*boxes, strict=True)
    )
