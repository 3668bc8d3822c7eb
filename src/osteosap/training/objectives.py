"""What a training step minimises: soft Dice and cross-entropy, equal on one process and many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from osteosap.errors import TrainingError
from osteosap.training.devices import sum_over_ranks
from osteosap.training.schedule import LoopConfig, background_weight

__all__ = ["Batch", "Objective", "Outcome", "divide", "segmentation_objective"]

Batch = tuple[torch.Tensor, ...]


@dataclass
class Outcome:
    """Loss of a (micro-)batch and what is logged of it.

    Parameters
    ----------
    loss
        Scalar with a gradient.
    parts
        Its parts, by name, as plain numbers.
    predicted_foreground, reference_foreground
        Share of this process's voxels; None where there is no foreground to collapse from.
    """

    loss: torch.Tensor
    parts: dict[str, float] = field(default_factory=dict)
    predicted_foreground: float | None = None
    reference_foreground: float | None = None


def divide(batch: Batch, parts: int) -> Iterator[Batch]:
    """Equal micro-batches of every tensor of a batch."""
    if any(len(tensor) % parts for tensor in batch):
        raise TrainingError(
            f"a batch of {len(batch[0])} cannot be divided into {parts} micro-batches",
            remedy="Set batch_size to a multiple of accumulate times the number of processes",
        )
    for number in range(parts):
        yield tuple(
            tensor[len(tensor) * number // parts : len(tensor) * (number + 1) // parts]
            for tensor in batch
        )


class Objective(Protocol):
    """Computes the loss of a batch.

    It may only call ``model(...)`` itself, never a part of it: the call is what gradients are
    synchronised around. All random numbers must be torch's (seeded anew at each step). An objective
    with settings says them in ``describe()``; a resumed run must agree with them.
    """

    def __call__(self, model: nn.Module, batch: Batch, done: float) -> Outcome:
        """Loss of a batch when the share ``done`` of the schedule is over."""
        ...


def segmentation_objective(config: LoopConfig) -> Objective:
    """Soft Dice without background plus cross-entropy (the paper's loss).

    With several processes the sums of the batch are taken over all of them, so that the loss
    and its gradient are those of one process with the whole batch, to rounding.

    Parameters
    ----------
    config
        ``batch_dice``, ``dice_smoothing`` and the weights of background.

    Returns
    -------
    objective
        Takes batches of images (B, C, I, J, K) and class ids (B, 1, I, J, K), and networks that
        return logits (B, N, I, J, K) or, with deep supervision, a list of them, finest first:
        level i weighs 1 / 2^i. Coarse logits are brought to full size, since a reference made
        coarse would lose its small lesions.

    References
    ----------
    Milletari et al. 2016, doi 10.1109/3DV.2016.79 (soft Dice)
    """
    return _Segmentation(config)


class _Segmentation:
    def __init__(self, config: LoopConfig) -> None:
        self.config = config

    def describe(self) -> dict[str, Any]:
        return {"kind": "segmentation"}  # its settings are the loop's

    def __call__(self, model: nn.Module, batch: Batch, done: float) -> Outcome:
        images, reference = batch
        output = model(images)
        levels: Sequence[torch.Tensor]
        levels = output if isinstance(output, (list, tuple)) else [output]
        losses = [self._level(logits, reference, done) for logits in levels]
        weights = torch.tensor([2.0**-i for i in range(len(losses))], device=reference.device)
        dice, entropy = (torch.stack(losses) * (weights / weights.sum())[:, None]).sum(0)
        finest = levels[0].detach()
        return Outcome(
            dice + entropy,
            {"dice_loss": float(dice.detach()), "cross_entropy": float(entropy.detach())},
            float((finest.argmax(1) > 0).float().mean()),
            float((reference > 0).float().mean()),
        )

    def _level(self, logits: torch.Tensor, reference: torch.Tensor, done: float) -> torch.Tensor:
        """Dice loss and cross-entropy (2) of one level of logits."""
        logits = logits.float()
        classes = reference[:, 0].long()
        if logits.shape[2:] != classes.shape[1:]:
            logits = functional.interpolate(logits, size=classes.shape[1:], mode="trilinear")
        weights = torch.ones(logits.shape[1], device=logits.device)
        weights[0] = background_weight(done, self.config)
        entropy = torch.stack(
            [
                functional.cross_entropy(logits, classes, weight=weights, reduction="sum"),
                weights[classes].sum(),
            ]
        )
        sums = self._dice_sums(torch.softmax(logits, dim=1), classes)
        total = sum_over_ranks(torch.cat([sums.flatten(), entropy]))
        return torch.stack([self._dice(total[:-2]), total[-2] / total[-1]])

    def _dice_sums(self, probabilities: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """What the Dice is computed from and may be added over patches and processes.

        With ``batch_dice`` overlap and size of each class (2, N - 1); else the patches' losses
        added, and their number (2).
        """
        onehot = functional.one_hot(classes, probabilities.shape[1]).movedim(-1, 1)[:, 1:]
        inside = probabilities[:, 1:]
        space = (2, 3, 4)
        overlap = (inside * onehot).sum(space)
        size = inside.sum(space) + onehot.sum(space)
        if self.config.batch_dice:
            return torch.stack([overlap.sum(0), size.sum(0)])
        losses = self._ratio(overlap, size)
        return torch.stack([losses.sum(), losses.new_tensor(losses.numel())])

    def _dice(self, sums: torch.Tensor) -> torch.Tensor:
        if self.config.batch_dice:
            overlap, size = sums.view(2, -1)
            return self._ratio(overlap, size).mean()
        return sums[0] / sums[1]

    def _ratio(self, overlap: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        smooth = self.config.dice_smoothing
        return 1.0 - (2.0 * overlap + smooth) / (size + smooth)
