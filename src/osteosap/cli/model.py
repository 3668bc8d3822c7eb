"""``osteosap model``: look into weight files, and bring those of other programs over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from osteosap.models.summary import Row

__all__ = ["app"]

app = typer.Typer(
    help="Look into weight files, and import those of other programs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Look into weight files, and import those of other programs."""


@app.command()
def describe(
    file: Annotated[
        Path, typer.Argument(help="A file of osteosap, or .pt, .pth, .safetensors of others.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="For a file of others: every tensor.")
    ] = False,
) -> None:
    """Print what a weight file says of itself; of another program's file, what lies in it.

    Nothing in the file is run.
    """
    import json as json_format

    from osteosap.cli.console import results
    from osteosap.models import summary
    from osteosap.models.checkpoint import describe as describe_checkpoint
    from osteosap.models.checkpoint import is_ours, load_checkpoint
    from osteosap.models.foreign import read_foreign

    if is_ours(file):
        checkpoint = load_checkpoint(file)
        values, rows = describe_checkpoint(checkpoint), summary.rows_of_checkpoint(checkpoint)
    else:
        foreign = read_foreign(file)
        values, rows = foreign.describe(), summary.rows_of_foreign(foreign)
        rows += summary.rows_of_tensors(foreign) if tensors else []
    if json:
        results.print(json_format.dumps(values, indent=2, default=str), markup=False)
    else:
        _print(rows)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file of weights.")],
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write.")],
    task: Annotated[
        str, typer.Option("--task", help="skeleton, lesions or self_supervised (an encoder).")
    ],
    spacing: Annotated[
        str, typer.Option("--spacing", help="Voxel size it was trained at: 2 or 2,2,3 (mm).")
    ],
    patch: Annotated[str, typer.Option("--patch", help="Patch in voxels: 96 or 96,96,64.")] = "96",
    channels: Annotated[
        str, typer.Option("--channels", help="Channels of the network to be made, in order.")
    ] = "t1,b1000",
    file_channels: Annotated[
        str,
        typer.Option(
            "--file-channels",
            help="What the file's channels are, in its order; 'grey' for any other image.",
        ),
    ] = "",
    file_classes: Annotated[
        str, typer.Option("--file-classes", help="The file's classes, where their order differs.")
    ] = "",
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Take encoder and decoder only.")
    ] = False,
    minimum: Annotated[
        float, typer.Option("--minimum", help="Least share of the tensors that must fit.")
    ] = 1.0,
    monai: Annotated[
        str, typer.Option("--monai", help="Version of MONAI that a Swin UNETR was trained with.")
    ] = "",
    training_data: Annotated[
        str, typer.Option("--training-data", help="What it was trained on, for the record.")
    ] = "",
) -> None:
    """Make a weight file of osteosap from one of another program; nothing in it is run."""
    from osteosap.cli.console import results
    from osteosap.models.checkpoint import save_checkpoint
    from osteosap.models.foreign import ImportConfig, import_foreign
    from osteosap.models.summary import rows_of_import

    values = {
        "task": task,
        "spacing_mm": _three(spacing),
        "patch": _three(patch),
        "channels": _names(channels),
        "file_channels": _names(file_channels),
        "file_classes": _names(file_classes),
        "new_head": new_head,
        "minimum_fraction": minimum,
        "monai": monai,
    }
    if training_data:
        values["training_data"] = training_data
    imported = import_foreign(file, ImportConfig.from_mapping(values))
    _print(rows_of_import(imported))
    save_checkpoint(imported.checkpoint, out, half=False)
    low, high = imported.checkpoint.metadata.percentiles
    results.print(
        f"Images are taken as scaled from percentile {low:g} to {high:g} of the body to 0 and 1: "
        "fine-tune before you predict if the network learnt on others.",
        markup=False,
    )
    results.print(f"weights: {out}", markup=False)


def _print(rows: list[Row]) -> None:
    from osteosap.cli.console import results

    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        results.print(f"{name:<{width}}  {value}", markup=False)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _three(text: str) -> list[str]:
    """``2`` or ``2,2,3`` to three values; the settings check that they are numbers."""
    values = _names(text)
    return values * 3 if len(values) == 1 else values
