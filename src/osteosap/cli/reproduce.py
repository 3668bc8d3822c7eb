"""``osteosap reproduce`` and ``osteosap study``: the whole experiment, and its parts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from osteosap.study.plan import Unit

__all__ = ["app", "reproduce"]

app = typer.Typer(
    help="Parts of a study; 'osteosap reproduce' runs them all.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_SIMULATED = "simulated"


class EngineKind(StrEnum):
    """Where units run."""

    LOCAL = "local"
    SLURM = "slurm"


def reproduce(
    out: Annotated[Path, typer.Option("--out", help="Folder of the study.")],
    profile: Annotated[
        str, typer.Option("--profile", help="smoke, cpu, paper, or a YAML file.")
    ] = "smoke",
    data: Annotated[
        str,
        typer.Option("--data", help="'simulated', or a folder with 'healthy' and 'patients'."),
    ] = _SIMULATED,
    engine: Annotated[
        EngineKind, typer.Option("--engine", help="This machine, or jobs of SLURM.")
    ] = EngineKind.LOCAL,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Units at once.")] = 1,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Processes of units that use several.")
    ] = 2,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", help="KEY=VALUE for submitit, such as slurm_partition=gpu."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done; do nothing.")] = (
        False
    ),
) -> None:
    """Run the whole experiment: cohort, pretraining, three arms, scores, report. Resumes."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.study.config import load_profile
    from osteosap.study.engine import Engine, finished_units, run_plan
    from osteosap.study.plan import make_plan, recipe_files
    from osteosap.study.start import require_data, start_study

    config = load_profile(profile)
    folder = None if data == _SIMULATED else Path(data)
    units = make_plan(config, data=folder, processes=processes)
    require_data(folder)
    if not plan:
        start_study(out, config, units, profile=profile, data=folder)
    settings = recipe_files(config, data=folder.resolve() if folder else None)
    _show(units, finished_units(units, out, settings=settings), at_once)
    if plan:
        return
    where = Engine(engine.value, at_once, _options(slurm or []))
    with progress_bar() as progress:
        run_plan(units, out, engine=where, progress=progress)
    results.print(f"report: {out / 'report' / 'study.html'}", markup=False)


@app.command()
def folds(
    study: Annotated[Path, typer.Argument(help="Folder of a study.")],
) -> None:
    """Divide a study's exams: folds of patients, lists for every training."""
    from osteosap.cli.console import results
    from osteosap.study.lists import write_lists

    write_lists(study)
    results.print(f"folds: {study / 'folds.json'}", markup=False)


@app.command()
def report(
    study: Annotated[Path, typer.Argument(help="Folder of a study.")],
) -> None:
    """Write the report of a study anew."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.reporting.study_report import write_study_report

    with progress_bar() as progress:
        write_study_report(study, progress=progress)
    results.print(f"report: {study / 'report' / 'study.html'}", markup=False)


def _options(pairs: Sequence[str]) -> dict[str, str | int]:
    from osteosap.errors import ConfigError

    options: dict[str, str | int] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ConfigError(f"'{pair}' is no KEY=VALUE", remedy="Write slurm_partition=gpu")
        options[key] = int(value) if value.isdigit() else value
    return options


def _show(units: Sequence[Unit], finished: Collection[str], at_once: int) -> None:
    """The plan with what is finished and how long the rest may take."""
    from rich.table import Table

    from osteosap.cli.console import results

    table = Table("unit", "waits for", "minutes", "state")
    left = 0.0
    for unit in units:
        left += 0.0 if unit.name in finished else unit.minutes
        waits = (*unit.after, *unit.needs)
        if len(waits) > 3:
            waits = (*waits[:2], f"{len(waits) - 2} more")
        table.add_row(
            unit.name,
            ", ".join(waits),
            f"{unit.minutes:.1f}",
            "finished" if unit.name in finished else "to do",
        )
    results.print(table)
    results.print(
        f"{len(units)} units; about {left / at_once:.0f} minutes to go with {at_once} at once "
        "(a guess from the profile)",
        markup=False,
    )
