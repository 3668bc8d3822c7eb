"""START HERE: the main job, from a study to a report, as a list of stages.

A stage is data: its name, what it reads and writes (keys of
:class:`~osteosap.exam.ExamPaths`), its settings and its function. The order of the work, the table
in the documentation, resuming and ``run.json`` all come from :data:`STAGES`.

::

    STUDY --ingest--> stations/ --preprocess--> exam/ --segment--> skeleton, lesion probability
          --measure--> lesions, lesions.csv, measurements.json --report--> report.html
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from osteosap import __version__
from osteosap.config import StageConfig
from osteosap.errors import CheckpointError
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
from osteosap.manifest import RunManifest, read_json, software_versions, write_json
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
from osteosap.stage import STUDY, Progress, Scope, Stage, StageContext, StageResult, run_stages
from osteosap.volume import Volume, read_nifti, stack, write_nifti

__all__ = ["STAGES", "BurdenConfig", "RunConfig", "run_exam"]


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


def run_exam(
    study: Path,
    out: Path,
    *,
    config: RunConfig | None = None,
    progress: Progress | None = None,
    scope: Scope | None = None,
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
    scope
        Which stages to run, and whether what is done is done again; None: all, and it is not.

    Returns
    -------
    RunManifest
        Also on disk as ``out/run.json``.

    Raises
    ------
    InputError
        The study, or something in it, cannot be used, or what comes before the first stage of the
        scope has not been run.
    CheckpointError
        Weights are missing or do not fit.
    ConfigError
        The device or a stage of the scope is unknown or absent.
    OutputError
        The output folder cannot be written, lies inside the study, would replace the study or
        files that no earlier run wrote.
    """
    require_study(study)
    return run_stages(
        STAGES, study, out, config=config or RunConfig(), progress=progress, scope=scope
    )


def ingest(context: StageContext[RunConfig]) -> StageResult:
    """Read the study and keep what the chain needs of it."""
    context.progress("read the study", 0.0)
    found = read_input(context.study, context.config.ingest)
    write_stations(found, context.aside["stations"])
    return StageResult(found.warnings)


def preprocess(context: StageContext[RunConfig]) -> StageResult:
    """Stitch the stations, bring DWI to the T1 grid, make ADC."""
    from osteosap.preprocess import assemble_exam
    from osteosap.preprocess.snapshots import write_snapshots

    found = read_stations(context.done["stations"])
    assembled = assemble_exam(
        found.images,
        context.config.preprocess,
        progress=context.progress,
        threads=context.threads,
    )
    for name in assembled.images.channels:
        array = assembled.images.channel(name)
        volume = Volume.single(array, assembled.images.affine, name)
        write_nifti(volume, context.aside[name], simulated=found.simulated)
    write_nifti(assembled.body, context.aside["body"])
    write_json(context.aside["preprocessing"], assembled.record)
    write_snapshots(assembled.snapshots, context.aside["snapshots"])
    for name, volume in assembled.stations().items() if context.keep else ():
        path = context.aside["corrected_stations"] / f"{name}.nii.gz"
        write_nifti(volume, path, simulated=found.simulated)
    origin = {"simulated": found.simulated, "osteosap": __version__}
    write_json(context.aside["origin"], origin)  # so that exam/ alone, as a study, still says so
    return StageResult((*assembled.warnings, *assembled.to_look_at))


def segment(context: StageContext[RunConfig]) -> StageResult:
    """Name the bones and rate every voxel as lesion, by the networks."""
    images = _images(context.done, INPUT_CHANNELS)
    result = segment_exam(images, config=context.config.segment, progress=context.progress)
    write_nifti(result.skeleton, context.aside["skeleton"])
    write_nifti(result.lesion_probability, context.aside["lesion_probability"])
    write_json(context.aside["segmentation"], result.record)
    return StageResult(device=str(result.record["device"]))


def measure(context: StageContext[RunConfig]) -> StageResult:
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


def report(context: StageContext[RunConfig]) -> StageResult:
    """Put images, findings and what was done on one page."""
    from osteosap.preprocess.snapshots import read_snapshots
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
        snapshots=read_snapshots(done["snapshots"]),
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


def rule_file(config: RunConfig) -> dict[str, Path]:
    """The user's rules on DICOM series, where there are any."""
    return {"rules": config.ingest.rules} if config.ingest.rules else {}


def check_preprocess(config: RunConfig) -> None:
    """Fail where bias correction or registration is asked for and their library is absent."""
    if config.preprocess.needs_simpleitk:
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


STAGES: tuple[Stage[RunConfig], ...] = (
    Stage(
        "ingest", "Sort the study into station images of known kind and b-value",
        (STUDY,), ("stations", "series"), IngestConfig, ingest,
        used_files=rule_file, passing=("stations",),
    ),
    Stage(
        "preprocess", "Correct bias, align and stitch stations, bring diffusion to T1, make ADC",
        ("stations",), ("t1", "b1000", "body", "preprocessing", "snapshots", "origin"),
        PreprocessConfig, preprocess, may_write=("adc", "corrected_stations"),
        check=check_preprocess, passing=("corrected_stations",),
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
        ("series", "preprocessing", "snapshots", "segmentation", "t1", "b1000", "adc", "body",
         "skeleton", "lesions", "measurements"),
        ("report",), ReportConfig, report, check=check_report,
    ),
)  # fmt: skip
"""The main job, in order."""
