"""Patch merging of Swin transformers, the same with every version of MONAI.

A Swin transformer halves an image's size by joining each voxel with its seven neighbours into one.
MONAI up to 1.4 took two of the eight twice and two never; MONAI 1.5 corrected that, with weights of
the same names and shapes: a network trained with the one loads into the other without a word, and
computes something else. Here the choice is a setting of the network
(:attr:`osteosap.models.networks.NetworkSpec.merging`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ORDERS", "PatchMerging"]

Offset = tuple[int, int, int]

ORDERS: dict[str, tuple[Offset, ...]] = {
    "complete": (
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1),
    ),
    "monai_1_4": (
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1),
    ),
}  # fmt: skip
"""Which neighbours are joined, in which order: ``complete`` as MONAI since 1.5."""


class PatchMerging(nn.Module):
    """Maps (B, I, J, K, C) to (B, I/2, J/2, K/2, 2C); odd sides are padded with zeros.

    Parameters
    ----------
    dim
        Number of features C.
    norm_layer
        Makes the norm of 8C features.
    spatial_dims
        3; MONAI passes it.
    order
        Key of :data:`ORDERS`.

    References
    ----------
    Liu et al. 2021, doi 10.1109/ICCV48922.2021.00986
    """

    def __init__(
        self,
        dim: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        spatial_dims: int = 3,
        *,
        order: str = "complete",
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"patches of {spatial_dims} dimensions, expected 3")
        self.offsets = ORDERS[order]
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Join neighbours."""
        i, j, k = features.shape[1:4]
        padded = functional.pad(features, (0, 0, 0, k % 2, 0, j % 2, 0, i % 2))
        joined = torch.cat([padded[:, a::2, b::2, c::2] for a, b, c in self.offsets], dim=-1)
        reduced: torch.Tensor = self.reduction(self.norm(joined))
        return reduced
