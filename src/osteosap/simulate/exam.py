"""A simulated examination from a seed: body, disease, signals, stations, and the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from scipy import ndimage

from osteosap.config import StageConfig
from osteosap.errors import ConfigError
from osteosap.exam import Exam, StationImage
from osteosap.simulate.anatomy.build import body_grid, build_body
from osteosap.simulate.body import BODY_HI, BODY_LO, Body
from osteosap.simulate.disease.lookalikes import BenignTruth
from osteosap.simulate.disease.painting import Disease, LesionTruth, paint_diffuse, paint_disease
from osteosap.simulate.disease.plan import Profile, draw_count, draw_plans
from osteosap.simulate.implants import ImplantKind, paint_implant
from osteosap.simulate.label_map.deformation import DeformationConfig
from osteosap.simulate.label_map.source import (
    LabelMap,
    build_body_from_labels,
    read_label_map,
)
from osteosap.simulate.person import AGE_RANGE, Person
from osteosap.simulate.scanner.acquire import DWI_SCALE, T1_SCALE, scan
from osteosap.simulate.scanner.lattice import Pose
from osteosap.simulate.scanner.protocol import ScannerConfig
from osteosap.simulate.scanner.sites import SITES, vary
from osteosap.simulate.scanner.stations import StationTruth
from osteosap.simulate.shapes import Canvas, Field, NoiseField
from osteosap.simulate.signals import DiffusionMaps, SequenceConfig, Signals, simulate_signals
from osteosap.simulate.tissue import TissueTable
from osteosap.volume import Volume, stack

__all__ = [
    "AnatomySource",
    "Scene",
    "SimulatedExam",
    "SimulationConfig",
    "planned_lesions",
    "simulate_exam",
    "simulate_scene",
]


class AnatomySource(StageConfig):
    """A label map that becomes the person, in place of the procedural one.

    Parameters
    ----------
    labels
        Integer NIfTI.
    legend
        JSON: label to name.
    deformation
        How far bodies of different seeds differ from the map.
    """

    labels: Path
    legend: Path
    deformation: DeformationConfig = DeformationConfig()


class SimulationConfig(StageConfig):
    """Everything that fixes one simulated exam.

    Parameters
    ----------
    seed
        The person; anatomy, tissue and disease follow from it.
    sex, age_years
        "male" or "female", 18 to 90; None: a healthy person is drawn, a patient is a man of an age
        of prostate cancer.
    lesions
        Number of lesions at the first time point; None draws it (a few or many), 0 is a healthy
        person.
    diffuse
        Diffuse infiltration of the marrow in place of focal lesions.
    lookalikes
        Factor of how many benign findings in bone there are; 0 gives none.
    timepoints
        Examinations over time.
    timepoint
        Which of them this is, from 0; not for a patient over time.
    profile
        How the patient does over time: "response", "stable disease", "progression" or "mixed
        response"; None draws it.
    implant
        "none", "hip_prosthesis", "spine_screws"; "drawn" gives one of these to one person in 14
        over 60.
    anatomy
        A label map as the source of anatomy; None paints a procedural person.
    site
        Virtual site; its protocol fills what ``sequence`` and ``scanner`` leave out.
    scan
        Which scan of this person; another one has another table position, noise, bias and gain.
    vary_protocol
        Draw sequence, noise, bias, gain and misplacement around ``sequence`` and ``scanner`` from
        the seed, so that a cohort does not come from one ideal machine.
    body_spacing_mm
        Voxel of the grid on which the body is painted and the truth is known.
    sequence, scanner
        Signal equations and acquisition.
    """

    seed: NonNegativeInt = 0
    sex: Literal["male", "female"] | None = None
    age_years: float | None = pydantic.Field(default=None, ge=AGE_RANGE[0], le=AGE_RANGE[1])
    lesions: NonNegativeInt | None = None
    diffuse: bool = False
    lookalikes: NonNegativeFloat = 1.0
    timepoints: PositiveInt = 1
    timepoint: NonNegativeInt = 0
    profile: Profile | None = None
    implant: Literal["none", "drawn", "hip_prosthesis", "spine_screws"] = "none"
    anatomy: AnatomySource | None = None
    site: Literal["a", "b", "c"] = "a"
    scan: NonNegativeInt = 0
    vary_protocol: bool = False
    body_spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (2.0, 2.0, 2.0)
    sequence: SequenceConfig = SequenceConfig()
    scanner: ScannerConfig = ScannerConfig()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_from_site(cls, values: Any) -> Any:
        """Lay the given settings over the protocol of the site."""
        if not isinstance(values, dict):
            return values
        site = SITES.get(str(values.get("site", "a")))
        if site is None:  # the field's own check says which there are
            return values
        return {
            **values,
            "sequence": _overlaid(site.sequence, values.get("sequence")),
            "scanner": _overlaid(site.scanner, values.get("scanner")),
        }

    @pydantic.model_validator(mode="after")
    def _check_timepoint(self) -> SimulationConfig:
        if self.timepoint >= self.timepoints:
            raise ValueError(f"time point {self.timepoint} of {self.timepoints}: they count from 0")
        if self.diffuse and self.timepoints > 1:
            raise ValueError("diffuse disease has one time point, focal lesions have courses")
        return self

    @property
    def is_patient(self) -> bool:
        """Whether the person has disease."""
        return self.diffuse or self.lesions != 0


@dataclass(frozen=True)
class Scene:
    """A person with disease, before any signal.

    Parameters
    ----------
    body
        Tissue map with disease painted in, bones, marrow.
    disease
        Lesions and benign findings, as maps and tables.
    rough
        Smooth unit-variance field (I, J, K), correlation length 7 mm.
    """

    body: Body
    disease: Disease
    rough: Field


@dataclass(frozen=True)
class SimulatedExam:
    """A simulated exam and its truth.

    Parameters
    ----------
    exam
        Noise-free t1, b1000, adc (um2/s) with the true skeleton and lesions, on the body's grid at
        the place where this scan found it.
    stations
        What the virtual scanner acquired.
    tissue
        uint8 tissue map on the body's grid.
    lesions, benign
        What is known of each lesion and of each benign finding.
    person
        Sex, age, height and so on.
    sequence, scanner
        The protocol that was run: drawn around the site's where ``vary_protocol`` is on.
    acquisition
        What the scanner did to every station of T1, then of DWI.
    config
        The configuration it came from.
    """

    exam: Exam
    stations: tuple[StationImage, ...]
    tissue: Volume
    lesions: tuple[LesionTruth, ...]
    benign: tuple[BenignTruth, ...]
    person: dict[str, Any]
    sequence: SequenceConfig
    scanner: ScannerConfig
    acquisition: tuple[StationTruth, ...]
    config: SimulationConfig


def simulate_exam(config: SimulationConfig, *, acquire: bool = True) -> SimulatedExam:
    """Simulate one whole-body examination. Same config, same voxels.

    Parameters
    ----------
    config
        What fixes it.
    acquire
        Whether to run the virtual scanner; without it there are no stations.

    Raises
    ------
    InputError, ConfigError
        The label map of ``config.anatomy`` cannot be used.
    """
    sequence, scanner = config.sequence, config.scanner
    if config.vary_protocol:
        sequence, scanner = vary(sequence, scanner, _stream(config, 7, *_scan_key(config)))
    scene = simulate_scene(config)
    body, disease = scene.body, scene.disease
    wide = NoiseField(_stream(config, 4), 30.0, BODY_LO, BODY_HI).on(Canvas(body.grid).axes)
    texture = np.float32(0.7) * (scene.rough + wide)
    del wide
    table = TissueTable.draw(_stream(config, 5))
    signals = simulate_signals(body, disease, table, texture=texture, config=sequence)
    pose = _pose(config)
    rng = _stream(config, 6, *_scan_key(config))
    acquired = None
    if acquire:
        acquired = scan(body, signals, sequence=sequence, config=scanner, rng=rng, pose=pose)
    affine = pose.affine @ body.grid.affine
    return SimulatedExam(
        exam=_exam(body, disease, signals, affine, fat_left=scanner.dwi.residual_fat),
        stations=tuple(acquired.images) if acquired else (),
        tissue=Volume.single(body.tissue, affine, "tissue"),
        lesions=_measured(disease, signals.diffusion, pose.affine),
        benign=tuple(
            replace(b, centre_mm=_moved(b.centre_mm, pose.affine)) for b in disease.benign
        ),
        person=body.person.describe(),
        sequence=sequence,
        scanner=scanner,
        acquisition=tuple(acquired.stations) if acquired else (),
        config=config,
    )


def simulate_scene(config: SimulationConfig) -> Scene:
    """A person with disease; no images."""
    body = _body(config)
    implant = _implant(config, body.person.age_years)
    if implant is not None:
        paint_implant(body, implant, rng=_stream(config, 9))
    rough = NoiseField(_stream(config, 3), 7.0, BODY_LO, BODY_HI).on(Canvas(body.grid).axes)
    if config.diffuse:
        return Scene(body, paint_diffuse(body, noise=rough, rng=_stream(config, 10)), rough)
    plans = draw_plans(
        (config.seed, 12),
        planned_lesions(config),
        timepoints=config.timepoints,
        profile=config.profile,
    )
    disease = paint_disease(
        body,
        plans,
        timepoint=config.timepoint,
        noise=rough,
        seed=(config.seed, 13),
        lookalikes=config.lookalikes,
    )
    return Scene(body, disease, rough)


def _body(config: SimulationConfig) -> Body:
    """The person, procedural or from a label map, whose organs then say the sex."""
    rng, spacing, age = _stream(config, 2), config.body_spacing_mm, _age(config)
    if config.anatomy is None:
        person = Person.draw(rng, sex=_sex(config), age_years=age)
        return build_body(person, body_grid(person, spacing), seed=config.seed)
    source = _label_map(config.anatomy)
    if source.sex and config.sex and source.sex != config.sex:
        raise ConfigError(
            f"sex {config.sex}, but the organs of {config.anatomy.labels} are {source.sex}",
            remedy="Leave the sex out, or take another label map",
        )
    person = Person.draw(rng, sex=source.sex or _sex(config), age_years=age)
    return build_body_from_labels(
        source, spacing, seed=config.seed, person=person, config=config.anatomy.deformation
    )


def _label_map(source: AnatomySource) -> LabelMap:
    """The map, read once for all exams of a process while its files stay as they are."""
    try:
        times = (source.labels.stat().st_mtime_ns, source.legend.stat().st_mtime_ns)
    except OSError:
        times = (0, 0)  # reading says what is wrong
    return _read_once(source.labels, source.legend, times)


@lru_cache(maxsize=1)
def _read_once(labels: Path, legend: Path, _times: tuple[int, int]) -> LabelMap:
    return read_label_map(labels, legend)


def planned_lesions(config: SimulationConfig) -> int:
    """Lesions that a person is to have at the first time point; 0 with diffuse disease."""
    if config.diffuse:
        return 0
    return draw_count(_stream(config, 11)) if config.lesions is None else config.lesions


def _overlaid(protocol: StageConfig, given: Any) -> Any:
    """A protocol's settings with those that were given, block by block, in their place."""
    if given is None:
        return protocol
    if isinstance(given, StageConfig):
        given = given.model_dump(exclude_unset=True)
    if not isinstance(given, dict):
        return given
    merged = dict(protocol)
    for name, value in given.items():
        inner = merged.get(name)
        merged[name] = _overlaid(inner, value) if isinstance(inner, StageConfig) else value
    return merged


