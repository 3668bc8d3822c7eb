from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from osteosap.errors import TrainingError
from osteosap.geometry import Grid
from osteosap.models.networks import NetworkSpec, build_network
from osteosap.models.transfer import parameter_groups
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.data import TrainingExam
from osteosap.training.loop import LoopConfig, background_weight, fit, rate_factor
from osteosap.training.patches import PatchStream
from osteosap.training.sampler import LesionSampler, LesionSamplingConfig

SPEC = NetworkSpec(filters=(4, 8, 8), n_classes=2)
PATCH = (16, 16, 16)


def _stream(ratio: float = 0.67) -> PatchStream:
    shape = (24, 20, 28)
    rng = np.random.default_rng(0)
    images = (0.2 * rng.random((2, *shape))).astype(np.float16)
    lesions = np.zeros(shape, np.int32)
    for number, place in enumerate(((6, 6, 6), (15, 12, 20)), start=1):
        box = tuple(slice(p, p + 4) for p in place)
        lesions[box] = number
        images[:, *box] = 0.9
    exam = TrainingExam(images, np.ones(shape, bool), None, lesions, Grid(shape, np.eye(4)))
    return PatchStream(
        [exam],
        LesionSampler([exam], PATCH, config=LesionSamplingConfig(background_ratio=ratio), seed=0),
        reference="lesions",
        patch=PATCH,
        augmentation=AugmentationConfig(),
        seed=0,
    )


def _loop(**values: Any) -> LoopConfig:
    base = {"steps": 6, "batch_size": 2, "warmup_steps": 2, "device": "cpu", "log_every": 1}
    return LoopConfig.from_mapping(base | {"precision": "float32"} | values)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return build_network(SPEC)


def _groups(network: nn.Module, rate: float = 3e-3) -> list[dict[str, Any]]:
    return parameter_groups(network, SPEC, encoder_rate=rate, decoder_rate=rate)


