from __future__ import annotations

import pytest
import torch
from torch import nn

from osteosap.anatomy import N_CLASSES, REGIONS
from osteosap.errors import CheckpointError
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata
from osteosap.models.networks import (
    NetworkSpec,
    build_network,
    head_of,
    head_prefixes,
    named_weights,
)
from osteosap.models.transfer import (
    encoder_state,
    parameter_groups,
    reset_head,
    transfer_encoder,
    transfer_skeleton,
)

LESION = NetworkSpec(filters=(4, 8, 8), n_classes=2)
SKELETON = NetworkSpec(filters=(4, 8, 8), n_classes=N_CLASSES)
DEEP = NetworkSpec(filters=(4, 8, 8, 8), n_classes=2, deep_supervision=2)
SWIN = NetworkSpec(architecture="swin_unetr", feature_size=12, n_classes=2)
SEGRESNET = NetworkSpec(architecture="segresnet", initial_filters=8, blocks=(1, 1), n_classes=2)
PRIOR = (3.0, -3.0)
EVERY = pytest.mark.parametrize("spec", [LESION, DEEP, SWIN, SEGRESNET])


def _with(spec: NetworkSpec, **values: object) -> NetworkSpec:
    return NetworkSpec.from_mapping(spec.to_mapping() | values)


