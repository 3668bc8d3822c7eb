"""Simulated examinations on disk: studies to run on, exams to train on, whole cohorts.

Everything written here says of itself that it is simulated (``exam.json``; DICOM manufacturer).
Training exams go through the same preprocessing as the product's input, so that a network trained
on them has seen the stitching, the registration and the faults it will meet.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osteosap import __version__
from osteosap.config import canonical_hash
from osteosap.errors import ConfigError, OsteosapError
from osteosap.exam import Exam, find_file, write_exam
from osteosap.ingest import MARKER
from osteosap.manifest import move_into_place, read_json, replace_on_success, write_json
from osteosap.volume import Volume, write_nifti

if TYPE_CHECKING:
    from osteosap.simulate import SimulationConfig

__all__ = [
    "FORMATS",
    "CohortEntry",
    "simulate_cohort",
    "simulate_to_folder",
    "simulate_training_exam",
]

log = logging.getLogger(__name__)

FORMATS = ("dicom", "nifti")
"""What :func:`simulate_to_folder` can write: a multi-station DICOM study, an exam folder."""


@dataclass(frozen=True)
class CohortEntry:
    """One exam of a cohort: its folder's name, seed, what it hangs on, and whether it was new."""

    folder: str
    seed: int
    hash: str
    seconds: float
    made_now: bool


