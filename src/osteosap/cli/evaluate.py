"""``osteosap evaluate``: score predictions against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from osteosap.evaluation.cohort import CohortScores
    from osteosap.evaluation.config import EvaluateConfig

__all__ = [
    "as_text",
    "evaluate",
    "holds_keys",
    "left_out",
    "print_left_out",
    "settings_of",
    "write_table",
]

OUTPUTS = ("evaluation.json", "evaluation.csv", "lesions.csv")
_KEYS = {"settings", "summary", "exams"}


def evaluate(
    reference: Annotated[
        Path, typer.Option("--reference", help="Truth: an exam folder, or a folder of them.")
    ],
    prediction: Annotated[
        Path,
        typer.Option(
            "--prediction", help="Result folder, a folder of them, or of masks NAME.nii.gz."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    probability: Annotated[
        Path | None,
        typer.Option("--probability", help="Probability maps, where they lie elsewhere."),
    ] = None,
    roi: Annotated[
        Path | None,
        typer.Option("--roi", help="Masks: outside them neither side counts."),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Bring a reference on another grid onto the prediction's."),
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out references without a prediction.")
    ] = False,
    cases: Annotated[
        Path | None,
        typer.Option("--cases", help="Score these only: a JSON list of names, such as a study's."),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Exams at once.")] = 1,
    config: Annotated[Path | None, typer.Option("--config", help="Settings (YAML).")] = None,
) -> None:
    """Detection, Dice and surfaces of lesions, burden, free-response curves; skeleton Dice."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.evaluation.cohort import evaluate_cohort
    from osteosap.evaluation.pairs import find_pairs, read_case_names
    from osteosap.manifest import require_folder, require_own, software_versions, write_json

    require_folder(out)
    require_own(out, OUTPUTS, OUTPUTS if holds_keys(out / OUTPUTS[0], _KEYS) else ())
    settings = settings_of(config, resample=resample)
    pairs, missing = find_pairs(
        reference,
        prediction,
        probability=probability,
        roi=roi,
        allow_missing=allow_missing,
        cases=read_case_names(cases) if cases else None,
    )
    with progress_bar() as progress:
        scores = evaluate_cohort(pairs, config=settings, processes=processes, progress=progress)
    content = {
        "versions": software_versions(),
        **left_out(missing),
        **scores.to_mapping(),
    }
    write_json(out / OUTPUTS[0], content)
    write_table(scores.rows(), out / OUTPUTS[1])
    write_table(scores.lesion_rows(), out / OUTPUTS[2])
    _print(scores)
    print_left_out(missing)
    results.print(f"evaluation: {out / OUTPUTS[0]}", markup=False)


def settings_of(config: Path | None, *, resample: bool) -> EvaluateConfig:
    """Settings of a file, or the defaults."""
    from osteosap.config import read_yaml
    from osteosap.evaluation.config import EvaluateConfig

    values = read_yaml(config) if config else {}
    return EvaluateConfig.from_mapping(values | ({"resample_reference": True} if resample else {}))


def left_out(missing: dict[str, str]) -> dict[str, Any]:
    """Number and names of references without a prediction, and of cases without a reference."""
    from osteosap.evaluation.pairs import NO_PREDICTION, NO_REFERENCE

    by_reason = {
        reason: [name for name, why in missing.items() if why == reason]
        for reason in (NO_PREDICTION, NO_REFERENCE)
    }
    return {
        key: {"n": len(by_reason[reason]), "exams": by_reason[reason]}
        for key, reason in (
            ("references_without_prediction", NO_PREDICTION),
            ("cases_without_reference", NO_REFERENCE),
        )
    }


def print_left_out(missing: dict[str, str], *, of: str = "") -> None:
    """A line for every reason why exams were left out."""
    from osteosap.cli.console import results

    for reason in dict.fromkeys(missing.values()):
        names = [name for name, why in missing.items() if why == reason]
        results.print(f"{of}left out, {reason}: {_listed(names)}", markup=False)


def holds_keys(path: Path, keys: set[str]) -> bool:
    """Whether a file is a JSON object with these keys: a result, which may be replaced."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and keys <= set(content)


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Rows as CSV, whole or not at all; columns in order of their first appearance."""
    import csv
    import io

    from osteosap.manifest import write_text

    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _print(scores: CohortScores) -> None:
    """Settings, notes, and medians over exams, each with its n."""
    from rich.table import Table

    from osteosap.cli.console import results

    summary = scores.summary()
    table = Table("measure", "median", "quartiles", "95 % interval", "mean", "n")
    parts = {f"skeleton Dice, {k}": v for k, v in summary["skeleton_dice"].items()}
    limit = scores.config.min_volume_ml
    for key, title in (("all", "all lesions"), ("large", f"lesions >= {limit:g} mL")):
        for name, value in summary[f"lesions_{key}"].items():
            if isinstance(value, dict) and "median" in value:
                parts[f"{title}: {name.replace('_', ' ')}"] = value
    parts["global Dice"] = summary["global_dice"]
    for name, value in parts.items():
        table.add_row(
            name,
            as_text(value["median"]),
            f"{as_text(value['q25'])} - {as_text(value['q75'])}",
            f"{as_text(value['ci_low'])} - {as_text(value['ci_high'])}",
            as_text(value["mean"]),
            str(value["n"]),
        )
    settings = ", ".join(f"{k} {v}" for k, v in scores.config.to_mapping().items())
    results.print(f"settings: {settings}", markup=False)
    for exam in scores.exams:
        for note in exam.notes:
            results.print(f"{exam.name}: {note}", markup=False)
    results.print(table)
    _print_pooled(summary)


def _print_pooled(summary: dict[str, Any]) -> None:
    """What is one number a cohort: pooled sensitivity, free-response areas, agreement."""
    from osteosap.cli.console import results

    for key, title in (("all", "all lesions"), ("large", "large lesions")):
        part = summary[f"lesions_{key}"]
        line = f"{title}: {as_text(part['sensitivity_pooled'])} of {part['n_reference']} detected"
        if part["froc"]:
            area, limit = part["froc"]["area"], part["froc"]["limit_false_positives_per_exam"]
            line += f"; free-response area to {limit:g} false positives per exam {as_text(area)}"
        results.print(line, markup=False)
    burden = summary["burden"]
    results.print(
        f"burden: ICC(2,1) {as_text(burden['icc']['value'])}, of log10 "
        f"{as_text(burden['icc_log']['value'])} (n {burden['icc']['n']})",
        markup=False,
    )


def as_text(value: float | None) -> str:
    """Three digits, or a dash where undefined."""
    return "-" if value is None else f"{value:.3f}"
