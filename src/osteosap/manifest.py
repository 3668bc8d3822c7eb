"""What a run did (``run.json``), and output that appears whole or not at all.

Every stage leaves a :class:`StageRecord`: its resolved settings, checksums of what it read and
wrote, versions, time and warnings. A stage whose key (name, settings, input checksums, package
version) and output checksums are unchanged need not run again. Records hold no path outside the
output folder, because such paths may carry a patient's name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from osteosap import __version__
from osteosap.config import canonical_hash
from osteosap.errors import InputError, OutputError
from osteosap.exam import ExamPaths

__all__ = [
    "RunManifest",
    "StageRecord",
    "atomic_outputs",
    "checksums",
    "require_folder",
    "require_own",
    "software_versions",
    "stage_key",
    "study_checksum",
]

SCHEMA = "osteosap run 2"
PARTIAL = ".osteosap-partial-"
_REPORTED = ("numpy", "scipy", "nibabel", "pydicom", "SimpleITK", "torch", "monai", "matplotlib")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


@dataclass(frozen=True)
class StageRecord:
    """One finished stage of a run.

    Parameters
    ----------
    stage
        Name of the stage.
    key
        What the result depends on, as :func:`stage_key` makes it.
    config, config_hash
        Resolved settings and their SHA-256.
    inputs, outputs
        Path relative to the output folder (or ``study``) to SHA-256.
    versions
        Of osteosap, Python and the libraries that were loaded.
    device
        Where it was computed: ``cpu``, ``cuda:0``.
    started
        UTC, ISO 8601.
    seconds
        Wall-clock time.
    warnings
        What a reader should know.
    removed
        Outputs that only passed through and were removed on purpose.
    """

    stage: str
    key: str
    config: dict[str, Any]
    config_hash: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    versions: dict[str, str]
    device: str
    started: str
    seconds: float
    warnings: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def is_intact(self, root: Path) -> bool:
        """Whether every output below ``root`` that should be there has its recorded checksum."""
        return bool(self.outputs) and all(
            (root / name).is_file() and file_checksum(root / name) == value
            for name, value in self.outputs.items()
            if name not in self.removed
        )


@dataclass(frozen=True)
class RunManifest:
    """The records of a run, in the order of the stages; ``run.json`` on disk."""

    stages: tuple[StageRecord, ...] = field(default=())

    @classmethod
    def load(cls, path: Path) -> RunManifest:
        """Read a manifest; a missing file is an empty one.

        Raises
        ------
        InputError
            The file is there but is no manifest of this version.
        """
        if not path.is_file():
            return cls()
        known = {f.name for f in fields(StageRecord)}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}")
            records = []
            for values in content["stages"]:
                if set(values) != known:
                    raise ValueError(f"fields {sorted(set(values) ^ known)}")
                if any(map(_leads_out, dict(values["outputs"]))):
                    raise ValueError("an output outside the folder")
                lists = {name: tuple(values[name]) for name in ("warnings", "removed")}
                records.append(StageRecord(**{**values, **lists}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not a run manifest of schema '{SCHEMA}' ({error})",
                remedy="Choose an empty output folder",
            ) from error
        return cls(tuple(records))

    @property
    def outputs(self) -> frozenset[str]:
        """Every file that a recorded stage wrote, relative to the output folder."""
        return frozenset(name for record in self.stages for name in record.outputs)

    def save(self, path: Path) -> None:
        """Write ``run.json``, whole or not at all."""
        content = {"schema": SCHEMA, "stages": [asdict(record) for record in self.stages]}
        write_text(path, json.dumps(content, indent=2, sort_keys=False) + "\n")

    def record_of(self, stage: str) -> StageRecord | None:
        """The record of a stage, or None where it has not finished."""
        return next((r for r in self.stages if r.stage == stage), None)

    def with_record(self, record: StageRecord) -> RunManifest:
        """A manifest in which ``record`` replaces or follows the others."""
        if self.record_of(record.stage):
            changed = [record if r.stage == record.stage else r for r in self.stages]
            return RunManifest(tuple(changed))
        return RunManifest((*self.stages, record))

    def without(self, stages: Sequence[str]) -> RunManifest:
        """A manifest without the records of some stages."""
        return RunManifest(tuple(r for r in self.stages if r.stage not in stages))


def file_checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksums(paths: ExamPaths, keys: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every file behind some keys, by path relative to the exam's root.

    A key that names a folder stands for all files in it; hidden and absent files are left out.
    """
    found: dict[str, str] = {}
    for key in keys:
        place = paths[key]
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.is_file() and not file.name.startswith("."):
                found[file.relative_to(paths.root).as_posix()] = file_checksum(file)
    return found


def study_checksum(study: Path) -> str:
    """One SHA-256 over the names and contents of all files of a study folder.

    Only the digest is kept: file and folder names of a study may carry a patient's name.

    Raises
    ------
    InputError
        Something in the folder cannot be read. It is not named, for the same reason.
    """
    try:
        files = sorted(_files_below(study))
        return canonical_hash([[p.relative_to(study).as_posix(), file_checksum(p)] for p in files])
    except OSError as error:
        raise InputError(
            "a file or folder of the study cannot be read "
            f"({error.strerror or type(error).__name__})",
            remedy="Check the permissions of everything in it, or copy the study",
        ) from error


