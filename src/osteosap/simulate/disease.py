"""Lesions and their look-alikes: where they sit, how large they are, what they are made of.

Volumes are log-normal with a median of 0.5 mL and about a quarter of at least 1 mL, as in the
paper (Wuts et al. 2026). The weights of the sites are ours; their order follows metastatic prostate
cancer, in which the spine comes first (Bubendorf et al. 2000, Hum Pathol 31:578).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.body import Body
from osteosap.simulate.shapes import Canvas, Ellipsoid, Field
from osteosap.simulate.tissue import T

__all__ = ["LESION_SIGMA", "SITE_WEIGHTS", "Disease", "LesionTruth", "paint_disease"]

MEDIAN_LESION_ML = 0.5
LESION_SIGMA = 1.03  # log-normal: P(V >= 1 mL) = 0.25 with a median of 0.5 mL

SITE_WEIGHTS = {
    "spine": 0.45, "pelvis": 0.28, "femur": 0.08, "rib": 0.08, "sternum": 0.03,
    "humerus": 0.03, "scapula": 0.03, "clavicle": 0.01, "skull": 0.01,
}  # fmt: skip
LOOKALIKE_SITES = {"spine": 0.6, "pelvis": 0.25, "femur": 0.15}
LOOKALIKES = {
    T.HAEMANGIOMA: 1.2,
    T.BONE_ISLAND: 1.0,
    T.RED_PATCH: 1.5,
    T.ENDPLATE_OEDEMA: 1.5,
}  # mean number a person


@dataclass(frozen=True)
class LesionTruth:
    """What is known of one lesion: instance id, bone, volume (mL), centre (mm), ADC (um2/s)."""

    id: int
    bone: str
    volume_ml: float
    centre_mm: tuple[float, float, float]
    adc_um2_per_s: float


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
    truth
        One entry a lesion.
    """

    lesions: npt.NDArray[np.int32]
    infiltration: Field
    adc_um2_per_s: Field
    truth: tuple[LesionTruth, ...]


@dataclass(frozen=True)
class _Scene:
    """What painting disease needs: grid, person, marrow by bone, rough field, randomness."""

    canvas: Canvas
    body: Body
    places: dict[int, npt.NDArray[np.int64]]
    noise: Field
    rng: np.random.Generator


def paint_disease(
    canvas: Canvas, body: Body, *, noise: Field, n_lesions: int, rng: np.random.Generator
) -> Disease:
    """Paint benign look-alikes and lesions into the body's tissue map.

    Parameters
    ----------
    canvas, body
        Grid and person; ``body.tissue`` changes in place.
    noise
        Smooth unit-variance field that makes outlines irregular.
    n_lesions
        Lesions to place; 0 for a healthy person. Fewer appear if bones fall out of the grid.
    rng
        Source of sites, sizes, contrasts.
    """
    scene = _Scene(canvas, body, _places(body), noise, rng)
    for tissue, mean in LOOKALIKES.items():
        for _ in range(int(rng.poisson(mean))):
            radius = float(np.clip(rng.lognormal(np.log(5.0), 0.35), 2.5, 11.0))
            _paint_lookalike(scene, tissue, radius_mm=radius)
    shape = body.grid.shape
    disease = Disease(
        lesions=np.zeros(shape, np.int32),
        infiltration=np.zeros(shape, np.float32),
        adc_um2_per_s=np.zeros(shape, np.float32),
        truth=(),
    )
    truth: list[LesionTruth] = []
    for _ in range(4 * n_lesions):
        if len(truth) == n_lesions:
            break
        volume = MEDIAN_LESION_ML * float(np.exp(rng.normal(0, LESION_SIGMA)))
        target_ml = float(np.clip(volume, 0.05, 40.0))
        found = _paint_lesion(scene, disease, target_ml=target_ml, instance=len(truth) + 1)
        if found is not None:
            truth.append(found)
    return Disease(disease.lesions, disease.infiltration, disease.adc_um2_per_s, tuple(truth))


def _places(body: Body) -> dict[int, npt.NDArray[np.int64]]:
    """Voxel indices (N, 3) of the marrow of each bone that lies in the grid."""
    index = np.argwhere(body.tissue == T.MARROW)
    bone = body.bone[tuple(index.T)]
    order = np.argsort(bone, kind="stable")
    ids, starts = np.unique(bone[order], return_index=True)
    parts = np.split(index[order], starts[1:])
    return {int(i) - 1: part for i, part in zip(ids, parts, strict=True)}


