"""``osteosap preprocess-cohort``: many studies, each to one standardised exam."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["preprocess_cohort"]


def preprocess_cohort(
    studies: Annotated[Path, typer.Argument(help="Folder with one folder a study.")],
    out: Annotated[Path, typer.Option("--out", help="Output folder; one folder an exam in it.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings (YAML), as for 'run'.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Studies at once; default: by cores and memory."),
    ] = None,
    stations: Annotated[
        bool, typer.Option("--stations", help="Keep the station images of every exam.")
    ] = False,
    standard: Annotated[
        bool,
        typer.Option(
            "--fit-standard", help="Fit a histogram standard (Nyul) on the exams: standard.json."
        ),
    ] = False,
) -> None:
    """From many studies to exams on one grid each; a study that fails does not stop the others."""
    from rich.table import Table

    from osteosap.batch import (
        Batch,
        find_studies,
        fit_cohort_standard,
        run_batch,
        write_overview,
    )
    from osteosap.cli.console import progress_bar, results
    from osteosap.stage import Scope
    from osteosap.workflow import RunConfig

    settings = RunConfig.from_yaml(config) if config else RunConfig()
    batch = Batch(settings, Scope(last="preprocess", keep=stations), workers)
    found = find_studies(studies)
    with progress_bar() as progress:
        outcomes = run_batch(found, out, batch=batch, progress=progress)
        overview = write_overview(outcomes, out)
        done = [out / one.name for one in outcomes if not one.error]
        if standard and done:
            fit_cohort_standard(done, out / "standard.json", progress=progress)
    failed = [one for one in outcomes if one.error]
    kept = sum(one.state == "kept" for one in outcomes)
    before = f" ({kept} of them before, kept)" if kept else ""
    results.print(f"{len(done)} of {len(outcomes)} exams done{before}: {overview}", markup=False)
    if failed:
        table = Table("study", "why it failed")
        for one in failed:
            table.add_row(one.name, one.error)
        results.print(table)
        raise typer.Exit(1)
