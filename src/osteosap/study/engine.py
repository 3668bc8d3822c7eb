"""Runs the units of a study: whatever is ready, on this machine or through SLURM.

A unit leaves ``units/NAME.json``: its key (command, settings, exams, and what the units before it
made) when it starts, and the checksums of what it made when it has ended. While both hold, it is
not run again. Stopped, it goes on where it was (every command of osteosap keeps what is finished);
with another key it begins anew, and the folder of the old one is set aside. A unit in progress
holds a lock, which the system releases with its process: if the process that started it is killed
and another comes, that one waits until the unit has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import osteosap
from osteosap.config import canonical_hash
from osteosap.errors import InputError, OutputError
from osteosap.manifest import file_checksum, read_json, write_json
from osteosap.study.plan import Unit

__all__ = ["Engine", "finished_units", "is_finished", "run_plan", "run_unit"]

_log = logging.getLogger(__name__)
_UNITS = "units"
_REPLACED = "replaced"
_LOOK_AGAIN_S, _GRACE_S = 0.2, 3.0
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Engine:
    """Where units run.

    Parameters
    ----------
    kind
        ``"local"``: processes of this machine; ``"slurm"``: jobs, submitted by submitit.
    at_once
        Units at the same time.
    slurm
        Options of submitit's executor, such as ``slurm_partition`` or ``timeout_min``.
    """

    kind: Literal["local", "slurm"] = "local"
    at_once: int = 1
    slurm: Mapping[str, Any] | None = None


def run_plan(
    units: Sequence[Unit], study: Path, *, engine: Engine, progress: Progress | None = None
) -> None:
    """Run all units that are not finished; a failed one stops those that need it, not the others.

    Raises
    ------
    OsteosapError
        Units failed; the message names them and their logs.
    """
    done: set[str] = set()
    failed: dict[str, str] = {}
    running: dict[Future[None], Unit] = {}
    total = sum(unit.minutes for unit in units) or 1.0
    with _executor(study, engine) as submit:
        while True:
            for unit in units:
                known = done | set(failed) | {u.name for u in running.values()}
                if unit.name in known or len(running) >= engine.at_once:
                    continue
                broken = [name for name in (*unit.needs, *unit.after) if name in failed]
                if broken:
                    failed[unit.name] = f"needs {broken[0]}"
                elif {*unit.needs, *unit.after} <= done:
                    running[submit(unit)] = unit
            if not running:
                break
            if progress is not None:
                share = sum(u.minutes for u in units if u.name in done) / total
                progress(", ".join(u.name for u in running.values()), share)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unit = running.pop(future)
                error = future.exception()
                if error is None:
                    done.add(unit.name)
                else:
                    failed[unit.name] = str(error)
                    _log.error("%s: %s", unit.name, error)
    if failed:
        first = next(iter(failed))
        raise OutputError(
            f"{len(failed)} of {len(units)} units are not finished; first {first}: {failed[first]}",
            remedy=f"Read {_log_of(study, first)}, mend the cause and start again: what is "
            "finished is kept",
        )


def run_unit(
    unit: Unit,
    study: Path,
    *,
    threads: int | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run one unit unless it is finished; what it prints goes to ``units/NAME.log``.

    Parameters
    ----------
    unit, study
        What to run, in which folder.
    threads
        For its computations; None: as many as the system and the user's ``OMP_NUM_THREADS`` say.
    stop
        Set by another thread: the command is interrupted (it keeps what it has), waiting ends.

    Raises
    ------
    OutputError
        The command fails, does not make what it should, or was stopped.
    """
    stop = stop or threading.Event()
    folder = study / _UNITS
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f".{unit.name}.lock", stop) as lock:
        key, before = _key(unit, study), _record_of(unit.name, study)
        holds = _matches(unit, study, key)
        if holds and not unit.always:
            return
        if before.get("key") not in (None, key):
            _set_aside(unit, study)
        record: dict[str, Any] = {"name": unit.name, "command": list(unit.command), "key": key}
        if not holds:
            write_json(folder / f"{unit.name}.json", record)
        environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        started = time.time()
        with _log_of(study, unit.name).open("ab") as log:
            process = subprocess.Popen(
                [str(Path(sys.executable).absolute()), "-m", "osteosap", *unit.command],
                cwd=study,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=(lock.fileno(),),  # a process that outlives us keeps the lock
            )
            lock.write(f"{process.pid}\n")
            lock.flush()
            code = _ended(process, stop)
        if code:
            raise OutputError(
                f"'osteosap {' '.join(unit.command[:2])}' ended with {code}",
                remedy=f"Read {_log_of(study, unit.name)}",
            )
        made = _made(unit, study)
        if made is None:
            raise OutputError(
                f"'osteosap {' '.join(unit.command[:2])}' made none of {', '.join(unit.makes)}",
                remedy=f"Read {_log_of(study, unit.name)}",
            )
        if holds and made == before["made"]:
            return  # nothing had changed: its record tells what it took to make it
        record |= {
            "made": made,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(started)),
            "seconds": round(time.time() - started, 1),
            "threads": environment.get("OMP_NUM_THREADS"),
        }
        write_json(folder / f"{unit.name}.json", record)


def is_finished(unit: Unit, study: Path) -> bool:
    """Whether a unit's record holds: same command and settings, same results, same inputs."""
    return _matches(unit, study, _key(unit, study))


