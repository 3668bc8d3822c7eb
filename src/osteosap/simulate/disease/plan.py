"""What is drawn of every lesion before it meets a voxel: site, size, state, and its course in time.

Volumes are log-normal with a median of 0.5 mL and a quarter of at least 1 mL, as in the paper (Wuts
et al. 2026). Men have few lesions or many, and few between; men with few have them in the spine and
pelvis, men with many in the ribs too. The ranges these numbers lie in, with their sources, are in
``benchmarks/realism_sources.yaml``; the numbers themselves, and those of states and courses, are
ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "COURSES",
    "LESION_SIGMA",
    "MEDIAN_LESION_ML",
    "PROFILES",
    "STATES",
    "Course",
    "LesionPlan",
    "Profile",
    "State",
    "draw_count",
    "draw_plans",
    "site_weights",
]

State = Literal["viable", "treated", "sclerotic", "mixed"]
Profile = Literal["response", "stable disease", "progression", "mixed response"]
Course = Literal["responding", "stable", "progressing", "new", "vanished"]

MEDIAN_LESION_ML = 0.5
LESION_SIGMA = 1.03  # log-normal: P(V >= 1 mL) = 0.25 with a median of 0.5 mL
SMALLEST_ML, LARGEST_ML = 0.05, 60.0
BREAKS_OUT = 0.08  # share of lesions that grow through the bone's surface
COUNT_GROUPS = ((2.0, 0.6), (18.0, 0.7))  # median and log-SD of men with few and with many lesions
LARGEST_COUNT = 80

FEW_SITES = {
    "spine": 0.48, "pelvis": 0.30, "rib": 0.08, "femur": 0.06, "sternum": 0.02,
    "humerus": 0.015, "scapula": 0.025, "clavicle": 0.005, "skull": 0.015,
}  # fmt: skip
MANY_SITES = {
    "spine": 0.34, "pelvis": 0.22, "rib": 0.22, "femur": 0.06, "sternum": 0.04,
    "humerus": 0.03, "scapula": 0.05, "clavicle": 0.015, "skull": 0.025,
}  # fmt: skip
FEW, MANY = 2, 12  # lesions of a patient to whom the one or the other table applies

STATES: dict[State, float] = {"viable": 0.62, "mixed": 0.13, "treated": 0.13, "sclerotic": 0.12}
"""Share of each state among the lesions of the first time point."""

COURSES: tuple[Course, ...] = ("responding", "stable", "progressing", "new", "vanished")

PROFILES: dict[Profile, dict[Course, float]] = {
    "response": dict(zip(COURSES, (0.55, 0.22, 0.03, 0.02, 0.18), strict=True)),
    "stable disease": dict(zip(COURSES, (0.10, 0.75, 0.07, 0.05, 0.03), strict=True)),
    "progression": dict(zip(COURSES, (0.04, 0.22, 0.44, 0.28, 0.02), strict=True)),
    "mixed response": dict(zip(COURSES, (0.30, 0.22, 0.22, 0.16, 0.10), strict=True)),
}
"""What a patient's lesions do, by how the patient does; "new" is per lesion of the first time."""


@dataclass(frozen=True)
class LesionPlan:
    """One lesion as it was drawn; the tuples hold one value a time point.

    Parameters
    ----------
    id
        Instance id; the same lesion keeps it over all time points.
    site
        Key of :func:`site_weights`.
    state, course
        Composition at the first time point at which it is there; what it does over time.
    volumes_ml
        Wanted volume; 0 where the lesion is not there.
    adc_um2_per_s
        ADC of its tumour.
    infiltration
        Share of marrow replaced at its core, 0-1.
    mineral
        Share of sclerotic matrix without signal at its core, 0-1.
    stretch, rotation
        Axes of its blob relative to a ball of equal volume; columns of the rotation.
    breaks_out
        Whether it grows through the bone's surface.
    seed
        Source of what depends on the body: the place, tried until one holds the lesion.
    """

    id: int
    site: str
    state: State
    course: Course
    volumes_ml: tuple[float, ...]
    adc_um2_per_s: tuple[float, ...]
    infiltration: tuple[float, ...]
    mineral: tuple[float, ...]
    stretch: npt.NDArray[np.float64]
    rotation: npt.NDArray[np.float64]
    breaks_out: bool
    seed: tuple[int, ...]

    @property
    def largest_ml(self) -> float:
        """Largest volume over all time points."""
        return max(self.volumes_ml)


def draw_count(rng: np.random.Generator) -> int:
    """Lesions of one patient: half have few, half have many; a third 1 or 2, two fifths over 10."""
    median, sigma = COUNT_GROUPS[int(rng.uniform() < 0.5)]
    drawn = np.exp(rng.normal(np.log(median), sigma))
    return int(np.clip(round(float(drawn)), 1, LARGEST_COUNT))


def site_weights(n_lesions: int) -> dict[str, float]:
    """Chance of each site for a lesion of a patient who has ``n_lesions``."""
    share = min(max((n_lesions - FEW) / (MANY - FEW), 0.0), 1.0)
    return {site: (1 - share) * w + share * MANY_SITES[site] for site, w in FEW_SITES.items()}


