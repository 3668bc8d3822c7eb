"""A stage as data, and how a list of stages runs: resumed, recorded, whole or not at all.

What the stages are is said in :mod:`osteosap.workflow`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from osteosap.config import StageConfig, canonical_hash
from osteosap.errors import ConfigError, InputError, OutputError
from osteosap.exam import ExamPaths
from osteosap.manifest import (
    RunManifest,
    StageRecord,
    atomic_outputs,
    checksums,
    file_checksum,
    require_folder,
    require_own,
    software_versions,
    stage_key,
    study_checksum,
)

__all__ = ["STUDY", "Progress", "Scope", "Stage", "StageContext", "StageResult", "run_stages"]

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""Called with a line on what is being done and the fraction of the stage that is done."""

STUDY = "study"
"""What the first stage reads: the user's folder, which is no key of ``ExamPaths``."""

C = TypeVar("C", bound=StageConfig)
"""Settings of the whole job: one block a stage, named as the stage."""


@dataclass(frozen=True)
class StageContext(Generic[C]):
    """What a stage's function gets.

    Parameters
    ----------
    study
        The user's folder; only the first stage reads it.
    done
        Files of the stages that have finished.
    aside
        Where to write; moved into place once the stage has ended well.
    config
        Settings of the whole job.
    progress
        Tell what is being done.
    keep
        Whether to write files that otherwise nobody reads.
    threads
        How many to use; None: as many as there are cores.
    """

    study: Path
    done: ExamPaths
    aside: ExamPaths
    config: C
    progress: Progress
    keep: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class StageResult:
    """What a stage's function returns beside its files."""

    warnings: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Stage(Generic[C]):
    """One step of the main job, as data.

    Parameters
    ----------
    name
        Also the key of its settings in the job's settings and in YAML.
    summary
        One line.
    reads, writes, may_write
        Keys of :class:`~osteosap.exam.ExamPaths` (or :data:`STUDY`); ``may_write`` names what
        depends on the data.
    config
        Class of its settings.
    run
        Its function.
    used_files
        Files outside the exam that its result depends on (weights), by a name for ``run.json``.
    check
        Raises what would make the stage fail whatever the study: called before the first stage.
    passing
        Keys of what it writes that are removed once every stage that reads them is done, unless
        the user keeps them: large files. They are made again when needed.
    """

    name: str
    summary: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    config: type[StageConfig]
    run: Callable[[StageContext[C]], StageResult]
    may_write: tuple[str, ...] = ()
    used_files: Callable[[C], dict[str, Path]] = lambda _config: {}
    check: Callable[[C], None] = lambda _config: None
    passing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scope:
    """Which part of a list of stages to run.

    Parameters
    ----------
    first
        Name of a stage that is run anew, as are those after it; what comes before must be done.
        None: begin at the first and keep what is done.
    last
        Name of the last stage to run; None means all.
    force
        Run every stage, finished or not.
    keep
        Keep files that otherwise only pass through.
    threads
        For stages that work in parallel; None: as many as there are cores. Results are the same.
    """

    first: str | None = None
    last: str | None = None
    force: bool = False
    keep: bool = False
    threads: int | None = None


def run_stages(
    stages: Sequence[Stage[C]],
    study: Path,
    out: Path,
    *,
    config: C,
    progress: Progress | None = None,
    scope: Scope | None = None,
) -> RunManifest:
    """Run stages in order; those that are done are kept.

    Parameters
    ----------
    stages
        What to do.
    study, out
        Input and output folder.
    config
        Settings of the whole job.
    progress
        Called with what is being done and the fraction of the stage that is done.
    scope
        Which part to run; None means all, and what is done is kept.

    Raises
    ------
    ConfigError
        A stage of the scope is unknown, or its first comes after its last.
    InputError
        A stage before the first of the scope has not been run, or its results were changed.
    OutputError
        The output folder cannot be written, lies inside the study, would replace the study or
        files that no earlier run wrote.
    """
    scope = scope or Scope()
    chosen = _chosen(stages, scope)
    _require_apart(study, out)
    job = _Job(tuple(stages), study, out, config, progress or _silent, scope)
    manifest = RunManifest.load(ExamPaths(out)["run"])
    outputs = [file for key, file in ExamPaths.FILES.items() if key != "run"]
    require_own(out, outputs, manifest.outputs)
    if scope.first:
        _require_done(stages[: stages.index(chosen[0])], manifest, out)
    for stage in chosen:
        stage.check(config)
    anew = scope.force or scope.first is not None
    for stage in chosen:
        if not anew and _is_done(stage, job, manifest):
            log.info("%s: done before with the same settings and inputs, kept", stage.name)
            continue
        for earlier in _makers_of_removed(stage, job, manifest):
            manifest = _run_stage(earlier, job, manifest)
        manifest = _run_stage(stage, job, manifest)
    return manifest if scope.keep else _remove_passing(job, manifest)


