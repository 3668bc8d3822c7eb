from __future__ import annotations

import csv
import json
import logging
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_run
import torch
from small_run import exam, groups, loop, network, stream, train, weights

from osteosap.errors import OutputError, TrainingError
from osteosap.training.data import TrainingExam
from osteosap.training.loop import fit
from osteosap.training.recipes import Validation
from osteosap.training.state import STATE, differences, seed_step, write_state


def _losses(out: Path) -> list[tuple[str, str]]:
    with (out / "training.csv").open(newline="") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def _run_until(out: Path, values: dict[str, Any], *, step: int = 0, save: int = 0) -> int:
    """Start a process, kill it after a step or in the midst of its n-th save; count its steps."""
    context = small_run.server()
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=small_run.killable, args=(out, tell, save, values))
    process.start()
    tell.close()
    done = 0
    try:
        while True:
            said = hear.recv()
            done += said != "saving"
            if said == "saving" or (step and said == step):
                break
        time.sleep(float(np.random.default_rng().uniform(0.0, 0.02)))  # anywhere in a step
    except EOFError:
        assert not step
        assert not save
    else:
        process.kill()
    process.join(60)
    assert process.exitcode == (-9 if step or save else 0)
    return done


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_equal_to_one_that_never_stopped(
    tmp_path: Path,
) -> None:
    values = {"steps": 24, "save_every": 5, "validate_every": 4, "tensorboard": False}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert _run_until(whole, values) == 24
    _run_until(broken, values, step=3)  # before the first save
    assert not (broken / STATE).exists()
    _run_until(broken, values, step=7)  # between two saves, with dropout active
    assert (broken / STATE).is_file()
    _run_until(broken, values, save=2)  # half of a file is on disk
    assert (broken / f".{STATE}.partial").is_file()
    _run_until(broken, values, step=6)
    saved = torch.load(broken / STATE, weights_only=True)["step"]
    assert saved >= 15  # 5, then 10, then 10 and 6 more: each start goes on from the one before
    assert _run_until(broken, values) == 24 - saved
    expected, got = (torch.load(p / "weights.pt", weights_only=True) for p in (whole, broken))
    assert torch.equal(got, expected)
    assert _losses(broken) == _losses(whole)
    assert len(_losses(whole)) == 24
    files = [(p / "validation.csv").read_text() for p in (whole, broken)]
    assert files[0] == files[1]
    assert not list(broken.glob(".*"))


def test_random_numbers_of_a_step_depend_on_seed_step_rank_and_part_alone() -> None:
    def numbers(*key: int) -> list[float]:
        seed_step(*key)
        return torch.rand(3).tolist()

    first = numbers(1, 2, 0, 0)
    torch.rand(7)
    assert numbers(1, 2, 0, 0) == first
    keys = [(1, 2, 0, 0), (2, 2, 0, 0), (1, 3, 0, 0), (1, 2, 1, 0), (1, 2, 0, 1)]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)


def test_a_finished_run_returns_its_result_at_once_and_goes_on_with_more_steps(
    tmp_path: Path,
) -> None:
    model, result = train(tmp_path, steps=6)
    again, same = train(tmp_path, steps=6)
    assert torch.equal(weights(again), weights(model))
    assert (same.steps, same.final_loss) == (result.steps, result.final_loss)
    longer, more = train(tmp_path, steps=10)
    assert more.steps == 10
    assert [int(step) for step, _ in _losses(tmp_path)] == list(range(10))
    assert not torch.equal(weights(longer), weights(model))
    with pytest.raises(TrainingError, match="has done 10 steps, the settings ask for 8"):
        train(tmp_path, steps=8)


def test_the_schedule_of_a_longer_run_is_that_of_its_new_length(tmp_path: Path) -> None:
    train(tmp_path, steps=6, warmup_steps=0)
    train(tmp_path, steps=12, warmup_steps=0)
    with (tmp_path / "training.csv").open(newline="") as file:
        rates = [float(row["rate_factor"]) for row in csv.DictReader(file)]
    expected = [0.5 * (1 + np.cos(np.pi * s / (6 if s < 6 else 12))) for s in range(12)]
    assert rates == pytest.approx(expected, abs=1e-5)