def _random(spec: NetworkSpec, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(spec)


def _self_supervised(spec: NetworkSpec, network: nn.Module) -> Checkpoint:
    metadata = CheckpointMetadata(
        task="self_supervised", classes=(), spacing_mm=(4, 4, 4), patch=(64, 64, 64)
    )
    return Checkpoint(spec, metadata, encoder_state(network, spec))


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


def _changed(spec: NetworkSpec, network: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not what they were."""
    weights = named_weights(network)
    return {n for n in weights if not torch.equal(weights[n], before[n])}


@EVERY
def test_sap_takes_encoder_and_decoder_and_draws_the_head_anew(spec: NetworkSpec) -> None:
    skeleton = _skeleton(_with(spec, n_classes=N_CLASSES))
    network = _random(spec, seed=1)
    before = {n: w.detach().clone() for n, w in named_weights(network).items()}
    report = transfer_skeleton(network, spec, skeleton=skeleton, head_bias=PRIOR)
    weights = named_weights(network)
    heads = [n for n in weights if n.startswith(head_prefixes(network, spec))]
    body = [n for n in weights if n not in heads]
    assert (report.fraction, sorted(report.matched)) == (1.0, sorted(body))
    assert all(torch.equal(weights[n], skeleton.state[n]) for n in body)
    assert set(heads) <= _changed(spec, network, before)
    for name in heads:
        if name.endswith(".bias"):
            assert weights[name].tolist() == list(PRIOR)
        else:
            pretrained = skeleton.state[name]
            assert not torch.isclose(weights[name], pretrained[:2]).any()


@EVERY
def test_ssl_takes_the_encoder_and_leaves_decoder_and_head_random(spec: NetworkSpec) -> None:
    pretrained = _random(spec, seed=2)
    network = _random(spec, seed=3)
    before = {n: w.detach().clone() for n, w in named_weights(network).items()}
    report = transfer_encoder(network, spec, pretrained=_self_supervised(spec, pretrained))
    weights, source = named_weights(network), named_weights(pretrained)
    prefixes = tuple(f"{name}." for name in spec.layout.self_supervised)
    taken = {n for n in weights if n.startswith(prefixes)}
    assert report.fraction == 1.0
    assert set(report.matched) == taken
    assert all(torch.equal(weights[n], source[n]) for n in taken)
    assert _changed(spec, network, before) <= taken
    assert any(n.startswith(spec.layout.head) for n in set(weights) - taken)


def test_the_skip_encoders_of_swin_unetr_are_not_self_supervised_but_learn_as_the_encoder() -> None:
    network = _random(SWIN, seed=2)
    assert {n.split(".")[0] for n in encoder_state(network, SWIN)} == {"swinViT"}
    encoder = parameter_groups(network, SWIN, encoder_rate=1.0, decoder_rate=2.0)[0]
    learnt = {id(p) for p in encoder["params"]}
    assert all(id(p) in learnt for p in network.get_submodule("encoder1").parameters())


def test_ssl_from_other_weights_architectures_and_channels_is_refused() -> None:
    network = _random(LESION, seed=1)
    own = _self_supervised(LESION, network)
    with pytest.raises(CheckpointError, match="expected 'self_supervised'"):
        transfer_encoder(network, LESION, pretrained=_skeleton())
    other = _self_supervised(SEGRESNET, _random(SEGRESNET, seed=1))
    with pytest.raises(CheckpointError, match="segresnet, this one dynunet"):
        transfer_encoder(network, LESION, pretrained=other)
    swapped = Checkpoint(_with(LESION, channels=["b1000", "t1"]), own.metadata, own.state)
    with pytest.raises(CheckpointError, match="same channels"):
        transfer_encoder(network, LESION, pretrained=swapped)
    wider = _with(LESION, filters=(4, 8, 12))
    bigger = _random(wider, seed=1)
    with pytest.raises(CheckpointError, match="do not fit"):
        transfer_encoder(bigger, wider, pretrained=own)


def test_a_skeleton_network_without_deep_supervision_starts_one_with_it_and_the_reverse() -> None:
    plain = _with(DEEP, deep_supervision=0)
    for start, end in ((plain, DEEP), (DEEP, plain)):
        skeleton = _skeleton(_with(start, n_classes=N_CLASSES))
        network = build_network(end)
        report = transfer_skeleton(network, end, skeleton=skeleton, head_bias=PRIOR)
        assert (report.fraction, report.unexpected) == (1.0, ())


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


@EVERY
def test_a_start_of_which_a_part_was_never_trained_is_warned_of(
    spec: NetworkSpec, caplog: pytest.LogCaptureFixture
) -> None:
    network = build_network(spec)
    skeleton = _skeleton(_with(spec, n_classes=N_CLASSES))
    heads = [n for n in skeleton.state if n.startswith(head_prefixes(network, spec))]
    body = [n for n in skeleton.state if n not in heads]

    def warned(untrained: list[str], source: Checkpoint) -> list[str]:
        caplog.clear()
        values = source.metadata.to_mapping() | {"untrained": untrained}
        start = Checkpoint(source.spec, CheckpointMetadata.from_mapping(values), source.state)
        if source is skeleton:
            transfer_skeleton(network, spec, skeleton=start, head_bias=PRIOR)
        else:
            transfer_encoder(network, spec, pretrained=start)
        return caplog.messages

    assert warned(heads, skeleton) == []  # drawn anew in any case
    (line,) = warned([*heads, *body[:2]], skeleton)
    assert f"2 of the {len(body)} tensors taken from the skeleton weights were never" in line
    assert body[0] in line
    encoder = _self_supervised(spec, network)
    names = list(encoder.state)
    assert warned([], encoder) == []
    (line,) = warned(names[:1], encoder)
    assert f"1 of the {len(names)} tensors taken from the self_supervised weights" in line


@EVERY
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


def test_a_parameter_outside_the_known_modules_is_an_error() -> None:
    network = build_network(LESION)
    network.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(CheckpointError, match="1 to neither"):
        parameter_groups(network, LESION, encoder_rate=1.0, decoder_rate=1.0)


def test_the_encoder_of_swin_unetr_is_the_transformer_and_the_skip_encoders() -> None:
    network = build_network(SWIN)
    encoder = parameter_groups(network, SWIN, encoder_rate=1.0, decoder_rate=1.0)[0]
    ids = {id(p) for p in encoder["params"]}
    modules = {n.split(".")[0] for n, p in network.named_parameters() if id(p) in ids}
    assert modules == {"swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"}
