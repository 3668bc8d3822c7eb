"""Metrics: hand-counted truth first, then the degenerate cases of the module's table."""

import math

import numpy as np
import pytest

from osteosap.errors import GeometryError, VolumeError
from osteosap.evaluation.matching import match_lesions
from osteosap.evaluation.metrics import (
    Detection,
    LesionScore,
    detect,
    dice,
    mean_lesion_dice,
    score_lesions,
    skeleton_dice,
)


def _lesion(identity: int, volume_ml: float, *matches: int) -> LesionScore:
    return LesionScore(identity, volume_ml, matches, 0.5 if matches else 0.0)


def test_dice_of_half_overlapping_boxes_is_one_half() -> None:
    a = np.zeros((4, 4, 4), bool)
    b = a.copy()
    a[:2], b[1:3] = True, True
    assert dice(a, b) == 0.5
    assert dice(a, a) == 1.0
    assert dice(a, ~a) == 0.0
    assert dice(a, np.zeros_like(a)) == 0.0


def test_dice_of_two_empty_masks_is_not_defined() -> None:
    assert math.isnan(dice(np.zeros((2, 2, 2)), np.zeros((2, 2, 2))))


def test_dice_refuses_other_shapes() -> None:
    with pytest.raises(GeometryError):
        dice(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))


def test_skeleton_dice_names_classes_and_forgives_confusion_only_when_merged() -> None:
    reference = np.zeros((10, 1, 1), np.uint8)
    prediction = reference.copy()
    reference[:4], reference[4:8] = 2, 3
    prediction[:6], prediction[6:8] = 2, 3
    scores = skeleton_dice(reference, prediction)
    assert scores["thoracic_spine"] == pytest.approx(2 * 4 / 10)
    assert scores["lumbar_spine"] == pytest.approx(2 * 2 / 6)
    assert scores["merged"] == 1.0
    assert math.isnan(scores["femur"])
    assert len(scores) == 10


def test_skeleton_dice_refuses_ids_that_are_no_class() -> None:
    with pytest.raises(VolumeError, match="0 to 9"):
        skeleton_dice(np.full((2, 2, 2), 12), np.zeros((2, 2, 2), int))


def test_a_split_lesion_is_one_hit_scored_against_the_union() -> None:
    reference = np.zeros((1, 1, 20), np.int32)
    prediction = np.zeros_like(reference)
    reference[..., 0:10] = 1
    prediction[..., 0:4], prediction[..., 6:12] = 1, 2
    references, predictions = score_lesions(match_lesions(reference, prediction), 0.5)
    assert references[0].dice == pytest.approx(2 * 8 / (10 + 10))
    assert references[0].volume_ml == 5.0
    counts = detect(references, predictions)
    assert (counts.n_detected, counts.n_true_predictions, counts.n_false_positives) == (1, 2, 0)
    assert counts.sensitivity == counts.precision_reference_side == counts.f2 == 1.0


def test_merged_lesions_are_each_a_hit_scored_against_the_whole() -> None:
    reference = np.zeros((1, 1, 20), np.int32)
    prediction = np.zeros_like(reference)
    reference[..., 0:4], reference[..., 6:10] = 1, 2
    prediction[..., 0:10] = 1
    references, predictions = score_lesions(match_lesions(reference, prediction), 1.0)
    assert [r.dice for r in references] == [pytest.approx(2 * 4 / 14)] * 2
    counts = detect(references, predictions)
    assert (counts.n_detected, counts.n_true_predictions, counts.n_false_positives) == (2, 1, 0)


def test_f2_is_that_of_the_formula() -> None:
    counts = Detection(10, 6, 5, 3, 1.0)
    precision, recall = 6 / 9, 6 / 10
    assert counts.f2 == pytest.approx(5 * precision * recall / (4 * precision + recall))
    assert counts.precision_prediction_side == pytest.approx(5 / 8)


def test_large_lesions_count_by_the_rules_of_the_two_sides() -> None:
    references = [
        _lesion(1, 3.0, 1),  # large, touched by a small prediction only: a hit
        _lesion(2, 0.4, 2),  # small, touched by a large prediction: neither
        _lesion(3, 1.0),  # exactly at the limit: counts, missed
        _lesion(4, 0.2),  # small and missed: does not count
    ]
    predictions = [
        _lesion(1, 0.3, 1),
        _lesion(2, 5.0, 2),
        _lesion(3, 1.0),  # at the limit: false positive
        _lesion(4, 0.9),  # small: no false positive
    ]
    large = detect(references, predictions, min_volume_ml=1.0)
    assert (large.n_reference, large.n_detected, large.n_missed) == (2, 1, 1)
    assert (large.n_true_predictions, large.n_false_positives) == (1, 1)
    assert large.false_positive_ml == 1.0
    every = detect(references, predictions)
    assert (every.n_reference, every.n_detected, every.n_false_positives) == (4, 2, 2)


def test_a_limit_met_up_to_rounding_counts() -> None:
    assert detect([_lesion(1, 0.1 * 3 + 0.7 - 2e-16)], [], min_volume_ml=1.0).n_reference == 1


def test_without_reference_lesions_sensitivity_is_undefined_and_f2_depends_on_false_positives() -> (
    None
):
    clean = detect([], [])
    assert math.isnan(clean.sensitivity)
    assert math.isnan(clean.f2)
    assert clean.n_false_positives == 0
    noisy = detect([], [_lesion(1, 2.0)])
    assert math.isnan(noisy.sensitivity)
    assert noisy.f2 == 0.0
    assert noisy.precision_reference_side == 0.0
    assert math.isnan(mean_lesion_dice([]))


def test_an_empty_prediction_misses_everything() -> None:
    counts = detect([_lesion(1, 2.0), _lesion(2, 0.5)], [])
    assert (counts.sensitivity, counts.f2) == (0.0, 0.0)
    assert math.isnan(counts.precision_reference_side)
    assert math.isnan(counts.precision_prediction_side)


def test_mean_lesion_dice_takes_misses_as_zero() -> None:
    lesions = [LesionScore(1, 2.0, (1,), 0.8), LesionScore(2, 0.5, (), 0.0)]
    assert mean_lesion_dice(lesions) == pytest.approx(0.4)
    assert mean_lesion_dice(lesions, min_volume_ml=1.0) == pytest.approx(0.8)
