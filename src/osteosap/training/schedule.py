"""Settings of the training loop, and what depends on the share of a run that is over."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from osteosap.config import StageConfig

__all__ = ["LoopConfig", "background_weight", "rate_factor", "share_done"]


class LoopConfig(StageConfig):
    """How a network is trained.

    The learning rate is a cosine from the first step to 0 at ``steps``, times a linear warm-up over
    the first ``warmup_steps``: it peaks a little below its base where the warm-up is long (at 0.96
    of it for an eighth of the steps). With ``max_minutes`` it ends there if that comes first (the
    schedule then follows the clock, so that it always ends; such a run is not repeatable to the
    bit).

    ``batch_size`` is the number of patches an optimiser step learns from, over all processes and
    all ``accumulate`` micro-batches together: with 2 processes and ``accumulate`` 2, a batch of 8
    is 4 times 2 patches. ``devices`` (processes a node) and ``nodes`` are what must have been
    started; None takes what was started.

    ``batch_dice`` sums the Dice over the batch (of all processes; each micro-batch alone) before
    the ratio is taken; ``background_weight`` is background's weight in the cross-entropy (other
    classes 1): below 1 keeps a network from predicting background only where foreground is rare.
    It rises in a straight line to ``final_background_weight`` at ``background_weight_until`` (a
    share of the run), since a weight below 1 makes foreground too large at its edges.

    ``select`` names the validation value whose best weights are kept (the largest, or the smallest
    without ``select_largest``); None keeps the last ones. 0 validates or saves only at the end.
    ``keep_state`` leaves ``state.pt`` when the run is over, so that more ``steps`` can follow;
    without it, a recipe removes the file once the weights are written.

    A network that never predicted foreground is warned of at half of ``collapse_after`` (a share
    of the run) and stopped there; one that did and predicts none for ``collapse_window`` steps is
    warned of, and stopped after four times as many (see :mod:`osteosap.training.alarm`).
    ``workers`` None means none on a CPU and 4 threads with a GPU.
    """

    steps: int = Field(default=3000, ge=1)
    max_minutes: float | None = Field(default=None, gt=0.0)
    batch_size: int = Field(default=2, ge=1)
    accumulate: int = Field(default=1, ge=1)
    warmup_steps: int = Field(default=100, ge=0)
    optimiser: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = Field(default=1e-5, ge=0.0)
    gradient_clip: float = Field(default=1.0, gt=0.0)
    batch_dice: bool = True
    dice_smoothing: float = Field(default=1e-5, gt=0.0)
    background_weight: float = Field(default=1.0, gt=0.0)
    final_background_weight: float = Field(default=1.0, gt=0.0)
    background_weight_until: float = Field(default=0.5, gt=0.0, le=1.0)
    device: str = "auto"
    devices: int | None = Field(default=None, ge=1)
    nodes: int | None = Field(default=None, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int | None = Field(default=None, ge=0)
    validate_every: int = Field(default=0, ge=0)
    select: str | None = None
    select_largest: bool = True
    save_every: int = Field(default=200, ge=0)
    keep_state: bool = True
    log_every: int = Field(default=10, ge=1)
    tensorboard: bool = True
    collapse_after: float = Field(default=0.3, gt=0.0, le=1.0)
    collapse_window: int = Field(default=50, ge=1)
    seed: int = Field(default=42, ge=0)

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> LoopConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of accumulate {self.accumulate}"
            )
        return self


FREE_SETTINGS = (
    "steps",
    "max_minutes",
    "device",
    "devices",
    "nodes",
    "precision",  # what it stands for is compared instead
    "workers",
    "validate_every",
    "save_every",
    "keep_state",
    "log_every",
    "tensorboard",
    "collapse_after",
    "collapse_window",
)
"""Settings that may differ when a run is gone on with: how long, how watched, on what."""


def share_done(step: int, seconds: float, config: LoopConfig) -> float:
    """Share of the schedule that is over, by steps or by the clock, whichever is further."""
    done = step / config.steps
    if config.max_minutes is not None:
        done = max(done, seconds / (60.0 * config.max_minutes))
    return min(1.0, done)


def rate_factor(step: int, seconds: float, config: LoopConfig) -> float:
    """Share of the base learning rate at a step: linear warm-up times a cosine from step 0 to 0."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return warm * 0.5 * (1.0 + math.cos(math.pi * share_done(step, seconds, config)))


def background_weight(done: float, config: LoopConfig) -> float:
    """Background's weight in the cross-entropy when ``done`` of the schedule is over."""
    way = min(1.0, done / config.background_weight_until)
    return config.background_weight + way * (
        config.final_background_weight - config.background_weight
    )
