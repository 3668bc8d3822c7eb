"""``osteosap train``: one command a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Train networks on exam folders.", no_args_is_help=True, rich_markup_mode=None
)

_CONFIG = Annotated[Path, typer.Option("--config", help="Recipe (YAML), see configs/.")]
_TRAIN = Annotated[Path, typer.Option("--train", help="Folder of exam folders to learn from.")]
_VALIDATION = Annotated[
    Path | None,
    typer.Option("--validation", help="Folder of exam folders of other people, never learnt from."),
]
_OUT = Annotated[Path, typer.Option("--out", help="Folder for weights and logs.")]


@app.command()
def skeleton(config: _CONFIG, train: _TRAIN, out: _OUT, validation: _VALIDATION = None) -> None:
    """Learn to name the bones (the pretraining of SAP)."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.manifest import require_folder
    from osteosap.training.pretrain_skeleton import PretrainSkeletonConfig, pretrain_skeleton

    require_folder(out)
    settings = PretrainSkeletonConfig.from_yaml(config)
    with progress_bar() as progress:
        path = pretrain_skeleton(
            settings, exam_folders(train), exam_folders(validation), out=out, progress=progress
        )
    results.print(f"weights: {path}", markup=False)


@app.command()
def lesions(
    config: _CONFIG,
    train: _TRAIN,
    out: _OUT,
    validation: _VALIDATION = None,
    initial: Annotated[
        Path | None,
        typer.Option("--skeleton", help="Skeleton weights to start from; random ones without."),
    ] = None,
) -> None:
    """Learn to find lesions, from a skeleton network (SAP) or from random weights."""
    from osteosap.cli.console import progress_bar, results
    from osteosap.manifest import require_folder
    from osteosap.training.finetune_lesions import FinetuneLesionsConfig, finetune_lesions

    require_folder(out)
    settings = FinetuneLesionsConfig.from_yaml(config)
    with progress_bar() as progress:
        path = finetune_lesions(
            settings,
            exam_folders(train),
            exam_folders(validation),
            out=out,
            skeleton_checkpoint=initial,
            progress=progress,
        )
    results.print(f"weights: {path}", markup=False)


def exam_folders(cohort: Path | None) -> list[Path]:
    """Exam folders in a cohort's folder, in order; none for None.

    Raises
    ------
    InputError
        The folder is absent or holds no exam.
    """
    from osteosap.errors import InputError
    from osteosap.exam import find_file

    if cohort is None:
        return []
    found = sorted(p for p in cohort.iterdir() if find_file(p, "t1")) if cohort.is_dir() else []
    if not found:
        raise InputError(
            f"no exam folder with t1.nii.gz in {cohort}",
            remedy="Make exams with 'osteosap simulate cohort', or check the path",
        )
    return found