def _weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_rate_rises_linearly_and_falls_as_a_cosine_to_zero() -> None:
    config = _loop(steps=100, warmup_steps=9)
    factors = [rate_factor(step, 0.0, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(0.98, abs=0.01)
    assert factors[50] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert factors[9:] == sorted(factors[9:], reverse=True)


def test_the_clock_ends_the_schedule_when_it_comes_first() -> None:
    config = _loop(steps=1000, warmup_steps=0, max_minutes=1.0)
    assert rate_factor(10, 30.0, config) == pytest.approx(0.5)
    assert rate_factor(10, 60.0, config) == pytest.approx(0.0)


def test_training_lowers_the_loss_and_logs_it(tmp_path: Path) -> None:
    network = _network()
    said: list[float] = []
    result = fit(
        network,
        _groups(network),
        stream=_stream(),
        config=_loop(steps=40),
        out=tmp_path,
        validate=lambda _: {"score": 1.0},
        progress=lambda _, done: said.append(done),
    )
    with (tmp_path / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert result.steps == len(rows) == len(said) == 40
    first = np.mean([float(r["loss"]) for r in rows[:5]])
    last = np.mean([float(r["loss"]) for r in rows[-5:]])
    assert last < 0.8 * first
    assert result.validation == {"score": 1.0}
    assert "score,1.0" in (tmp_path / "validation.csv").read_text()
    assert not (tmp_path / "state.pt").exists()


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole = _network()
    fit(whole, _groups(whole), stream=_stream(), config=_loop(save_every=3), out=tmp_path / "a")

    class Stop(Exception):  # noqa: N818
        pass

    def stop(_: str, done: float) -> None:
        if done > 0.7:
            raise Stop

    broken = _network()
    config = _loop(save_every=3)
    folder = tmp_path / "b"
    with pytest.raises(Stop):
        fit(broken, _groups(broken), stream=_stream(), config=config, out=folder, progress=stop)
    assert (folder / "state.pt").is_file()
    resumed = _network()
    result = fit(resumed, _groups(resumed), stream=_stream(), config=config, out=folder)
    assert result.steps == 6
    torch.testing.assert_close(_weights(resumed), _weights(whole), atol=1e-6, rtol=1e-5)


def test_the_state_of_another_run_is_not_taken_over(tmp_path: Path) -> None:
    network = _network()

    def stop(_: str, done: float) -> None:
        if done > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            network,
            _groups(network),
            stream=_stream(),
            config=_loop(save_every=3),
            out=tmp_path,
            progress=stop,
        )
    with pytest.raises(TrainingError, match="other settings"):
        fit(
            network,
            _groups(network, rate=1e-5),
            stream=_stream(),
            config=_loop(save_every=3),
            out=tmp_path,
        )
    other = _network()
    with torch.no_grad():
        next(other.parameters()).add_(0.1)  # as from another skeleton checkpoint
    for stream, start in ((_stream(), other), (_stream(ratio=2.0), _network())):
        with pytest.raises(TrainingError, match="initial weights"):
            fit(start, _groups(start), stream=stream, config=_loop(save_every=3), out=tmp_path)
    (tmp_path / "state.pt").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="cannot be read"):
        fit(
            _network(),
            _groups(network),
            stream=_stream(),
            config=_loop(save_every=3),
            out=tmp_path,
        )


def test_a_collapsed_network_stops_the_run(tmp_path: Path) -> None:
    network = _network()
    with torch.no_grad():
        head = network.output_block.conv.conv  # type: ignore[union-attr]
        head.weight.zero_()
        head.bias.copy_(torch.tensor([50.0, -50.0]))
    config = _loop(steps=20, collapse_after=0.2, collapse_window=3)
    with pytest.raises(TrainingError, match="collapsed"):
        fit(network, _groups(network, 1e-9), stream=_stream(), config=config, out=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    network = _network()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan"):
        fit(network, _groups(network), stream=_stream(), config=_loop(), out=tmp_path)


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path: Path) -> None:
    network = _network()
    calls = []

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return gradient * float("inf") if len(calls) == 3 else gradient

    next(network.parameters()).register_hook(overflow)
    result = fit(network, _groups(network), stream=_stream(), config=_loop(), out=tmp_path)
    assert result.steps == len(calls) == 6
    assert torch.isfinite(_weights(network)).all()


def test_gradients_that_stay_infinite_stop_the_run(tmp_path: Path) -> None:
    network = _network()
    next(network.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="gradient was not finite"):
        fit(network, _groups(network), stream=_stream(), config=_loop(steps=20), out=tmp_path)


def test_batches_are_the_same_however_many_threads_prepare_them() -> None:
    alone = list(_stream().batches(2, 9, batch_size=2, workers=0))
    together = list(_stream().batches(2, 9, batch_size=2, workers=2))
    assert len(alone) == len(together) == 7
    for (images, reference), (other_images, other_reference) in zip(alone, together, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(reference, other_reference)
    assert alone[0][0].shape == (2, 2, *PATCH)
    assert set(torch.cat([r for _, r in alone]).unique().tolist()) == {0, 1}


def test_the_weight_of_background_rises_to_its_final_value_and_stays() -> None:
    config = _loop(background_weight=0.2, background_weight_until=0.5)
    weights = [background_weight(done, config) for done in (0.0, 0.25, 0.5, 0.9, 1.0)]
    assert weights == pytest.approx([0.2, 0.6, 1.0, 1.0, 1.0])


def test_the_loss_uses_the_weight_of_background_at_that_time() -> None:
    from osteosap.training.loop import _loss

    loss = _loss(_loop(background_weight=0.2, background_weight_until=0.5))
    torch.manual_seed(0)
    logits, reference = torch.randn(1, 2, 4, 4, 4), torch.randint(0, 2, (1, 1, 4, 4, 4))
    for done, weight in ((0.0, 0.2), (1.0, 1.0), (0.25, 0.6)):
        entropy = nn.CrossEntropyLoss(weight=torch.tensor([weight, 1.0]))
        rest = loss(logits, reference, done) - entropy(logits, reference[:, 0])
        if done == 0.0:
            first = rest
        assert rest == pytest.approx(float(first), abs=1e-5)  # the Dice, which has no weights
