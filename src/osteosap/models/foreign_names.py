"""What tensors of other programs are called here, and which network they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from osteosap.errors import CheckpointError, ConfigError
from osteosap.models.networks import LAYOUTS, NetworkSpec

__all__ = ["Recognised", "own_names", "recognise", "strangers"]

WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.", "_model.", "network.", "net.")
"""Prefixes that DataParallel, torch.compile, Lightning and self-written wrappers put before a name;
none of our networks has a module of such a name."""

RENAMED = (
    (re.compile(r"^swin_?vit\.", re.IGNORECASE), "swinViT."),
    # Disruptive autoencoders (arXiv 2307.16896), as monai.networks.nets.filter_swinunetr
    (re.compile(r"^encoder\.(?=patch_embed\.)"), "swinViT."),
    (
        re.compile(r"^encoder\.(layers[1-4]c?\.\d\.)(?:\d\.)?(?=blocks\.|downsample\.)"),
        r"swinViT.\1",
    ),
    # model_swinvit.pt (Tang et al. 2022), as SwinUNETR.load_from: the transformer alone
    (re.compile(r"^(?=patch_embed\.|layers[1-4]c?\.)"), "swinViT."),
    (re.compile(r"\.mlp\.fc([12])\."), r".mlp.linear\1."),
)
"""Older names and those of pretrained Swin transformers, to MONAI's present ones."""

UNUSED = ("swinViT.norm.", "swinViT.mask_token", "skip_layers.")
"""What never takes part in a segmentation: the last norm of a classifier, the token of masked
pretraining; and DynUNet's modules, which it lists a second time."""


class Recognised:
    """A network as its tensors show it.

    Parameters
    ----------
    architecture
        Key of :data:`osteosap.models.networks.LAYOUTS`.
    settings
        Fields of :class:`NetworkSpec` that follow from the shapes.
    n_channels
        Channels that the first layer reads.
    n_classes
        Outputs of the head; None where there is none (an encoder alone).
    """

    def __init__(
        self, architecture: str, settings: dict[str, Any], n_channels: int, n_classes: int | None
    ) -> None:
        self.architecture = architecture
        self.settings = settings
        self.n_channels = n_channels
        self.n_classes = n_classes

    def spec(self, channels: tuple[str, ...], n_classes: int) -> NetworkSpec:
        """Description of the network, for other channels and classes.

        Raises
        ------
        CheckpointError
            The network has a size that ours cannot have.
        """
        values = {
            "architecture": self.architecture,
            "channels": channels,
            "n_classes": n_classes,
            **self.settings,
        }
        try:
            return NetworkSpec.from_mapping(values)
        except ConfigError as error:
            raise CheckpointError(
                f"the file's {self.architecture} cannot be built here ({error.problem})",
                remedy="Only networks that osteosap can build are imported",
            ) from error

    def describe(self) -> str:
        """One line of text."""
        sizes = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        head = f"{self.n_classes} classes" if self.n_classes else "no head (an encoder alone)"
        return f"{self.architecture}, {sizes}, {self.n_channels} channels, {head}"


def own_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under the names of our networks, as float32.

    Wrappers' prefixes are taken off, older names are replaced; index tables (integers, which
    every network computes itself) and what takes no part in a segmentation are left out.

    Raises
    ------
    CheckpointError
        Two tensors get the same name.
    """
    result: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        own = _own_name(name)
        if not tensor.is_floating_point() or own.startswith(UNUSED):
            continue
        if own in result:
            raise CheckpointError(
                f"two tensors of the file are both called '{own}' without their prefixes",
                remedy="Save the state dict of one network alone",
            )
        result[own] = tensor.detach().to(torch.float32)
    return result


def _own_name(name: str) -> str:
    shortened = name.removeprefix(_wrapper_of(name))
    while shortened != name:
        name, shortened = shortened, shortened.removeprefix(_wrapper_of(shortened))
    for pattern, replacement in RENAMED:
        name = pattern.sub(replacement, name, count=1)
    return name


def _wrapper_of(name: str) -> str:
    return next((w for w in WRAPPERS if name.startswith(w)), "")


def recognise(state: Mapping[str, torch.Tensor]) -> Recognised | None:
    """The network that tensors (under our names) belong to, or None for a stranger."""
    for mark, reader in (
        ("swinViT.patch_embed.proj.weight", _swin_unetr),
        ("input_block.conv1.conv.weight", _dynunet),
        ("convInit.conv.weight", _segresnet),
    ):
        if mark in state and state[mark].ndim == 5:
            return reader(state, state[mark])
    return None


def strangers(names: Iterable[str], architecture: str) -> list[str]:
    """Of names that a network does not have, those inside its modules.

    They show that the file's network computes something else, as Swin UNETR's second version
    does; names outside (heads of a pretraining) do not.
    """
    layout = LAYOUTS[architecture]
    modules = tuple(f"{name}." for name in (*layout.encoder, *layout.decoder))
    return [name for name in names if name.startswith(modules)]


def _outputs(state: Mapping[str, torch.Tensor], name: str) -> int | None:
    return state[name].shape[0] if name in state else None


def _swin_unetr(state: Mapping[str, torch.Tensor], first: torch.Tensor) -> Recognised:
    settings = {"feature_size": first.shape[0]}
    return Recognised(
        "swin_unetr", settings, first.shape[1], _outputs(state, "out.conv.conv.weight")
    )


def _dynunet(state: Mapping[str, torch.Tensor], first: torch.Tensor) -> Recognised:
    filters = [first.shape[0]]
    while (name := f"downsamples.{len(filters) - 1}.conv1.conv.weight") in state:
        filters.append(state[name].shape[0])
    filters.append(_outputs(state, "bottleneck.conv1.conv.weight") or 0)
    heads = {n.split(".")[1] for n in state if n.startswith("deep_supervision_heads.")}
    settings = {
        "filters": tuple(filters),
        "residual": "downsamples.0.conv3.conv.weight" in state,
        "deep_supervision": len(heads),
    }
    return Recognised(
        "dynunet", settings, first.shape[1], _outputs(state, "output_block.conv.conv.weight")
    )


def _segresnet(state: Mapping[str, torch.Tensor], first: torch.Tensor) -> Recognised:
    blocks: dict[int, int] = {}
    for name in state:
        if hit := re.match(r"down_layers\.(\d+)\.(\d+)\.conv1\.", name):
            level, block = int(hit[1]), int(hit[2])
            blocks[level] = max(blocks.get(level, 0), block)
    settings = {
        "initial_filters": first.shape[0],
        "blocks": tuple(blocks[level] for level in sorted(blocks)),
    }
    return Recognised(
        "segresnet", settings, first.shape[1], _outputs(state, "conv_final.2.conv.weight")
    )
