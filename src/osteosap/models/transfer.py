"""Supervised Anatomical Pretraining: from a skeleton network to a lesion network.

Encoder and decoder are taken from a network that names the bones of healthy people; only the head
is new, and really re-initialised. Encoder and decoder then learn at rates of their own
(Wuts et al. 2026, doi 10.1016/j.jbo.2026.100745).

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
from osteosap.models.checkpoint import Checkpoint, LoadReport, load_into
from osteosap.models.networks import ENCODER_MODULES, HEAD_MODULE, NetworkSpec, head_of

__all__ = ["parameter_groups", "reset_head", "transfer_skeleton"]


def transfer_skeleton(
    network: nn.Module, spec: NetworkSpec, *, skeleton: Checkpoint, head_bias: Sequence[float]
) -> LoadReport:
    """Load encoder and decoder from a skeleton checkpoint and draw a new head.

    Parameters
    ----------
    network
        A network built from ``spec``; changed in place.
    spec
        Its description; must equal the skeleton's but for the classes and dropout.
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
    if skeleton.metadata.task != "skeleton":
        raise CheckpointError(
            f"the weights were trained for '{skeleton.metadata.task}', expected 'skeleton'",
            remedy="Pass the checkpoint of the skeleton recipe",
        )
    if skeleton.spec.channels != spec.channels:
        raise CheckpointError(
            f"the skeleton network reads {skeleton.spec.channels}, this one {spec.channels}",
            remedy="Use the same channels in the same order",
        )
    report = load_into(network, skeleton.state, skip=(f"{HEAD_MODULE[spec.architecture]}.",))
    reset_head(network, spec, bias=head_bias)
    return report


def reset_head(network: nn.Module, spec: NetworkSpec, *, bias: Sequence[float]) -> None:
    """Draw new weights for the head and set its bias to the class prior.

    Uses torch's global generator: seed it for repeatable weights.
    """
    head = head_of(network, spec)
    if len(bias) != spec.n_classes or head.bias is None:
        raise CheckpointError(
            f"{len(bias)} biases for {spec.n_classes} classes", remedy="Give one bias a class"
        )
    nn.init.kaiming_normal_(head.weight, a=0.01)
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
    """
    prefixes = tuple(f"{name}." for name in ENCODER_MODULES[spec.architecture])
    encoder: list[nn.Parameter] = []
    decoder: list[nn.Parameter] = []
    for name, parameter in network.named_parameters(remove_duplicate=True):
        (encoder if name.startswith(prefixes) else decoder).append(parameter)
    if not encoder or not decoder:
        raise CheckpointError(
            f"{len(encoder)} encoder and {len(decoder)} decoder parameters in {spec.architecture}",
            remedy="Install the pinned version of MONAI",
        )
    return [
        {"params": encoder, "name": "encoder", "lr": encoder_rate, "base_lr": encoder_rate},
        {"params": decoder, "name": "decoder", "lr": decoder_rate, "base_lr": decoder_rate},
    ]
