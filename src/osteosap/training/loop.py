"""The training loop that all recipes share.

One process or many, in one or several micro-batches a step; resumed exactly after any
interruption; watched for collapse; the best weights kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from osteosap.errors import ConfigError, TrainingError
from osteosap.models.precision import small_convolutions_in_float32
from osteosap.training.alarm import CollapseAlarm
from osteosap.training.devices import (
    mean_over_ranks,
    precision_of,
    require_even_batch,
    start_fabric,
)
from osteosap.training.logs import Clock, RunLog, time_left
from osteosap.training.objectives import (
    Batch,
    Objective,
    Outcome,
    divide,
    segmentation_objective,
)
from osteosap.training.patches import Stream
from osteosap.training.schedule import (
    FREE_SETTINGS,
    LoopConfig,
    background_weight,
    rate_factor,
    share_done,
)
from osteosap.training.state import (
    STATE,
    Best,
    RunState,
    load_weights,
    named_tensors,
    read_state,
    seed_step,
    take_weights,
    weights_digest,
    write_state,
)

__all__ = [
    "FitResult",
    "LoopConfig",
    "Progress",
    "Validate",
    "background_weight",
    "fit",
    "rate_factor",
    "share_done",
]

_log = logging.getLogger(__name__)

MAX_SKIPPED = 10
"""Steps without a finite gradient, one after the other, that end a run."""

Progress = Callable[[str, float], None]
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class FitResult:
    """What a run did.

    ``validation`` belongs to the weights that the network has now: those after ``best_step``
    steps, the last ones without ``select``.
    """

    steps: int
    seconds: float
    final_loss: float
    validation: dict[str, float]
    best_step: int


def fit(
    network: nn.Module,
    groups: list[dict[str, Any]],
    *,
    stream: Stream,
    config: LoopConfig,
    out: Path,
    objective: Objective | None = None,
    fabric: Fabric | None = None,
    validate: Validate | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a network in place.

    Parameters
    ----------
    network
        Random or transferred weights, the same on every process.
    groups
        Optimiser groups with ``base_lr`` (see :func:`osteosap.models.transfer.parameter_groups`).
    stream
        Gives the batches.
    config
        Schedule, optimiser, precision.
    out
        Folder for the logs and ``state.pt``, seen by all processes. A run that finds a state
        there goes on from it, also with more steps (the schedule is then that of the new length
        from there on); a finished one returns its result at once.
    objective
        What is minimised; None is Dice and cross-entropy.
    fabric
        Launched, from :func:`osteosap.training.devices.start_fabric`; None starts one.
    validate
        Called with the network every ``validate_every`` steps and at the end, on every process;
        must return the same values on each. Its method ``describe``, if it has one, says what it
        scores: a run is gone on with only on the same.
    progress
        Called with a line and the fraction done, on the first process.

    Returns
    -------
    result
        The network holds the best weights where ``select`` names a score.

    Raises
    ------
    ConfigError
        The batch cannot be divided, or ``select`` is set without ``validate``.
    TrainingError
        The loss is not finite, the network predicts background only, or the state in ``out``
        belongs to another run.
    """
    fabric = fabric or start_fabric(config)
    require_even_batch(config, fabric.world_size)
    if config.select is not None and validate is None:
        raise ConfigError(
            f"select is '{config.select}', but there are no exams to validate on",
            remedy="Give validation exams, or leave select out",
        )
    run = _Run(network, groups, stream=stream, config=config, out=out, fabric=fabric)
    run.objective = objective or segmentation_objective(config)
    run.validate = validate
    run.progress = progress if fabric.is_global_zero else None
    with small_convolutions_in_float32(network):
        return run.go()


