"""What commands share at the terminal: logging and progress on stderr, results on stdout."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

__all__ = ["errors", "progress_bar", "results", "set_up_logging"]

LINE_EVERY_S = 60.0

errors = Console(stderr=True, highlight=False)
results = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)


class ConsoleHandler(logging.Handler):
    """Log lines above the progress bar, never wrapped or interpreted."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        errors.print(f"{prefix}{self.format(record)}", soft_wrap=True, markup=False)


def set_up_logging(*, quiet: bool) -> None:
    """Send osteosap's log to stderr."""
    logger = logging.getLogger("osteosap")
    logger.handlers = [ConsoleHandler()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


def _lines() -> Callable[[str, float], None]:
    """Progress as lines of a log; none of what ends within a minute."""
    last = time.monotonic()

    def show(message: str, fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            logging.getLogger("osteosap").info("%3.0f %%  %s", 100 * fraction, message)

    return show


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Yield a function of a line of text and a fraction done; less than before starts a new bar.

    There is no bar before the first call: of many processes that train, only one calls it. Where
    stderr is no terminal (a log file), a line every minute says how far it is.
    """
    if not errors.is_terminal:
        yield _lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=1.0, visible=False)
        before = 0.0

        def show(message: str, fraction: float) -> None:
            nonlocal before
            if fraction < before:
                bar.reset(task, total=1.0)
            before = fraction
            bar.update(task, description=message, completed=fraction, visible=True)

        yield show
