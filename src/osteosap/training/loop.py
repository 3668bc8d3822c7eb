"""The training loop both recipes share."""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pydantic import Field
from torch import nn

from osteosap.config import StageConfig, canonical_hash
from osteosap.errors import TrainingError
from osteosap.inference.sliding import best_precision, choose_device
from osteosap.training.patches import Batch, PatchStream

__all__ = [
    "FitResult",
    "LoopConfig",
    "Progress",
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


class LoopConfig(StageConfig):
    """How a network is trained.

    The learning rate rises linearly over ``warmup_steps`` and then falls as a cosine to 0 at
    ``steps``, or at ``max_minutes`` if that comes first (the schedule then follows the clock, so
    that it always ends; such a run is not repeatable to the bit).
    ``batch_dice`` sums the Dice over the batch before the ratio is taken; ``background_weight``
    is background's weight in the cross-entropy (other classes 1): below 1 keeps a network from
    predicting background only where foreground is rare. It rises in a straight line to
    ``final_background_weight`` at ``background_weight_until`` (a share of the run), since a weight
    below 1 makes foreground too large at its edges. ``collapse_after`` is
    the share of the run after which a network that still predicts background only, for
    ``collapse_window`` steps, stops the run. 0 validates or saves only at the end. ``workers``
    None means none on a CPU and 4 threads with a GPU.
    """

    steps: int = Field(default=3000, ge=1)
    max_minutes: float | None = Field(default=None, gt=0.0)
    batch_size: int = Field(default=2, ge=1)
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: int | None = Field(default=None, ge=0)
    validate_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=200, ge=0)
    log_every: int = Field(default=10, ge=1)
    collapse_after: float = Field(default=0.5, ge=0.0, le=1.0)
    collapse_window: int = Field(default=50, ge=1)
    seed: int = Field(default=42, ge=0)


@dataclass(frozen=True)
class FitResult:
    """What a run did."""

    steps: int
    seconds: float
    final_loss: float
    validation: dict[str, float]


@dataclass
class _State:
    """Where the run is; all of it is saved and restored."""

    step: int = 0
    seconds: float = 0.0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    silent_steps: int = 0
    skipped_in_a_row: int = 0


def rate_factor(step: int, seconds: float, config: LoopConfig) -> float:
    """Share of the base learning rate at a step: linear warm-up times cosine to 0."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return warm * 0.5 * (1.0 + math.cos(math.pi * share_done(step, seconds, config)))


def share_done(step: int, seconds: float, config: LoopConfig) -> float:
    """Share of the schedule that is over, by steps or by the clock, whichever is further."""
    done = step / config.steps
    if config.max_minutes is not None:
        done = max(done, seconds / (60.0 * config.max_minutes))
    return min(1.0, done)


def background_weight(done: float, config: LoopConfig) -> float:
    """Background's weight in the cross-entropy when ``done`` of the schedule is over."""
    way = min(1.0, done / config.background_weight_until)
    return config.background_weight + way * (
        config.final_background_weight - config.background_weight
    )


