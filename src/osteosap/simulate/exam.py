"""A simulated examination from a seed: body, disease, signals, stations, and the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat

from osteosap.config import StageConfig
from osteosap.exam import Exam, StationImage
from osteosap.simulate.anatomy import body_grid, build_body
from osteosap.simulate.body import BODY_HI, BODY_LO, Body
from osteosap.simulate.disease import Disease, LesionTruth, paint_disease
from osteosap.simulate.person import Person
from osteosap.simulate.scanner import DWI_SCALE, T1_SCALE, ScannerConfig, scan
from osteosap.simulate.shapes import Canvas, Field, NoiseField
from osteosap.simulate.signals import DiffusionMaps, SequenceConfig, diffusion_maps, t1_image
from osteosap.simulate.tissue import T, TissueTable
from osteosap.volume import Volume, stack

__all__ = ["SimulatedExam", "SimulationConfig", "simulate_exam"]


class SimulationConfig(StageConfig):
    """Everything that fixes one simulated exam.

    Parameters
    ----------
    seed
        Person, disease and noise all follow from it.
    lesions
        Number of lesions; None draws it (median about 8, skewed), 0 is a healthy person.
    vary_protocol
        Draw sequence, noise, bias, gain and misplacement around ``sequence`` and ``scanner`` from
        the seed, so that a cohort does not come from one ideal machine.
    body_spacing_mm
        Grid on which the body is painted and the truth is known.
    sequence, scanner
        Signal equations and acquisition.
    """

    seed: NonNegativeInt = 0
    lesions: NonNegativeInt | None = None
    vary_protocol: bool = False
    body_spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (2.0, 2.0, 2.0)
    sequence: SequenceConfig = SequenceConfig()
    scanner: ScannerConfig = ScannerConfig()


@dataclass(frozen=True)
class SimulatedExam:
    """A simulated exam and its truth.

    Parameters
    ----------
    exam
        Noise-free t1, b1000, adc (um2/s) with the true skeleton and lesions, on the body's grid.
    stations
        What the virtual scanner acquired.
    tissue
        uint8 tissue map on the body's grid.
    lesions
        What is known of each lesion.
    config
        The configuration it came from.
    """

    exam: Exam
    stations: tuple[StationImage, ...]
    tissue: Volume
    lesions: tuple[LesionTruth, ...]
    config: SimulationConfig


def simulate_exam(config: SimulationConfig) -> SimulatedExam:
    """Simulate one whole-body examination. Same config, same voxels."""
    streams = [np.random.default_rng([config.seed, k]) for k in range(2, 8)]
    sequence, scanner = config.sequence, config.scanner
    if config.vary_protocol:
        sequence, scanner = _vary(sequence, scanner, streams[5])
    person = Person.draw(streams[0])
    grid = body_grid(person, config.body_spacing_mm)
    body = build_body(person, grid, seed=config.seed)
    canvas = Canvas(grid)
    rough = NoiseField(streams[1], 7.0, BODY_LO, BODY_HI).on(canvas.axes)
    disease = paint_disease(
        canvas, body, noise=rough, n_lesions=_lesion_count(config, streams[1]), rng=streams[1]
    )
    texture = 0.7 * rough + 0.7 * NoiseField(streams[2], 30.0, BODY_LO, BODY_HI).on(canvas.axes)
    table = TissueTable.draw(streams[3])
    t1 = t1_image(body, disease, table, texture=texture, config=sequence)
    t1 /= t1[body.tissue == T.MUSCLE].mean()
    diffusion = diffusion_maps(body, disease, table, texture=texture, config=sequence)
    return SimulatedExam(
        exam=_exam(body, disease, t1, diffusion),
        stations=tuple(scan(t1, diffusion, grid, config=scanner, rng=streams[4])),
        tissue=Volume.single(body.tissue, grid.affine, "tissue"),
        lesions=disease.truth,
        config=config,
    )


def _vary(
    sequence: SequenceConfig, scanner: ScannerConfig, rng: np.random.Generator
) -> tuple[SequenceConfig, ScannerConfig]:
    """Draw a protocol around a given one: a quarter of the T1 images are gradient echoes."""
    factor = np.exp(rng.normal(0, 0.35, size=5))
    drawn_sequence = sequence.model_copy(
        update={
            "t1_sequence": "gre" if rng.uniform() < 0.25 else sequence.t1_sequence,
            "t1_tr_ms": sequence.t1_tr_ms * float(rng.uniform(0.8, 1.2)),
            "dwi_te_ms": sequence.dwi_te_ms * float(rng.uniform(0.85, 1.15)),
            "residual_fat": sequence.residual_fat * float(factor[0]),
        }
    )
    drawn_scanner = scanner.model_copy(
        update={
            "t1_noise": scanner.t1_noise * float(factor[1]),
            "dwi_noise": scanner.dwi_noise * float(factor[2]),
            "bias": scanner.bias * float(factor[3]),
            "gain": scanner.gain * float(factor[4]),
            "n_stations": max(scanner.n_stations + int(rng.integers(-1, 2)), 1),
        }
    )
    return drawn_sequence, drawn_scanner


def _lesion_count(config: SimulationConfig, rng: np.random.Generator) -> int:
    drawn = int(np.clip(round(np.exp(rng.normal(np.log(8.0), 0.8))), 1, 40))
    return drawn if config.lesions is None else config.lesions


def _exam(body: Body, disease: Disease, t1: Field, diffusion: DiffusionMaps) -> Exam:
    """Noise-free images and truth on the body's grid."""
    affine = body.grid.affine
    channels = {
        "t1": t1 * T1_SCALE,
        "b1000": diffusion.image(1000.0) * DWI_SCALE,
        "adc": diffusion.adc_um2_per_s,
    }
    images = [Volume.single(a.astype(np.float32), affine, n) for n, a in channels.items()]
    return Exam(
        stack(images),
        Volume.single(body.skeleton, affine, "skeleton"),
        Volume.single(disease.lesions, affine, "lesions"),
    )
