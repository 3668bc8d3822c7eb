from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import PATCH, groups, loop, network, silence, stream, weights
from torch import nn

from osteosap.errors import ConfigError, TrainingError
from osteosap.training.loop import background_weight, fit, rate_factor
from osteosap.training.objectives import Batch, Outcome


def test_the_rate_rises_linearly_and_falls_as_a_cosine_to_zero() -> None:
    config = loop(steps=100, warmup_steps=9)
    factors = [rate_factor(step, 0.0, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(0.98, abs=0.01)
    assert factors[50] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert factors[9:] == sorted(factors[9:], reverse=True)


def test_the_clock_ends_the_schedule_when_it_comes_first() -> None:
    config = loop(steps=1000, warmup_steps=0, max_minutes=1.0)
    assert rate_factor(10, 30.0, config) == pytest.approx(0.5)
    assert rate_factor(10, 60.0, config) == pytest.approx(0.0)


def test_training_lowers_the_loss_and_logs_it(tmp_path: Path) -> None:
    model = network()
    said: list[float] = []
    result = fit(
        model,
        groups(model),
        stream=stream(),
        config=loop(steps=80),
        out=tmp_path,
        validate=lambda _: {"score": 1.0},
        progress=lambda _, done: said.append(done),
    )
    with (tmp_path / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert result.steps == len(rows) == len(said) == 80
    first = np.mean([float(r["loss"]) for r in rows[:5]])
    last = np.mean([float(r["loss"]) for r in rows[-5:]])
    assert last < 0.8 * first
    assert result.validation == {"score": 1.0}
    assert "score,1.0" in (tmp_path / "validation.csv").read_text()
    assert (tmp_path / "state.pt").is_file()


def test_a_collapsed_network_stops_the_run(tmp_path: Path) -> None:
    model = network()
    silence(model)
    config = loop(steps=40, collapse_after=0.3, collapse_window=3)
    with pytest.raises(TrainingError, match="collapsed"):
        fit(model, groups(model, 1e-9), stream=stream(), config=config, out=tmp_path)
    assert len((tmp_path / "training.csv").read_text().splitlines()) == 1 + 12  # 30 % of 40


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan"):
        fit(model, groups(model), stream=stream(), config=loop(), out=tmp_path)


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path: Path) -> None:
    model = network()
    calls = []

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return gradient * float("inf") if len(calls) == 3 else gradient

    next(model.parameters()).register_hook(overflow)
    result = fit(model, groups(model), stream=stream(), config=loop(), out=tmp_path)
    assert result.steps == len(calls) == 6
    assert torch.isfinite(weights(model)).all()


def test_gradients_that_stay_infinite_stop_the_run(tmp_path: Path) -> None:
    model = network()
    next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="gradient was not finite"):
        fit(model, groups(model), stream=stream(), config=loop(steps=20), out=tmp_path)


def test_batches_are_the_same_however_many_threads_prepare_them() -> None:
    alone = list(stream().batches(2, 9, batch_size=2, workers=0))
    together = list(stream().batches(2, 9, batch_size=2, workers=2))
    assert len(alone) == len(together) == 7
    for (images, reference), (other_images, other_reference) in zip(alone, together, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(reference, other_reference)
    assert alone[0][0].shape == (2, 2, *PATCH)
    assert set(torch.cat([r for _, r in alone]).unique().tolist()) == {0, 1}


def test_the_weight_of_background_rises_to_its_final_value_and_stays() -> None:
    config = loop(background_weight=0.2, background_weight_until=0.5)
    weights = [background_weight(done, config) for done in (0.0, 0.25, 0.5, 0.9, 1.0)]
    assert weights == pytest.approx([0.2, 0.6, 1.0, 1.0, 1.0])


def test_the_best_weights_are_kept_and_returned(tmp_path: Path) -> None:
    model = network()
    kept: list[torch.Tensor] = []
    values = iter([0.2, 0.7, math.nan, 0.7, 0.1])

    def validate(current: nn.Module) -> dict[str, float]:
        kept.append(weights(current).clone())
        return {"f2": next(values), "other": 0.0}

    config = loop(steps=10, validate_every=2, select="f2")
    result = fit(
        model, groups(model), stream=stream(), config=config, out=tmp_path, validate=validate
    )
    assert (result.steps, result.best_step) == (10, 4)
    assert result.validation == {"f2": 0.7, "other": 0.0}
    assert torch.equal(weights(model), kept[1])
    more = network()
    longer = loop(steps=12, validate_every=2, select="f2")
    result = fit(
        more,
        groups(more),
        stream=stream(),
        config=longer,
        out=tmp_path,
        validate=lambda _: {"f2": 0.3, "other": 1.0},
    )
    assert (result.steps, result.best_step) == (12, 4)  # the best of the part before
    assert torch.equal(weights(more), kept[1])


def test_the_smallest_score_may_be_the_best(tmp_path: Path) -> None:
    model = network()
    values = iter([0.5, 0.2, 0.3])
    config = loop(steps=3, validate_every=1, select="error", select_largest=False)
    result = fit(
        model,
        groups(model),
        stream=stream(),
        config=config,
        out=tmp_path,
        validate=lambda _: {"error": next(values)},
    )
    assert (result.best_step, result.validation) == (2, {"error": 0.2})


def test_a_score_to_select_by_must_exist(tmp_path: Path) -> None:
    model = network()
    config = loop(steps=2, select="f1")
    with pytest.raises(ConfigError, match="no exams to validate"):
        fit(model, groups(model), stream=stream(), config=config, out=tmp_path)
    with pytest.raises(ConfigError, match="validation gives f2, sensitivity"):
        fit(
            model,
            groups(model),
            stream=stream(),
            config=config,
            out=tmp_path,
            validate=lambda _: {"f2": 1.0, "sensitivity": 1.0},
        )


def test_an_objective_of_ones_own_is_minimised_and_its_parts_logged(tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Batch, done: float) -> Outcome:
        loss = (model(batch[0]) ** 2).mean()
        return Outcome(loss, {"half": float(loss.detach()) / 2, "done": done})

    model = network()
    fit(
        model,
        groups(model),
        stream=stream(),
        config=loop(steps=8),
        out=tmp_path,
        objective=objective,
    )
    with (tmp_path / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["done"]) for row in rows] == pytest.approx([s / 8 for s in range(8)])
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[3]["half"]) == pytest.approx(float(rows[3]["loss"]) / 2, rel=1e-4)
    assert "predicted_foreground" not in rows[0]


