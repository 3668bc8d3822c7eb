"""``osteosap compare-methods``: several methods on the same exams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from osteosap.evaluation.cohort import CohortScores

__all__ = ["compare_methods"]

OUTPUTS = ("comparison.json", "comparison.csv")
_KEYS = {"settings", "methods", "tests"}


def compare_methods(
    methods: Annotated[
        list[str], typer.Argument(metavar="NAME=DIR...", help="Predictions of each method.")
    ],
    reference: Annotated[Path, typer.Option("--reference", help="Truth: a folder of exams.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for comparison.json and .csv.")],
    roi: Annotated[
        Path | None,
        typer.Option("--roi", help="Masks: outside them neither side counts."),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Bring a reference on another grid onto the prediction's."),
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Leave out exams that one method lacks."),
    ] = False,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", help="Score these only: a JSON list of names, such as a study's."),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Exams at once.")] = 1,
    config: Annotated[Path | None, typer.Option("--config", help="Settings (YAML).")] = None,
) -> None:
    """Test methods against each other: paired by exam, unpaired by detected lesion."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.cli.evaluate import (
        holds_keys,
        left_out,
        print_left_out,
        settings_of,
        write_table,
    )
    from osteosap.evaluation.cohort import evaluate_cohort
    from osteosap.evaluation.compare import compare_methods as test_methods
    from osteosap.evaluation.pairs import NO_PREDICTION, find_pairs, read_case_names
    from osteosap.manifest import require_folder, require_own, software_versions, write_json

    folders = _named(methods)
    require_folder(out)
    require_own(out, OUTPUTS, OUTPUTS if holds_keys(out / OUTPUTS[0], _KEYS) else ())
    settings = settings_of(config, resample=resample)
    names = read_case_names(cases) if cases else None
    found = {
        name: find_pairs(reference, folder, roi=roi, allow_missing=allow_missing, cases=names)
        for name, folder in folders.items()
    }
    missing = {name: dict(lost) for name, (_, lost) in found.items()}
    lacking = {exam for lost in missing.values() for exam in lost}
    scores: dict[str, CohortScores] = {}
    with progress_bar() as progress:
        for place, name in enumerate(folders):
            # paired tests need the same exams of all
            pairs = [pair for pair in found[name][0] if pair.name not in lacking]

            def part(line: str, fraction: float, done: int = place, what: str = name) -> None:
                progress(f"{what}: {line}", (done + fraction) / len(folders))

            scores[name] = evaluate_cohort(
                pairs, config=settings, processes=processes, progress=part
            )
    rows = test_methods(scores)
    content = {
        "versions": software_versions(),
        "settings": settings.to_mapping(),
        "left_out": {name: left_out(lost) for name, lost in missing.items()},
        "methods": {name: cohort.summary() for name, cohort in scores.items()},
        "tests": rows,
    }
    write_json(out / OUTPUTS[0], content)
    write_table(rows, out / OUTPUTS[1])
    _print(rows)
    for name, lost in missing.items():
        print_left_out(lost, of=f"{name}: ")
    if any(set(lost) != lacking for lost in missing.values()):
        results.print(
            f"{len(lacking)} exams are left out for all methods: in one of them each is "
            f"{NO_PREDICTION}, or without a reference",
            markup=False,
        )
    results.print(f"comparison: {out / OUTPUTS[0]}", markup=False)


def _named(methods: list[str]) -> dict[str, Path]:
    from osteosap.errors import InputError

    named: dict[str, Path] = {}
    for text in methods:
        name, sign, folder = text.partition("=")
        if not sign or not name or not folder or name in named:
            raise InputError(
                f"'{text}' is no method of its own name",
                remedy="Write each as NAME=DIR, such as sap=results/sap",
            )
        named[name] = Path(folder)
    return named


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from osteosap.cli.console import results
    from osteosap.cli.evaluate import as_text

    table = Table("measure", "a", "b", "n", "median a", "median b", "p", "corrected", "effect")
    for row in rows:
        n = str(row["n_a"]) if row["n_a"] == row["n_b"] else f"{row['n_a']}, {row['n_b']}"
        numbers = (as_text(row[k]) for k in ("median_a", "median_b", "p", "p_bonferroni", "effect"))
        table.add_row(row["measure"], row["a"], row["b"], n, *numbers)
    results.print(table)
    results.print(
        "wilcoxon by exam (pairs without difference: Pratt), mann-whitney by detected lesion; "
        "corrected: Bonferroni over the pairs of methods; effect: rank-biserial, positive where b "
        "is larger",
        markup=False,
    )
