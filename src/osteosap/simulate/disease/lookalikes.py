"""Benign findings in bone that look like metastases on one image or another.

How often people of 40 have each, and how that grows with age, lies in the ranges of
``benchmarks/realism_sources.yaml`` where a source was found; sizes are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.simulate.body import Body
from osteosap.simulate.disease.lesions import Places, draw_voxel
from osteosap.simulate.shapes import Canvas, Ellipsoid, Field
from osteosap.simulate.tissue import T

Box = tuple[slice, slice, slice]

__all__ = ["LOOKALIKES", "BenignTruth", "Lookalike", "paint_lookalikes"]


@dataclass(frozen=True)
class Lookalike:
    """One kind of benign finding.

    Parameters
    ----------
    name
        For the truth table.
    tissue
        What marrow becomes.
    sites
        Weights of the sites (keys of :func:`osteosap.simulate.disease.plan.site_weights`).
    per_person
        Mean number a person, by age in years.
    radius_mm, spread
        Median and log-SD of the radius of a ball of equal volume.
    flat
        Half axes along R, A and S relative to the radius: a band is low along S.
    where
        "marrow" anywhere, "endplate" at a disc, "top" in the top 45 mm of the bone.
    decay
        Of endplate findings: the chance of the lowest bone of the site; of those above it, the
        same share of what is left each time.
    bone
        How the bone's name must begin, where a site has several kinds.
    """

    name: str
    tissue: T
    sites: dict[str, float]
    per_person: Callable[[float], float]
    radius_mm: float
    spread: float = 0.35
    flat: tuple[float, float, float] = (1.0, 1.0, 1.0)
    where: str = "marrow"
    decay: float = 0.3
    bone: str = ""


@dataclass(frozen=True)
class BenignTruth:
    """What is known of one benign finding: kind, bone, volume (mL), centre (mm)."""

    kind: str
    bone: str
    volume_ml: float
    centre_mm: tuple[float, float, float]


def _always(mean: float) -> Callable[[float], float]:
    return lambda _age: mean


def _rising(mean_at_40: float, per_decade: float) -> Callable[[float], float]:
    return lambda age: max(mean_at_40 + per_decade * (age - 40.0) / 10.0, 0.1 * mean_at_40)


SPINE = {"spine": 1.0}
AXIAL = {"spine": 0.5, "pelvis": 0.3, "femur": 0.2}

LOOKALIKES: tuple[Lookalike, ...] = (
    Lookalike("haemangioma", T.HAEMANGIOMA, SPINE, _rising(0.35, 0.05), 6.0),
    Lookalike("atypical haemangioma", T.STRESS_OEDEMA, SPINE, _always(0.1), 5.0),
    Lookalike(
        "bone island", T.BONE_ISLAND, {"pelvis": 0.5, "femur": 0.25, "spine": 0.25},
        _always(0.4), 3.5,
    ),
    Lookalike(
        "red-marrow patch", T.RED_PATCH, {"femur": 0.4, "pelvis": 0.35, "spine": 0.25},
        _rising(3.0, -0.5), 7.0, 0.4, (1.2, 1.0, 1.0),
    ),
    Lookalike(
        "endplate oedema (Modic 1)", T.ENDPLATE_OEDEMA, SPINE, _rising(0.06, 0.04), 8.0, 0.3,
        (1.4, 1.2, 0.6), "endplate", 0.5,
    ),
    Lookalike(
        "endplate fat (Modic 2)", T.ENDPLATE_FAT, SPINE, _rising(0.10, 0.06), 8.0, 0.3,
        (1.4, 1.2, 0.6), "endplate", 0.5,
    ),
    Lookalike(
        "Schmorl node", T.DISC, SPINE, _rising(0.25, 0.04), 3.5, 0.3, (1.1, 1.1, 0.9),
        "endplate", 0.15,
    ),
    Lookalike(
        "healed vertebral fracture", T.HEALED_FRACTURE, SPINE, _rising(0.02, 0.035), 9.0, 0.2,
        (2.0, 1.6, 0.32), "endplate", 0.12,
    ),
    Lookalike(
        "healed rib fracture", T.HEALED_FRACTURE, {"rib": 1.0}, _rising(0.10, 0.03), 5.5, 0.2,
    ),
    Lookalike(
        "recent rib fracture", T.STRESS_OEDEMA, {"rib": 1.0}, _rising(0.02, 0.01), 5.5, 0.2,
    ),
    Lookalike(
        "subchondral oedema", T.STRESS_OEDEMA, {"femur": 0.6, "humerus": 0.4},
        _rising(0.1, 0.12), 6.0, 0.3, (1.2, 1.2, 0.7), "top",
    ),
    Lookalike(
        "subchondral cyst", T.SUBCHONDRAL_CYST, {"femur": 0.6, "humerus": 0.4},
        _rising(0.15, 0.15), 3.5, 0.3, (1.0, 1.0, 1.0), "top",
    ),
    Lookalike(
        "sacral stress fracture", T.STRESS_OEDEMA, {"pelvis": 1.0}, _rising(0.0, 0.008), 8.0, 0.2,
        (0.4, 1.1, 1.6), bone="sacrum",
    ),
)  # fmt: skip


def paint_lookalikes(
    body: Body,
    *,
    places: Places,
    taken: npt.NDArray[np.bool_],
    noise: Field,
    seed: tuple[int, ...],
    rate: float = 1.0,
) -> tuple[BenignTruth, ...]:
    """Paint benign findings into ``body.tissue`` in place.

    Parameters
    ----------
    body
        Whose age says how many.
    places
        Marrow of the body (:func:`osteosap.simulate.disease.lesions.find_places`).
    taken
        Bool (I, J, K): lesions with their neighbours, left free.
    noise
        Smooth unit-variance field (I, J, K) for irregular outlines.
    seed
        Of this person.
    rate
        Factor of the mean numbers; 0 gives bones without a finding.
    """
    found = []
    for number, kind in enumerate(LOOKALIKES):
        rng = np.random.default_rng([*seed, 1, number])
        for index in range(int(rng.poisson(rate * kind.per_person(body.person.age_years)))):
            own = np.random.default_rng([*seed, 2, number, index])
            outline = _outline(body, kind, places=places, noise=noise, rng=own)
            if outline is not None:
                bone, box, inside = outline
                found.append(_fill(body, kind, bone, box, inside & ~taken[box]))
    return tuple(f for f in found if f is not None)


def _outline(
    body: Body, kind: Lookalike, *, places: Places, noise: Field, rng: np.random.Generator
) -> tuple[int, Box, npt.NDArray[np.bool_]] | None:
    """Bone, box and marrow voxels inside the box of one finding; None without a place."""
    radius = float(np.clip(rng.lognormal(np.log(kind.radius_mm), kind.spread), 2.0, 14.0))
    drawn = _draw_place(body, kind, places, rng)
    if drawn is None:
        return None
    bone, voxel = drawn
    affine = body.grid.affine
    centre = affine[:3, :3] @ voxel + affine[:3, 3]
    stretch = np.array(kind.flat) * np.exp(rng.normal(0, 0.12, 3))
    box, distance = Canvas(body.grid).distance([Ellipsoid(centre, radius * stretch)], margin=4.0)
    distance = distance + np.float32(0.15 * radius * min(kind.flat)) * noise[box]
    inside = (distance < 0) & (body.tissue[box] == T.MARROW) & (body.bone[box] == bone + 1)
    return bone, box, inside


def _fill(
    body: Body, kind: Lookalike, bone: int, box: Box, inside: npt.NDArray[np.bool_]
) -> BenignTruth | None:
    if not inside.any():
        return None
    body.tissue[box][inside] = kind.tissue
    middle = (np.argwhere(inside) + [s.start for s in box]).mean(axis=0)
    at = body.grid.affine[:3, :3] @ middle + body.grid.affine[:3, 3]
    return BenignTruth(
        kind=kind.name,
        bone=body.bones[bone].name,
        volume_ml=float(inside.sum() * body.grid.voxel_volume_ml),
        centre_mm=(float(at[0]), float(at[1]), float(at[2])),
    )


def _draw_place(
    body: Body, kind: Lookalike, places: Places, rng: np.random.Generator
) -> tuple[int, npt.NDArray[np.int64]] | None:
    """Bone index and voxel of a finding; None where the body has no such place."""
    sites = [s for s in kind.sites if s in places.by_site]
    if not sites:
        return None
    chance = np.array([kind.sites[s] for s in sites])
    site = sites[int(rng.choice(len(sites), p=chance / chance.sum()))]
    drawn = places.draw(site, rng)
    if drawn is None or (kind.where == "marrow" and not kind.bone):
        return drawn
    bone = drawn[0]
    if kind.bone:
        named = [b for b in places.by_site[site] if body.bones[b].name.startswith(kind.bone)]
        if not named:
            return None
        part = places.voxels[named[0]]
        return named[0], draw_voxel(part, rng)
    if kind.where == "endplate":
        order = sorted(places.by_site[site], key=lambda b: float(places.voxels[b][:, 2].mean()))
        bone = order[(int(rng.geometric(kind.decay)) - 1) % len(order)]
        part = _at_disc(body, places.voxels[bone])
    else:
        voxels = places.voxels[bone]
        top = voxels[:, 2].max() - 45.0 / body.grid.spacing_mm[2]
        part = voxels[voxels[:, 2] >= top]
    return (bone, draw_voxel(part, rng)) if len(part) else None


def _at_disc(body: Body, voxels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Those of the voxels within about 4 mm of a disc."""
    reach = np.ceil(4.0 / np.array(body.grid.spacing_mm)).astype(int) + 1
    lo = np.maximum(voxels.min(axis=0) - reach, 0)
    hi = np.minimum(voxels.max(axis=0) + reach + 1, body.grid.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(lo, hi, strict=True))
    disc = body.tissue[box] == T.DISC
    if not disc.any():
        return voxels[:0]
    away = ndimage.distance_transform_edt(~disc, sampling=body.grid.spacing_mm)
    limit = 4.0 + max(body.grid.spacing_mm)
    return np.asarray(voxels[away[tuple((voxels - lo).T)] <= limit])
