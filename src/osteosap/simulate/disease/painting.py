"""Disease of one person at one time: metastases and benign look-alikes, as maps and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.body import Body
from osteosap.simulate.disease.lesions import PlacedLesion, find_places, place_lesion
from osteosap.simulate.disease.lookalikes import BenignTruth, paint_lookalikes
from osteosap.simulate.disease.plan import LesionPlan
from osteosap.simulate.shapes import Field
from osteosap.simulate.tissue import T

__all__ = ["Disease", "LesionTruth", "paint_diffuse", "paint_disease"]

_DIFFUSE_SITES = ("spine", "pelvis", "rib", "sternum", "femur", "humerus", "scapula", "clavicle")


@dataclass(frozen=True)
class LesionTruth:
    """What is known of one lesion in one examination.

    Parameters
    ----------
    id
        Instance id in the lesion map; the same over all time points.
    bone, site
        Where: "T7", "spine".
    state
        "viable", "treated", "sclerotic", "mixed" or "diffuse".
    course
        What it does over time: "responding", "stable", "progressing", "new", "vanished".
    volume_ml
        Sum of its voxels.
    centre_mm
        Mean of its voxels, RAS mm on the body's grid.
    adc_um2_per_s
        Median of the noise-free ADC map over its voxels.
    infiltration, mineral
        Share of marrow replaced, share of matrix without signal, both at the core (0-1).
    """

    id: int
    bone: str
    site: str
    state: str
    course: str
    volume_ml: float
    centre_mm: tuple[float, float, float]
    adc_um2_per_s: float
    infiltration: float
    mineral: float


@dataclass(frozen=True)
class Disease:
    """Maps of disease on the body's grid.

    Parameters
    ----------
    lesions
        int32 instances (I, J, K), 0 = none.
    infiltration
        float32 (I, J, K): share of marrow replaced by tumour, 0-1, inside lesions.
    adc_um2_per_s
        float32 (I, J, K): ADC of the tumour inside lesions.
    mineral
        float32 (I, J, K): share of sclerotic matrix without signal, 0-1, inside lesions.
    truth
        One entry a lesion that is there.
    benign
        One entry a benign finding.
    """

    lesions: npt.NDArray[np.int32]
    infiltration: Field
    adc_um2_per_s: Field
    mineral: Field
    truth: tuple[LesionTruth, ...] = ()
    benign: tuple[BenignTruth, ...] = ()


def paint_disease(
    body: Body,
    plans: Sequence[LesionPlan],
    *,
    timepoint: int,
    noise: Field,
    seed: tuple[int, ...],
    lookalikes: float = 1.0,
) -> Disease:
    """Paint look-alikes and the lesions of one time point; ``body.tissue`` changes in place.

    Parameters
    ----------
    body
        The person.
    plans
        What was drawn; a lesion that no bone can hold is left out.
    timepoint
        Which value of the plans' tuples, from 0.
    noise
        Smooth unit-variance field (I, J, K).
    seed
        Of the look-alikes.
    lookalikes
        Factor of their mean numbers.
    """
    places = find_places(body)
    placed: list[PlacedLesion] = []
    taken = np.zeros(body.grid.shape, dtype=bool)
    for plan in sorted(plans, key=lambda p: (-p.largest_ml, p.id)):  # large ones need the room
        found = place_lesion(body, plan, places=places, taken=taken, noise=noise)
        if found is not None:
            placed.append(found)
    benign = paint_lookalikes(
        body, places=places, taken=taken, noise=noise, seed=seed, rate=lookalikes
    )
    shape = body.grid.shape
    lesions = np.zeros(shape, np.int32)
    fields = [np.zeros(shape, np.float32) for _ in range(3)]
    maps = (lesions, fields[0], fields[1], fields[2])
    painted = [
        _paint_lesion(body, one, timepoint=timepoint, maps=maps, noise=noise)
        for one in sorted(placed, key=lambda p: p.plan.id)
    ]
    return Disease(*maps, tuple(t for t in painted if t is not None), benign)


def _paint_lesion(
    body: Body,
    placed: PlacedLesion,
    *,
    timepoint: int,
    maps: tuple[npt.NDArray[np.int32], Field, Field, Field],
    noise: Field,
) -> LesionTruth | None:
    """Paint the part of a lesion that is there at a time point; None where nothing is."""
    plan = placed.plan
    count = placed.count_at(timepoint, body.grid.voxel_volume_ml)
    if not count:
        return None
    where = tuple(placed.voxels[:count].T)
    depth = placed.distance_mm[count - 1] - placed.distance_mm[:count]
    edge = np.clip(depth / 2.0 + 0.6, 0.3, 1.0)
    mineral = np.full(count, plan.mineral[timepoint], np.float32)
    if plan.state == "mixed":  # half of it sclerotic, half viable
        pattern = noise[where] - np.median(noise[where])
        mineral *= np.clip(0.5 + 2.0 * pattern / max(float(pattern.std()), 1e-3), 0.0, 1.0)
    lesions, infiltration, adc, matrix = maps
    body.tissue[where] = T.LESION
    lesions[where] = plan.id
    infiltration[where] = np.float32(plan.infiltration[timepoint]) * edge
    adc[where] = plan.adc_um2_per_s[timepoint]
    matrix[where] = mineral * edge
    centre = body.grid.affine[:3, :3] @ placed.voxels[:count].mean(axis=0)
    centre += body.grid.affine[:3, 3]
    return LesionTruth(
        id=plan.id,
        bone=body.bones[placed.bone].name,
        site=plan.site,
        state=plan.state,
        course=plan.course,
        volume_ml=count * body.grid.voxel_volume_ml,
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        adc_um2_per_s=plan.adc_um2_per_s[timepoint],
        infiltration=plan.infiltration[timepoint],
        mineral=plan.mineral[timepoint],
    )


def paint_diffuse(body: Body, *, noise: Field, rng: np.random.Generator) -> Disease:
    """Paint diffuse infiltration of red marrow: patchy, most of the axial skeleton.

    Every connected part of at least 0.05 mL is one entry of the truth.

    Parameters
    ----------
    body
        The person; ``body.tissue`` changes in place.
    noise
        Smooth unit-variance field (I, J, K).
    rng
        Source of extent and composition.
    """
    red = np.isin(body.tissue, (T.MARROW, T.RED_PATCH)) & (body.marrow_fat < 0.72)
    site_ok = np.array([False, *(b.site in _DIFFUSE_SITES for b in body.bones)])
    inside = red & site_ok[body.bone] & (noise > rng.uniform(-1.2, 0.0))
    labels, _ = ndimage.label(inside, np.ones((3, 3, 3), bool))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = np.flatnonzero(sizes * body.grid.voxel_volume_ml >= 0.05)
    renumber = np.zeros(len(sizes), np.int32)
    renumber[keep] = np.arange(1, len(keep) + 1)
    lesions = renumber[labels]
    tumour = lesions > 0
    strength, adc = float(rng.uniform(0.6, 0.95)), float(np.clip(rng.normal(850, 120), 600, 1200))
    body.tissue[tumour] = T.LESION
    zeros = np.zeros(body.grid.shape, np.float32)
    infiltration, map_of_adc = zeros.copy(), zeros.copy()
    infiltration[tumour] = strength
    map_of_adc[tumour] = adc
    truth = []
    for number, box in enumerate(ndimage.find_objects(lesions), start=1):
        mask = lesions[box] == number
        bone = int(np.bincount(body.bone[box][mask]).argmax()) - 1
        middle = np.argwhere(mask).mean(axis=0) + [s.start for s in box]
        centre = body.grid.affine[:3, :3] @ middle + body.grid.affine[:3, 3]
        truth.append(
            LesionTruth(
                id=number,
                bone=body.bones[bone].name,
                site=body.bones[bone].site,
                state="diffuse",
                course="stable",
                volume_ml=float(mask.sum() * body.grid.voxel_volume_ml),
                centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
                adc_um2_per_s=adc,
                infiltration=strength,
                mineral=0.0,
            )
        )
    return Disease(lesions, infiltration, map_of_adc, zeros, tuple(truth))
