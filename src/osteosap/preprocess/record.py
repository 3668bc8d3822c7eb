"""What preprocessing did: steps with numbers, and warnings."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from osteosap.preprocess.config import PreprocessConfig

__all__ = ["Job", "Progress", "number"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction of it that is done."""


def number(value: float, digits: int = 5) -> float | None:
    """A rounded number for JSON, which knows no NaN: None for that."""
    return None if math.isnan(value) else round(value, digits)


def _silent(_message: str, _fraction: float) -> None:
    pass


@dataclass
class Job:
    """Settings of one run, and the steps and warnings that collect while it goes.

    ``threads`` stations are worked on at once; the result does not depend on it. ``seams`` has an
    entry for every pair of neighbouring stations of a channel.
    """

    config: PreprocessConfig
    progress: Progress = _silent
    threads: int | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seams: list[dict[str, Any]] = field(default_factory=list)

    def step(self, name: str, done: str, **numbers: Any) -> None:
        """Note a step: its name, what was done and why in one sentence, JSON numbers."""
        self.steps.append({"step": name, "done": done, **numbers})
        _log.info("%s: %s", name, done)

    def warn(self, *texts: str) -> None:
        """Note what a reader should know."""
        self.warnings.extend(texts)

    def leaves_alone(self, step: str, *, enabled: bool, handed: bool) -> bool:
        """Whether a correction is not to be made, which is noted with the reason.

        Images that the user handed over by name are taken as they are: what was done to them
        before is not known.
        """
        if not enabled:
            self.step(step, "off in the settings")
            return True
        if handed and not self.config.correct_handed_over:
            self.step(step, "the images were handed over by name and are taken as they are")
            return True
        return False

    def each(self, what: str, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Work on items in parallel, results in their order; ``what`` is shown meanwhile."""
        todo = list(items)
        self.progress(what, 0.0)
        results: list[R] = []
        with ThreadPoolExecutor(self.threads or os.cpu_count() or 1) as pool:
            for result in pool.map(work, todo):
                results.append(result)
                self.progress(what, len(results) / len(todo))
        return results
