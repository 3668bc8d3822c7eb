"""``osteosap evaluate``: score predictions against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from osteosap.evaluation.results import CohortScores

__all__ = ["evaluate"]

OUTPUTS = ("evaluation.json", "evaluation.csv")


def evaluate(
    reference: Annotated[
        Path, typer.Option("--reference", help="Truth: an exam folder, or a folder of them.")
    ],
    prediction: Annotated[
        Path, typer.Option("--prediction", help="Result folder, or a folder of them, same names.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for evaluation.json and .csv.")],
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Bring a reference on another grid onto the prediction's."),
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out references without a prediction.")
    ] = False,
    config: Annotated[Path | None, typer.Option("--config", help="Settings (YAML).")] = None,
) -> None:
    """Skeleton Dice a class; detection and Dice of lesions, all and large ones."""
    from osteosap.cli.console import results
    from osteosap.config import read_yaml
    from osteosap.evaluation.results import EvaluateConfig
    from osteosap.evaluation.scores import evaluate_cohort
    from osteosap.manifest import require_folder, require_own, write_json

    require_folder(out)
    require_own(out, OUTPUTS, OUTPUTS if _is_evaluation(out / OUTPUTS[0]) else ())
    values = read_yaml(config) if config else {}
    settings = EvaluateConfig.from_mapping(
        values | ({"resample_reference": True} if resample else {})
    )
    pairs, missing = exam_pairs(reference, prediction, allow_missing=allow_missing)
    scores = evaluate_cohort(pairs, config=settings)
    left_out = {"n": len(missing), "exams": missing}
    content = {"references_without_prediction": left_out, **scores.to_mapping()}
    write_json(out / OUTPUTS[0], content)
    _write_table(scores.rows(), out / OUTPUTS[1])
    _print(scores)
    if missing:
        results.print(f"left out, without a prediction: {_listed(missing)}", markup=False)
    results.print(f"evaluation: {out / OUTPUTS[0]}", markup=False)


def _is_evaluation(path: Path) -> bool:
    """Whether a file is a result of this command, which may be replaced."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"settings", "summary", "exams"} <= set(content)


def exam_pairs(
    reference: Path, prediction: Path, *, allow_missing: bool = False
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The two folders themselves, or, where they hold exams, those of equal names.

    Returns
    -------
    pairs
        Folders of reference and prediction.
    missing
        Names of the references without a prediction; empty unless ``allow_missing``.

    Raises
    ------
    InputError
        A folder is absent, an exam of the prediction has no reference, or the other way round.
    """
    from osteosap.errors import InputError

    for folder in (reference, prediction):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}", remedy="Check the path")
    if _holds_maps(prediction):
        return [(reference, prediction)], []
    exams, references = (
        {p.name for p in x.iterdir() if _holds_maps(p)} for x in (prediction, reference)
    )
    alone, missing = sorted(exams - references), sorted(references - exams)
    if not exams or alone:
        raise InputError(
            f"{len(exams)} exams in {prediction}, {len(alone)} of them without one of the same "
            f"name in {reference}{': ' if alone else ''}{_listed(alone)}",
            remedy="Give two exam folders, or two folders whose exam folders have equal names",
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(references)} exams in {reference} have no prediction in "
            f"{prediction}: {_listed(missing)}",
            remedy="Make them, or leave these exams out of the scores with --allow-missing",
        )
    return [(reference / name, prediction / name) for name in sorted(exams)], missing


def _holds_maps(folder: Path) -> bool:
    from osteosap.exam import find_file

    return any(find_file(folder, name) for name in ("skeleton", "lesions"))


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _write_table(rows: list[dict[str, Any]], path: Path) -> None:
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
    table = Table("measure", "median", "mean", "n")
    parts = {f"skeleton Dice, {k}": v for k, v in summary["skeleton_dice"].items()}
    limit = scores.config.min_volume_ml
    for key, title in (("all", "all lesions"), ("large", f"lesions >= {limit:g} mL")):
        for name, value in summary[f"lesions_{key}"].items():
            if isinstance(value, dict):
                parts[f"{title}: {name.replace('_', ' ')}"] = value
    parts["global Dice"] = summary["global_dice"]
    for name, value in parts.items():
        table.add_row(name, _text(value["median"]), _text(value["mean"]), str(value["n"]))
    settings = ", ".join(f"{k} {v}" for k, v in scores.config.to_mapping().items())
    results.print(f"settings: {settings}", markup=False)
    for exam in scores.exams:
        for note in exam.notes:
            results.print(f"{exam.name}: {note}", markup=False)
    results.print(table)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