def fit(
    network: nn.Module,
    groups: list[dict[str, Any]],
    *,
    stream: PatchStream,
    config: LoopConfig,
    out: Path,
    validate: Validate | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a network in place.

    Parameters
    ----------
    network
        Random or transferred weights.
    groups
        Optimiser groups with ``base_lr`` (see :func:`osteosap.models.transfer.parameter_groups`).
    stream
        Gives the batches.
    config
        Schedule, optimiser, precision.
    out
        Folder for ``training.csv``, ``validation.csv`` and ``state.pt``; a run that finds the
        state of an unfinished equal run goes on from there.
    validate
        Called with the network every ``validate_every`` steps and at the end.
    progress
        Called with a line and the fraction done.

    Raises
    ------
    TrainingError
        The loss is not finite, or the network predicts background only.
    """
    run = _Run(network, groups, stream=stream, config=config, out=out)
    run.validate = validate
    run.progress = progress
    return run.go()


class _Run:
    def __init__(
        self,
        network: nn.Module,
        groups: list[dict[str, Any]],
        *,
        stream: PatchStream,
        config: LoopConfig,
        out: Path,
    ) -> None:
        self.network = network
        self.stream = stream
        self.config = config
        self.out = out
        self.validate: Validate | None = None
        self.progress: Progress | None = None
        self.state = _State()
        device = choose_device(config.device)
        precision = best_precision(device) if config.precision == "auto" else config.precision
        self.workers = config.workers
        if self.workers is None:
            self.workers = 0 if device.type == "cpu" else 4
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it prints its precision
        self.fabric = Fabric(
            accelerator=device.type,
            devices=1,
            precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        )
        kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
        optimiser = kind(groups, weight_decay=config.weight_decay)
        self.model, self.optimiser = self.fabric.setup(network, optimiser)
        self.loss = _loss(config)
        rates = [group["base_lr"] for group in groups]
        self.key = canonical_hash(
            [config.to_mapping(), rates, stream.describe(), _weights_digest(network)]
        )

    def go(self) -> FitResult:
        self.out.mkdir(parents=True, exist_ok=True)
        self._restore()
        torch.manual_seed(self.config.seed + self.state.step)
        self.model.train()
        started = time.perf_counter() - self.state.seconds
        batches = self.stream.batches(
            self.state.step,
            self.config.steps,
            batch_size=self.config.batch_size,
            workers=self.workers or 0,
        )
        for batch in batches:
            self._step(batch)
            self.state.step += 1
            self.state.seconds = time.perf_counter() - started
            if self._finished():
                break
            if _due(self.state.step, self.config.validate_every):
                self._validate()
            if _due(self.state.step, self.config.save_every):
                self._save()
        validation = self._validate()
        (self.out / "state.pt").unlink(missing_ok=True)
        mean = sum(self.state.losses) / max(1, len(self.state.losses))
        return FitResult(self.state.step, self.state.seconds, mean, validation)

    def _done(self) -> float:
        """Share of the schedule that is over."""
        return share_done(self.state.step, self.state.seconds, self.config)

    def _finished(self) -> bool:
        limit = self.config.max_minutes
        return self.state.step >= self.config.steps or (
            limit is not None and self.state.seconds >= 60.0 * limit
        )

    def _step(self, batch: Batch) -> None:
        factor = rate_factor(self.state.step, self.state.seconds, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        images, reference = (self.fabric.to_device(t) for t in batch)
        self.optimiser.zero_grad(set_to_none=True)
        logits = self.model(images)
        loss = self.loss(logits.float(), reference, self._done())
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.state.step}",
                remedy="Lower the learning rate or use precision float32",
            )
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.model, self.optimiser, max_norm=self.config.gradient_clip, error_if_nonfinite=False
        )
        self._update(float(norm) if norm is not None else 0.0)
        self.state.losses.append(value)
        self._watch(logits.detach(), reference, value, factor)

    def _update(self, gradient_norm: float) -> None:
        """Step, unless the gradient is not finite.

        One such step, taken, turns every weight into NaN; it is left out with a warning, as loss
        scalers for float16 do. Seen now and then in bfloat16 on a CPU; why is not known. Many in
        a row mean that training has gone wrong.
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

    def _watch(
        self, logits: torch.Tensor, reference: torch.Tensor, loss: float, factor: float
    ) -> None:
        """Count, log and report; stop a run that has collapsed to background."""
        predicted = float((logits.argmax(1) > 0).float().mean())
        expected = float((reference > 0).float().mean())
        if predicted > 0.0:
            self.state.silent_steps = 0
        elif expected > 0.0:
            self.state.silent_steps += 1
        step = self.state.step
        late = step >= self.config.collapse_after * self.config.steps
        if late and self.state.silent_steps >= self.config.collapse_window:
            raise TrainingError(
                f"the network predicts background only, for {self.state.silent_steps} steps up to "
                f"step {step}: it has collapsed",
                remedy="Lower the encoder's rate, lengthen the warm-up, start the head at the "
                "class prior, or take more lesion patches",
            )
        if step % self.config.log_every == 0:
            row = {
                "step": step,
                "seconds": round(self.state.seconds, 1),
                "loss": round(loss, 5),
                "rate_factor": round(factor, 5),
                "predicted_foreground": round(predicted, 7),
                "reference_foreground": round(expected, 7),
            }
            _append(self.out / "training.csv", row)
        if self.progress is not None:
            mean = sum(self.state.losses) / len(self.state.losses)
            self.progress(f"loss {mean:.3f}", (step + 1) / self.config.steps)

    def _validate(self) -> dict[str, float]:
        if self.validate is None:
            return {}
        self.model.eval()
        values = self.validate(self.network)
        self.model.train()
        for name, value in values.items():
            row = {"step": self.state.step, "metric": name, "value": round(value, 5)}
            _append(self.out / "validation.csv", row)
        _log.info("step %d: %s", self.state.step, values)
        return values

    def _save(self) -> None:
        content = {
            "key": self.key,
            "step": self.state.step,
            "seconds": self.state.seconds,
            "losses": list(self.state.losses),
            "silent_steps": self.state.silent_steps,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        partial = self.out / f".{os.getpid()}-state.pt"
        torch.save(content, partial)
        partial.replace(self.out / "state.pt")

    def _restore(self) -> None:
        path = self.out / "state.pt"
        if not path.is_file():
            for name in ("training.csv", "validation.csv"):
                (self.out / name).unlink(missing_ok=True)
            return
        remedy = "Choose another output folder, or delete the file to start anew"
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch and zipfile raise many kinds for broken files
            raise TrainingError(f"{path} cannot be read", remedy=remedy) from error
        if content.get("key") != self.key:
            raise TrainingError(
                f"{path} belongs to a run with other settings, exams or initial weights",
                remedy=remedy,
            )
        self.network.load_state_dict(content["network"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.state = _State(content["step"], content["seconds"])
        self.state.losses.extend(content["losses"])
        self.state.silent_steps = content["silent_steps"]
        _log.info("going on from step %d", self.state.step)


def _loss(config: LoopConfig) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """Soft Dice without background plus cross-entropy, built for the classes of the logits."""
    from monai.losses import DiceCELoss

    built: dict[int, DiceCELoss] = {}

    def loss(logits: torch.Tensor, reference: torch.Tensor, done: float) -> torch.Tensor:
        n_classes = logits.shape[1]
        if n_classes not in built:
            built[n_classes] = DiceCELoss(
                include_background=False,
                to_onehot_y=True,
                softmax=True,
                weight=torch.ones(n_classes, device=logits.device),
                smooth_nr=config.dice_smoothing,
                smooth_dr=config.dice_smoothing,
                batch=config.batch_dice,
            )
        built[n_classes].cross_entropy.weight[0] = background_weight(done, config)
        value: torch.Tensor = built[n_classes](logits, reference)
        return value

    return loss


def _weights_digest(network: nn.Module) -> str:
    """SHA-256 of the initial weights: architecture, seed, head and pretrained weights at once."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _append(path: Path, row: Mapping[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
