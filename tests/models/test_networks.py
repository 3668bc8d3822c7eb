from __future__ import annotations

import pytest
import torch

from osteosap.errors import CheckpointError, ConfigError
from osteosap.models.networks import NetworkSpec, build_network, head_of, named_weights

SMALL = NetworkSpec(filters=(4, 8, 8), n_classes=3)
SWIN = NetworkSpec(architecture="swin_unetr", feature_size=12, n_classes=3)


def test_a_network_maps_channels_to_one_logit_a_class_at_the_same_size() -> None:
    with torch.inference_mode():
        logits = build_network(SMALL).eval()(torch.zeros(1, 2, 16, 8, 12))
    assert logits.shape == (1, 3, 16, 8, 12)


def test_swin_unetr_is_built_without_an_image_size_and_runs() -> None:
    with torch.inference_mode():
        logits = build_network(SWIN).eval()(torch.zeros(1, 2, 64, 32, 32))
    assert logits.shape == (1, 3, 64, 32, 32)


@pytest.mark.parametrize("spec", [SMALL, SWIN])
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
    with pytest.raises(CheckpointError, match="multiples of 4"):
        SMALL.require_patch((8, 8, 10))
    with pytest.raises(CheckpointError, match="single one"):
        SMALL.require_patch((4, 4, 4))


def test_channels_that_share_a_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="one name"):
        NetworkSpec.from_mapping({"channels": ("t1", "t1")})
