from __future__ import annotations

import logging
import math
import sys

import numpy as np
import pytest

from osteosap.errors import TrainingError
from osteosap.training.separation import embed, separation, usable_perplexity


def clouds(apart: float, n: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_lesion = np.arange(2 * n) < n
    features = rng.normal(size=(2 * n, 6))
    features[is_lesion, 0] += apart
    return features, is_lesion


def test_distances_are_those_of_a_drawing() -> None:
    features = np.array([[0.0, 0.0], [0.0, 6.0], [4.0, 1.0], [4.0, 5.0]])
    found = separation(features, np.array([True, True, False, False]))
    assert (found.n_lesion, found.n_background) == (2, 2)
    assert found.centroid_distance == pytest.approx(4.0)
    assert found.within_lesion == pytest.approx(6.0)
    assert found.within_background == pytest.approx(4.0)
    assert found.ratio == pytest.approx(0.8)


def test_the_ratio_has_no_scale_and_grows_as_the_classes_part() -> None:
    near, far = (separation(*clouds(apart)) for apart in (0.5, 5.0))
    features, is_lesion = clouds(5.0)
    assert separation(100.0 * features, is_lesion).ratio == pytest.approx(far.ratio)
    assert far.ratio > 3 * near.ratio


def test_what_is_not_defined_is_nan_and_null() -> None:
    found = separation(np.array([[0.0], [1.0], [3.0]]), np.array([True, False, False]))
    assert math.isnan(found.within_lesion)
    assert found.to_json()["within_lesion"] is None
    assert found.to_json()["ratio"] is None
    assert found.to_json()["centroid_distance"] == pytest.approx(2.0)


def test_an_empty_class_and_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TrainingError, match="0 lesion and 2 background"):
        separation(np.ones((2, 3)), np.array([False, False]))
    with pytest.raises(TrainingError, match="1 features are not finite"):
        separation(np.array([[np.nan], [1.0]]), np.array([True, False]))


def test_the_plane_keeps_classes_apart_and_is_repeatable() -> None:
    features, is_lesion = clouds(12.0)
    one, two = (embed(features, perplexity=10.0, seed=1) for _ in range(2))
    assert one is not None
    assert two is not None
    assert np.array_equal(one, two)
    assert one.shape == (40, 2)
    assert separation(one, is_lesion).ratio > 1.0


def test_perplexity_is_lowered_for_few_patches_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("osteosap"), "propagate", True)
    assert usable_perplexity(15.0, 100) == 15.0
    assert usable_perplexity(15.0, 10) == 3.0
    with caplog.at_level(logging.WARNING):
        plane = embed(clouds(3.0, n=5)[0], perplexity=15.0, seed=1)
    assert plane is not None
    assert "lowered from 15 to 3 for 10 patches" in caplog.text
    with pytest.raises(TrainingError, match="3 patches, expected at least 4"):
        embed(np.ones((3, 2)), perplexity=15.0, seed=1)


def test_without_scikit_learn_there_is_a_remark_and_no_plane(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("osteosap"), "propagate", True)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with caplog.at_level(logging.WARNING):
        assert embed(clouds(3.0)[0], perplexity=5.0, seed=1) is None
    assert "install scikit-learn" in caplog.text
