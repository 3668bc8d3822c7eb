"""A first layer for other input channels than it was trained for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from osteosap.errors import CheckpointError

__all__ = ["GREY", "adapt_channels", "assumed_channels"]

GREY = "grey"
"""Stands for a channel of the file that is no channel of ours: some grey-valued image (CT)."""


def assumed_channels(n_channels: int, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What a file's channels are taken for when nobody says: ours in our order, or one grey one.

    Raises
    ------
    CheckpointError
        The numbers differ, and the file has more than one.
    """
    if n_channels == len(wanted):
        return wanted
    if n_channels == 1:
        return (GREY,)
    raise CheckpointError(
        f"the file's network reads {n_channels} channels, expected {len(wanted)} "
        f"({', '.join(wanted)}) or one",
        remedy=f"Say what its channels are, in its order, '{GREY}' for any other image",
    )


def adapt_channels(
    state: dict[str, torch.Tensor],
    inputs: tuple[str, ...],
    *,
    wanted: tuple[str, ...],
    given: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """Reorder the first layer's channels by name, and fill unknown ones from grey images.

    A wanted channel takes the weights of its namesake. One without takes the sum over the file's
    grey channels divided by the number of channels filled so: the same image in all of them gives
    the response that it gave in the file's grey ones. A channel of the file that is not wanted is
    left out.

    Parameters
    ----------
    state
        Weights under our names.
    inputs
        Prefixes of the weights (F, C, I, J, K) that read channels.
    wanted
        Channels of the new network, in order.
    given
        Channels of the file, in its order; only ``grey`` may come twice.

    Raises
    ------
    CheckpointError
        The file has another number of channels, names one twice, or has neither a wanted channel
        nor a grey one.
    """
    named = [name for name in given if name != GREY]
    if len(set(named)) != len(named):
        raise CheckpointError(
            f"the file's channels {', '.join(given)} name one twice",
            remedy=f"Name each once; only '{GREY}' may come twice",
        )
    lacking = [name for name in wanted if name not in given]
    if lacking and GREY not in given:
        raise CheckpointError(
            f"the file's network reads {', '.join(given)}, expected {', '.join(lacking)} as well",
            remedy=f"Ask for channels that it knows, or call one of the file's '{GREY}' to start "
            "the new one from it",
        )
    result = dict(state)
    for name, weight in state.items():
        if name.startswith(inputs) and weight.ndim == 5:
            result[name] = _adapt(weight, wanted, given, n_filled=len(lacking))
    return result


def _adapt(
    weight: torch.Tensor, wanted: Sequence[str], given: Sequence[str], *, n_filled: int
) -> torch.Tensor:
    if weight.shape[1] != len(given):
        raise CheckpointError(
            f"the file's first layer reads {weight.shape[1]} channels, expected {len(given)} "
            f"({', '.join(given)})",
            remedy="Name each channel of the file, in its order",
        )
    slices = []
    for name in wanted:
        if name in given:
            slices.append(weight[:, list(given).index(name)])
        else:
            grey = [number for number, other in enumerate(given) if other == GREY]
            slices.append(weight[:, grey].sum(dim=1) / n_filled)
    return torch.stack(slices, dim=1)
