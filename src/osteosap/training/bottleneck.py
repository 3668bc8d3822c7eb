"""The encoder of a network down to its deepest features, for every architecture."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from osteosap.errors import CheckpointError
from osteosap.models.checkpoint import Checkpoint, warn_of_untrained
from osteosap.models.networks import NetworkSpec, build_network, named_weights

__all__ = ["BottleneckEncoder", "encoder_of"]


class BottleneckEncoder(nn.Module):
    """Maps images (B, C, I, J, K) to bottleneck features (B, F, I/d, J/d, K/d).

    It holds the network's own modules, those of ``spec.layout.self_supervised``: training it trains
    the network. No decoder is held, so that every parameter takes part in every step, which
    distributed training requires.

    Parameters
    ----------
    network
        Built from ``spec``.
    spec
        Its description; ``d`` above is its ``patch_divisor``.

    Raises
    ------
    CheckpointError
        The network lacks a module.
    """

    def __init__(self, network: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        names = spec.layout.self_supervised
        missing = [name for name in names if not hasattr(network, name)]
        if missing:
            raise CheckpointError(
                f"{spec.architecture} lacks {', '.join(missing)} on the way to its bottleneck",
                remedy="Install a version of MONAI that osteosap supports",
            )
        self.architecture = spec.architecture
        self.channels = len(spec.channels)
        self.divisor = spec.patch_divisor
        for name in names:
            self.add_module(name, getattr(network, name))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Bottleneck features of a batch."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI indexes tensors in ways that torch deprecates
            if self.architecture == "swin_unetr":
                hidden: torch.Tensor = self.get_submodule("swinViT")(images, True)[4]
                return hidden
            features = images
            for module in self.children():
                for layer in module if isinstance(module, nn.ModuleList) else (module,):
                    features = layer(features)
            return features

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Features averaged over the patch, (B, F)."""
        pooled: torch.Tensor = self(images).mean(dim=(2, 3, 4))
        return pooled

    def n_features(self) -> int:
        """Length of the feature vector of a place at the bottleneck."""
        side = 2 * self.divisor
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        with torch.no_grad():
            features = self(torch.zeros((1, self.channels, side, side, side), device=device))
        self.train(was_training)
        return int(features.shape[1])


def encoder_of(checkpoint: Checkpoint) -> BottleneckEncoder:
    """Encoder with the weights of a file, whatever it was trained for, in evaluation mode.

    Raises
    ------
    CheckpointError
        A weight of the encoder is missing or of another shape.
    """
    spec = checkpoint.spec
    network = build_network(spec)
    encoder = BottleneckEncoder(network, spec)
    weights = named_weights(encoder)
    wrong = [
        name
        for name, weight in weights.items()
        if name not in checkpoint.state or checkpoint.state[name].shape != weight.shape
    ]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} of {len(weights)} tensors of the encoder are missing or of another "
            f"shape (first: {wrong[0]})",
            remedy="Use weights of the same architecture that hold an encoder",
        )
    warn_of_untrained(checkpoint, weights)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(checkpoint.state[name])
    return encoder.eval()