@dataclass(frozen=True)
class _Job(Generic[C]):
    stages: tuple[Stage[C], ...]
    study: Path
    out: Path
    config: C
    progress: Progress
    scope: Scope

    def settings(self, stage: Stage[C]) -> StageConfig:
        found: StageConfig = getattr(self.config, stage.name)
        return found


def _chosen(stages: Sequence[Stage[C]], scope: Scope) -> list[Stage[C]]:
    """The stages of a scope, at least one."""
    names = [stage.name for stage in stages]
    for name in (scope.first, scope.last):
        if name is not None and name not in names:
            raise ConfigError(f"no stage '{name}'", remedy=f"Choose from {', '.join(names)}")
    first = names.index(scope.first) if scope.first else 0
    last = names.index(scope.last) if scope.last else len(names) - 1
    if first > last:
        raise ConfigError(
            f"the first stage '{scope.first}' comes after the last, '{scope.last}'",
            remedy=f"The order is {', '.join(names)}",
        )
    return list(stages[first : last + 1])


def _require_done(stages: Sequence[Stage[C]], manifest: RunManifest, out: Path) -> None:
    """Refuse to begin in the middle where what comes before is not there."""
    for stage in stages:
        record = manifest.record_of(stage.name)
        if record is None or not record.is_intact(out):
            state = "has not been run" if record is None else "was run, but its files were changed"
            raise InputError(
                f"the stage '{stage.name}' {state} in {out}",
                remedy="Run without --from; what is done is kept",
            )


def _is_done(stage: Stage[C], job: _Job[C], manifest: RunManifest) -> bool:
    """Whether a stage was run with these settings and inputs, and its results are intact."""
    before = manifest.record_of(stage.name)
    if before is None or not before.is_intact(job.out):
        return False
    if job.scope.keep:
        there = set(before.outputs) - set(before.removed)
        if any(not any(_is_of(name, key) for name in there) for key in stage.passing):
            return False
    return before.key == _key(stage, job, _inputs(stage, job, manifest))


def _key(stage: Stage[C], job: _Job[C], inputs: dict[str, str]) -> str:
    return stage_key(stage.name, canonical_hash(job.settings(stage).to_record()), inputs)


def _run_stage(stage: Stage[C], job: _Job[C], manifest: RunManifest) -> RunManifest:
    """Run one stage, and write the manifest anew."""
    done = ExamPaths(job.out)
    config = job.settings(stage).to_record()
    inputs = _inputs(stage, job, manifest)
    before = manifest.record_of(stage.name)
    log.info("%s: %s", stage.name, stage.summary)
    started, clock = datetime.now(UTC), time.monotonic()
    with atomic_outputs(job.out, stage.writes, optional=stage.may_write) as aside:
        result = stage.run(_context(job, done, aside))
        outputs = checksums(aside, (*stage.writes, *stage.may_write))
    for warning in result.warnings:
        log.warning("%s: %s", stage.name, warning)
    record = StageRecord(
        stage=stage.name,
        key=_key(stage, job, inputs),
        config=config,
        config_hash=canonical_hash(config),
        inputs=inputs,
        outputs=outputs,
        versions=software_versions(),
        device=result.device,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 2),
        warnings=result.warnings,
    )
    if before and _as_read(before.outputs, job) != _as_read(record.outputs, job):
        manifest = _drop_later(stage, job, manifest)
    manifest = manifest.with_record(record)
    manifest.save(done["run"])
    return manifest


