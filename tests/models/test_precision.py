from __future__ import annotations

import pytest
import torch
from torch import nn

from osteosap.models.precision import small_convolutions_in_float32


def _fill_free_memory() -> None:
    """Leave large numbers in memory that is given out again."""
    for size in (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18):
        kept = [torch.full((size,), 3e38) for _ in range(4)]
        del kept


@pytest.mark.parametrize(
    ("size", "stride"), [((2, 1, 2), 1), ((2, 2, 2), 1), ((2, 2, 5), 1), ((1, 1, 1), 2)]
)
def test_bfloat16_weight_gradients_of_small_images_are_right(
    size: tuple[int, int, int], stride: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(48, 48, 3, padding=1, stride=stride, bias=False)
    images = torch.randn(2, 48, *size)
    out = layer(images)
    cotangent = torch.linspace(-1, 1, out.numel()).view_as(out)
    (expected,) = torch.autograd.grad(out, (layer.weight,), cotangent)
    with small_convolutions_in_float32(layer):
        for _ in range(6):
            _fill_free_memory()
            with torch.autocast("cpu", torch.bfloat16):
                got = layer(images)
            (gradient,) = torch.autograd.grad(got, (layer.weight,), cotangent.to(got.dtype))
            torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.02)


def test_only_small_images_are_computed_in_float32_and_only_inside() -> None:
    layer = nn.Conv3d(4, 4, 3, padding=1)
    network = nn.Sequential(layer, nn.Conv3d(4, 2, 1))
    large, small = torch.randn(1, 4, 8, 8, 8), torch.randn(1, 4, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        with small_convolutions_in_float32(network):
            assert layer(large).dtype == torch.bfloat16
            assert layer(small).dtype == torch.float32
        assert layer(small).dtype == torch.bfloat16
    assert "forward" not in vars(layer)
