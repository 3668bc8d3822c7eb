"""``osteosap train``: one command a recipe, a check of the cases, a search for rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from osteosap.training.cases import TrainingCase
    from osteosap.training.rate_search import Trial

__all__ = ["app"]

app = typer.Typer(help="Train networks on exams.", no_args_is_help=True, rich_markup_mode=None)

_CASES = "folder of exam folders, nnU-Net raw folder, or a .csv or .json list"
_CONFIG = Annotated[Path, typer.Option("--config", help="Recipe (YAML), see configs/.")]
_TRAIN = Annotated[Path, typer.Option("--train", help=f"Exams to learn from: {_CASES}.")]
_VALIDATION = Annotated[
    Path | None,
    typer.Option("--validation", help="Exams of other people, never learnt from; as --train."),
]
_OUT = Annotated[Path, typer.Option("--out", help="Folder for weights and logs.")]
_SKELETON = Annotated[
    Path | None,
    typer.Option("--skeleton", help="Skeleton weights to start from: arm sap."),
]
_SELF_SUPERVISED = Annotated[
    Path | None,
    typer.Option("--self-supervised", help="Self-supervised weights to start from: arm ssl."),
]


@app.command()
def skeleton(config: _CONFIG, train: _TRAIN, out: _OUT, validation: _VALIDATION = None) -> None:
    """Learn to name the bones (the pretraining of arm sap)."""
    from osteosap.cli.console import progress_bar
    from osteosap.manifest import require_folder
    from osteosap.training.pretrain_skeleton import PretrainSkeletonConfig, pretrain_skeleton

    require_folder(out)
    settings = PretrainSkeletonConfig.from_yaml(config)
    with progress_bar() as progress:
        path = pretrain_skeleton(
            settings, _cases(train), _cases(validation), out=out, progress=progress
        )
    _tell(f"weights: {path}")


@app.command("self-supervised")
def self_supervised(
    config: _CONFIG, train: _TRAIN, out: _OUT, validation: _VALIDATION = None
) -> None:
    """Learn from images without any reference (the pretraining of arm ssl)."""
    from osteosap.cli.console import progress_bar
    from osteosap.manifest import require_folder
    from osteosap.training.pretrain_self_supervised import (
        PretrainSelfSupervisedConfig,
        pretrain_self_supervised,
    )

    require_folder(out)
    settings = PretrainSelfSupervisedConfig.from_yaml(config)
    with progress_bar() as progress:
        path = pretrain_self_supervised(
            settings, _cases(train), _cases(validation), out=out, progress=progress
        )
    _tell(f"weights: {path}")


@app.command()
def lesions(
    config: _CONFIG,
    train: _TRAIN,
    out: _OUT,
    validation: _VALIDATION = None,
    skeleton_weights: _SKELETON = None,
    self_supervised_weights: _SELF_SUPERVISED = None,
) -> None:
    """Learn to find lesions: arm sap, ssl, or baseline without weights to start from."""
    from osteosap.cli.console import progress_bar
    from osteosap.manifest import require_folder
    from osteosap.training.arms import InitialWeights
    from osteosap.training.finetune_lesions import FinetuneLesionsConfig, finetune_lesions

    initial = InitialWeights(skeleton_weights, self_supervised_weights)
    require_folder(out)
    settings = FinetuneLesionsConfig.from_yaml(config)
    with progress_bar() as progress:
        path = finetune_lesions(
            settings,
            _cases(train),
            _cases(validation),
            out=out,
            initial=initial,
            progress=progress,
        )
    _tell(f"arm: {initial.arm}\nweights: {path}")


@app.command()
def rates(
    config: _CONFIG,
    train: _TRAIN,
    out: _OUT,
    validation: Annotated[
        Path, typer.Option("--validation", help="Tuning exams of other people; as --train.")
    ],
    skeleton_weights: _SKELETON = None,
    self_supervised_weights: _SELF_SUPERVISED = None,
    values: Annotated[
        str | None,
        typer.Option("--rates", help="Rates to pair, as 1e-5,1e-4,1e-3; else the recipe's."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Steps of a trial; else the recipe's.", min=1)
    ] = None,
) -> None:
    """Choose an arm's learning rates by the same small search for every arm."""
    from osteosap.cli.console import progress_bar
    from osteosap.manifest import require_folder
    from osteosap.training.arms import InitialWeights, RateSearchConfig
    from osteosap.training.finetune_lesions import FinetuneLesionsConfig
    from osteosap.training.rate_search import search_rates

    initial = InitialWeights(skeleton_weights, self_supervised_weights)
    require_folder(out)
    settings = FinetuneLesionsConfig.from_yaml(config)
    asked = {"rates": values.split(",") if values else None, "steps": steps}
    changed = {name: value for name, value in asked.items() if value is not None}
    search = RateSearchConfig.from_mapping(settings.rate_search.model_dump() | changed)
    settings = settings.model_copy(update={"rate_search": search})
    with progress_bar() as progress:
        found = search_rates(
            settings,
            _cases(train),
            _cases(validation),
            out=out,
            initial=initial,
            progress=progress,
        )
    _tell(_rates_table(found.trials))
    _tell(f"arm: {initial.arm}\nrecipe: {found.recipe}")


