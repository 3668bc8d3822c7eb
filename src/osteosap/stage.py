"""A stage as data, and how a list of stages runs: resumed, recorded, whole or not at all.

What the stages are is said in :mod:`osteosap.workflow`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from osteosap.config import StageConfig, canonical_hash
from osteosap.errors import OutputError
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

__all__ = ["STUDY", "Progress", "Stage", "StageContext", "StageResult", "run_stages"]

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
    """

    study: Path
    done: ExamPaths
    aside: ExamPaths
    config: C
    progress: Progress


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


def run_stages(
    stages: Sequence[Stage[C]],
    study: Path,
    out: Path,
    *,
    config: C,
    progress: Progress | None = None,
    force: bool = False,
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
    force
        Run every stage, finished or not.

    Raises
    ------
    OutputError
        The output folder cannot be written, lies inside the study, would replace the study or
        files that no earlier run wrote.
    """
    _require_apart(study, out)
    job = _Job(tuple(stages), study, out, config, progress or _silent, force)
    manifest = RunManifest.load(ExamPaths(out)["run"])
    outputs = [file for key, file in ExamPaths.FILES.items() if key != "run"]
    require_own(out, outputs, manifest.outputs)
    for stage in stages:
        stage.check(config)
    for stage in stages:
        manifest = _run_stage(stage, job, manifest)
    return manifest


@dataclass(frozen=True)
class _Job(Generic[C]):
    stages: tuple[Stage[C], ...]
    study: Path
    out: Path
    config: C
    progress: Progress
    force: bool


def _run_stage(stage: Stage[C], job: _Job[C], manifest: RunManifest) -> RunManifest:
    """Run one stage unless it has been done, and write the manifest anew."""
    done = ExamPaths(job.out)
    settings: StageConfig = getattr(job.config, stage.name)
    inputs = _inputs(stage, job)
    config = settings.to_record()
    config_hash = canonical_hash(config)
    key = stage_key(stage.name, config_hash, inputs)
    before = manifest.record_of(stage.name)
    if before and not job.force and before.key == key and before.is_intact(job.out):
        log.info("%s: done before with the same settings and inputs, kept", stage.name)
        return manifest
    log.info("%s: %s", stage.name, stage.summary)
    started, clock = datetime.now(UTC), time.monotonic()
    with atomic_outputs(job.out, stage.writes, optional=stage.may_write) as aside:
        result = stage.run(StageContext(job.study, done, aside, job.config, job.progress))
        outputs = checksums(aside, (*stage.writes, *stage.may_write))
    for warning in result.warnings:
        log.warning("%s: %s", stage.name, warning)
    record = StageRecord(
        stage=stage.name,
        key=key,
        config=config,
        config_hash=config_hash,
        inputs=inputs,
        outputs=outputs,
        versions=software_versions(),
        device=result.device,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 2),
        warnings=result.warnings,
    )
    if before and before.outputs != record.outputs:
        manifest = _drop_later(stage, job, manifest)
    manifest = manifest.with_record(record)
    manifest.save(done["run"])
    return manifest


def _inputs(stage: Stage[C], job: _Job[C]) -> dict[str, str]:
    """Checksums of everything a stage reads."""
    found = checksums(ExamPaths(job.out), [key for key in stage.reads if key != STUDY])
    if STUDY in stage.reads:
        found[STUDY] = study_checksum(job.study)
    for name, path in stage.used_files(job.config).items():
        if path.is_file():
            found[name] = file_checksum(path)
    return found


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