def test_what_only_watches_a_run_may_change(tmp_path: Path) -> None:
    train(tmp_path, steps=4)
    _, result = train(
        tmp_path, steps=6, log_every=2, save_every=1, workers=1, validate_every=2, device="auto"
    )
    assert result.steps == 6


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rate": 1e-5}, "learning rates was .0.003, 0.003., is .1e-05, 1e-05."),
        ({"batch_size": 4}, "loop.batch_size was 2, is 4"),
        ({"weight_decay": 0.1}, "loop.weight_decay was 1e-05, is 0.1"),
        ({"n_exams": 2}, "stream.exams"),
        ({"precision": "bfloat16"}, "precision was float32, is bfloat16"),
        ({"seed": 7, "accumulate": 2}, "loop.accumulate was 1, is 2; loop.seed was 42, is 7"),
    ],
)
def test_a_run_that_differs_is_refused_and_the_difference_named(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    train(tmp_path, steps=2)
    before = (tmp_path / "training.csv").read_text()
    with pytest.raises(TrainingError, match=named):
        train(tmp_path, **({"steps": 4} | changed))
    assert (tmp_path / "training.csv").read_text() == before


def test_other_initial_weights_or_patches_are_refused(tmp_path: Path) -> None:
    train(tmp_path, steps=2)
    other = network()
    with torch.no_grad():
        next(other.parameters()).add_(0.1)  # as from another skeleton checkpoint
    with pytest.raises(TrainingError, match="initial weights changed"):
        fit(other, groups(other), stream=stream(), config=loop(), out=tmp_path)
    model = network()
    with pytest.raises(TrainingError, match=r"background_ratio was 0\.67, is 2\.0"):
        fit(model, groups(model), stream=stream(ratio=2.0), config=loop(), out=tmp_path)


def test_a_damaged_or_foreign_state_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "pwned",)

    torch.save({"format": 2, "identity": Evil()}, tmp_path / STATE)
    with pytest.raises(TrainingError, match="cannot be read"):
        train(tmp_path)
    assert not (tmp_path / "pwned").exists()
    (tmp_path / STATE).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="cannot be read"):
        train(tmp_path)
    torch.save({"format": 1, "identity": "{}"}, tmp_path / STATE)
    with pytest.raises(TrainingError, match="has format 1"):
        train(tmp_path)


def _validated(out: Path, exams: list[TrainingExam], *, overlap: float = 0.5) -> float:
    """Train for some steps and return the score that the run gives."""
    model = network()
    value = float(sum(len(e.index.lesions) for e in exams))
    validation = Validation(lambda _: {"f2": value}, exams, {"overlap": overlap})
    config = loop(steps=4, save_every=2, select="f2")
    result = fit(model, groups(model), stream=stream(), config=config, out=out, validate=validation)
    return result.validation["f2"]


def test_other_exams_to_validate_on_or_other_windows_are_refused(tmp_path: Path) -> None:
    assert _validated(tmp_path, [exam(3, 1)]) == 3.0
    assert _validated(tmp_path, [exam(3, 1)]) == 3.0
    with pytest.raises(TrainingError, match=r"differs: validation\.exams changed"):
        _validated(tmp_path, [exam(2, 1)])
    with pytest.raises(TrainingError, match=r"validation\.overlap was 0\.5, is 0\.25"):
        _validated(tmp_path, [exam(3, 1)], overlap=0.25)


def test_a_state_from_before_validation_was_recorded_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _validated(tmp_path, [exam(3, 1)])
    content = torch.load(tmp_path / STATE, weights_only=True)
    identity = json.loads(content["identity"])
    del identity["validation"]
    torch.save(content | {"identity": json.dumps(identity)}, tmp_path / STATE)
    caplog.clear()
    assert _validated(tmp_path, [exam(3, 1)]) == 3.0
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "did not record its validation: not compared" in record.getMessage()
    del identity["stream"]["seed"]  # only whole parts may be missing
    torch.save(content | {"identity": json.dumps(identity)}, tmp_path / STATE)
    with pytest.raises(TrainingError, match=r"stream\.seed was None, is 0"):
        _validated(tmp_path, [exam(3, 1)])


def test_a_device_of_another_precision_is_met_by_setting_it(tmp_path: Path) -> None:
    train(tmp_path, steps=2)
    with pytest.raises(TrainingError, match=r"Set loop\.precision to float32 to go on") as error:
        train(tmp_path, steps=2, precision="bfloat16")
    assert "Choose another output folder" in str(error.value)
    with pytest.raises(TrainingError) as error:
        train(tmp_path, steps=2, seed=7)
    assert "precision" not in str(error.value)


def test_the_loop_keeps_its_state_until_the_weights_are_written(tmp_path: Path) -> None:
    train(tmp_path, steps=4, save_every=2, keep_state=False)  # the recipe removes it
    assert sorted(p.name for p in tmp_path.iterdir()) == [STATE, "training.csv"]


def test_a_state_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written .*No such file"):
        write_state(tmp_path / "absent", {}, identity={})


def test_a_full_disk_leaves_the_state_before_and_no_half_of_one(tmp_path: Path) -> None:
    write_state(tmp_path, {"a": torch.zeros(1)}, identity={})
    before = (tmp_path / STATE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"File too large\). Free some space"):
            write_state(tmp_path, {"a": torch.rand(1_000_000)}, identity={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == [STATE]
    assert (tmp_path / STATE).read_bytes() == before


def test_differences_are_named_by_their_place() -> None:
    before = {"a": 1, "b": {"c": [1, 2, 3, 4, 5], "d": "x"}, "gone": 0}
    now = {"a": 1, "b": {"c": [1, 2, 0, 4, 6], "d": "y"}, "new": 3}
    assert differences(before, now) == [
        "b.c: 2 of 5 changed",
        "b.d was x, is y",
        "gone was 0, is None",
        "new was None, is 3",
    ]
    assert differences(before, before) == []
