"""Networks and their description.

Swin UNETR (Hatamizadeh et al. 2022, doi 10.1007/978-3-031-08999-2_22) is the paper's network;
DynUNet is a residual U-Net of the nnU-Net kind (Isensee et al. 2021,
doi 10.1038/s41592-020-01008-z) that trains and runs on a CPU; SegResNet (Myronenko 2019,
doi 10.1007/978-3-030-11726-9_28) is a residual encoder with a light decoder.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from osteosap.config import StageConfig
from osteosap.errors import CheckpointError
from osteosap.models.merging import PatchMerging

__all__ = [
    "LAYOUTS",
    "Layout",
    "NetworkSpec",
    "build_network",
    "head_of",
    "head_prefixes",
    "modules_of",
    "named_weights",
    "supervision_heads_of",
]


@dataclass(frozen=True)
class Layout:
    """Which top-level modules of an architecture do what.

    Parameters
    ----------
    encoder
        Modules of the encoder; for learning rates (SPEC: the transformer and the skip encoders).
    self_supervised
        Those of them that lie on the way to the bottleneck: what self-supervision trains. The skip
        encoders of Swin UNETR do not (Tang et al. 2022, doi 10.1109/CVPR52688.2022.02007).
    decoder
        All other modules with weights, the head's included.
    head
        Module whose only convolution maps features to classes.
    supervision
        Module of the heads of deep supervision, or an empty name.
    inputs
        Prefixes of the weights (F, C, I, J, K) that read the image's channels.
    """

    encoder: tuple[str, ...]
    self_supervised: tuple[str, ...]
    decoder: tuple[str, ...]
    head: str
    inputs: tuple[str, ...]
    supervision: str = ""


LAYOUTS: dict[str, Layout] = {
    "dynunet": Layout(
        encoder=("input_block", "downsamples", "bottleneck"),
        self_supervised=("input_block", "downsamples", "bottleneck"),
        decoder=("upsamples", "output_block", "deep_supervision_heads"),
        head="output_block",
        inputs=("input_block.conv1.", "input_block.conv3."),
        supervision="deep_supervision_heads",
    ),
    "swin_unetr": Layout(
        encoder=("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"),
        self_supervised=("swinViT",),
        decoder=("decoder5", "decoder4", "decoder3", "decoder2", "decoder1", "out"),
        head="out",
        inputs=("swinViT.patch_embed.proj.", "encoder1.layer.conv1.", "encoder1.layer.conv3."),
    ),
    "segresnet": Layout(
        encoder=("convInit", "down_layers"),
        self_supervised=("convInit", "down_layers"),
        decoder=("up_layers", "up_samples", "conv_final"),
        head="conv_final",
        inputs=("convInit.",),
    ),
}
"""What is where, by architecture."""


class NetworkSpec(StageConfig):
    """All that is needed to build a network before its weights are loaded.

    ``filters``, ``residual`` and ``deep_supervision`` (number of additional heads at half the
    size, a quarter, and so on; 0 for none) belong to ``dynunet``; ``feature_size``, the ``*_rate``
    settings and ``merging`` to ``swin_unetr``; ``initial_filters`` and ``blocks`` (residual blocks
    a level) to ``segresnet``; ``dropout`` to ``dynunet`` and ``segresnet``. ``merging``
    ``monai_1_4`` computes as MONAI did up to 1.4, for weights trained with it (see
    :mod:`osteosap.models.merging`).
    """

    architecture: Literal["dynunet", "swin_unetr", "segresnet"] = "dynunet"
    channels: tuple[str, ...] = ("t1", "b1000")
    n_classes: int = Field(default=2, ge=2)
    filters: tuple[int, ...] = Field(default=(16, 32, 64, 96, 128, 160), min_length=3)
    residual: bool = True
    deep_supervision: int = Field(default=0, ge=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    feature_size: int = Field(default=48, ge=12, multiple_of=12)
    drop_rate: float = Field(default=0.1, ge=0.0, lt=1.0)
    attention_drop_rate: float = Field(default=0.1, ge=0.0, lt=1.0)
    drop_path_rate: float = Field(default=0.1, ge=0.0, lt=1.0)
    merging: Literal["complete", "monai_1_4"] = "complete"
    initial_filters: int = Field(default=16, ge=8, multiple_of=8)
    blocks: tuple[int, ...] = Field(default=(1, 2, 2, 4), min_length=2)

    @model_validator(mode="after")
    def _settings_agree(self) -> NetworkSpec:
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError("every channel needs one name, and each only once")
        if self.deep_supervision and self.architecture != "dynunet":
            raise ValueError(f"{self.architecture} has no deep supervision; dynunet has")
        if self.deep_supervision > len(self.filters) - 2:
            raise ValueError(
                f"deep_supervision {self.deep_supervision} needs at least "
                f"{self.deep_supervision + 2} filters, got {len(self.filters)}"
            )
        return self

    @property
    def layout(self) -> Layout:
        """Which modules do what."""
        return LAYOUTS[self.architecture]

    @property
    def patch_divisor(self) -> int:
        """Each side of a patch must be a multiple of this many voxels."""
        if self.architecture == "swin_unetr":
            return 32
        levels = self.filters if self.architecture == "dynunet" else self.blocks
        return int(2 ** (len(levels) - 1))

    def require_patch(self, patch: tuple[int, int, int]) -> None:
        """Raise :class:`CheckpointError` unless the network can take patches of this size."""
        if any(side % self.patch_divisor or side <= 0 for side in patch):
            raise CheckpointError(
                f"a patch of {'x'.join(map(str, patch))} voxels does not fit {self.architecture}, "
                f"expected multiples of {self.patch_divisor}",
                remedy="Change the patch or the number of filters",
            )
        if self.architecture != "segresnet" and max(patch) == self.patch_divisor:
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
        Maps (B, C, I, J, K) float images in [0, 1] to (B, ``n_classes``, I, J, K) logits. With
        deep supervision, and in training mode only, to a list of such logits: first those of full
        size, then at half the size, a quarter, and so on.

    Raises
    ------
    CheckpointError
        The installed MONAI lacks an argument that the description needs.
    """
    builders = {"dynunet": _dynunet, "swin_unetr": _swin_unetr, "segresnet": _segresnet}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI and torch announce their own deprecations
        return builders[spec.architecture](spec)


