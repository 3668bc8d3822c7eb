"""The state of a run on disk: all that makes a resumed run equal one that never stopped.

``state.pt`` holds weights, optimiser, step, time, recent losses, the alarm, the last scores and
the best weights so far. There are no random states in it: the random numbers of a step are a
function of seed and step (:func:`seed_step`), and so are its patches. It is written aside and
renamed, so that it is whole whenever a run is killed, and read with ``weights_only``: nothing in
it can run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from osteosap.errors import OutputError, TrainingError

__all__ = [
    "Best",
    "RunState",
    "differences",
    "load_weights",
    "named_tensors",
    "read_state",
    "seed_step",
    "take_weights",
    "weights_digest",
    "write_state",
]

_log = logging.getLogger(__name__)

STATE = "state.pt"
FORMAT = 2

Weights = dict[str, torch.Tensor]


@dataclass
class Best:
    """The weights with the best validation value so far."""

    step: int
    validation: dict[str, float]
    weights: Weights


@dataclass
class RunState:
    """Where a run is."""

    step: int = 0
    seconds: float = 0.0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    skipped_in_a_row: int = 0
    validated: tuple[int, dict[str, float]] | None = None
    best: Best | None = None

    def to_content(self) -> dict[str, Any]:
        """All of it as plain types and tensors."""
        best = self.best
        return {
            "step": self.step,
            "seconds": self.seconds,
            "losses": list(self.losses),
            "skipped_in_a_row": self.skipped_in_a_row,
            "validated": list(self.validated) if self.validated else None,
            "best": [best.step, best.validation, best.weights] if best else None,
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> RunState:
        """Take over what :meth:`to_content` returned."""
        state = cls(content["step"], content["seconds"])
        state.losses.extend(content["losses"])
        state.skipped_in_a_row = content["skipped_in_a_row"]
        if content["validated"]:
            state.validated = (content["validated"][0], content["validated"][1])
        if content["best"]:
            state.best = Best(*content["best"])
        return state


def seed_step(seed: int, step: int, rank: int, part: int) -> None:
    """Seed torch for a micro-batch, so that its random numbers depend on nothing before it."""
    words = np.random.SeedSequence([seed, 3, step, rank, part]).generate_state(2)
    torch.manual_seed(int(words[0]) << 31 ^ int(words[1]))


def take_weights(network: nn.Module) -> Weights:
    """Copies of parameters and buffers on the CPU."""
    return {n: t.to("cpu", copy=True) for n, t in named_tensors(network).items()}


def load_weights(network: nn.Module, weights: Weights) -> None:
    """Put back what :func:`take_weights` took."""
    with torch.no_grad():
        for name, tensor in named_tensors(network).items():
            tensor.copy_(weights[name])


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of the weights: architecture, seed, head and pretrained weights at once."""
    digest = hashlib.sha256()
    for name, tensor in named_tensors(network).items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def named_tensors(network: nn.Module) -> Weights:
    """Parameters and buffers themselves, each once (DynUNet names some twice)."""
    both = itertools.chain(network.named_parameters(), network.named_buffers())
    return {name: tensor.detach() for name, tensor in both}


def write_state(out: Path, content: Mapping[str, Any], *, identity: Mapping[str, Any]) -> int:
    """Write ``state.pt``, whole or not at all, and return its size in bytes.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    partial = out / f".{STATE}.partial"
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "identity": json.dumps(identity), **content}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out / STATE)
    except (OSError, RuntimeError) as error:  # torch hides the former behind the latter
        with contextlib.suppress(OSError):
            partial.unlink()
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else error
        raise OutputError(
            f"the state of the run cannot be written to {out} ({reason})",
            remedy="Free some space; the run goes on from the state before this one",
        ) from error
    return (out / STATE).stat().st_size


def read_state(out: Path, *, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read ``state.pt``; None where there is none.

    What a state of an older version does not say of its run is not compared, with a warning.

    Raises
    ------
    TrainingError
        It is damaged, or of a run that differs from this one; the message says in what.
    """
    path = out / STATE
    if not path.is_file():
        return None
    remedy = "Choose another output folder, or delete the file to start anew"
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        version, before = content["format"], json.loads(content["identity"])
    except Exception as error:  # torch and zipfile raise many kinds for broken files
        raise TrainingError(f"{path} cannot be read", remedy=remedy) from error
    if version != FORMAT:
        raise TrainingError(f"{path} has format {version}, expected {FORMAT}", remedy=remedy)
    now = json.loads(json.dumps(identity))
    unsaid = [name for name in now if name not in before]
    if unsaid:
        _log.warning(
            "%s is of an older version, which did not record its %s: not compared",
            path,
            ", ".join(unsaid),
        )
    found = differences(before, {name: now[name] for name in now if name in before})
    if found:
        shown = "; ".join(found[:5]) + ("; ..." if len(found) > 5 else "")
        precision = before.get("precision")
        if precision != now.get("precision"):  # 'auto' depends on the device
            remedy = f"Set loop.precision to {precision} to go on. {remedy}"
        raise TrainingError(f"{path} belongs to a run that differs: {shown}", remedy=remedy)
    return content


def differences(before: Any, now: Any, *, place: str = "") -> list[str]:
    """Say in what two records of plain JSON types differ, one line a value."""
    if isinstance(before, dict) and isinstance(now, dict):
        lines: list[str] = []
        for name in [*before, *(n for n in now if n not in before)]:
            where = f"{place}.{name}" if place else str(name)
            lines += differences(before.get(name), now.get(name), place=where)
        return lines
    if before == now:
        return []
    if isinstance(before, list) and isinstance(now, list) and max(len(before), len(now)) > 4:
        if len(before) != len(now):
            return [f"{place}: {len(before)} then, {len(now)} now"]
        changed = sum(a != b for a, b in zip(before, now, strict=True))
        return [f"{place}: {changed} of {len(now)} changed"]
    if place.rsplit(".", 1)[-1] in ("initial weights", "exams"):
        return [f"{place} changed"]
    return [f"{place} was {before}, is {now}"]
