"""What a run writes down: CSV files always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osteosap.training.schedule import LoopConfig

__all__ = ["Clock", "RunLog", "time_left"]

_log = logging.getLogger(__name__)

TRAINING, VALIDATION, TENSORBOARD = "training.csv", "validation.csv", "tensorboard"


class RunLog:
    """``training.csv``, ``validation.csv`` and ``tensorboard/`` of one run.

    Parameters
    ----------
    out
        The run's folder.
    step
        Steps done before: rows of later ones, from a run that was killed, are taken out; 0 starts
        new files.
    validated
        Step of the last validation that the run knows of; later ones are made again.
    tensorboard
        Write for TensorBoard too.
    """

    def __init__(
        self, out: Path, *, step: int, validated: int = 0, tensorboard: bool = False
    ) -> None:
        self.out = out
        _keep_rows(out / TRAINING, lambda row: int(row["step"]) < step)
        _keep_rows(out / VALIDATION, lambda row: int(row["step"]) <= validated)
        self.writer = _tensorboard(out / TENSORBOARD, step) if tensorboard else None

    def training(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step; its columns are those of the first row."""
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        _append(self.out / TRAINING, {"step": step, **rounded})
        self._scalars("training", step, values)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Log the scores after ``step`` steps, one row each."""
        for name, value in values.items():
            row = {"step": step, "metric": name, "value": round(value, 5)}
            _append(self.out / VALIDATION, row)
        self._scalars("validation", step, values)

    def close(self) -> None:
        """Write what is buffered."""
        if self.writer is not None:
            self.writer.close()

    def _scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self.writer is None:
            return
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(f"{group}/{name}", value, step)


class Clock:
    """Seconds of a run over all its parts, and how many are left."""

    def __init__(self, step: int, seconds: float) -> None:
        self.step = step
        self.before = seconds
        self.started = time.perf_counter()

    def seconds(self) -> float:
        """Now, since the run began."""
        return self.before + time.perf_counter() - self.started

    def left(self, step: int, config: LoopConfig) -> float:
        """At the pace since the start of this part; validation included."""
        pace = (self.seconds() - self.before) / max(1, step - self.step)
        left = pace * (config.steps - step)
        if config.max_minutes is not None:
            left = min(left, 60.0 * config.max_minutes - self.seconds())
        return max(0.0, left)


def time_left(seconds: float) -> str:
    """A duration for people: ``"3 h 05 min left"``, ``"12 min left"``, ``"40 s left"``."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s left"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min left"
    return f"{minutes // 60} h {minutes % 60:02d} min left"


def _append(path: Path, row: Mapping[str, object]) -> None:
    names = _header(path) or list(row)
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow(row)


def _header(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _keep_rows(path: Path, wanted: Any) -> None:
    """Take rows out of a CSV file; one with no row left is deleted.

    A killed run may have left half a row: it is not wanted either.
    """
    if not path.is_file():
        return
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if None not in row.values() and None not in row]
    kept = [row for row in rows if _is_wanted(row, wanted)]
    if not kept:
        path.unlink()
        return
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(kept)
    partial.replace(path)


def _is_wanted(row: Mapping[str, str], wanted: Any) -> bool:
    try:
        return bool(wanted(row))
    except (KeyError, ValueError):
        return False


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer, or None with a remark where TensorBoard is not installed."""
    if step == 0 and folder.is_dir():
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.info("no TensorBoard log: 'pip install tensorboard' for one (training.csv is written)")
        return None
    return SummaryWriter(str(folder), purge_step=step or None)