class _Run:
    """One run: ``go`` restores, trains and concludes it."""

    def __init__(
        self,
        network: nn.Module,
        groups: list[dict[str, Any]],
        *,
        stream: Stream,
        config: LoopConfig,
        out: Path,
        fabric: Fabric,
    ) -> None:
        self.network = network
        self.stream = stream
        self.config = config
        self.out = out
        self.fabric = fabric
        self.objective = segmentation_objective(config)
        self.validate: Validate | None = None
        self.progress: Progress | None = None
        self.log: RunLog | None = None
        self.state = RunState()
        self.alarm = CollapseAlarm(config)
        self.rates = [group["base_lr"] for group in groups]
        self.initial = weights_digest(network)
        kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
        optimiser = kind(groups, weight_decay=config.weight_decay)
        self.model, self.optimiser = fabric.setup(network, optimiser)

    def go(self) -> FitResult:
        self._restore()
        begin = self.state.step
        try:
            if not self._finished():
                self._train(begin)
            self._conclude(changed=self.state.step > begin)
        finally:
            if self.log is not None:
                self.log.close()
        best = self.state.best
        validation = self.state.validated[1] if self.state.validated else {}
        mean = sum(self.state.losses) / max(1, len(self.state.losses))
        return FitResult(
            self.state.step,
            self.state.seconds,
            mean,
            best.validation if best else validation,
            best.step if best else self.state.step,
        )

    def _train(self, begin: int) -> None:
        self.model.train()
        clock = Clock(begin, self.state.seconds)
        workers = self.config.workers
        if workers is None:
            workers = 0 if self.fabric.device.type == "cpu" else 4
        batches = self.stream.batches(
            begin,
            self.config.steps,
            batch_size=self.config.batch_size,
            workers=workers,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        for batch in batches:
            self._step(batch, clock)
            if self._finished():
                break
            if _due(self.state.step, self.config.validate_every):
                self._validate()
            if _due(self.state.step, self.config.save_every):
                self._save()

    def _step(self, batch: Batch, clock: Clock) -> None:
        """Learn from one batch, then log it."""
        step = self.state.step
        factor = rate_factor(step, self.state.seconds, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.optimiser.zero_grad(set_to_none=True)
        values = self._share(self._backward(batch), clock.seconds())
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is {values['loss']} at step {step}",
                remedy="Lower the learning rate or use precision float32",
            )
        norm = self.fabric.clip_gradients(
            self.model, self.optimiser, max_norm=self.config.gradient_clip, error_if_nonfinite=False
        )
        self._update(float(norm) if norm is not None else 0.0)
        self.state.losses.append(values["loss"])
        self.state.step += 1
        self.state.seconds = values.pop("seconds")
        self._report(step, {"seconds": self.state.seconds, "rate_factor": factor} | values, clock)

    def _backward(self, batch: Batch) -> list[Outcome]:
        """Gradients of a batch, one micro-batch after the other."""
        parts = self.config.accumulate
        done = share_done(self.state.step, self.state.seconds, self.config)
        outcomes = []
        for number, part in enumerate(divide(batch, parts)):
            seed_step(self.config.seed, self.state.step, self.fabric.global_rank, number)
            with self.fabric.no_backward_sync(self.model, enabled=number < parts - 1):
                outcome = self.objective(self.model, self.fabric.to_device(part), done)
                self.fabric.backward(outcome.loss / parts)
            outcomes.append(outcome)
        return outcomes

    def _share(self, outcomes: list[Outcome], seconds: float) -> dict[str, float]:
        """Means over micro-batches and processes, and the clock of the first process."""
        rows = []
        for outcome in outcomes:
            row = {"loss": float(outcome.loss.detach()), **outcome.parts}
            if outcome.predicted_foreground is not None:
                row["predicted_foreground"] = outcome.predicted_foreground
            if outcome.reference_foreground is not None:
                row["reference_foreground"] = outcome.reference_foreground
            rows.append(row)
        values = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        values["seconds"] = seconds * self.fabric.world_size if self.fabric.is_global_zero else 0.0
        means = mean_over_ranks(list(values.values()), self.fabric)
        return dict(zip(values, means, strict=True))

    def _update(self, gradient_norm: float) -> None:
        """Step, unless the gradient is not finite.

        One such step, taken, turns every weight into NaN; it is left out with a warning, as loss
        scalers for float16 do. Many in a row mean that training has gone wrong.
        """
        if math.isfinite(gradient_norm):
            self.optimiser.step()
            self.state.skipped_in_a_row = 0
            return
        self.state.skipped_in_a_row += 1
        _log.warning("step %d left out: its gradient is not finite", self.state.step)
        if self.state.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"the gradient was not finite {MAX_SKIPPED} times in a row up to step "
                f"{self.state.step}",
                remedy="Lower the learning rate or use precision float32",
            )

    def _report(self, step: int, values: dict[str, float], clock: Clock) -> None:
        """Log, tell, and stop a run that has collapsed to background."""
        done = share_done(self.state.step, self.state.seconds, self.config)
        if self.log is not None and _due(step, self.config.log_every):
            self.log.training(step, values)
        if self.progress is not None:
            mean = sum(self.state.losses) / len(self.state.losses)
            left = time_left(clock.left(self.state.step, self.config))
            self.progress(f"loss {mean:.3f}, {left}", done)
        if "predicted_foreground" in values and "reference_foreground" in values:
            predicted, reference = values["predicted_foreground"], values["reference_foreground"]
            self.alarm.watch(step, predicted, reference, done=done)

    def _validate(self) -> None:
        """Score the weights; keep them if they are the best so far."""
        if self.validate is None:
            return
        self.model.eval()
        values = {name: float(value) for name, value in self.validate(self.network).items()}
        self.model.train()
        step = self.state.step
        self.state.validated = (step, values)
        if self.log is not None:
            self.log.validation(step, values)
            _log.info("step %d: %s", step, _short(values))
        name = self.config.select
        if name is None:
            return
        if name not in values:
            raise ConfigError(
                f"select is '{name}', but validation gives {', '.join(values)}",
                remedy="Choose one of these",
            )
        if self._is_better(values[name]):
            self.state.best = Best(step, values, take_weights(self.network))

    def _is_better(self, value: float) -> bool:
        """NaN is never better, of equal values the earlier one stays."""
        if self.state.best is None:
            return not math.isnan(value)
        before = self.state.best.validation[str(self.config.select)]
        return value > before if self.config.select_largest else value < before

    def _conclude(self, *, changed: bool) -> None:
        """Score and save the last weights, then take the best ones."""
        if self.state.validated is None or self.state.validated[0] != self.state.step:
            self._validate()
            changed = changed or self.state.validated is not None
        if changed and self.config.keep_state:
            size = self._save()
            _log.info(
                "%s (%.0f MB) is kept so that more steps can follow; it may be deleted",
                self.out / STATE,
                size / 1e6,
            )
        best = self.state.best
        if best is not None:
            load_weights(self.network, best.weights)
            _log.info(
                "the weights after %d steps have the best %s: %.4g of %d steps",
                best.step,
                self.config.select,
                best.validation[str(self.config.select)],
                self.state.step,
            )
        elif self.config.select is not None:
            _log.warning("%s was never defined: the last weights are kept", self.config.select)

    def _finished(self) -> bool:
        limit = self.config.max_minutes
        return self.state.step >= self.config.steps or (
            limit is not None and self.state.seconds >= 60.0 * limit
        )

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a run to be gone on with."""
        settings = {n: v for n, v in self.config.to_mapping().items() if n not in FREE_SETTINGS}
        objective, validation = (
            getattr(part, "describe", None) for part in (self.objective, self.validate)
        )
        return {
            "loop": settings,
            "precision": precision_of(self.config),
            "learning rates": self.rates,
            "objective": objective() if objective else type(self.objective).__name__,
            "stream": self.stream.describe(),
            "initial weights": self.initial,
            "validation": validation() if validation else {},
        }

    def _save(self) -> int:
        """Write the state, from the first process."""
        if not self.fabric.is_global_zero:
            return 0
        content = {
            **self.state.to_content(),
            "alarm": self.alarm.to_state(),
            "where": [self.fabric.world_size, self.fabric.device.type],
            "network": named_tensors(self.network),
            "optimiser": self.optimiser.state_dict(),
        }
        return write_state(self.out, content, identity=self._identity())

    def _restore(self) -> None:
        if self.fabric.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
        self.fabric.barrier()
        content = read_state(self.out, identity=self._identity())
        self.fabric.barrier()  # nobody writes before all have read
        if content is not None:
            self._take_over(content)
        if self.fabric.is_global_zero:
            self.log = RunLog(
                self.out,
                step=self.state.step,
                validated=self.state.validated[0] if self.state.validated else 0,
                tensorboard=self.config.tensorboard,
            )

    def _take_over(self, content: dict[str, Any]) -> None:
        self.state = RunState.from_content(content)
        if self.state.step > self.config.steps:
            raise TrainingError(
                f"the run in {self.out} has done {self.state.step} steps, the settings ask for "
                f"{self.config.steps}",
                remedy="Raise steps, or choose another output folder",
            )
        load_weights(self.network, content["network"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.alarm.restore(content["alarm"])
        where = [self.fabric.world_size, self.fabric.device.type]
        _log.info("going on from step %d", self.state.step)
        if content["where"] != where:
            _log.warning(
                "this run goes on with %d processes on %s after %d on %s: equal to an unbroken one "
                "to rounding only",
                *where,
                *content["where"],
            )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _short(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