def stage_key(stage: str, config_hash: str, inputs: dict[str, str]) -> str:
    """What a stage's result depends on: name, settings, input checksums, package version."""
    return canonical_hash(
        {"stage": stage, "config": config_hash, "inputs": inputs, "osteosap": __version__}
    )


def software_versions() -> dict[str, str]:
    """Versions of osteosap, Python and the libraries loaded so far (loads none)."""
    versions = {"osteosap": __version__, "python": platform.python_version()}
    for name in _REPORTED:
        module = sys.modules.get(name)
        version = getattr(module, "__version__", None)
        if version:
            versions[name] = str(version)
    return versions


def require_folder(path: Path) -> None:
    """Refuse an output folder that is a file, before any work is done.

    Raises
    ------
    OutputError
        It is one.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder", remedy="Choose another output folder")


def require_own(root: Path, places: Iterable[str], recorded: Collection[str]) -> None:
    """Refuse to write where something lies that no earlier call is on record for.

    Parameters
    ----------
    root
        Output folder.
    places
        Files and folders, relative to ``root``, that will be written or replaced.
    recorded
        Files, relative to ``root``, that earlier calls wrote.

    Raises
    ------
    OutputError
        There is another file at, or below, one of the places.
    """
    found = {
        file.relative_to(root).as_posix() for place in places for file in _files_at(root / place)
    }
    foreign = sorted(found - set(recorded))
    if foreign:
        raise OutputError(
            f"{root} holds {len(foreign)} files, such as {foreign[0]}, that osteosap has no record "
            "of and would replace",
            remedy="Choose an empty folder",
        )


@contextlib.contextmanager
def atomic_outputs(
    root: Path, keys: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[ExamPaths]:
    """Write the files of some keys aside; move them into place when the block has ended well.

    On any error, an interrupt included, what was written aside is removed, and so is ``root``
    where this call had to make it: the folder is then as it was.

    Parameters
    ----------
    root
        Folder of the examination; made if absent.
    keys
        Keys of :class:`~osteosap.exam.ExamPaths` that the block writes. Each must exist at the end.
    optional
        Keys that it may write; where it does not, an older file of that key is removed.

    Yields
    ------
    ExamPaths
        Where to write.

    Raises
    ------
    OutputError
        The disk is full, the folder cannot be written, or a file was not written.
    """
    with replace_on_success(root) as aside:
        partial = ExamPaths(aside)
        yield partial
        missing = [key for key in keys if not partial[key].exists()]
        if missing:
            raise OutputError(
                f"the stage did not write {', '.join(missing)}",
                remedy="Report this as a defect of osteosap, with the log",
            )
        final = ExamPaths(root)
        for key in (*keys, *optional):
            if partial[key].exists():
                move_into_place(partial[key], final[key])
            elif key in optional and final[key].is_dir():
                shutil.rmtree(final[key])
            elif key in optional:
                final[key].unlink(missing_ok=True)


@contextlib.contextmanager
def replace_on_success(root: Path) -> Iterator[Path]:
    """Yield a hidden folder inside ``root``; remove it, and whatever was made for it, at the end.

    The caller moves what it wants to keep out of it. Operating-system errors of writing become
    :class:`OutputError`.
    """
    made = [p for p in (root, *root.parents) if not p.exists()]
    aside = root / f"{PARTIAL}{os.getpid()}"
    finished = False
    try:
        remove_stale(root)
        _make_folder(aside)
        yield aside
        finished = True
    except OSError as error:
        if error.errno in _FULL or _is_below(error.filename, root):
            raise _output_error(root, error) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not finished:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # only empty ones go


def remove_stale(root: Path) -> None:
    """Remove what killed runs left aside in ``root`` (of processes that are no more)."""
    for folder in root.glob(f"{PARTIAL}*"):
        number = folder.name.removeprefix(PARTIAL)
        if number.isdigit() and (int(number) == os.getpid() or not _is_alive(int(number))):
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all; values that are not finite are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that an earlier stage wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as JSON", remedy="Run again with --force to make it anew"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object", remedy="Run again with --force")
    return content


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8), whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; make its folder if absent.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # gone already where all went well
            partial.unlink()


def _output_error(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {path} ({error.strerror or error})",
        remedy="Free disk space, or choose another output folder",
    )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(path.parent, error) from error


def move_into_place(source: Path, target: Path) -> None:
    """Rename a file or folder to its final place, over what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file in a folder of any nesting; unlike ``rglob``, passes over nothing unreadable."""

    def stop(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=stop):
        yield from (file for name in names if (file := Path(place, name)).is_file())


def _files_at(path: Path) -> list[Path]:
    """Whatever is no folder at a place or below it, links that lead nowhere included."""
    if path.is_dir():
        return [p for p in path.rglob("*") if p.is_symlink() or not p.is_dir()]
    return [path] if path.exists() or path.is_symlink() else []


def _leads_out(name: str) -> bool:
    """Whether a relative path leads out of the folder that it is relative to."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _is_below(name: object, root: Path) -> bool:
    return isinstance(name, str) and Path(name).absolute().is_relative_to(root.absolute())


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
