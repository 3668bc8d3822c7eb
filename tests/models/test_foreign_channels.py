from __future__ import annotations

import pytest
import torch
from torch import nn

from osteosap.errors import CheckpointError
from osteosap.models.foreign_channels import adapt_channels, assumed_channels
from osteosap.models.networks import NetworkSpec, build_network, named_weights

OURS = ("t1", "b1000")


def _adapted(weight: torch.Tensor, given: tuple[str, ...], wanted: tuple[str, ...]) -> torch.Tensor:
    state = {"first.weight": weight, "second.weight": torch.ones(1, 5, 1, 1, 1)}
    result = adapt_channels(state, ("first.",), wanted=wanted, given=given)
    assert torch.equal(result["second.weight"], state["second.weight"])
    return result["first.weight"]


def _respond(weight: torch.Tensor, *images: torch.Tensor) -> torch.Tensor:
    return nn.functional.conv3d(torch.stack(images)[None], weight)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second, third = torch.rand(3, 6, 6, 6, dtype=torch.float64)
    return first, second, third


def _weight(n_channels: int) -> torch.Tensor:
    return torch.rand(4, n_channels, 3, 3, 3, dtype=torch.float64)


def test_channels_are_reordered_by_name(images: tuple[torch.Tensor, ...]) -> None:
    t1, b1000, _ = images
    weight = _weight(2)
    changed = _adapted(weight, ("b1000", "t1"), OURS)
    torch.testing.assert_close(_respond(changed, t1, b1000), _respond(weight, b1000, t1))


def test_a_channel_that_is_not_wanted_is_left_out(images: tuple[torch.Tensor, ...]) -> None:
    t1, b1000, _ = images
    weight = _weight(3)
    changed = _adapted(weight, ("dixon", "t1", "b1000"), OURS)
    expected = _respond(weight, torch.zeros_like(t1), t1, b1000)
    torch.testing.assert_close(_respond(changed, t1, b1000), expected)


@pytest.mark.parametrize("n_grey", [1, 2])
def test_grey_channels_answer_the_same_image_as_before(
    n_grey: int, images: tuple[torch.Tensor, ...]
) -> None:
    image = images[0]
    weight = _weight(n_grey)
    changed = _adapted(weight, ("grey",) * n_grey, OURS)
    torch.testing.assert_close(_respond(changed, image, image), _respond(weight, *[image] * n_grey))


def test_only_the_channel_without_a_namesake_starts_from_grey(
    images: tuple[torch.Tensor, ...],
) -> None:
    t1, b1000, _ = images
    weight = _weight(2)
    changed = _adapted(weight, ("grey", "b1000"), ("b1000", "t1"))
    torch.testing.assert_close(_respond(changed, b1000, t1), _respond(weight, t1, b1000))


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CheckpointError, match="expected b1000 as well"):
        _adapted(_weight(1), ("t1",), OURS)
    with pytest.raises(CheckpointError, match="reads 3 channels, expected 2"):
        _adapted(_weight(3), ("t1", "b1000"), OURS)
    with pytest.raises(CheckpointError, match="name one twice"):
        _adapted(_weight(2), ("t1", "t1"), OURS)
    with pytest.raises(CheckpointError, match="reads 4 channels, expected 2"):
        assumed_channels(4, OURS)
    assert assumed_channels(2, OURS) == OURS
    assert assumed_channels(1, OURS) == ("grey",)


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec(filters=(4, 8, 8)),
        NetworkSpec(architecture="swin_unetr", feature_size=12),
        NetworkSpec(architecture="segresnet", initial_filters=8, blocks=(1, 1)),
    ],
    ids=lambda s: s.architecture,
)
def test_the_layers_that_read_channels_are_known(spec: NetworkSpec) -> None:
    wider = NetworkSpec.from_mapping(spec.to_mapping() | {"channels": ["t1", "b1000", "adc"]})
    two, three = (named_weights(build_network(s)) for s in (spec, wider))
    differ = [n for n in two if two[n].shape != three[n].shape]
    assert differ
    assert all(n.startswith(spec.layout.inputs) for n in differ)
    assert not [
        n for n in two if n.startswith(spec.layout.inputs) and n not in differ and two[n].ndim == 5
    ]
