from __future__ import annotations

import pytest
import torch

from osteosap.anatomy import N_CLASSES, REGIONS
from osteosap.errors import CheckpointError
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata
from osteosap.models.networks import NetworkSpec, build_network, head_of, named_weights
from osteosap.models.transfer import parameter_groups, reset_head, transfer_skeleton

LESION = NetworkSpec(filters=(4, 8, 8), n_classes=2)
SKELETON = NetworkSpec(filters=(4, 8, 8), n_classes=N_CLASSES)
SWIN = NetworkSpec(architecture="swin_unetr", feature_size=12, n_classes=2)
PRIOR = (3.0, -3.0)


def _skeleton(spec: NetworkSpec = SKELETON, task: str = "skeleton") -> Checkpoint:
    metadata = CheckpointMetadata.from_mapping(
        {
            "task": task,
            "classes": ["background", *(r.name for r in REGIONS)],
            "spacing_mm": (4, 4, 4),
            "patch": (16, 16, 16),
        }
    )
    return Checkpoint(spec, metadata, named_weights(build_network(spec)))


def test_everything_but_the_head_comes_from_the_skeleton_network() -> None:
    network = build_network(LESION)
    skeleton = _skeleton()
    report = transfer_skeleton(network, LESION, skeleton=skeleton, head_bias=PRIOR)
    weights = named_weights(network)
    head = [n for n in weights if n.startswith("output_block.")]
    body = [n for n in weights if n not in head]
    assert report.fraction == 1.0
    assert sorted(report.matched) == sorted(body)
    assert all(torch.equal(weights[n], skeleton.state[n]) for n in body)
    assert len(head) == 2


def test_the_head_is_really_drawn_anew_and_starts_at_the_prior() -> None:
    network = build_network(LESION)
    before = head_of(network, LESION).weight.detach().clone()
    reset_head(network, LESION, bias=PRIOR)
    head = head_of(network, LESION)
    assert head.bias is not None
    assert not torch.isclose(head.weight, before).any()
    assert head.bias.tolist() == list(PRIOR)
    with torch.inference_mode():
        probability = torch.softmax(network.eval()(torch.rand(1, 2, 16, 16, 16)), dim=1)[:, 1]
    assert probability.mean() < 0.2


def test_a_skeleton_network_of_another_size_is_refused() -> None:
    wider = NetworkSpec(filters=(4, 8, 12), n_classes=N_CLASSES)
    with pytest.raises(CheckpointError, match="do not fit"):
        transfer_skeleton(build_network(LESION), LESION, skeleton=_skeleton(wider), head_bias=PRIOR)


def test_lesion_weights_and_other_channels_are_refused_as_a_start() -> None:
    network = build_network(LESION)
    with pytest.raises(CheckpointError, match="expected 'skeleton'"):
        transfer_skeleton(network, LESION, skeleton=_skeleton(task="lesions"), head_bias=PRIOR)
    swapped = NetworkSpec(filters=(4, 8, 8), n_classes=N_CLASSES, channels=("b1000", "t1"))
    with pytest.raises(CheckpointError, match="same channels"):
        transfer_skeleton(network, LESION, skeleton=_skeleton(swapped), head_bias=PRIOR)
    with pytest.raises(CheckpointError, match="1 biases for 2"):
        reset_head(network, LESION, bias=(3.0,))


@pytest.mark.parametrize("spec", [LESION, SWIN])
def test_each_parameter_is_in_exactly_one_group_at_its_rate(spec: NetworkSpec) -> None:
    network = build_network(spec)
    encoder, decoder = parameter_groups(network, spec, encoder_rate=1e-4, decoder_rate=1e-3)
    first, second = ({id(p) for p in group["params"]} for group in (encoder, decoder))
    everything = {id(p) for p in network.parameters()}
    assert not first & second
    assert first | second == everything
    assert len(encoder["params"]) + len(decoder["params"]) == len(everything)
    assert (encoder["lr"], decoder["base_lr"]) == (1e-4, 1e-3)
    assert id(head_of(network, spec).weight) in second


def test_the_encoder_of_swin_unetr_is_the_transformer_and_the_skip_encoders() -> None:
    network = build_network(SWIN)
    encoder = parameter_groups(network, SWIN, encoder_rate=1.0, decoder_rate=1.0)[0]
    ids = {id(p) for p in encoder["params"]}
    modules = {n.split(".")[0] for n, p in network.named_parameters() if id(p) in ids}
    assert modules == {"swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"}