def test_progress_says_loss_and_time_left(tmp_path: Path) -> None:
    said: list[tuple[str, float]] = []
    model = network()
    fit(
        model,
        groups(model),
        stream=stream(),
        config=loop(steps=4),
        out=tmp_path,
        progress=lambda text, done: said.append((text, done)),
    )
    assert [done for _, done in said] == [0.25, 0.5, 0.75, 1.0]
    assert all(re.fullmatch(r"loss \d\.\d{3}, \d+ s left", text) for text, _ in said)
    assert said[-1][0].endswith(", 0 s left")


def test_a_network_with_deep_supervision_trains_on_all_its_levels(tmp_path: Path) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine = nn.Conv3d(2, 2, 1)
            self.coarse = nn.Conv3d(2, 2, 1)

        def forward(self, images: torch.Tensor) -> list[torch.Tensor] | torch.Tensor:
            fine = self.fine(images)
            if not self.training:
                return fine
            return [fine, self.coarse(nn.functional.avg_pool3d(images, 2))]

    model = Deep()
    before = weights(model).clone()
    parameters = [{"params": list(model.parameters()), "lr": 1e-2, "base_lr": 1e-2}]
    fit(model, parameters, stream=stream(), config=loop(steps=3), out=tmp_path)
    assert (weights(model) != before).all()
