"""Networks and their description.

Swin UNETR (Hatamizadeh et al. 2022, doi 10.1007/978-3-031-08999-2_22) is the paper's network;
DynUNet is a residual U-Net of the nnU-Net kind (Isensee et al. 2021,
doi 10.1038/s41592-020-01008-z) that trains and runs on a CPU.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from osteosap.config import StageConfig
from osteosap.errors import CheckpointError

__all__ = ["NetworkSpec", "build_network", "head_of", "named_weights"]

ENCODER_MODULES = {
    "dynunet": ("input_block", "downsamples", "bottleneck"),
    "swin_unetr": ("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"),
}
"""Top-level modules that make the encoder; every other one belongs to the decoder."""

HEAD_MODULE = {"dynunet": "output_block", "swin_unetr": "out"}
"""Top-level module that maps features to classes."""


class NetworkSpec(StageConfig):
    """All that is needed to build a network before its weights are loaded.

    ``filters``, ``residual`` and ``dropout`` belong to ``dynunet``; ``feature_size`` and the
    ``*_rate`` settings to ``swin_unetr``.
    """

    architecture: Literal["dynunet", "swin_unetr"] = "dynunet"
    channels: tuple[str, ...] = ("t1", "b1000")
    n_classes: int = Field(default=2, ge=2)
    filters: tuple[int, ...] = Field(default=(16, 32, 64, 96, 128, 160), min_length=3)
    residual: bool = True
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    feature_size: int = Field(default=48, ge=12, multiple_of=12)
    drop_rate: float = Field(default=0.1, ge=0.0, lt=1.0)
    attention_drop_rate: float = Field(default=0.1, ge=0.0, lt=1.0)
    drop_path_rate: float = Field(default=0.1, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _channels_are_named_once(self) -> NetworkSpec:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError("every channel needs one name, and each only once")
        return self

    @property
    def patch_divisor(self) -> int:
        """Each side of a patch must be a multiple of this many voxels."""
        return 32 if self.architecture == "swin_unetr" else int(2 ** (len(self.filters) - 1))

    def require_patch(self, patch: tuple[int, int, int]) -> None:
        """Raise :class:`CheckpointError` unless the network can take patches of this size."""
        if any(side % self.patch_divisor or side <= 0 for side in patch):
            raise CheckpointError(
                f"a patch of {'x'.join(map(str, patch))} voxels does not fit {self.architecture}, "
                f"expected multiples of {self.patch_divisor}",
                remedy="Change the patch or the number of filters",
            )
        if self.architecture == "dynunet" and max(patch) == self.patch_divisor:
            raise CheckpointError(
                f"a patch of {'x'.join(map(str, patch))} voxels shrinks to a single one in the "
                "deepest layer, where nothing is left to normalise",
                remedy="Use a larger patch or fewer filters",
            )


def build_network(spec: NetworkSpec) -> nn.Module:
    """Build a network with random weights.

    Parameters
    ----------
    spec
        Description of the network.

    Returns
    -------
    network
        Maps (B, C, I, J, K) float images in [0, 1] to (B, ``n_classes``, I, J, K) logits.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI and torch announce their own deprecations
        return _dynunet(spec) if spec.architecture == "dynunet" else _swin_unetr(spec)


def head_of(network: nn.Module, spec: NetworkSpec) -> nn.Conv3d:
    """The 1x1x1 convolution that maps features to classes."""
    module = getattr(network, HEAD_MODULE[spec.architecture])
    heads = [m for m in module.modules() if isinstance(m, nn.Conv3d)]
    if len(heads) != 1 or heads[0].out_channels != spec.n_classes or heads[0].bias is None:
        raise CheckpointError(
            f"the head of {spec.architecture} holds {len(heads)} convolutions, expected one with "
            f"{spec.n_classes} outputs and a bias",
            remedy="Install the pinned version of MONAI",
        )
    return heads[0]


def named_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once (DynUNet registers its modules twice)."""
    weights: dict[str, torch.Tensor] = dict(network.named_parameters(remove_duplicate=True))
    weights.update(
        (name, buffer)
        for name, buffer in network.named_buffers(remove_duplicate=True)
        if buffer.is_floating_point()
    )
    return weights


def _dynunet(spec: NetworkSpec) -> nn.Module:
    from monai.networks.nets import DynUNet

    strides = [1] + [2] * (len(spec.filters) - 1)
    network: nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=len(spec.channels),
        out_channels=spec.n_classes,
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=list(spec.filters),
        dropout=spec.dropout or None,
        norm_name=("INSTANCE", {"affine": True}),
        res_block=spec.residual,
    )
    return network


def _swin_unetr(spec: NetworkSpec) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    settings: dict[str, object] = {
        "in_channels": len(spec.channels),
        "out_channels": spec.n_classes,
        "feature_size": spec.feature_size,
        "drop_rate": spec.drop_rate,
        "attn_drop_rate": spec.attention_drop_rate,
        "dropout_path_rate": spec.drop_path_rate,
    }
    if "img_size" in inspect.signature(SwinUNETR.__init__).parameters:  # MONAI before 1.5
        settings["img_size"] = (96, 96, 96)
    network: nn.Module = SwinUNETR(**settings)
    return network