def modules_of(network: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Module]:
    """Top-level modules by name; those that this network was built without are passed over."""
    for name in names:
        module = getattr(network, name, None)
        if isinstance(module, nn.Module):
            yield module


def head_of(network: nn.Module, spec: NetworkSpec) -> nn.Conv3d:
    """The 1x1x1 convolution that maps features to classes."""
    return _only_convolution(getattr(network, spec.layout.head), spec)


def supervision_heads_of(network: nn.Module, spec: NetworkSpec) -> list[nn.Conv3d]:
    """The heads of deep supervision, from half the size down; empty without."""
    if not spec.deep_supervision:
        return []
    modules = network.get_submodule(spec.layout.supervision).children()
    return [_only_convolution(module, spec) for module in modules]


def head_prefixes(network: nn.Module, spec: NetworkSpec) -> tuple[str, ...]:
    """Prefixes of the names of all weights that belong to the classes."""
    heads = {id(head) for head in (head_of(network, spec), *supervision_heads_of(network, spec))}
    return tuple(f"{name}." for name, module in network.named_modules() if id(module) in heads)


def named_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once (DynUNet registers its modules twice)."""
    weights: dict[str, torch.Tensor] = dict(network.named_parameters(remove_duplicate=True))
    weights.update(
        (name, buffer)
        for name, buffer in network.named_buffers(remove_duplicate=True)
        if buffer.is_floating_point()
    )
    return weights


def _only_convolution(module: nn.Module, spec: NetworkSpec) -> nn.Conv3d:
    heads = [m for m in module.modules() if isinstance(m, nn.Conv3d)]
    if len(heads) != 1 or heads[0].out_channels != spec.n_classes or heads[0].bias is None:
        raise CheckpointError(
            f"the head of {spec.architecture} holds {len(heads)} convolutions, expected one with "
            f"{spec.n_classes} outputs and a bias",
            remedy="Install a version of MONAI that osteosap supports",
        )
    return heads[0]


def _construct(kind: Callable[..., Any], **settings: Any) -> nn.Module:
    """Call a constructor of MONAI, after a look at what it takes.

    Versions differ: Swin UNETR needed ``img_size`` before 1.5 and refuses it since. It is passed
    where it is taken; every other setting must be.
    """
    known = inspect.signature(kind).parameters
    unknown = sorted(set(settings) - set(known) - {"img_size"})
    if unknown:
        raise CheckpointError(
            f"this version of MONAI builds {kind.__name__} without {', '.join(unknown)}",
            remedy="Install a version of MONAI that osteosap supports",
        )
    network: nn.Module = kind(**{name: settings[name] for name in settings if name in known})
    return network


def _dynunet(spec: NetworkSpec) -> nn.Module:
    from monai.networks.nets import DynUNet

    strides = [1] + [2] * (len(spec.filters) - 1)
    network = _construct(
        DynUNet,
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
        deep_supervision=spec.deep_supervision > 0,
        deep_supr_num=max(1, spec.deep_supervision),
    )
    if spec.deep_supervision:
        network.register_forward_hook(_logits_of_every_size)
    return network


def _logits_of_every_size(network: nn.Module, _inputs: Any, output: torch.Tensor) -> Any:
    """Logits at their own sizes; DynUNet stacks them blown up to the full size.

    The network keeps its small logits between calls, and with them the graph of the step; they
    are taken from it.
    """
    if not network.training:
        return output
    kept: list[torch.Tensor] = network.heads  # type: ignore[assignment]
    logits = [output[:, 0], *kept]
    kept[:] = [torch.empty(0)] * len(kept)
    return logits


def _swin_unetr(spec: NetworkSpec) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return _construct(
        SwinUNETR,
        in_channels=len(spec.channels),
        out_channels=spec.n_classes,
        feature_size=spec.feature_size,
        drop_rate=spec.drop_rate,
        attn_drop_rate=spec.attention_drop_rate,
        dropout_path_rate=spec.drop_path_rate,
        downsample=partial(PatchMerging, order=spec.merging),
        img_size=(96, 96, 96),  # checked against 32 and otherwise without effect
    )


def _segresnet(spec: NetworkSpec) -> nn.Module:
    from monai.networks.nets import SegResNet

    return _construct(
        SegResNet,
        spatial_dims=3,
        in_channels=len(spec.channels),
        out_channels=spec.n_classes,
        init_filters=spec.initial_filters,
        blocks_down=spec.blocks,
        blocks_up=(1,) * (len(spec.blocks) - 1),
        dropout_prob=spec.dropout or None,
    )