def _context(job: _Job[C], done: ExamPaths, aside: ExamPaths) -> StageContext[C]:
    scope = job.scope
    return StageContext(job.study, done, aside, job.config, job.progress, scope.keep, scope.threads)


def _inputs(stage: Stage[C], job: _Job[C], manifest: RunManifest) -> dict[str, str]:
    """Checksums of everything a stage reads; of what was removed, those on record."""
    keys = [key for key in stage.reads if key != STUDY]
    found = checksums(ExamPaths(job.out), keys)
    for record in manifest.stages:
        for name in record.removed:
            if any(_is_of(name, key) for key in keys):
                found[name] = record.outputs[name]
    if STUDY in stage.reads:
        found[STUDY] = study_checksum(job.study)
    for name, path in stage.used_files(job.config).items():
        if path.is_file():
            found[name] = file_checksum(path)
    return found


def _is_of(name: str, key: str) -> bool:
    """Whether a file belongs to a key of ``ExamPaths``: it is its file or lies in its folder."""
    return PurePosixPath(name).is_relative_to(ExamPaths.FILES[key])


def _makers_of_removed(stage: Stage[C], job: _Job[C], manifest: RunManifest) -> list[Stage[C]]:
    """Stages whose removed files a stage needs to run."""
    makers = {
        record.stage
        for record in manifest.stages
        if any(_is_of(name, key) for name in record.removed for key in stage.reads if key != STUDY)
    }
    return [earlier for earlier in job.stages if earlier.name in makers]


def _remove_passing(job: _Job[C], manifest: RunManifest) -> RunManifest:
    """Remove files that only pass through, once all who read them are done."""
    for stage in job.stages:
        record = manifest.record_of(stage.name)
        readers = [s for s in job.stages if set(stage.passing) & set(s.reads)]
        if record is None or not all(manifest.record_of(s.name) for s in readers):
            continue
        kept = [key for s in job.stages for key in s.reads if key not in (STUDY, *stage.passing)]
        gone = tuple(
            name
            for name in record.outputs
            if any(_is_of(name, key) for key in stage.passing)
            and name not in {ExamPaths.FILES[key] for key in kept}
        )
        if gone != record.removed:
            manifest = manifest.with_record(replace(record, removed=gone))
            manifest.save(ExamPaths(job.out)["run"])  # first, so that a crash loses nothing
        for name in gone:
            (job.out / name).unlink(missing_ok=True)
    return manifest


def _as_read(outputs: dict[str, str], job: _Job[C]) -> dict[str, str]:
    """Of some outputs those that a stage reads."""
    keys = {key for stage in job.stages for key in stage.reads if key != STUDY}
    return {name: sha for name, sha in outputs.items() if any(_is_of(name, k) for k in keys)}


def _drop_later(stage: Stage[C], job: _Job[C], manifest: RunManifest) -> RunManifest:
    """Forget and remove the results of later stages, which belong to another input."""
    names = [s.name for s in job.stages]
    later = names[names.index(stage.name) + 1 :]
    for name in later:
        record = manifest.record_of(name)
        for file in record.outputs if record else ():
            (job.out / file).unlink(missing_ok=True)
    return manifest.without(later)


def _require_apart(study: Path, out: Path) -> None:
    """Refuse to write into the study, and to replace it or a part of it."""
    require_folder(out)
    source = study.resolve()
    if out.resolve().is_relative_to(source):
        raise OutputError(
            f"the output folder {out} lies inside the study {study}",
            remedy="Choose an output folder outside it, so that results are never read as input",
        )
    for top in sorted({Path(file).parts[0] for file in ExamPaths.FILES.values()}):
        place = (out / top).resolve()
        if source.is_relative_to(place) or place.is_relative_to(source):
            raise OutputError(
                f"results would go to {out / top}, where the study {study} lies",
                remedy="Choose an empty folder",
            )


def _silent(_message: str, _fraction: float) -> None:
    pass
