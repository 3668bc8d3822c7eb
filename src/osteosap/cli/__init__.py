"""The command line: one thin file a command; anything heavy is imported inside the command.

Exit codes: 0 done, 1 an error that osteosap explains in one line, 2 wrong usage, 130 or 143
interrupted.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from osteosap import __version__
from osteosap.cli import (
    compare_methods,
    evaluate,
    features,
    inspect,
    model,
    predict,
    preprocess_cohort,
    reproduce,
    run,
    simulate,
    stages,
    train,
)
from osteosap.errors import OsteosapError

__all__ = ["app", "main"]

_EXTRAS = {
    "pydicom": "dicom", "SimpleITK": "preprocess", "torch": "learn", "monai": "learn",
    "safetensors": "learn", "einops": "learn", "lightning_fabric": "learn", "blosc2": "learn",
    "sklearn": "explore", "tensorboard": "explore",
    "submitit": "cluster",
    "matplotlib": "report", "jinja2": "report",
}  # fmt: skip

app = typer.Typer(
    name="osteosap",
    help="Bone metastases on whole-body MRI: from DICOM to lesion masks, measurements, a report. "
    "A research tool, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.command()(inspect.inspect)
app.command()(run.run)
app.command()(preprocess_cohort.preprocess_cohort)
app.add_typer(simulate.app, name="simulate")
app.add_typer(train.app, name="train")
app.command()(features.features)
app.command()(predict.predict)
app.command()(evaluate.evaluate)
app.command()(compare_methods.compare_methods)
app.command()(reproduce.reproduce)
app.add_typer(reproduce.app, name="study")
app.add_typer(model.app, name="model")
app.command()(stages.stages)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"osteosap {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings.")] = False,
) -> None:
    from osteosap.cli.console import set_up_logging

    del version  # its callback has dealt with it
    set_up_logging(quiet=quiet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (see the module)."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app(args=arguments, prog_name="osteosap")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return _explain("interrupted", code) if code in _INTERRUPTED else code
    except KeyboardInterrupt:
        return _explain("interrupted", _INTERRUPTED[0])
    except OsteosapError as error:
        return _explain(str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return _explain(
            f"this command needs {error.name}, which is not installed. "
            f"Install the extra '{extra}', from a checkout: pip install '.[{extra}]'."
        )
    except OSError as error:  # the file is not named: a path of a study may carry a person's name
        return _explain(
            f"the system refused to read or write a file ({error.strerror or type(error).__name__}"
            f", {_where(error)}). Check permissions and free space of the folders named."
        )
    return 0


def _explain(text: str, code: int = 1) -> int:
    typer.echo(f"error: {' '.join(text.split())}", err=True)
    return code


def _where(error: Exception) -> str:
    """Place in osteosap that an error came from, for a report of a defect."""
    home = Path(__file__).parents[1]
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if home in Path(f.filename).parents
    ]
    return f"{Path(frames[-1].filename).relative_to(home)} line {frames[-1].lineno}"


_INTERRUPTED = (130, 143)
"""Exit codes after SIGINT and SIGTERM."""


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End on SIGTERM as on an interrupt, so that nothing half-written stays."""
    raise SystemExit(143)
