"""START HERE: the main job, from a study to a report, as a list of stages.

A stage is data: its name, what it reads and writes (keys of
:class:`~osteosap.exam.ExamPaths`), its settings and its function. The order of the work, the table
in the documentation, resuming and ``run.json`` all come from :data:`STAGES`.

::

    STUDY --ingest--> stations/ --preprocess--> exam/ --segment--> skeleton, lesion probability
          --measure--> lesions, lesions.csv, measurements.json --report--> report.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from osteosap import __version__
from osteosap.config import StageConfig, canonical_hash
from osteosap.errors import CheckpointError, OutputError
from osteosap.exam import INPUT_CHANNELS, ExamPaths
from osteosap.inference.candidates import CandidateConfig, extract_lesions
from osteosap.inference.predict import SegmentConfig, find_weights, segment_exam
from osteosap.inference.sliding import choose_device
from osteosap.ingest import (
    IngestConfig,
    read_input,
    read_stations,
    require_study,
    write_stations,
)
from osteosap.manifest import (
    RunManifest,
    StageRecord,
    atomic_outputs,
    checksums,
    file_checksum,
    read_json,
    require_folder,
    require_own,
    software_versions,
    stage_key,
    study_checksum,
    write_json,
)
from osteosap.models.checkpoint import load_checkpoint
from osteosap.preprocess.config import PreprocessConfig
from osteosap.reporting.content import ReportConfig, ReportContent
from osteosap.reporting.findings import (
    Lesion,
    MeasureConfig,
    measure_lesions,
    measurements,
    write_lesion_table,
)
from osteosap.volume import Volume, read_nifti, stack, write_nifti

__all__ = [
    "STAGES",
    "STUDY",
    "BurdenConfig",
    "RunConfig",
    "Stage",
    "StageContext",
    "StageResult",
    "run_exam",
]

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""Called with a line on what is being done and the fraction of the stage that is done."""

STUDY = "study"
"""What the first stage reads: the user's folder, which is no key of ``ExamPaths``."""


class BurdenConfig(StageConfig):
    """Settings of the measure stage: what counts as a lesion, and how lesions are measured."""

    candidates: CandidateConfig = CandidateConfig()
    lesions: MeasureConfig = MeasureConfig()


class RunConfig(StageConfig):
    """Settings of the main job: one block a stage, named as the stage."""

    ingest: IngestConfig = IngestConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    segment: SegmentConfig = SegmentConfig()
    measure: BurdenConfig = BurdenConfig()
    report: ReportConfig = ReportConfig()

    def on_device(self, device: str) -> RunConfig:
        """The same settings with another device for the networks."""
        values = self.to_mapping()
        values["segment"]["device"] = device
        return RunConfig.from_mapping(values)


@dataclass(frozen=True)
class StageContext:
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
    config: RunConfig
    progress: Progress


@dataclass(frozen=True)
class StageResult:
    """What a stage's function returns beside its files."""

    warnings: tuple[str, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True)
