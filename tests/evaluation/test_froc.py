"""Free-response curves against hand-made exams and a brute-force loop over whole volumes."""

import math

import numpy as np
import pytest
from scipy import ndimage

from osteosap.errors import ConfigError, GeometryError, VolumeError
from osteosap.evaluation.froc import Froc, Rules, count_by_threshold, froc_curve

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
SHAPE = (16, 14, 18)


def _exam(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    smooth = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.2)
    reference, _ = ndimage.label(smooth > np.quantile(smooth, 0.96), np.ones((3, 3, 3)))
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.0)
    probability = ndimage.gaussian_filter(reference > 0, 0.7) + 0.8 * noise
    return reference.astype(np.int32), np.clip(probability, 0, 1)


def _brute_force(
    reference: np.ndarray, probability: np.ndarray, level: float, min_voxels: float, mode: str
) -> tuple[int, int]:
    """Whole volumes, one component after the other."""
    lowest = LEVELS[0] if mode == "peak" else level
    parts, n = ndimage.label(probability >= lowest, np.ones((3, 3, 3)))
    detected, false = set(), 0
    for i in range(1, n + 1):
        if probability[parts == i].max() < level:
            continue
        touched = set(reference[parts == i].tolist()) - {0}
        detected |= {t for t in touched if (reference == t).sum() >= min_voxels}
        false += not touched and (parts == i).sum() >= min_voxels
    return len(detected), false


@pytest.mark.parametrize("mode", ["rethreshold", "peak"])
@pytest.mark.parametrize("min_voxels", [0.0, 12.0])
def test_counts_equal_a_brute_force_loop(mode: str, min_voxels: float) -> None:
    rng = np.random.default_rng(4)
    worst, total = 0, 0
    for _ in range(6):
        reference, probability = _exam(rng)
        counts = count_by_threshold(
            reference,
            probability,
            thresholds=LEVELS[::-1],
            rules=Rules(min_voxels=min_voxels, mode=mode),
        )
        for place, level in enumerate(LEVELS):
            expected = _brute_force(reference, probability, level, min_voxels, mode)
            found = (counts.detected[place], counts.false_positives[place])
            worst = max(worst, abs(found[0] - expected[0]), abs(found[1] - expected[1]))
        sizes = np.bincount(reference.ravel())[1:]
        assert counts.n_reference == (sizes >= max(1, min_voxels)).sum()
        assert counts.detected.max() > 0
        total += int(counts.false_positives.sum())
    print(f"largest difference from brute force ({mode}): {worst}")
    assert worst == 0
    assert total > 0 or min_voxels > 0


def test_a_component_that_splits_as_the_threshold_rises_is_counted_anew() -> None:
    reference = np.zeros((9, 3, 3), np.int32)
    reference[0:2] = 1
    probability = np.zeros((9, 3, 3))
    probability[0:2], probability[2:7], probability[7:9] = 0.95, 0.3, 0.6
    # at 0.2 one component touches the lesion; at 0.5 its far end is a false positive of its own
    counts = count_by_threshold(reference, probability, thresholds=(0.2, 0.5, 0.9))
    assert counts.detected.tolist() == [1, 1, 1]
    assert counts.false_positives.tolist() == [0, 1, 0]
    whole = count_by_threshold(
        reference, probability, thresholds=(0.2, 0.5, 0.9), rules=Rules(mode="peak")
    )
    assert whole.false_positives.tolist() == [0, 0, 0]


def _curve(points: list[tuple[float, float]], n_reference: int = 10) -> Froc:
    x, y = (np.array(v, dtype=float) for v in zip(*points, strict=True))
    return Froc(np.linspace(0.1, 0.9, len(x)), x, y, 3, n_reference)


def test_the_area_is_that_of_the_trapezoids_and_flat_beyond_the_last_point() -> None:
    curve = _curve([(4.0, 0.8), (2.0, 0.4)])
    # 0 to 2: triangle 0.4; 2 to 4: 2 x (0.4 + 0.8) / 2 = 1.2; 4 to 15: 11 x 0.8 = 8.8
    assert curve.area(15.0) == pytest.approx(0.4 + 1.2 + 8.8)
    assert curve.area(4.0) == pytest.approx(1.6)
    assert curve.area(3.0) == pytest.approx(0.4 + (0.4 + 0.6) / 2)
    assert curve.sensitivity_at(1.0) == pytest.approx(0.2)
    assert curve.sensitivity_at(50.0) == pytest.approx(0.8)


def test_the_curve_is_the_best_reached_with_no_more_false_positives() -> None:
    # merging at the lowest threshold gave fewer false positives and fewer hits
    curve = _curve([(3.0, 0.5), (5.0, 0.9), (4.0, 0.7), (4.0, 0.6), (6.0, 0.8)])
    x, y = curve.envelope()
    assert x.tolist() == [0.0, 3.0, 4.0, 5.0, 6.0]
    assert y.tolist() == [0.0, 0.5, 0.7, 0.9, 0.9]


def test_hits_without_any_false_positive_start_the_curve_above_zero() -> None:
    curve = _curve([(0.0, 0.6), (2.0, 0.8)])
    assert curve.sensitivity_at(0.0) == pytest.approx(0.6)
    assert curve.area(2.0) == pytest.approx(1.4)


def test_exams_without_lesions_count_for_false_positives_only() -> None:
    reference, probability = np.zeros((2, 6, 6, 6))
    probability[1:3, 1:3, 1:3] = 0.8
    empty = count_by_threshold(reference.astype(np.int32), probability, thresholds=(0.5,))
    truth = reference.astype(np.int32)
    truth[1, 1, 1] = 1
    hit = count_by_threshold(truth, probability, thresholds=(0.5,))
    both = froc_curve([empty, hit])
    assert (both.n_exams, both.n_reference) == (2, 1)
    assert both.false_positives_per_exam.tolist() == [0.5]
    assert both.sensitivity.tolist() == [1.0]
    alone = froc_curve([empty])
    assert math.isnan(alone.area(15.0))
    assert math.isnan(alone.sensitivity_at(1.0))
    nothing = count_by_threshold(truth, np.zeros((6, 6, 6)), thresholds=(0.5,))
    assert froc_curve([nothing]).area(15.0) == 0.0


def test_wrong_input_is_refused() -> None:
    zeros = np.zeros((4, 4, 4), np.int32)
    with pytest.raises(GeometryError):
        count_by_threshold(zeros, np.zeros((4, 4, 5)), thresholds=(0.5,))
    with pytest.raises(ConfigError, match="thresholds"):
        count_by_threshold(zeros, zeros, thresholds=())
    for bad in (np.nan, 3.0):
        with pytest.raises(VolumeError, match="expected 0 to 1"):
            count_by_threshold(zeros, np.full((4, 4, 4), bad), thresholds=(0.5,))
    one = count_by_threshold(zeros, zeros, thresholds=(0.5,))
    other = count_by_threshold(zeros, zeros, thresholds=(0.6,))
    with pytest.raises(ConfigError, match="sets of thresholds"):
        froc_curve([one, other])
