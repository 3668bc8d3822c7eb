"""Simulated examinations on disk: studies to run on, exams to train on, whole cohorts.

Everything written here says of itself that it is simulated (``exam.json``; DICOM manufacturer).
Training exams go through the same preprocessing as the product's input, so that a network trained
on them has seen the stitching, the registration and the faults it will meet.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osteosap import __version__
from osteosap.config import canonical_hash
from osteosap.errors import ConfigError, InputError, OsteosapError
from osteosap.exam import Exam, find_file, write_exam
from osteosap.ingest import MARKER
from osteosap.label_maps import resample_classes, resample_lesions
from osteosap.manifest import (
    move_into_place,
    read_json,
    replace_on_success,
    require_folder,
    require_own,
    write_json,
)
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

_STUDY_PARTS = ("dicom", "exam", "truth")
_TRAINING_PARTS = tuple(
    f"{name}.nii.gz" for name in ("t1", "b1000", "adc", "skeleton", "lesions", "body")
)
_COHORT = "cohort.json"
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass(frozen=True)
class CohortEntry:
    """One exam of a cohort: its folder's name, seed, what it hangs on, and whether it was new."""

    folder: str
    seed: int
    hash: str
    seconds: float
    made_now: bool


def simulate_to_folder(
    config: SimulationConfig,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Simulate one examination and write it as a user would receive it, with its truth beside.

    ``out/dicom`` holds the acquired stations as DICOM, ``out/exam`` images and truth on one grid
    as NIfTI (without stations, noise or distortion of the scanner), ``out/truth`` the skeleton,
    the lesions and the ADC (um2/s) alone, for scoring. ``out/exam.json`` lists these files; what an
    earlier call wrote is replaced as a whole.

    Parameters
    ----------
    config
        The person, the disease and the scanner.
    out
        Output folder; made if absent.
    formats
        Of :data:`FORMATS`.
    progress
        Called with what is being done and the fraction done.

    Raises
    ------
    ConfigError
        An unknown format.
    OutputError
        The folder cannot be written, and nothing is left of it then; or it holds files of these
        places that no earlier call wrote.
    """
    report = progress or _silent
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ConfigError(
            f"unknown format {', '.join(unknown) or '(none given)'}",
            remedy=f"Choose from {', '.join(FORMATS)}",
        )
    _require_own(out, _STUDY_PARTS)
    from osteosap.simulate import simulate_exam

    if "dicom" in formats:  # a missing library shows before the work
        from osteosap.dicom import DicomWriterConfig, write_study
    report("simulate the body and its images", 0.0)
    simulated = simulate_exam(config)
    with replace_on_success(out) as aside:
        if "dicom" in formats:
            report("write DICOM", 0.6)
            write_study(
                simulated.stations, aside / "dicom", config=DicomWriterConfig(seed=config.seed)
            )
        report("write NIfTI", 0.8)
        if "nifti" in formats:
            write_exam(simulated.exam, aside / "exam", simulated=True)
            _write_marker(aside / "exam", config, {})
        _write_truth(simulated.exam, aside / "truth")
        _write_marker(aside / "truth", config, {})
        _write_marker(aside, config, {})
        _replace_own(aside, out, _STUDY_PARTS)


def simulate_training_exam(config: SimulationConfig, out: Path) -> None:
    """Simulate one examination, preprocess its stations, and write images with truth on their grid.

    The folder reads with :func:`osteosap.exam.read_exam`. Truth comes onto the T1 grid by the share
    of each voxel that it fills (:mod:`osteosap.label_maps`).

    Raises
    ------
    OutputError
        The folder cannot be written, or holds files of these names that no earlier call wrote.
    """
    _require_own(out, _TRAINING_PARTS)
    from osteosap.preprocess import PreprocessConfig, assemble_exam
    from osteosap.simulate import simulate_exam

    preprocess = PreprocessConfig()
    simulated = simulate_exam(config)
    assembled = assemble_exam(simulated.stations, preprocess)
    grid = assembled.images.grid
    maps = {
        volume.channels[0]: Volume.single(
            move(volume.array[0], volume.grid, grid), grid.affine, volume.channels[0]
        )
        for volume, move in (
            (simulated.exam.skeleton, resample_classes),
            (simulated.exam.lesions, resample_lesions),
        )
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
        exam = Exam(assembled.images, maps.get("skeleton"), maps.get("lesions"))
        write_exam(exam, aside, simulated=True)
        write_nifti(assembled.body, aside / "body.nii.gz")
        _write_marker(aside, config, facts)
        _replace_own(aside, out, _TRAINING_PARTS)


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
    OutputError
        The folder cannot be written, or would lose files that no earlier call wrote.
    OsteosapError
        An exam failed; those finished before stay, and the next call takes up from there.
    """
    seeds = [config.seed for config in configs]
    if len(set(seeds)) != len(seeds) or processes < 1:
        raise ConfigError(
            f"{len(seeds)} exams with {len(set(seeds))} different seeds, {processes} processes",
            remedy="Give every exam a seed of its own, and at least one process",
        )
    require_folder(out)
    own = {_COHORT} if _says_simulated(out / _COHORT) else set()
    require_own(out, [_COHORT], own)
    report = progress or _silent
    entries: list[CohortEntry] = []
    for entry in _made(configs, out, processes):
        entries.append(entry)
        report(entry.folder, len(entries) / len(configs))
    entries.sort(key=lambda entry: entry.seed)
    rows = [{"folder": e.folder, "seed": e.seed, "hash": e.hash} for e in entries]
    content = {"simulated": True, "osteosap": __version__, "exams": rows}
    write_json(out / _COHORT, content)
    return tuple(entries)


def _made(configs: Sequence[SimulationConfig], out: Path, processes: int) -> Iterator[CohortEntry]:
    """Yield cohort entries as they are finished."""
    if processes == 1:
        for config in configs:
            yield _make_one(config, out)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context)
    try:
        with _one_thread_each():  # processes start as work is submitted
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
    """Write what a folder is, and the files that are in it so far."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    content = {
        "simulated": True,
        "osteosap": __version__,
        "seed": config.seed,
        "config": config.to_mapping(),
        "config_hash": config.hash(),
        "files": files,
        **facts,
    }
    if facts:
        content["hash"] = training_hash(config)
    write_json(folder / MARKER, content)


def _says_simulated(marker: Path) -> bool:
    with contextlib.suppress(InputError):
        return marker.is_file() and read_json(marker).get("simulated") is True
    return False


def _require_own(out: Path, parts: Sequence[str]) -> None:
    """Refuse a folder where ``parts`` or a marker are not, by the marker, from an earlier call."""
    require_folder(out)
    own: set[str] = set()
    if _says_simulated(out / MARKER):
        files = read_json(out / MARKER).get("files")
        if isinstance(files, list):
            own = {MARKER, *(name for name in files if isinstance(name, str))}
    require_own(out, [*parts, MARKER], own)


def _replace_own(aside: Path, out: Path, parts: Sequence[str]) -> None:
    """Put what lies aside in the place of all that an earlier call wrote.

    The marker goes last and comes first: whatever is there is on record, even after a crash.
    """
    _require_own(out, parts)
    for name in (*parts, MARKER):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    for name in (MARKER, *parts):
        if (aside / name).exists():
            move_into_place(aside / name, out / name)


def _write_truth(exam: Exam, folder: Path) -> None:
    for volume in (exam.skeleton, exam.lesions):
        if volume is not None:
            write_nifti(volume, folder / f"{volume.channels[0]}.nii.gz")
    if "adc" in exam.images.channels:
        adc = Volume.single(exam.images.channel("adc"), exam.images.affine, "adc")
        write_nifti(adc, folder / "adc.nii.gz")


def _count(lesions: Volume | None) -> int:
    return 0 if lesions is None else int(np.count_nonzero(np.unique(lesions.array)))


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep processes that start in here to one thread each: the pool is the parallelism.

    Libraries read these variables while they are imported, before a worker runs any of our code.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _silent(_message: str, _fraction: float) -> None:
    pass
