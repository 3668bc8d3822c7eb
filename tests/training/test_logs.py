from __future__ import annotations

import csv
import logging
import sys
from pathlib import Path

import pytest

from osteosap.training.logs import Clock, RunLog, time_left
from osteosap.training.schedule import LoopConfig


def _steps(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_rows_of_a_killed_run_after_its_last_state_are_taken_out(tmp_path: Path) -> None:
    log = RunLog(tmp_path, step=0, tensorboard=False)
    for step in range(8):
        log.training(step, {"loss": 1.0 / (step + 1)})
    for step in (2, 4, 6):
        log.validation(step, {"f2": 0.1 * step, "other": 0.0})
    with (tmp_path / "training.csv").open("a") as file:
        file.write("8,0.")  # half a row: the process died
    log = RunLog(tmp_path, step=4, validated=4)
    log.training(4, {"loss": 0.5})
    assert _steps(tmp_path / "training.csv") == [0, 1, 2, 3, 4]
    assert _steps(tmp_path / "validation.csv") == [2, 2, 4, 4]
    # killed after a validation, before a state that knows of it: it is made again
    RunLog(tmp_path, step=5, validated=2).validation(4, {"f2": 0.4, "other": 0.0})
    assert _steps(tmp_path / "validation.csv") == [2, 2, 4, 4]
    RunLog(tmp_path, step=0)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, step=0, tensorboard=True)
    log.training(3, {"loss": 0.5})
    log.validation(4, {"f2": 0.25, "undefined": float("nan")})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/loss")] == [(3, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("validation/f2")] == [(4, 0.25)]
    assert "validation/undefined" not in events.Tags()["scalars"]


def test_without_tensorboard_a_remark_is_made_and_the_csv_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO, logger="osteosap"):
        log = RunLog(tmp_path, step=0, tensorboard=True)
    log.training(0, {"loss": 1.0})
    log.close()
    assert "pip install tensorboard" in caplog.text
    assert _steps(tmp_path / "training.csv") == [0]


def test_time_left_is_said_in_words() -> None:
    assert [time_left(s) for s in (0.2, 89.0, 95.0, 3540.0, 3700.0, 90000.0)] == [
        "0 s left",
        "89 s left",
        "2 min left",
        "59 min left",
        "1 h 02 min left",
        "25 h 00 min left",
    ]


def test_time_left_follows_the_pace_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("osteosap.training.logs.time.perf_counter", lambda: now[0])
    clock = Clock(10, 50.0)
    now[0] = 120.0  # 10 steps in 20 s
    assert clock.seconds() == 70.0
    assert clock.left(20, LoopConfig(steps=30)) == pytest.approx(20.0)
    assert clock.left(20, LoopConfig(steps=30, max_minutes=1.25)) == pytest.approx(5.0)
    assert clock.left(20, LoopConfig(steps=30, max_minutes=1.0)) == 0.0
