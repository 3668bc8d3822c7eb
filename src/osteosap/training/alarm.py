"""Notice early that a network predicts background only.

Such a network answers a rare class with nothing at all, and seldom comes back (see
:mod:`osteosap.models.transfer` on the prior). One that starts at the prior also predicts nothing
at first, so that the two are told apart:

========================  ========================================  ==========================
network                   warning                                   stop
========================  ========================================  ==========================
never awake               at half of ``collapse_after``             at ``collapse_after``
awake before, now silent  silent for ``collapse_window`` steps      for 4 times as many
========================  ========================================  ==========================

Silent: over the last ``collapse_window`` steps with foreground in their reference, it predicted
less than 1 % of the foreground there was; awake: at least 10 %. Steps without foreground (over all
processes) say nothing and are not counted. Shares are those of all processes together, so that
each comes to the same answer.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from osteosap.errors import TrainingError
from osteosap.training.schedule import LoopConfig

__all__ = ["CollapseAlarm"]

_log = logging.getLogger(__name__)

SILENT, AWAKE = 0.01, 0.1
"""Predicted over reference foreground."""

PATIENCE = 4
"""Windows of silence, after having been awake, that end a run."""

_REMEDY = (
    "Lower the encoder's rate, lengthen the warm-up, start the head at the class prior, lower "
    "background_weight, or take more lesion patches; collapse_after and collapse_window say how "
    "long to wait"
)


class CollapseAlarm:
    """Watches the foreground of each step.

    Parameters
    ----------
    config
        ``collapse_after`` and ``collapse_window``.
    """

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.window: deque[tuple[float, float]] = deque(maxlen=config.collapse_window)
        self.awake = False
        self.silent_steps = 0
        self.warned = False

    def watch(self, step: int, predicted: float, reference: float, *, done: float) -> None:
        """Take in one step.

        Parameters
        ----------
        step
            Its number, for the message.
        predicted, reference
            Share of foreground voxels over all processes.
        done
            Share of the schedule that is over.

        Raises
        ------
        TrainingError
            The network has collapsed, or never woke up.
        """
        if reference <= 0.0:
            return
        self.window.append((predicted, reference))
        if len(self.window) < self.config.collapse_window:
            return
        ratio = sum(p for p, _ in self.window) / sum(r for _, r in self.window)
        if ratio >= SILENT:
            self.awake = self.awake or ratio >= AWAKE
            self.silent_steps, self.warned = 0, False
            return
        # the first silent window holds many silent steps at once
        self.silent_steps += 1 if self.silent_steps else len(self.window)
        self._judge(step, done)

    def _judge(self, step: int, done: float) -> None:
        window, after = self.config.collapse_window, self.config.collapse_after
        if self.awake:
            what = "predicts background only, after it had predicted foreground"
            warn, stop = True, self.silent_steps >= PATIENCE * window
        else:
            what = "has predicted background only so far"
            warn, stop = done >= after / 2, done >= after
        if stop:
            raise TrainingError(
                f"the network {what}, for {self.silent_steps} steps up to step {step}: it has "
                "collapsed",
                remedy=_REMEDY,
            )
        if warn and not self.warned:
            self.warned = True
            _log.warning(
                "step %d: the network %s; the run will be stopped if it stays so. %s.",
                step,
                what,
                _REMEDY,
            )

    def to_state(self) -> dict[str, Any]:
        """All that a resumed run needs, as plain types."""
        return {
            "window": [list(pair) for pair in self.window],
            "awake": self.awake,
            "silent_steps": self.silent_steps,
            "warned": self.warned,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`to_state` returned."""
        self.window.extend((predicted, reference) for predicted, reference in state["window"])
        self.awake = state["awake"]
        self.silent_steps = state["silent_steps"]
        self.warned = state["warned"]