def _stream(config: SimulationConfig, *key: int) -> np.random.Generator:
    """One of the independent sources of randomness of a person."""
    return np.random.default_rng([config.seed, *key])


def _scan_key(config: SimulationConfig) -> tuple[int, int, int]:
    """What tells apart the scans of one person."""
    return "abc".index(config.site), config.timepoint, config.scan


def _sex(config: SimulationConfig) -> Literal["male", "female"] | None:
    return "male" if config.sex is None and config.is_patient else config.sex


def _age(config: SimulationConfig) -> float | None:
    """Age of a patient with metastatic prostate cancer: 70 +- 8 years; None draws an adult."""
    if config.age_years is not None or not config.is_patient:
        return config.age_years
    return float(np.clip(_stream(config, 8).normal(70.0, 8.0), 48.0, 90.0))


def _implant(config: SimulationConfig, age_years: float) -> ImplantKind | None:
    if config.implant == "none":
        return None
    if config.implant != "drawn":
        return config.implant
    drawn = _stream(config, 14).uniform()
    if age_years < 60.0 or drawn > 0.07:
        return None
    return "hip_prosthesis" if drawn < 0.05 else "spine_screws"


def _pose(config: SimulationConfig) -> Pose:
    """Where the table stands: the first scan at the first site defines the body's frame."""
    key = _scan_key(config)
    return Pose() if key == (0, 0, 0) else Pose.draw(_stream(config, 15, *key))