def finished_units(
    units: Sequence[Unit], study: Path, *, settings: Mapping[str, str] | None = None
) -> set[str]:
    """Names of the units that are finished, and so are all that they need.

    Parameters
    ----------
    units
        Each after those that it needs.
    study
        Folder of the study; it may be absent.
    settings
        Text of files that a start would write, by path: they count instead of those on disk.
    """
    found: set[str] = set()
    for unit in units:
        if set(unit.needs) <= found and _matches(unit, study, _key(unit, study, settings)):
            found.add(unit.name)
    return found


def _matches(unit: Unit, study: Path, key: str) -> bool:
    record = _record_of(unit.name, study)
    made = record.get("made")
    return bool(record.get("key") == key and made and made == _made(unit, study))


def _record_of(name: str, study: Path) -> dict[str, Any]:
    """What a unit left of itself; nothing where it was not started, or the record is damaged."""
    try:
        return read_json(study / _UNITS / f"{name}.json")
    except InputError:
        return {}


def _key(unit: Unit, study: Path, settings: Mapping[str, str] | None = None) -> str:
    """Hash of the command, the files it reads, and what the units it needs made."""
    settings = settings or {}
    before = {name: _record_of(name, study).get("made") for name in unit.needs}
    read = {
        name: hashlib.sha256(settings[name].encode()).hexdigest()
        if name in settings
        else file_checksum(study / name)
        if (study / name).is_file()
        else None
        for name in unit.reads
    }
    return canonical_hash([list(unit.command), read, before, osteosap.__version__])


def _set_aside(unit: Unit, study: Path) -> None:
    """Make way for a unit that begins anew; what was made with other settings is kept once."""
    if not unit.folder or not (study / unit.folder).exists():
        return
    kept = study / _REPLACED / unit.name
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(exist_ok=True)
    (study / unit.folder).rename(kept)
    _log.warning(
        "%s: its settings, its exams or a unit before it changed; it begins anew, and what there "
        "was lies in %s",
        unit.name,
        kept.relative_to(study),
    )


def _made(unit: Unit, study: Path) -> dict[str, str] | None:
    """Checksum of every file that a unit makes; None if a pattern has no file."""
    found: dict[str, str] = {}
    for pattern in _patterns(unit, study):
        files = sorted(f for f in study.glob(pattern) if not f.name.startswith("."))
        if not files:
            return None
        found |= {f.relative_to(study).as_posix(): file_checksum(f) for f in files}
    return found


def _patterns(unit: Unit, study: Path) -> Iterator[str]:
    names = []
    if unit.cases and (study / unit.cases).is_file():
        names = [row["case"] for row in json.loads((study / unit.cases).read_text())]
    for pattern in unit.makes:
        if "{case}" in pattern:
            yield from (pattern.replace("{case}", name) for name in names)
        else:
            yield pattern


def _ended(process: subprocess.Popen[bytes], stop: threading.Event) -> int:
    """Exit code of a command, interrupted if it is to stop."""
    while process.poll() is None:
        if stop.wait(_LOOK_AGAIN_S):
            try:
                process.wait(_GRACE_S)  # Ctrl-C at a terminal has reached it, too
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
    return process.returncode


@contextlib.contextmanager
def _lock(path: Path, stop: threading.Event) -> Iterator[IO[str]]:
    """Hold a lock on a file; wait for whoever has it, and whose number may stand in it."""
    with path.open("a+", encoding="utf-8") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    told = True
                    file.seek(0)
                    _log.warning(
                        "%s is still being made by an earlier start (process %s); waiting",
                        path.stem.lstrip("."),
                        file.read().strip() or "unknown",
                    )
            if stop.wait(_LOOK_AGAIN_S):
                raise OutputError(
                    f"stopped while waiting for {path.stem.lstrip('.')}", remedy="Start again"
                )
        file.truncate(0)
        yield file


def _log_of(study: Path, name: str) -> Path:
    return study / _UNITS / f"{name}.log"


class _Submit(Protocol):
    def __call__(self, unit: Unit) -> Future[None]: ...


@contextlib.contextmanager
def _executor(study: Path, engine: Engine) -> Iterator[_Submit]:
    pool = ThreadPoolExecutor(max(1, engine.at_once))
    stop = threading.Event()
    run: Callable[[Unit, Path], None] = partial(run_unit, stop=stop)
    if engine.kind == "slurm":
        run = _through_slurm(study, engine)
    elif engine.at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
        # units that each take all cores wait for one another at every step: many times slower
        threads = max(1, (os.cpu_count() or 1) // engine.at_once)
        run = partial(run_unit, threads=threads, stop=stop)

    def submit(unit: Unit) -> Future[None]:
        return pool.submit(run, unit, study)

    try:
        yield submit
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _through_slurm(study: Path, engine: Engine) -> Callable[[Unit, Path], None]:
    """A function that runs a unit as a job and waits for it."""
    import submitit

    executor = submitit.AutoExecutor(folder=str(study / _UNITS / "slurm"), cluster="slurm")
    executor.update_parameters(**(engine.slurm or {}))

    def run(unit: Unit, study: Path) -> None:
        if not unit.always and is_finished(unit, study):
            return
        executor.submit(run_unit, unit, study.resolve()).result()

    return run
