"""The main job on many studies of one machine, each in a process of its own.

A study that fails, or whose process is killed for want of memory, does not stop the others: what
went wrong is in its outcome. Finished stages are kept, so that an interrupted batch goes on where
it stopped.
"""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy.typing as npt

from osteosap.errors import InputError, OsteosapError
from osteosap.exam import INPUT_CHANNELS, ExamPaths
from osteosap.manifest import RunManifest, read_json, require_folder, write_text
from osteosap.preprocess.quality_checks import LOOK
from osteosap.preprocess.standardise import Standard, fit_standard
from osteosap.stage import Scope
from osteosap.volume import Volume, read_nifti, stack
from osteosap.workflow import RunConfig, run_exam

__all__ = [
    "Batch",
    "Outcome",
    "find_studies",
    "fit_cohort_standard",
    "run_batch",
    "write_overview",
]

log = logging.getLogger(__name__)

GB_PER_EXAM = 4.0
"""Memory that one exam may take; fewer studies run at once where there is less."""

Told = Callable[[str, float], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one study.

    Parameters
    ----------
    name
        Of its folder.
    error
        Why it failed; empty where it did not.
    seconds
        Wall-clock time.
    warnings
        What a reader should know.
    kept
        Whether all of it was done before.
    """

    name: str
    error: str = ""
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    kept: bool = False

    @property
    def state(self) -> str:
        """``failed``, ``kept`` (done before) or ``done``."""
        return "failed" if self.error else "kept" if self.kept else "done"


@dataclass(frozen=True)
class Batch:
    """How a batch is run.

    Parameters
    ----------
    config
        Settings, the same for all.
    scope
        Which stages.
    workers
        Studies at once; None: as many as cores and free memory allow.
    """

    config: RunConfig = field(default_factory=RunConfig)
    scope: Scope = field(default_factory=Scope)
    workers: int | None = None

    @property
    def n_workers(self) -> int:
        """Studies at once, at least one."""
        if self.workers is not None:
            return max(1, self.workers)
        cores = os.cpu_count() or 1
        if "SC_AVPHYS_PAGES" not in os.sysconf_names:  # a system that does not tell
            return cores
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        return max(1, min(cores, int(free // GB_PER_EXAM)))


def find_studies(folder: Path) -> tuple[Path, ...]:
    """Folders directly below ``folder``, each one study, in the order of their names.

    Raises
    ------
    InputError
        There is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", remedy="Point to the folder that holds the studies")
    studies = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not studies:
        n_files = sum(p.is_file() for p in folder.iterdir())
        if n_files:
            raise InputError(
                f"{folder} holds {n_files} files and no folder, expected one folder a study",
                remedy="Is it a single study? Use 'osteosap run' for that, or point to the folder "
                "above it",
            )
        raise InputError(
            f"no study in {folder}: it is empty",
            remedy="Put every study into a folder of its own below it",
        )
    return tuple(studies)


def run_batch(
    studies: Sequence[Path], out: Path, *, batch: Batch | None = None, progress: Told | None = None
) -> tuple[Outcome, ...]:
    """Run the main job, or a part of it, on every study, into ``out/NAME``.

    Parameters
    ----------
    studies
        Folders with different names.
    out
        Made if absent.
    progress
        Called with a line and the fraction of the studies that is done.

    Returns
    -------
    outcomes
        In the order of the studies.

    Raises
    ------
    InputError
        Two studies have one name.
    OutputError
        The output folder is a file.
    """
    batch = batch or Batch()
    names = [study.name for study in studies]
    if len(set(names)) < len(names):
        raise InputError(
            f"{len(names)} studies have {len(set(names))} different names",
            remedy="Give every folder a name of its own",
        )
    require_folder(out)
    workers = min(batch.n_workers, len(studies))
    threads = max(1, (os.cpu_count() or 1) // workers)
    running = _Running()
    found: dict[str, Outcome] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            jobs = [
                pool.submit(running.start, _Task(study, out / study.name, batch, threads))
                for study in studies
            ]
            for job in as_completed(jobs):
                outcome = job.result()
                found[outcome.name] = outcome
                state = f"failed: {outcome.error}" if outcome.error else outcome.state
                if outcome.warnings:
                    state += f", {len(outcome.warnings)} warnings (see its run.json)"
                log.log(
                    logging.WARNING if outcome.error else logging.INFO,
                    "%s: %s (%.0f s)", outcome.name, state, outcome.seconds,
                )  # fmt: skip
                if progress:
                    text = f"{len(found)} of {len(studies)} studies"
                    progress(text, len(found) / len(studies))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise
    return tuple(found[name] for name in names)


def write_overview(outcomes: Sequence[Outcome], out: Path) -> Path:
    """Write ``out/exams.csv``: one row a study, with the numbers of its quality; return its path.

    Columns: study, state (done, kept from an earlier call, failed), error, seconds of this call,
    number of warnings, quality checks to look at, share of the body that the DWI covers, worst
    relative mismatch of neighbouring stations before and after, largest move of a T1 and of a DWI
    station and largest distortion (mm). Empty where it is not known.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for outcome in outcomes:
        numbers = {} if outcome.error else _quality(ExamPaths(out / outcome.name))
        writer.writerow(
            {
                "study": outcome.name,
                "state": outcome.state,
                "error": outcome.error,
                "seconds": round(outcome.seconds, 1),
                "warnings": len(outcome.warnings),
                **numbers,
            }
        )
    path = out / "exams.csv"
    write_text(path, text.getvalue())
    return path


def fit_cohort_standard(
    folders: Sequence[Path], path: Path, *, progress: Told | None = None
) -> Standard:
    """Fit a histogram standard on finished exams, one in memory at a time, and write it as JSON.

    Raises
    ------
    VolumeError
        An exam has no histogram.
    """

    def exams() -> Iterator[tuple[Volume, npt.NDArray[Any]]]:
        for n, folder in enumerate(folders):
            if progress:
                progress("fit the histogram standard", n / len(folders))
            paths = ExamPaths(folder)
            images = stack([read_nifti(paths[name], channel=name) for name in INPUT_CHANNELS])
            yield images, read_nifti(paths["body"], channel="body").array[0] > 0

    standard = fit_standard(exams())
    write_text(path, standard.to_json())
    return standard


_COLUMNS = (
    "study", "state", "error", "seconds", "warnings", "to_look_at", "coverage", "t1_seam_before",
    "t1_seam_after", "dwi_seam_before", "dwi_seam_after", "t1_station_move_mm",
    "dwi_station_move_mm", "dwi_distortion_mm",
)  # fmt: skip


def _quality(paths: ExamPaths) -> dict[str, Any]:
    """Numbers of the preprocessing record of one exam."""
    if not paths["preprocessing"].is_file():
        return {}
    record = read_json(paths["preprocessing"])
    steps = {step["step"]: step for step in record["steps"]}

    def largest(values: Iterator[Any]) -> float | None:
        return max((v for v in values if v is not None), default=None)

    checks = record["quality"]["checks"]
    return {
        "to_look_at": sum(check["verdict"] == LOOK for check in checks),
        "coverage": record["coverage"],
        **{
            f"{channel}_seam_{when}": largest(
                s[f"mismatch_{when}"] for s in record["seams"] if s["channel"] == channel
            )
            for channel in ("t1", "dwi")
            for when in ("before", "after")
        },
        "t1_station_move_mm": largest(iter(steps["align t1 stations"].get("shift_mm", ()))),
        "dwi_station_move_mm": largest(iter(steps["registration"].get("shift_mm", ()))),
        "dwi_distortion_mm": largest(iter(steps["registration"].get("displacement_mm", ()))),
    }


@dataclass(frozen=True)
class _Task:
    study: Path
    out: Path
    batch: Batch
    threads: int


class _Running:
    """Processes at work, so that an interrupt can end them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._processes: set[Any] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def start(self, task: _Task) -> Outcome:
        """Work on a study in a process of its own until it ends."""
        begun = time.monotonic()
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(sender, task))
        with self._lock:
            if self._stopped:
                return Outcome(task.study.name, "interrupted")
            process.start()
            self._processes.add(process)
        log.info("%s: started", task.study.name)
        sender.close()
        try:
            error, warnings, kept = receiver.recv()
        except EOFError:  # it ended without a word
            process.join()
            error, warnings, kept = _death(process.exitcode), (), False
        process.join()
        with self._lock:
            self._processes.discard(process)
        seconds = time.monotonic() - begun
        return Outcome(task.study.name, error, seconds, tuple(warnings), kept)

    def stop(self) -> None:
        """End every process."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()


def _death(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed, probably for want of memory. "
            "Run it again with fewer workers; what is done is kept."
        )
    return f"its process ended without a result (code {code}). Run it alone to see why."


def _work(sender: Connection, task: _Task) -> None:
    """In the process: run the job, send (error, warnings, whether all was done before)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    signal.signal(signal.SIGTERM, _stop)
    logging.getLogger("osteosap").setLevel(logging.CRITICAL)  # the parent tells
    try:
        scope = replace(task.batch.scope, threads=task.threads)
        before = RunManifest.load(ExamPaths(task.out)["run"])
        manifest = run_exam(task.study, task.out, config=task.batch.config, scope=scope)
        warnings = [text for record in manifest.stages for text in record.warnings]
        sender.send(("", warnings, manifest.stages == before.stages))
    except OsteosapError as error:
        sender.send((" ".join(str(error).split()), (), False))
    except Exception as error:  # a defect of one exam must not stop the others
        sender.send((f"{type(error).__name__}. Run it alone to see where.", (), False))
    finally:
        sender.close()


def _stop(_signal: int, _frame: object) -> None:
    raise SystemExit(143)