class Stage:
    """One step of the main job, as data.

    Parameters
    ----------
    name
        Also the key of its settings in :class:`RunConfig` and in YAML.
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
    run: Callable[[StageContext], StageResult]
    may_write: tuple[str, ...] = ()
    used_files: Callable[[RunConfig], dict[str, Path]] = lambda _config: {}
    check: Callable[[RunConfig], None] = lambda _config: None


def run_exam(
    study: Path,
    out: Path,
    *,
    config: RunConfig | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> RunManifest:
    """Do the main job: from a study to masks, measurements and a report.

    A stage whose settings, inputs and package version are as in ``out/run.json``, and whose outputs
    are intact, is not run again. A stage that fails leaves nothing half-written. What can be known
    to fail is refused before anything is written, and so is an output folder in which the run would
    replace files that are not on record in its ``run.json``.

    Parameters
    ----------
    study
        DICOM folder, or folder with ``t1``, ``b1000`` and optionally ``adc`` as NIfTI.
    out
        Output folder; made if absent.
    config
        Settings; defaults where left out.
    progress
        Called with what is being done and the fraction of the stage that is done.
    force
        Run every stage, finished or not.

    Returns
    -------
    RunManifest
        Also on disk as ``out/run.json``.

    Raises
    ------
    InputError
        The study, or something in it, cannot be used.
    CheckpointError
        Weights are missing or do not fit.
    ConfigError
        The device is unknown or absent.
    OutputError
        The output folder cannot be written, lies inside the study, would replace the study or
        files that no earlier run wrote.
    """
    require_study(study)
    _require_apart(study, out)
    job = _Job(study, out, config or RunConfig(), progress or _silent, force)
    manifest = RunManifest.load(ExamPaths(out)["run"])
    outputs = [file for key, file in ExamPaths.FILES.items() if key != "run"]
    require_own(out, outputs, manifest.outputs)
    for stage in STAGES:
        stage.check(job.config)
    for stage in STAGES:
        manifest = _run_stage(stage, job, manifest)
    return manifest


def ingest(context: StageContext) -> StageResult:
    """Read the study and keep what the chain needs of it."""
    context.progress("read the study", 0.0)
    found = read_input(context.study, context.config.ingest)
    write_stations(found, context.aside["stations"])
    return StageResult(found.warnings)


def preprocess(context: StageContext) -> StageResult:
    """Stitch the stations, bring DWI to the T1 grid, make ADC."""
    from osteosap.preprocess import assemble_exam

    found = read_stations(context.done["stations"])
    context.progress("stitch stations, align diffusion with T1", 0.0)
    assembled = assemble_exam(found.images, context.config.preprocess)
    for name in assembled.images.channels:
        array = assembled.images.channel(name)
        volume = Volume.single(array, assembled.images.affine, name)
        write_nifti(volume, context.aside[name])
    write_nifti(assembled.body, context.aside["body"])
    write_json(context.aside["preprocessing"], assembled.record)
    origin = {"simulated": found.simulated, "osteosap": __version__}
    write_json(context.aside["origin"], origin)  # so that exam/ alone, as a study, still says so
    return StageResult(assembled.warnings)


def segment(context: StageContext) -> StageResult:
    """Name the bones and rate every voxel as lesion, by the networks."""
    images = _images(context.done, INPUT_CHANNELS)
    result = segment_exam(images, config=context.config.segment, progress=context.progress)
    write_nifti(result.skeleton, context.aside["skeleton"])
    write_nifti(result.lesion_probability, context.aside["lesion_probability"])
    write_json(context.aside["segmentation"], result.record)
    return StageResult(device=str(result.record["device"]))


def measure(context: StageContext) -> StageResult:
    """Threshold the lesion probability and measure every candidate."""
    done, config = context.done, context.config.measure
    context.progress("measure lesions", 0.0)
    images = _images(done, _MEASURED)
    adc = images.channel("adc") if "adc" in images.channels else None
    skeleton, probability = (
        read_nifti(done[name], channel=name).channel(name)
        for name in ("skeleton", "lesion_probability")
    )
    segmentation = read_json(done["segmentation"])
    candidates = config.candidates.with_threshold(segmentation["lesion_threshold"])
    array = extract_lesions(probability, images.grid.voxel_volume_ml, config=candidates)
    findings = measure_lesions(
        array,
        images.grid,
        skeleton=skeleton,
        probability=probability,
        adc=adc,
        config=config.lesions,
    )
    summary = measurements(
        findings,
        array,
        adc=adc,
        config=config.lesions,
        provenance={
            "simulated": read_json(done["series"])["simulated"],
            "candidates": candidates.to_mapping(),
            "segmentation": segmentation,
            "versions": software_versions(),
        },
    )
    write_nifti(Volume.single(array, images.affine, "lesions"), context.aside["lesions"])
    write_lesion_table(findings, context.aside["lesion_table"])
    write_json(context.aside["measurements"], summary)
    return StageResult()


def report(context: StageContext) -> StageResult:
    """Put images, findings and what was done on one page."""
    from osteosap.reporting.exam_report import write_report

    done = context.done
    context.progress("draw the report", 0.0)
    series, preprocessing = read_json(done["series"]), read_json(done["preprocessing"])
    summary = read_json(done["measurements"])
    content = ReportContent(
        images=_images(done, _MEASURED),
        skeleton=read_nifti(done["skeleton"], channel="skeleton"),
        lesions=read_nifti(done["lesions"], channel="lesions"),
        findings=tuple(Lesion.from_row(row) for row in summary["lesions"]),
        measurements=summary,
        series=tuple(series["series"]),
        preprocessing=preprocessing,
        segmentation=read_json(done["segmentation"]),
        versions=software_versions(),
        warnings=(*series["warnings"], *preprocessing.get("warnings", ())),
        simulated=series["simulated"],
        created=datetime.now(UTC).isoformat(sep=" ", timespec="minutes"),
    )
    write_report(context.aside["report"], content=content, config=context.config.report)
    return StageResult()


_MEASURED = (*INPUT_CHANNELS, "adc")


def _images(done: ExamPaths, channels: Sequence[str]) -> Volume:
    """The images of some channels; ``adc`` where there is one."""
    wanted = [name for name in channels if name != "adc" or done[name].exists()]
    return stack([read_nifti(done[name], channel=name) for name in wanted])


def weight_files(config: RunConfig) -> dict[str, Path]:
    """Weights that the segment stage will use, by their name in ``run.json``."""
    return {
        "weights/skeleton": config.segment.skeleton_weights or find_weights("skeleton"),
        "weights/lesions": config.segment.lesion_weights or find_weights("lesions"),
    }


def check_preprocess(config: RunConfig) -> None:
    """Fail where registration is asked for and its library is absent."""
    if config.preprocess.registration != "none":
        import SimpleITK  # noqa: F401


def check_segment(config: RunConfig) -> None:
    """Fail without the device, or with weights that are absent, broken or for another task."""
    choose_device(config.segment.device)
    for name, path in weight_files(config).items():
        task = name.removeprefix("weights/")
        found = load_checkpoint(path).metadata.task
        if found != task:
            raise CheckpointError(
                f"{path} holds weights for '{found}', expected '{task}'",
                remedy="Exchange the weight files",
            )


def check_report(_config: RunConfig) -> None:
    """Fail where the libraries that draw and fill the page are absent."""
    import osteosap.reporting.exam_report  # noqa: F401


STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest", "Sort the study into station images of known kind and b-value",
        (STUDY,), ("stations", "series"), IngestConfig, ingest,
    ),
    Stage(
        "preprocess", "Stitch stations, bring diffusion to the T1 grid, make ADC",
        ("stations",), ("t1", "b1000", "body", "preprocessing", "origin"),
        PreprocessConfig, preprocess, may_write=("adc",), check=check_preprocess,
    ),
    Stage(
        "segment", "Name the bones and rate every voxel as lesion",
        ("t1", "b1000"), ("skeleton", "lesion_probability", "segmentation"),
        SegmentConfig, segment, used_files=weight_files, check=check_segment,
    ),
    Stage(
        "measure", "Extract lesions and measure region, volume and ADC",
        ("series", "t1", "b1000", "adc", "skeleton", "lesion_probability", "segmentation"),
        ("lesions", "lesion_table", "measurements"), BurdenConfig, measure,
    ),
    Stage(
        "report", "Write what a reader needs on one page",
        ("series", "preprocessing", "segmentation", "t1", "b1000", "adc", "skeleton", "lesions",
         "measurements"),
        ("report",), ReportConfig, report, check=check_report,
    ),
)  # fmt: skip
"""The main job, in order."""


@dataclass(frozen=True)
class _Job:
    study: Path
    out: Path
    config: RunConfig
    progress: Progress
    force: bool


def _run_stage(stage: Stage, job: _Job, manifest: RunManifest) -> RunManifest:
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
        manifest = _drop_later(stage, job.out, manifest)
    manifest = manifest.with_record(record)
    manifest.save(done["run"])
    return manifest


def _inputs(stage: Stage, job: _Job) -> dict[str, str]:
    """Checksums of everything a stage reads."""
    found = checksums(ExamPaths(job.out), [key for key in stage.reads if key != STUDY])
    if STUDY in stage.reads:
        found[STUDY] = study_checksum(job.study)
    for name, path in stage.used_files(job.config).items():
        if path.is_file():
            found[name] = file_checksum(path)
    return found


def _drop_later(stage: Stage, out: Path, manifest: RunManifest) -> RunManifest:
    """Forget and remove the results of later stages, which belong to another input."""
    names = [s.name for s in STAGES]
    later = names[names.index(stage.name) + 1 :]
    for name in later:
        record = manifest.record_of(name)
        for file in record.outputs if record else ():
            (out / file).unlink(missing_ok=True)
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
