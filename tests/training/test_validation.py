from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from osteosap.geometry import Grid
from osteosap.inference.sliding import WindowConfig
from osteosap.training.data import TrainingExam
from osteosap.training.validation import Case, tune_threshold, validate_lesions, validate_skeleton

SHAPE = (12, 12, 12)


def _map(*places: tuple[int, float]) -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    for index, value in places:
        array[index, index, index] = value
    return array


def _reference(*indices: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.int32)
    for number, index in enumerate(indices, start=1):
        array[index, index, index] = number
    return array


def test_the_threshold_with_the_best_f2_is_chosen() -> None:
    # at 0.3 both lesions are found, at the price of none; at 0.1 a false positive joins
    pair = Case(_reference(2, 6), _map((2, 0.9), (6, 0.35), (10, 0.15)), 2.0)
    threshold, scores = tune_threshold([pair])
    assert threshold == 0.3
    assert scores["f2"] == scores["sensitivity"] == scores["sensitivity_1ml"] == 1.0
    assert scores["false_positives_per_exam"] == 0.0
    assert scores["f2_at_0.1"] == pytest.approx(5 * 2 / (5 * 2 + 1))
    assert scores["f2_at_0.5"] == pytest.approx(5 / (5 + 4))
    assert scores["global_dice"] == 1.0


def test_of_equally_good_thresholds_the_middle_one_is_taken() -> None:
    threshold, _ = tune_threshold([Case(_reference(2), _map((2, 1.0)), 1.0)])
    assert threshold == 0.5


def test_without_any_lesion_on_either_side_the_threshold_is_one_half() -> None:
    threshold, scores = tune_threshold([Case(_reference(), _map(), 1.0)])
    assert threshold == 0.5
    assert math.isnan(scores["f2"])
    assert math.isnan(scores["sensitivity"])
    assert scores["false_positives_per_exam"] == 0.0


class _Echo(nn.Module):
    """Says what the first channel says."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        classes = (images[:, 0] * 10).round().long()
        onehot = nn.functional.one_hot(classes, self.n_classes).movedim(-1, 1)
        return 20.0 * onehot.float()


def _exam() -> TrainingExam:
    skeleton = np.zeros(SHAPE, np.uint8)
    skeleton[2:5, 2:5, 2:5] = 4
    skeleton[7:9, 7:9, 7:9] = 1
    lesions = (skeleton == 1).astype(np.int32)
    return TrainingExam(
        np.stack([skeleton / 10, skeleton / 10]).astype(np.float16),
        np.ones(SHAPE, bool),
        skeleton,
        lesions,
        Grid(SHAPE, np.diag([10.0, 10.0, 10.0, 1.0])),
    )


def test_a_network_that_knows_the_answer_scores_one() -> None:
    windows = WindowConfig(device="cpu", precision="float32")
    scores = validate_skeleton(_Echo(10), [_exam()], patch=(8, 8, 8), windows=windows, n_classes=10)
    assert scores["dice_pelvis"] == scores["dice_cervical_spine"] == scores["dice_merged"] == 1.0
    assert math.isnan(scores["dice_femur"])
    exam = _exam()
    exam.images[exam.images > 0.3] = 0.0  # leaves the lesion
    threshold, lesion_scores = validate_lesions(_Echo(2), [exam], patch=(8, 8, 8), windows=windows)
    assert threshold == 0.5
    assert lesion_scores["global_dice"] == 1.0
    assert lesion_scores["sensitivity_1ml"] == 1.0
