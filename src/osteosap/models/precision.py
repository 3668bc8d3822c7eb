"""Keep bfloat16 away from convolutions that a CPU gets wrong.

oneDNN 3.12 (torch 2.13, a CPU with AVX-512 bfloat16) reads memory that it never wrote in the
bfloat16 weight gradient of some 3D convolutions of small images: of 3x3x3 kernels where the first
axis has 2 voxels, and of strided ones where an axis has 1. The gradient is then off by a little, by
1e38, or NaN, whatever lay there. With 6 resolutions a patch of 64 voxels is that small in the
deepest layer. A wrong forward pass of the same kind is known to torch
(https://github.com/pytorch/pytorch/issues/169688). Such layers cost next to nothing, so they are
computed in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn

__all__ = ["small_convolutions_in_float32"]


@contextlib.contextmanager
def small_convolutions_in_float32(network: nn.Module) -> Iterator[None]:
    """While inside, compute 3D convolutions of images smaller than the kernel in float32.

    Parameters
    ----------
    network
        Its convolutions decide at each call, on a CPU, by the size of what they are given; it is
        as before afterwards. Weights, names and float32 results do not change.
    """
    modules = [m for m in network.modules() if isinstance(m, nn.Conv3d) and max(m.kernel_size) > 1]
    for module in modules:
        module.forward = _guarded(module)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)


def _guarded(module: nn.Conv3d) -> Callable[[torch.Tensor], torch.Tensor]:
    kernel = module.kernel_size

    def forward(images: torch.Tensor) -> torch.Tensor:
        small = any(n < k for n, k in zip(images.shape[2:], kernel, strict=True))
        if not small or images.device.type != "cpu":
            return nn.Conv3d.forward(module, images)
        with torch.autocast("cpu", enabled=False):
            return nn.Conv3d.forward(module, images.float())

    return forward
