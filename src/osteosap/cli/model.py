"""``osteosap model``: look into weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Look into weight files.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Look into weight files."""


@app.command()
def describe(
    file: Annotated[Path, typer.Argument(help="A .safetensors file of osteosap.")],
) -> None:
    """Print what a weight file says of itself: task, channels, spacing, training, checksum."""
    import json

    from osteosap.cli.console import results
    from osteosap.models.checkpoint import describe as describe_checkpoint
    from osteosap.models.checkpoint import load_checkpoint

    values = describe_checkpoint(load_checkpoint(file))
    results.print(json.dumps(values, indent=2, default=str), markup=False)
