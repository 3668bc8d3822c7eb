from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from osteosap.errors import VolumeError
from osteosap.reporting.feature_figure import FeaturePanel, feature_figure


def panel(title: str, n: int = 12) -> FeaturePanel:
    plane = np.random.default_rng(0).normal(size=(2 * n, 2))
    return FeaturePanel(title, plane, np.arange(2 * n) < n, ("centroids 1.0 apart",))


def test_a_panel_more_makes_the_figure_wider_and_bytes_repeat() -> None:
    sizes = []
    for n in (2, 3):
        panels = [panel(str(i)) for i in range(n)]
        content = feature_figure(panels, note="simulated")
        assert content == feature_figure(panels, note="simulated")
        image = imread(io.BytesIO(content))
        assert image.std() > 0.02
        sizes.append(image.shape[1])
    assert sizes[1] == pytest.approx(1.5 * sizes[0], rel=0.02)


def test_the_note_is_drawn() -> None:
    panels = [panel("one")]
    assert feature_figure(panels, note="simulated") != feature_figure(panels, note="")


def test_points_and_classes_must_agree() -> None:
    good = panel("one")
    with pytest.raises(VolumeError, match="two coordinates"):
        feature_figure([FeaturePanel("x", good.plane, good.is_lesion[:-1])], note="")
    with pytest.raises(VolumeError, match="0 panels"):
        feature_figure([], note="")
