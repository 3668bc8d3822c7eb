"""``osteosap inspect``: what every series of a study is, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from osteosap.dicom import SeriesRecord, StudyInspection

__all__ = ["inspect"]


def inspect(
    study: Annotated[Path, typer.Argument(help="Folder of one DICOM study, any nesting.")],
    rules: Annotated[
        Path | None,
        typer.Option("--rules", help="YAML file with rules of your own; they come first."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the same as JSON to this file.")
    ] = None,
) -> None:
    """Series, stations, geometry, b-values and roles of a DICOM study, with the reasons.

    Reads headers only. Ends with exit code 1 and the error that osteosap run would raise where
    the study cannot be processed; the table is printed all the same.
    """
    from osteosap.cli.console import errors, results
    from osteosap.dicom import inspect_study

    found = inspect_study(study, rules)
    results.print(_table(found))
    for warning in found.warnings:
        results.print(f"warning: {warning}", markup=False)
    for line in found.plan:
        results.print(line, markup=False)
    if json_file is not None:
        _write(found, json_file)
        results.print(f"json: {json_file}", markup=False)
    if found.problem:
        errors.print(f"error: {found.problem}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _table(found: StudyInspection) -> Table:
    from rich.table import Table
    from rich.text import Text

    headings = ("no.", "description", "files", "stations", "geometry", "b (s/mm2)", "role")
    table = Table(*headings, "used", "why", show_lines=True)
    for record in found.series:
        table.add_row(*(Text(cell, overflow="fold") for cell in _cells(record)))
    return table


def _cells(record: SeriesRecord) -> tuple[str, ...]:
    files = str(record.n_files)
    if record.n_images != record.n_files:
        files += f" ({record.n_images} frames)"
    return (
        "-" if record.number < 0 else str(record.number),
        record.description,
        files,
        str(record.n_stations or "-"),
        "\n".join(filter(None, (record.geometry, record.plane))),
        ", ".join(f"{b:g}" for b in record.b_values_s_per_mm2) or "-",
        record.role,
        "yes" if record.used else "no",
        record.reason,
    )


def _write(found: StudyInspection, path: Path) -> None:
    from dataclasses import asdict

    from osteosap.manifest import write_json

    write_json(path, asdict(found))
