from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from osteosap.errors import ConfigError
from osteosap.inference.sliding import WindowConfig, choose_device, predict_probabilities

CPU = WindowConfig(device="cpu", precision="float32")


class Voxelwise(nn.Module):
    """Logit of class 1 is the first channel: windows cannot change the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.windows += images.shape[0]
        assert images.shape[1] == 2
        return torch.stack([torch.zeros_like(images[:, 0]), images[:, 0]], dim=1)


def _images(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).random((2, *shape), dtype=np.float32)


@pytest.mark.parametrize("shape", [(20, 9, 33), (4, 5, 6), (8, 8, 8)])
def test_blended_windows_give_what_one_pass_would(shape: tuple[int, int, int]) -> None:
    images = _images(shape)
    done: list[float] = []
    result = predict_probabilities(
        Voxelwise(),
        images,
        body=np.ones(shape, bool),
        n_classes=2,
        patch=(8, 8, 8),
        config=CPU,
        progress=done.append,
    )
    assert result.shape == (2, *shape)
    np.testing.assert_allclose(result[1], 1 / (1 + np.exp(-images[0])), atol=1e-5)
    np.testing.assert_allclose(result.sum(axis=0), 1.0, atol=1e-5)
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_windows_of_air_are_not_computed_and_are_background() -> None:
    shape = (8, 8, 64)
    body = np.zeros(shape, bool)
    body[:, :, :8] = True
    network = Voxelwise().train()
    config = CPU.model_copy(update={"overlap": 0.0})
    result = predict_probabilities(
        network, _images(shape), body=body, n_classes=2, patch=(8, 8, 8), config=config
    )
    assert network.windows == 1
    assert network.training
    np.testing.assert_allclose(result[0, :, :, 8:], 1.0)


def test_a_device_that_is_absent_or_unknown_is_an_error() -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="no GPU"):
            choose_device("cuda")