@app.command()
def check(
    cases: Annotated[list[Path], typer.Argument(metavar="CASES...", help=f"Exams: {_CASES}.")],
    needs: Annotated[
        str, typer.Option("--needs", help="Reference to ask for: skeleton, lesions or images.")
    ] = "images",
    config: Annotated[
        Path | None, typer.Option("--config", help="Recipe (YAML): says which channels and maps.")
    ] = None,
) -> None:
    """List the exams of each side and everything that is wrong with them; train nothing."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.errors import TrainingError
    from osteosap.exam import INPUT_CHANNELS
    from osteosap.training.cases import (
        check_cases,
        describe_cases,
        find_cases,
        problem_table,
        require_other_people,
    )

    channels: Sequence[str] = INPUT_CHANNELS
    if config is not None:
        needs, channels = _asked_for(config)
    if needs not in _NEEDS.values():
        raise typer.BadParameter(f"--needs {needs}, expected one of {', '.join(_NEEDS.values())}")
    sides = [find_cases(path) for path in cases]
    problems = []
    for path, side in zip(cases, sides, strict=True):
        with progress_bar() as progress:
            found = check_cases(side, needs=needs, channels=channels, progress=progress)
        results.print(f"{path}", markup=False)
        sound = [case for case in side if case.name not in {p.case for p in found}]
        for what, how_much in describe_cases(sound):
            results.print(f"  {what}: {how_much}", markup=False)
        problems += found
    if problems:
        results.print(problem_table(problems), markup=False)
        raise TrainingError(
            f"{len({p.case for p in problems})} exams cannot be trained on",
            remedy="Mend their files or leave them out",
        )
    for number, side in enumerate(sides):
        for other in sides[number + 1 :]:
            require_other_people(side, other)
    results.print(f"{sum(map(len, sides))} exams can be trained on", markup=False)


def _tell(result: str | Table) -> None:
    """Print a result once, however many processes train."""
    from osteosap.cli.console import results
    from osteosap.training.devices import is_first_process

    if is_first_process():
        results.print(result, markup=False)


_NEEDS = {
    "pretrain_skeleton": "skeleton",
    "pretrain_self_supervised": "images",
    "finetune_lesions": "lesions",
}


def _asked_for(recipe: Path) -> tuple[str, Sequence[str]]:
    """Reference and channels that a recipe needs."""
    from osteosap.config import read_yaml
    from osteosap.errors import ConfigError
    from osteosap.inference.prepare import InputConfig

    values = read_yaml(recipe)
    name = str(values.get("recipe", ""))
    if name not in _NEEDS:
        raise ConfigError(
            f"{recipe} says recipe '{name}', expected one of {', '.join(_NEEDS)}",
            remedy="Give a recipe of a training, see configs/",
        )
    return _NEEDS[name], InputConfig.from_mapping(values.get("input", {})).channels


def _rates_table(trials: Sequence[Trial]) -> Table:
    from rich.table import Table

    table = Table("rank", "encoder", "decoder", "outcome", "F2", "FP an exam", "seconds", "")
    for rank, trial in enumerate(trials, start=1):
        scores = [trial.scores.get(name) for name in ("f2", "false_positives_per_exam")]
        marks = [
            word
            for word, holds in (("paper", trial.is_paper), ("not in the grid", not trial.in_grid))
            if holds
        ]
        table.add_row(
            str(rank),
            f"{trial.encoder_learning_rate:g}",
            f"{trial.decoder_learning_rate:g}",
            trial.outcome,
            *("-" if value is None else f"{value:.3f}" for value in scores),
            f"{trial.seconds:.0f}",
            ", ".join(marks),
        )
    return table


def _cases(source: Path | None) -> list[TrainingCase]:
    from osteosap.training.cases import find_cases

    return [] if source is None else find_cases(source)
