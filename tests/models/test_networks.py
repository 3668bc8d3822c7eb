from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from osteosap.errors import CheckpointError, ConfigError
from osteosap.models import networks
from osteosap.models.networks import (
    NetworkSpec,
    build_network,
    head_of,
    head_prefixes,
    modules_of,
    named_weights,
    supervision_heads_of,
)

SMALL = NetworkSpec(filters=(4, 8, 8), n_classes=3)
DEEP = NetworkSpec(filters=(4, 8, 8, 12), n_classes=3, deep_supervision=2)
SWIN = NetworkSpec(architecture="swin_unetr", feature_size=12, n_classes=3)
SEGRESNET = NetworkSpec(
    architecture="segresnet", initial_filters=8, blocks=(1, 1, 2), n_classes=3, dropout=0.1
)
EVERY = pytest.mark.parametrize("spec", [SMALL, DEEP, SWIN, SEGRESNET])


@EVERY
def test_a_network_maps_channels_to_one_logit_a_class_at_the_same_size(spec: NetworkSpec) -> None:
    with torch.inference_mode():
        logits = build_network(spec).eval()(torch.zeros(1, 2, 64, 32, 32))
    assert logits.shape == (1, 3, 64, 32, 32)


class _Older(nn.Module):
    """Swin UNETR's constructor before MONAI 1.5."""

    def __init__(self, img_size: tuple[int, ...], in_channels: int) -> None:
        super().__init__()
        self.arguments = (img_size, in_channels)


class _Newer(nn.Module):
    """And since."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.arguments = (in_channels,)


def test_an_image_size_is_passed_where_it_is_taken_and_nowhere_else() -> None:
    settings = {"in_channels": 2, "img_size": (96, 96, 96)}
    assert networks._construct(_Older, **settings).arguments == ((96, 96, 96), 2)
    assert networks._construct(_Newer, **settings).arguments == (2,)
    with pytest.raises(CheckpointError, match="_Newer without drop_rate"):
        networks._construct(_Newer, **settings, drop_rate=0.1)


def test_dropout_rates_reach_swin_unetr() -> None:
    rates = {"drop_rate": 0.3, "attention_drop_rate": 0.2, "drop_path_rate": 0.1}
    network = build_network(NetworkSpec.from_mapping(SWIN.to_mapping() | rates))
    found = {m.p for m in network.modules() if isinstance(m, nn.Dropout)}
    assert {0.3, 0.2} <= found
    paths = [m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"]
    assert max(paths) == pytest.approx(0.1)


def test_deep_supervision_gives_logits_of_every_size_in_training_alone() -> None:
    network = build_network(DEEP)
    images = torch.rand(2, 2, 32, 16, 16)
    logits = network.train()(images)
    assert [tuple(x.shape) for x in logits] == [
        (2, 3, 32, 16, 16),
        (2, 3, 16, 8, 8),
        (2, 3, 8, 4, 4),
    ]
    sum(x.sum() for x in logits).backward()
    assert all(p.grad is not None for p in network.parameters())
    with torch.inference_mode():
        assert torch.equal(network.eval()(images), network(images))
        assert network(images).shape == (2, 3, 32, 16, 16)
    copy.deepcopy(network)  # no graph of a step is kept


def test_deep_supervision_adds_heads_and_changes_nothing_else() -> None:
    torch.manual_seed(0)
    deep = build_network(DEEP).eval()
    plain = build_network(NetworkSpec.from_mapping(DEEP.to_mapping() | {"deep_supervision": 0}))
    weights = named_weights(deep)
    own = named_weights(plain)
    assert {n.split(".")[0] for n in set(weights) - set(own)} == {"deep_supervision_heads"}
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])
    images = torch.rand(1, 2, 32, 16, 16)
    with torch.inference_mode():
        assert torch.equal(plain.eval()(images), deep(images))
    assert len(supervision_heads_of(deep, DEEP)) == 2
    assert supervision_heads_of(plain, SMALL) == []


def test_deep_supervision_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4 filters, got 3"):
        NetworkSpec.from_mapping({"filters": (4, 8, 8), "deep_supervision": 2})
    with pytest.raises(ConfigError, match="segresnet has no deep supervision"):
        NetworkSpec.from_mapping({"architecture": "segresnet", "deep_supervision": 1})


@EVERY
def test_every_module_with_weights_is_known_and_the_head_is_found(spec: NetworkSpec) -> None:
    network = build_network(spec)
    layout = spec.layout
    found = {n.split(".")[0] for n in named_weights(network)}
    assert found <= {*layout.encoder, *layout.decoder}
    assert {*layout.encoder, layout.head} <= found
    assert set(layout.self_supervised) <= set(layout.encoder)
    assert not set(layout.encoder) & set(layout.decoder)
    assert len(list(modules_of(network, layout.encoder))) == len(layout.encoder)
    heads = [n for n in named_weights(network) if n.startswith(head_prefixes(network, spec))]
    assert len(heads) == 2 * (1 + spec.deep_supervision)
    assert all(named_weights(network)[n].shape[0] == spec.n_classes for n in heads)


@EVERY
def test_the_head_is_the_last_convolution_and_weights_are_named_once(spec: NetworkSpec) -> None:
    network = build_network(spec)
    assert head_of(network, spec).out_channels == 3
    weights = named_weights(network)
    parameters = sum(p.numel() for p in network.parameters())
    assert sum(w.numel() for w in weights.values()) >= parameters
    assert len({id(w) for w in weights.values()}) == len(weights)
    assert not any(name.startswith("skip_layers") for name in weights)


def test_the_same_seed_builds_the_same_network() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(named_weights(build_network(SMALL)))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_patches_that_do_not_fit_the_depth_are_refused() -> None:
    SMALL.require_patch((8, 8, 12))
    SEGRESNET.require_patch((8, 8, 12))
    SWIN.require_patch((32, 64, 32))
    with pytest.raises(CheckpointError, match="multiples of 32"):
        SWIN.require_patch((96, 96, 80))
    with pytest.raises(CheckpointError, match="single one"):
        SWIN.require_patch((32, 32, 32))
    with pytest.raises(CheckpointError, match="multiples of 4"):
        SMALL.require_patch((8, 8, 10))
    with pytest.raises(CheckpointError, match="single one"):
        SMALL.require_patch((4, 4, 4))


def test_channels_that_share_a_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="one name"):
        NetworkSpec.from_mapping({"channels": ("t1", "t1")})
