from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from osteosap.errors import ConfigError, VolumeError
from osteosap.inference.candidates import CandidateConfig, extract_lesions

HALF = CandidateConfig(threshold=0.5)


def test_lesions_are_numbered_by_decreasing_peak_and_corners_connect() -> None:
    probability = np.zeros((8, 8, 8), np.float32)
    probability[0, 0, 0] = 0.6
    probability[1, 1, 1] = 0.7  # touches by a corner: one lesion
    probability[5, 5, 5] = 0.9
    lesions = extract_lesions(probability, 0.1, config=HALF)
    assert lesions.dtype == np.int32
    assert lesions[5, 5, 5] == 1
    assert lesions[0, 0, 0] == lesions[1, 1, 1] == 2
    assert lesions.max() == 2


def test_the_threshold_itself_counts_and_specks_do_not() -> None:
    probability = np.zeros((6, 6, 6), np.float32)
    probability[0, 0, 0] = 0.5
    probability[3:5, 3, 3] = 0.5
    assert extract_lesions(probability, 0.1, config=HALF).max() == 2
    config = CandidateConfig(threshold=0.5, min_volume_ml=0.2)
    lesions = extract_lesions(probability, 0.1, config=config)
    assert lesions.max() == 1
    assert lesions[0, 0, 0] == 0


def test_nothing_above_the_threshold_gives_no_lesion() -> None:
    assert not extract_lesions(np.zeros((3, 4, 5), np.float32), 1.0, config=HALF).any()


def test_the_tuned_threshold_fills_in_only_where_none_is_set() -> None:
    assert CandidateConfig().with_threshold(0.3).threshold == 0.3
    assert HALF.with_threshold(0.3).threshold == 0.5
    with pytest.raises(ConfigError, match="no threshold"):
        extract_lesions(np.zeros((3, 3, 3), np.float32), 1.0, config=CandidateConfig())


def test_logits_and_stacks_are_refused() -> None:
    with pytest.raises(VolumeError, match="logits"):
        extract_lesions(np.full((3, 3, 3), 4.0, np.float32), 1.0, config=HALF)
    with pytest.raises(VolumeError, match="three axes"):
        extract_lesions(np.zeros((2, 3, 3, 3), np.float32), 1.0, config=HALF)
    with pytest.raises(VolumeError, match="finite"):
        extract_lesions(np.full((3, 3, 3), np.nan, np.float32), 1.0, config=HALF)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float32, (6, 5, 4), elements=st.floats(0, 1, width=32)))
def test_candidates_cover_exactly_the_voxels_above_and_survive_a_flip(
    probability: np.ndarray,
) -> None:
    lesions = extract_lesions(probability, 0.1, config=HALF)
    assert np.array_equal(lesions > 0, probability >= 0.5)
    flipped = extract_lesions(probability[::-1], 0.1, config=HALF)[::-1]
    assert np.array_equal(flipped > 0, lesions > 0)
    assert flipped.max() == lesions.max()
    peaks = [probability[lesions == n].max() for n in range(1, lesions.max() + 1)]
    assert peaks == sorted(peaks, reverse=True)
