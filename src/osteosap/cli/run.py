"""``osteosap run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["run"]


def run(
    study: Annotated[
        Path,
        typer.Argument(help="DICOM folder, or folder with t1, b1000 (and adc) as NIfTI."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Output folder; made if absent.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings (YAML), one block a stage.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu or cuda, over the settings.")
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", help="Run this stage and those after it anew; see 'stages'."),
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Stop after this stage.")] = None,
    stations: Annotated[
        bool,
        typer.Option("--stations", help="Keep the station images, as read and as corrected."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Run every stage, finished or not.")
    ] = False,
) -> None:
    """From a study to lesion masks, measurements and a report."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.exam import ExamPaths
    from osteosap.stage import Scope
    from osteosap.workflow import RunConfig, run_exam

    settings = RunConfig.from_yaml(config) if config else RunConfig()
    if device:
        settings = settings.on_device(device)
    scope = Scope(first, last, force, keep=stations)
    with progress_bar() as progress:
        manifest = run_exam(study, out, config=settings, progress=progress, scope=scope)
    paths = ExamPaths(out)
    for what, key in (("report", "report"), ("lesions", "lesion_table"), ("exam", "t1")):
        if ExamPaths.FILES[key] in manifest.outputs:
            place = paths[key].parent if key == "t1" else paths[key]
            results.print(f"{what}: {place}", markup=False)
    results.print("Research tool, not a medical device: a reader confirms every finding.")
