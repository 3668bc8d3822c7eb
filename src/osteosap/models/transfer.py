"""From a pretrained network to a lesion network: the arms SAP and SSL.

*SAP*, Supervised Anatomical Pretraining: encoder and decoder are taken from a network that names
the bones of healthy people; only the head is new (Wuts et al. 2026,
doi 10.1016/j.jbo.2026.100745). *SSL*: the encoder alone is taken from self-supervised pretraining;
decoder and head stay random (Tang et al. 2022, doi 10.1109/CVPR52688.2022.02007).

"Encoder" has two meanings for Swin UNETR, both the paper's. What self-supervision trains, and SSL
takes over, is the Swin transformer. What learns at the encoder's *rate* is the transformer and the
convolutional skip encoders; after SSL the latter start at random. In the other architectures the
two are the same.

The head's bias starts at the class prior, so that the first steps are not spent on learning that
lesions are rare, and the network does not collapse to background (Lin et al. 2017,
doi 10.1109/ICCV.2017.324).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from osteosap.errors import CheckpointError
from osteosap.models.checkpoint import Checkpoint, LoadReport, load_into, warn_of_untrained
from osteosap.models.networks import (
    NetworkSpec,
    head_of,
    head_prefixes,
    modules_of,
    named_weights,
    supervision_heads_of,
)

__all__ = [
    "encoder_state",
    "parameter_groups",
    "reset_head",
    "transfer_encoder",
    "transfer_skeleton",
]


def transfer_skeleton(
    network: nn.Module, spec: NetworkSpec, *, skeleton: Checkpoint, head_bias: Sequence[float]
) -> LoadReport:
    """Load encoder and decoder from a skeleton checkpoint and draw a new head (arm SAP).

    Parameters
    ----------
    network
        A network built from ``spec``; changed in place.
    spec
        Its description; must equal the skeleton's but for the classes, deep supervision and
        dropout.
    skeleton
        The pretrained weights.
    head_bias
        Initial bias a class, for example ``(3, -3)``.

    Returns
    -------
    report
        What was loaded; everything but the head, or an error.

    Raises
    ------
    CheckpointError
        The checkpoint is no skeleton, or its network differs.
    """
    _require(skeleton, spec, task="skeleton", recipe="skeleton")
    body = {
        name: tensor
        for name, tensor in skeleton.state.items()
        if not (spec.layout.supervision and name.startswith(f"{spec.layout.supervision}."))
    }
    report = load_into(network, body, skip=head_prefixes(network, spec))
    warn_of_untrained(skeleton, report.matched)
    reset_head(network, spec, bias=head_bias)
    return report


def transfer_encoder(
    network: nn.Module, spec: NetworkSpec, *, pretrained: Checkpoint
) -> LoadReport:
    """Load the self-supervised encoder; everything else stays as it is (arm SSL).

    Parameters
    ----------
    network
        A network built from ``spec``, with random weights; changed in place.
    spec
        Its description; its encoder must equal that of the checkpoint.
    pretrained
        A self-supervised checkpoint, which holds :func:`encoder_state`.

    Returns
    -------
    report
        What was loaded: all of the encoder, or an error. Its counts are of the encoder alone.

    Raises
    ------
    CheckpointError
        The checkpoint is not self-supervised, or its encoder differs.
    """
    _require(pretrained, spec, task="self_supervised", recipe="self-supervised")
    report = load_into(network, pretrained.state, only=_encoder_prefixes(spec))
    warn_of_untrained(pretrained, report.matched)
    return report


def encoder_state(network: nn.Module, spec: NetworkSpec) -> dict[str, torch.Tensor]:
    """Weights on the way to the bottleneck, by name: what a self-supervised file holds.

    For Swin UNETR those of the Swin transformer, without the skip encoders.
    """
    prefixes = _encoder_prefixes(spec)
    return {n: w.detach() for n, w in named_weights(network).items() if n.startswith(prefixes)}


def reset_head(network: nn.Module, spec: NetworkSpec, *, bias: Sequence[float]) -> None:
    """Draw new weights for the head and set its bias to the class prior.

    The heads of deep supervision are drawn anew as well. Uses torch's global generator: seed it
    for repeatable weights.

    Raises
    ------
    CheckpointError
        There is not one bias a class.
    """
    if len(bias) != spec.n_classes:
        raise CheckpointError(
            f"{len(bias)} biases for {spec.n_classes} classes", remedy="Give one bias a class"
        )
    for head in (head_of(network, spec), *supervision_heads_of(network, spec)):
        nn.init.kaiming_normal_(head.weight, a=0.01)
        if head.bias is not None:  # heads without one are refused where they are found
            with torch.no_grad():
                head.bias.copy_(torch.as_tensor(bias, dtype=head.bias.dtype))


def parameter_groups(
    network: nn.Module, spec: NetworkSpec, *, encoder_rate: float, decoder_rate: float
) -> list[dict[str, Any]]:
    """Optimiser groups by module, each parameter in exactly one.

    Returns
    -------
    groups
        ``encoder`` and ``decoder`` (head included), with ``lr`` and ``base_lr``.

    Raises
    ------
    CheckpointError
        A parameter is in no module of the encoder or decoder, or in both.
    """
    encoder = _parameters(network, spec.layout.encoder)
    decoder = _parameters(network, spec.layout.decoder)
    everything = {id(p) for p in network.parameters()}
    both = set(encoder) & set(decoder)
    neither = everything - set(encoder) - set(decoder)
    if both or neither or not encoder or not decoder:
        raise CheckpointError(
            f"of {len(everything)} parameters of {spec.architecture}, {len(both)} belong to "
            f"encoder and decoder and {len(neither)} to neither, expected each to belong to one",
            remedy="Install a version of MONAI that osteosap supports",
        )
    rates = (("encoder", encoder, encoder_rate), ("decoder", decoder, decoder_rate))
    return [
        {"params": list(group.values()), "name": name, "lr": rate, "base_lr": rate}
        for name, group, rate in rates
    ]


def _parameters(network: nn.Module, names: tuple[str, ...]) -> dict[int, nn.Parameter]:
    return {id(p): p for module in modules_of(network, names) for p in module.parameters()}


def _encoder_prefixes(spec: NetworkSpec) -> tuple[str, ...]:
    return tuple(f"{name}." for name in spec.layout.self_supervised)


def _require(checkpoint: Checkpoint, spec: NetworkSpec, *, task: str, recipe: str) -> None:
    """Refuse weights of another task, architecture or input."""
    if checkpoint.metadata.task != task:
        raise CheckpointError(
            f"the weights were trained for '{checkpoint.metadata.task}', expected '{task}'",
            remedy=f"Pass the checkpoint of the {recipe} recipe",
        )
    given = checkpoint.spec
    if given.architecture != spec.architecture:
        raise CheckpointError(
            f"the pretrained network is {given.architecture}, this one {spec.architecture}",
            remedy="Use the same architecture in both recipes",
        )
    if given.merging != spec.merging and spec.architecture == "swin_unetr":
        raise CheckpointError(
            f"the pretrained network joins neighbours as '{given.merging}', this one as "
            f"'{spec.merging}'",
            remedy="Set network.merging to that of the pretrained weights",
        )
    if given.channels != spec.channels:
        raise CheckpointError(
            f"the pretrained network reads {given.channels}, this one {spec.channels}",
            remedy="Use the same channels in the same order",
        )
