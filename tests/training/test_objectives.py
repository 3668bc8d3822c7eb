from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.losses import DiceCELoss
from torch import nn

from osteosap.errors import TrainingError
from osteosap.training.objectives import divide, segmentation_objective
from osteosap.training.schedule import LoopConfig


class _Says(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, _: torch.Tensor) -> Any:
        return self.answer


def _batch(n_classes: int = 3, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(4, n_classes, size, size, size, requires_grad=True)
    return logits, torch.randint(0, n_classes, (4, 1, size, size, size), dtype=torch.uint8)


def _loss(answer: Any, reference: torch.Tensor, done: float = 1.0, **values: Any) -> Any:
    objective = segmentation_objective(LoopConfig.from_mapping(values))
    return objective(_Says(answer), (torch.zeros(4, 2, 6, 6, 6), reference), done)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_loss_and_gradient_are_those_of_monai(batch_dice: bool, weight: float) -> None:
    logits, reference = _batch()
    ours = _loss(logits, reference, done=0.0, batch_dice=batch_dice, background_weight=weight).loss
    (gradient,) = torch.autograd.grad(ours, logits)
    monai = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        weight=torch.tensor([weight, 1.0, 1.0]),
        smooth_nr=1e-5,
        smooth_dr=1e-5,
        batch=batch_dice,
    )
    theirs = monai(logits, reference.long())
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, logits)[0])


def test_background_weighs_what_the_schedule_says() -> None:
    logits, reference = _batch()
    for done, weight in ((0.0, 0.2), (0.25, 0.6), (0.9, 1.0)):
        outcome = _loss(logits, reference, done, background_weight=0.2)
        entropy = nn.CrossEntropyLoss(weight=torch.tensor([weight, 1.0, 1.0]))
        expected = float(entropy(logits.detach(), reference[:, 0].long()))
        assert outcome.parts["cross_entropy"] == pytest.approx(expected, abs=1e-5)
        total = outcome.parts["dice_loss"] + outcome.parts["cross_entropy"]
        assert float(outcome.loss.detach()) == pytest.approx(total, abs=1e-5)


def test_a_level_of_deep_supervision_weighs_half_of_the_one_above() -> None:
    logits, reference = _batch()
    coarse = torch.randn(4, 3, 3, 3, 3)
    fine_alone = float(_loss(logits, reference).loss.detach())
    upsampled = nn.functional.interpolate(coarse, size=(6, 6, 6), mode="trilinear")
    coarse_alone = float(_loss(upsampled, reference).loss)
    both = _loss([logits, coarse], reference)
    assert float(both.loss.detach()) == pytest.approx(
        (fine_alone + coarse_alone / 2) / 1.5, rel=1e-5
    )
    assert both.predicted_foreground == _loss(logits, reference).predicted_foreground


def test_foreground_is_counted() -> None:
    reference = torch.zeros(4, 1, 6, 6, 6, dtype=torch.uint8)
    reference[0, 0, :3] = 1
    logits = torch.zeros(4, 2, 6, 6, 6)
    logits[:, 0] = 1.0
    logits[1, 1, 0] = 2.0
    outcome = _loss(logits, reference)
    assert outcome.reference_foreground == pytest.approx(1 / 8)
    assert outcome.predicted_foreground == pytest.approx(1 / 24)


def test_a_batch_is_divided_into_equal_parts() -> None:
    batch = (torch.arange(6), torch.arange(12).view(6, 2))
    parts = list(divide(batch, 3))
    assert torch.equal(torch.cat([part[0] for part in parts]), batch[0])
    assert [len(part[1]) for part in parts] == [2, 2, 2]
    with pytest.raises(TrainingError, match="cannot be divided into 4"):
        next(divide(batch, 4))