def _draw_place(scene: _Scene, weights: dict[str, float]) -> tuple[int, npt.NDArray[np.int64]]:
    """Bone index and marrow voxel (3,): site first, then by marrow volume within the site."""
    places, rng = scene.places, scene.rng
    by_site: dict[str, list[int]] = {}
    for index in places:
        by_site.setdefault(scene.body.bones[index].site, []).append(index)
    sites = [s for s in weights if s in by_site]
    chance = np.array([weights[s] for s in sites])
    site = sites[int(rng.choice(len(sites), p=chance / chance.sum()))]
    sizes = np.array([len(places[i]) for i in by_site[site]], dtype=float)
    bone = by_site[site][int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
    # position by rank, so that the draw hardly depends on the spacing
    part = places[bone]
    return bone, part[int(rng.uniform() * len(part))]


def _blob(
    scene: _Scene, voxel: npt.NDArray[np.int64], radius: float
) -> tuple[tuple[slice, slice, slice], Field]:
    """Box and signed distance (mm) of a randomly stretched and turned ellipsoid."""
    affine, rng = scene.body.grid.affine, scene.rng
    centre = affine[:3, :3] @ voxel + affine[:3, 3]
    stretch = np.exp(rng.normal(0, 0.22, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shape = Ellipsoid(centre, radius * stretch, rotation)
    return scene.canvas.distance([shape], margin=4.0 + radius / 3)


def _paint_lookalike(scene: _Scene, tissue: T, *, radius_mm: float) -> None:
    _, voxel = _draw_place(scene, LOOKALIKE_SITES)
    box, distance = _blob(scene, voxel, radius_mm)
    target = scene.body.tissue[box]
    target[(distance < 0) & (target == T.MARROW)] = tissue


def _paint_lesion(
    scene: _Scene, disease: Disease, *, target_ml: float, instance: int
) -> LesionTruth | None:
    """Paint one lesion of a volume; None where the drawn place cannot hold it."""
    body, rng = scene.body, scene.rng
    bone, voxel = _draw_place(scene, SITE_WEIGHTS)
    radius = float((target_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))
    box, distance = _blob(scene, voxel, radius * 1.25)
    strength, adc = rng.uniform(0.65, 1.0), float(np.clip(rng.normal(950, 170), 550, 1500))
    breaks_out = bool(rng.uniform() < 0.15)
    distance = distance + np.float32(0.18 * radius) * scene.noise[box]
    allowed = body.bone[box] == bone + 1
    if breaks_out:
        allowed |= np.isin(body.tissue[box], (T.MUSCLE, T.FAT)) & (distance < -0.25 * radius)
    allowed &= ~_near_other(disease.lesions[box])
    # The bone's outline cuts the blob: choose the level that gives the wanted volume.
    level = np.sort(distance[allowed])
    wanted = round(target_ml / body.grid.voxel_volume_ml)
    if wanted < 1 or level.size < wanted:
        return None
    cut = min(float(level[wanted - 1]), 0.35 * radius + 1.0)
    inside = allowed & (distance <= cut)
    if not inside.any():
        return None
    body.tissue[box][inside] = T.LESION
    disease.lesions[box][inside] = instance
    edge = np.clip((cut - distance) / 2.0 + 0.6, 0.3, 1.0)
    disease.infiltration[box][inside] = (np.float32(strength) * edge)[inside]
    disease.adc_um2_per_s[box][inside] = adc
    middle = (np.argwhere(inside) + [s.start for s in box]).mean(0)
    centre = body.grid.affine[:3, :3] @ middle + body.grid.affine[:3, 3]
    return LesionTruth(
        id=instance,
        bone=body.bones[bone].name,
        volume_ml=float(inside.sum() * body.grid.voxel_volume_ml),
        centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
        adc_um2_per_s=adc,
    )


def _near_other(lesions: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Voxels of other lesions and their neighbours: instances never touch."""
    return np.asarray(ndimage.binary_dilation(lesions > 0, np.ones((3, 3, 3), bool)))