def draw_plans(
    seed: Sequence[int], n_lesions: int, *, timepoints: int, profile: Profile | None = None
) -> tuple[LesionPlan, ...]:
    """Draw the lesions of one patient over ``timepoints`` examinations.

    At the first time point there are ``n_lesions``; lesions that appear later come on top of
    them. With one time point every course is "stable".

    Parameters
    ----------
    seed
        Identity of the patient; a lesion's draws do not depend on the others'.
    n_lesions
        Lesions at the first time point.
    timepoints
        At least one.
    profile
        How the patient does; None draws it.
    """
    rng = np.random.default_rng([*seed, 0])
    drawn = list(PROFILES)[int(rng.integers(len(PROFILES)))]
    shares = PROFILES[profile or drawn]
    n_new = int(rng.poisson(n_lesions * shares["new"])) if timepoints > 1 else 0
    old: list[Course] = ["responding", "stable", "progressing", "vanished"]
    chance = np.array([shares[c] for c in old])
    weights = site_weights(n_lesions)
    plans = []
    for index in range(n_lesions + n_new):
        later = np.random.default_rng([*seed, 3, index])
        course = old[int(later.choice(4, p=chance / chance.sum()))]
        if timepoints == 1:
            course = "stable"
        elif index >= n_lesions:
            course = "new"
        time = _TimePlan(course, timepoints, later)
        plans.append(_draw_plan(seed, index, weights=weights, time=time))
    return tuple(plans)


@dataclass(frozen=True)
class _TimePlan:
    """What a lesion does over how many time points, and the randomness of that."""

    course: Course
    timepoints: int
    rng: np.random.Generator


def _draw_plan(
    seed: Sequence[int], index: int, *, weights: dict[str, float], time: _TimePlan
) -> LesionPlan:
    """One lesion; what holds at the first time point does not depend on how many there are."""
    rng = np.random.default_rng([*seed, 1, index])
    names, sites = list(STATES), list(weights)
    state = names[int(rng.choice(len(names), p=list(STATES.values())))]
    if time.course == "new":  # what has just appeared has not been treated
        state = "viable"
    chance = np.array(list(weights.values()))
    site = sites[int(rng.choice(len(sites), p=chance / chance.sum()))]
    volume = MEDIAN_LESION_ML * float(np.exp(rng.normal(0, LESION_SIGMA)))
    volume = float(np.clip(volume, SMALLEST_ML, LARGEST_ML))
    stretch = np.exp(rng.normal(0, 0.25, 3))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    breaks_out = bool(rng.uniform() < BREAKS_OUT)
    volumes, response = _volumes(time, volume)
    adc, infiltration, mineral = _composition(rng, time.rng, state, response)
    return LesionPlan(
        id=index + 1,
        site=site,
        state=state,
        course=time.course,
        volumes_ml=volumes,
        adc_um2_per_s=adc,
        infiltration=infiltration,
        mineral=mineral,
        stretch=stretch / np.prod(stretch) ** (1 / 3),
        rotation=rotation,
        breaks_out=breaks_out,
        seed=(*seed, 2, index),
    )


def _volumes(
    time: _TimePlan, volume_ml: float
) -> tuple[tuple[float, ...], npt.NDArray[np.floating]]:
    """Volumes (mL) and how far a lesion has responded (0 not, 1 a lot) at each time point."""
    rng, course, timepoints = time.rng, time.course, time.timepoints
    step = np.arange(timepoints)
    response: npt.NDArray[np.floating] = np.zeros(timepoints)
    if course == "responding":
        factor = float(rng.uniform(0.45, 0.80))
        volumes, response = volume_ml * factor**step, 1 - 0.55**step
    elif course == "progressing":
        volumes = volume_ml * float(rng.uniform(1.3, 1.9)) ** step
    elif course == "new":
        first = int(rng.integers(1, max(timepoints, 2)))
        grown = volume_ml * float(rng.uniform(1.3, 1.9)) ** (step - first)
        volumes = np.where(step >= first, grown, 0.0)
    elif course == "vanished":
        last = int(rng.integers(0, max(timepoints - 1, 1)))
        volumes = np.where(step <= last, volume_ml * 0.5**step, 0.0)
        response = 1 - 0.4**step
    else:
        volumes = volume_ml * np.exp(rng.normal(0, 0.03, timepoints))
        volumes[0] = volume_ml
    kept = np.where(volumes > 0, np.clip(volumes, SMALLEST_ML / 2, LARGEST_ML), 0.0)
    return tuple(float(v) for v in kept), response


def _composition(
    rng: np.random.Generator,
    later: np.random.Generator,
    state: State,
    response: npt.NDArray[np.floating],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """ADC (um2/s), infiltration and mineral at each time point.

    Of the tumour; the ADC that a map shows is mixed with marrow's by the infiltration. Active
    metastases: median 682, quartiles 583 and 781 um2/s (Winfield et al. 2018,
    doi 10.1007/s00330-017-5079-2). Response raises ADC, often above
    1400 um2/s (MET-RADS-P, Padhani et al. 2017, doi 10.1016/j.eururo.2016.05.033).
    """
    if state == "treated":
        adc, infiltration = rng.normal(1850, 220), rng.uniform(0.6, 0.95)
        mineral = rng.uniform(0.0, 0.4)
    elif state == "sclerotic":
        adc, infiltration = rng.normal(600, 120), rng.uniform(0.5, 0.95)
        mineral = rng.uniform(0.7, 0.95)
    elif state == "mixed":
        adc, infiltration = rng.normal(700, 130), rng.uniform(0.5, 1.0)
        mineral = rng.uniform(0.5, 0.9)
    else:
        adc, infiltration = rng.normal(780, 140), rng.uniform(0.5, 1.0)
        mineral = rng.uniform(0.0, 0.3)
    rise = 1.0 + response * float(later.uniform(0.5, 1.0))
    drift = np.exp(later.normal(0, 0.02, response.size))
    drift[0] = 1.0
    adcs = np.clip(float(adc) * rise * drift, 400.0, 2400.0)
    return (
        tuple(float(a) for a in adcs),
        tuple(float(v) for v in float(infiltration) * (1 - 0.35 * response)),
        tuple(float(v) for v in np.clip(float(mineral) + 0.25 * response, 0.0, 0.97)),
    )