def _moved(
    point_mm: tuple[float, float, float], affine: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    x, y, z = affine[:3, :3] @ np.array(point_mm) + affine[:3, 3]
    return float(x), float(y), float(z)


def _measured(
    disease: Disease, diffusion: DiffusionMaps, affine: npt.NDArray[np.float64]
) -> tuple[LesionTruth, ...]:
    """The table of lesions with the ADC of the noise-free map and the scan's coordinates."""
    boxes = ndimage.find_objects(disease.lesions) if disease.truth else []
    measured = []
    for lesion in disease.truth:
        box = boxes[lesion.id - 1]
        adc = diffusion.adc_um2_per_s[box][disease.lesions[box] == lesion.id]
        measured.append(
            replace(
                lesion,
                adc_um2_per_s=round(float(np.median(adc)), 1),
                centre_mm=_moved(lesion.centre_mm, affine),
            )
        )
    return tuple(measured)


def _exam(
    body: Body,
    disease: Disease,
    signals: Signals,
    affine: npt.NDArray[np.float64],
    *,
    fat_left: float,
) -> Exam:
    """Noise-free images and truth on the body's voxels."""
    diffusion = signals.diffusion
    channels = {
        "t1": signals.t1 * np.float32(T1_SCALE),
        "b1000": diffusion.image(1000.0, fat_left=fat_left) * np.float32(DWI_SCALE),
        "adc": diffusion.adc_um2_per_s,
    }
    images = [Volume.single(a, affine, n) for n, a in channels.items()]
    return Exam(
        stack(images),
        Volume.single(body.skeleton, affine, "skeleton"),
        Volume.single(disease.lesions, affine, "lesions"),
    )
