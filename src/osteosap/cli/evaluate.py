"""``osteosap evaluate``: score predictions against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from osteosap.evaluation.results import CohortScores

__all__ = ["evaluate"]


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
    config: Annotated[Path | None, typer.Option("--config", help="Settings (YAML).")] = None,
) -> None:
    """Skeleton Dice a class; detection and Dice of lesions, all and large ones."""
    from osteosap.cli.console import results
    from osteosap.config import read_yaml
    from osteosap.evaluation.results import EvaluateConfig
    from osteosap.evaluation.scores import evaluate_cohort
    from osteosap.manifest import write_json

    values = read_yaml(config) if config else {}
    settings = EvaluateConfig.from_mapping(
        values | ({"resample_reference": True} if resample else {})
    )
    scores = evaluate_cohort(exam_pairs(reference, prediction), config=settings)
    write_json(out / "evaluation.json", scores.to_mapping())
    _write_table(scores.rows(), out / "evaluation.csv")
    _print(scores)
    results.print(f"evaluation: {out / 'evaluation.json'}", markup=False)


def exam_pairs(reference: Path, prediction: Path) -> list[tuple[Path, Path]]:
    """The two folders themselves, or, where they hold exams, those of equal names.

    Raises
    ------
    InputError
        A folder is absent, or an exam of the prediction has no reference.
    """
    from osteosap.errors import InputError
    from osteosap.exam import find_file

    for folder in (reference, prediction):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}", remedy="Check the path")
    names = ("skeleton", "lesions")
    if any(find_file(prediction, name) for name in names):
        return [(reference, prediction)]
    exams = sorted(p for p in prediction.iterdir() if any(find_file(p, name) for name in names))
    alone = [p.name for p in exams if not (reference / p.name).is_dir()]
    if not exams or alone:
        raise InputError(
            f"{len(exams)} exams in {prediction}, {len(alone)} of them without a folder of the "
            f"same name in {reference}",
            remedy="Give two exam folders, or two folders whose exam folders have equal names",
        )
    return [(reference / p.name, p) for p in exams]


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