def simulate_to_folder(
    config: SimulationConfig, out: Path, *, formats: Sequence[str] = FORMATS
) -> None:
    """Simulate one examination and write it as a user would receive it, with its truth beside.

    ``out/dicom`` holds the acquired stations as DICOM, ``out/exam`` images and truth on one grid
    as NIfTI (without stations, noise or distortion of the scanner), ``out/truth`` the skeleton,
    the lesions and the ADC (um2/s) alone, for scoring.

    Raises
    ------
    ConfigError
        An unknown format.
    OutputError
        The folder cannot be written; nothing is left of it then.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ConfigError(
            f"unknown format {', '.join(unknown) or '(none given)'}",
            remedy=f"Choose from {', '.join(FORMATS)}",
        )
    from osteosap.simulate import simulate_exam

    simulated = simulate_exam(config)
    with replace_on_success(out) as aside:
        if "dicom" in formats:
            from osteosap.dicom import DicomWriterConfig, write_study

            write_study(
                simulated.stations, aside / "dicom", config=DicomWriterConfig(seed=config.seed)
            )
        if "nifti" in formats:
            write_exam(simulated.exam, aside / "exam")
            _write_marker(aside / "exam", config, {})
        _write_truth(simulated.exam, aside / "truth")
        _write_marker(aside / "truth", config, {})
        _move_children(aside, out)


def simulate_training_exam(config: SimulationConfig, out: Path) -> None:
    """Simulate one examination, preprocess its stations, and write images with truth on their grid.

    The folder reads with :func:`osteosap.exam.read_exam`. Truth comes onto the T1 grid by nearest
    neighbour.
    """
    from osteosap.preprocess import PreprocessConfig, assemble_exam
    from osteosap.simulate import simulate_exam

    preprocess = PreprocessConfig()
    simulated = simulate_exam(config)
    assembled = assemble_exam(simulated.stations, preprocess)
    grid = assembled.images.grid
    maps = {
        volume.channels[0]: volume.resampled(grid, order=0)
        for volume in (simulated.exam.skeleton, simulated.exam.lesions)
        if volume is not None
    }
    facts = {
        "preprocessing": preprocess.to_mapping(),
        "n_lesions": _count(simulated.exam.lesions),
        "n_lesions_on_grid": _count(maps.get("lesions")),
        "grid": grid.describe(),
        "warnings": list(assembled.warnings),
    }
    with replace_on_success(out) as aside:
        write_exam(Exam(assembled.images, maps.get("skeleton"), maps.get("lesions")), aside)
        write_nifti(assembled.body, aside / "body.nii.gz")
        _write_marker(aside, config, facts)
        _move_children(aside, out)


def simulate_cohort(
    configs: Sequence[SimulationConfig],
    out: Path,
    *,
    processes: int = 1,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[CohortEntry, ...]:
    """Make many training exams, one folder ``exam_SEED`` each, and ``cohort.json``.

    A folder that is complete and was made by the same settings and package version is kept.

    Parameters
    ----------
    configs
        One configuration an exam, each with a seed of its own.
    out
        Folder of the cohort.
    processes
        Exams made at the same time.
    progress
        Called with the finished folder's name and the fraction done.

    Raises
    ------
    ConfigError
        Two configurations share a seed, or ``processes`` is not positive.
    OsteosapError
        An exam failed; those finished before stay, and the next call takes up from there.
    """
    seeds = [config.seed for config in configs]
    if len(set(seeds)) != len(seeds) or processes < 1:
        raise ConfigError(
            f"{len(seeds)} exams with {len(set(seeds))} different seeds, {processes} processes",
            remedy="Give every exam a seed of its own, and at least one process",
        )
    report = progress or (lambda _name, _fraction: None)
    entries: list[CohortEntry] = []
    for entry in _made(configs, out, processes):
        entries.append(entry)
        report(entry.folder, len(entries) / len(configs))
    entries.sort(key=lambda entry: entry.seed)
    rows = [{"folder": e.folder, "seed": e.seed, "hash": e.hash} for e in entries]
    content = {"simulated": True, "osteosap": __version__, "exams": rows}
    write_json(out / "cohort.json", content)
    return tuple(entries)


def _made(configs: Sequence[SimulationConfig], out: Path, processes: int) -> Iterator[CohortEntry]:
    """Yield cohort entries as they are finished."""
    if processes == 1:
        for config in configs:
            yield _make_one(config, out)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread)
    try:
        futures = [pool.submit(_make_one, config, out) for config in configs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_one(config: SimulationConfig, out: Path) -> CohortEntry:
    """Make one exam, unless a complete one of the same settings is there."""
    name = f"exam_{config.seed:06d}"
    folder = out / name
    wanted = training_hash(config)
    started = time.monotonic()
    if _is_complete(folder, wanted):
        log.info("%s: complete, made by the same settings, kept", name)
        return CohortEntry(name, config.seed, wanted, 0.0, made_now=False)
    try:
        simulate_training_exam(config, folder)
    except OsteosapError as error:
        raise type(error)(f"{name}: {error.problem}", remedy=error.remedy) from error
    seconds = time.monotonic() - started
    return CohortEntry(name, config.seed, wanted, seconds, made_now=True)


def training_hash(config: SimulationConfig) -> str:
    """What a training exam depends on: simulation, preprocessing and package version."""
    from osteosap.preprocess import PreprocessConfig

    values = [config.to_mapping(), PreprocessConfig().to_mapping(), __version__]
    return canonical_hash(values)


def _is_complete(folder: Path, wanted: str) -> bool:
    marker = folder / MARKER
    files = ("t1", "b1000", "adc", "skeleton", "lesions")
    if not marker.is_file() or not all(find_file(folder, name) for name in files):
        return False
    return read_json(marker).get("hash") == wanted


def _write_marker(folder: Path, config: SimulationConfig, facts: dict[str, Any]) -> None:
    content = {
        "simulated": True,
        "osteosap": __version__,
        "seed": config.seed,
        "config": config.to_mapping(),
        "config_hash": config.hash(),
        **facts,
    }
    if facts:
        content["hash"] = training_hash(config)
    write_json(folder / MARKER, content)


def _write_truth(exam: Exam, folder: Path) -> None:
    for volume in (exam.skeleton, exam.lesions):
        if volume is not None:
            write_nifti(volume, folder / f"{volume.channels[0]}.nii.gz")
    if "adc" in exam.images.channels:
        adc = Volume.single(exam.images.channel("adc"), exam.images.affine, "adc")
        write_nifti(adc, folder / "adc.nii.gz")


def _count(lesions: Volume | None) -> int:
    return 0 if lesions is None else int(np.count_nonzero(np.unique(lesions.array)))


def _move_children(aside: Path, out: Path) -> None:
    for child in sorted(aside.iterdir()):
        move_into_place(child, out / child.name)


def _one_thread() -> None:
    """Keep every worker to one thread: the pool is the parallelism."""
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[name] = "1"
