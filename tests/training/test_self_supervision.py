from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from osteosap.errors import CheckpointError, ConfigError, TrainingError
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.training.bottleneck import BottleneckEncoder, encoder_of
from osteosap.training.self_supervision import (
    SelfSupervisedNetwork,
    SelfSupervisionConfig,
    contrast_loss,
    self_supervision_losses,
)

CNN = NetworkSpec(filters=(4, 8, 8))
SWIN = NetworkSpec(architecture="swin_unetr", feature_size=12)
RESIDUAL = NetworkSpec(architecture="segresnet", initial_filters=8, blocks=(1, 1, 1))
SIDES = {"dynunet": 16, "swin_unetr": 64, "segresnet": 16}
SPECS = pytest.mark.parametrize(
    "spec",
    [CNN, pytest.param(SWIN, marks=pytest.mark.slow), RESIDUAL],
    ids=lambda s: s.architecture,
)
CONFIG = SelfSupervisionConfig(embedding=8)


@pytest.mark.parametrize(
    ("spec", "width"),
    [(CNN, 8), pytest.param(SWIN, 192, marks=pytest.mark.slow), (RESIDUAL, 32)],
    ids=list(SIDES),
)
def test_the_encoder_gives_the_features_that_the_whole_network_computes_at_its_bottleneck(
    spec: NetworkSpec, width: int
) -> None:
    torch.manual_seed(0)
    network = build_network(spec).eval()
    encoder = BottleneckEncoder(network, spec)
    side = SIDES[spec.architecture]
    images = torch.rand(1, 2, side, side, side)
    seen: list[torch.Tensor] = []
    last = network.get_submodule(spec.layout.self_supervised[-1])
    last = last[-1] if isinstance(last, nn.ModuleList) else last
    hook = last.register_forward_hook(
        lambda _m, _i, output: seen.append(output[4] if isinstance(output, list) else output)
    )
    with torch.inference_mode():
        network(images)
        hook.remove()
        features = encoder(images)
        assert torch.equal(features, seen[0])
        assert features.shape == (1, width, *(side // spec.patch_divisor,) * 3)
        assert torch.allclose(encoder.pooled(images), features.mean(dim=(2, 3, 4)))
    assert encoder.n_features() == width


def test_the_encoder_shares_its_modules_with_the_network() -> None:
    network = build_network(CNN)
    encoder = BottleneckEncoder(network, CNN)
    own = {id(p) for p in network.parameters()}
    assert {id(p) for p in encoder.parameters()} < own


@SPECS
def test_every_parameter_of_encoder_and_heads_gets_a_gradient(spec: NetworkSpec) -> None:
    torch.manual_seed(0)
    network = SelfSupervisedNetwork(BottleneckEncoder(build_network(spec), spec), CONFIG)
    side = SIDES[spec.architecture] // (2 if spec is SWIN else 1)
    changed = torch.rand(2, 2, 2, side, side, side)
    losses = self_supervision_losses(
        network, changed, changed, torch.tensor([[0, 1], [2, 3]]), config=CONFIG
    )
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    answers = network(changed[:, 0])
    assert answers.images.shape == changed[:, 0].shape
    assert answers.turns.shape == (2, 4)
    assert answers.vectors.shape == (2, 8)


def test_the_encoder_of_a_file_has_its_weights_whatever_the_file_was_trained_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = build_network(CNN)
    metadata = CheckpointMetadata(
        task="lesions", classes=("background", "lesion"), spacing_mm=(4, 4, 4), patch=(16, 16, 16)
    )
    state = {n: w.detach().clone() for n, w in named_weights(network).items()}
    encoder = encoder_of(Checkpoint(CNN, metadata, state))
    images = torch.rand(1, 2, 16, 16, 16)
    with torch.inference_mode():
        expected = BottleneckEncoder(network.eval(), CNN)(images)
        assert torch.equal(encoder(images), expected)
    assert not caplog.messages
    partly = metadata.model_copy(update={"untrained": ("bottleneck.conv1.conv.weight", "head")})
    encoder_of(Checkpoint(CNN, partly, state))
    assert "1 of the" in caplog.text
    assert "never trained (first: bottleneck.conv1.conv.weight)" in caplog.text
    del state["bottleneck.conv1.conv.weight"]
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors"):
        encoder_of(Checkpoint(CNN, metadata, state))


class Perfect(nn.Module):
    """Answers rightly: first view's patches come first, all are whole and unturned."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        n = len(images) // 2
        vectors = torch.eye(n).repeat(2, 1)
        return images, torch.tensor([[9.0, 0, 0, 0]]).repeat(2 * n, 1), vectors


class Answer(Perfect):
    def forward(self, images):  # type: ignore[no-untyped-def]
        from osteosap.training.self_supervision import Answers

        return Answers(*super().forward(images))


def test_right_answers_cost_little_and_the_weights_are_settings() -> None:
    whole = torch.rand(3, 2, 1, 4, 4, 4)
    turns = torch.zeros(3, 2, dtype=torch.int64)
    config = SelfSupervisionConfig(temperature=0.05)
    losses = self_supervision_losses(Answer(), whole, whole, turns, config=config)
    assert float(losses.total) < 1e-3
    assert losses.rotation_accuracy == 1.0
    turned = self_supervision_losses(Answer(), whole, whole * 0.5, turns + 1, config=config)
    assert float(turned.reconstruction) == pytest.approx(float(0.5 * whole.mean()), rel=1e-5)
    assert turned.rotation_accuracy == 0.0
    only = SelfSupervisionConfig(reconstruction=2.0, rotation=0.0, contrast=0.0)
    doubled = self_supervision_losses(Answer(), whole, whole * 0.5, turns + 1, config=only)
    assert float(doubled.total) == pytest.approx(2.0 * float(doubled.reconstruction))


def test_contrast_of_equal_vectors_is_a_guess_and_of_apart_pairs_is_nothing() -> None:
    same = torch.ones(4, 6)
    assert float(contrast_loss(same, same, temperature=0.5)) == pytest.approx(math.log(7), rel=1e-5)
    apart = torch.eye(4)
    assert float(contrast_loss(apart, apart, temperature=0.02)) < 1e-6
    mixed = apart[[1, 2, 3, 0]]
    assert float(contrast_loss(apart, mixed, temperature=0.02)) > 40.0
    by_hand = -math.log(math.exp(2.0) / (math.exp(2.0) + 2 * math.exp(0.0)))
    two = torch.eye(2)
    assert float(contrast_loss(two, two, temperature=0.5)) == pytest.approx(by_hand, rel=1e-5)


def test_one_patch_cannot_be_contrasted_but_can_be_learnt_from_without() -> None:
    whole = torch.rand(1, 2, 1, 4, 4, 4)
    turns = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(TrainingError, match="batch of 1 patch"):
        self_supervision_losses(Answer(), whole, whole, turns, config=SelfSupervisionConfig())
    without = SelfSupervisionConfig(contrast=0.0)
    assert math.isfinite(
        float(self_supervision_losses(Answer(), whole, whole, turns, config=without).total)
    )


def test_some_loss_must_have_a_weight() -> None:
    with pytest.raises(ConfigError, match="all three"):
        SelfSupervisionConfig.from_mapping({"reconstruction": 0, "rotation": 0, "contrast": 0})
