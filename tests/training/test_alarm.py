from __future__ import annotations

import logging

import pytest

from osteosap.errors import TrainingError
from osteosap.training.alarm import CollapseAlarm
from osteosap.training.schedule import LoopConfig


def _alarm(**values: float) -> CollapseAlarm:
    return CollapseAlarm(LoopConfig.from_mapping({"collapse_window": 5} | values))


def _watch(alarm: CollapseAlarm, ratios: list[float], *, first: int = 0, steps: int = 100) -> int:
    """Feed steps with this much predicted of 1 % foreground; how many were taken."""
    for number, ratio in enumerate(ratios):
        step = first + number
        try:
            alarm.watch(step, 0.01 * ratio, 0.01, done=(step + 1) / steps)
        except TrainingError:
            return number
    return len(ratios)


def test_a_network_that_never_wakes_is_warned_of_first_and_stopped_in_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alarm = _alarm(collapse_after=0.3)
    with caplog.at_level(logging.WARNING):
        assert _watch(alarm, [0.0] * 14) == 14
        assert not caplog.records
        assert _watch(alarm, [0.0], first=14) == 1
        assert "background only so far" in caplog.text
        assert _watch(alarm, [0.0] * 50, first=15) == 14  # step 29 ends 30 % of the run
    assert len(caplog.records) == 1


def test_a_network_that_falls_silent_is_warned_of_at_once_and_stopped_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alarm = _alarm(collapse_after=1.0)
    with caplog.at_level(logging.WARNING):
        assert _watch(alarm, [1.0] * 10 + [0.0] * 4) == 14
        assert not caplog.records
        assert _watch(alarm, [0.0] * 100, first=14) == 15  # 4 windows of 5
    assert "after it had predicted foreground" in caplog.text


def test_a_few_stray_voxels_do_not_hide_a_collapse() -> None:
    alarm = _alarm(collapse_after=1.0)
    assert _watch(alarm, [1.0] * 5 + [0.001] * 100) < 40


def test_a_network_that_comes_back_is_left_alone() -> None:
    alarm = _alarm(collapse_after=0.3)
    assert _watch(alarm, ([0.5] * 5 + [0.0] * 10) * 6) == 90


def test_steps_without_foreground_say_nothing() -> None:
    alarm = _alarm(collapse_after=0.01)
    for step in range(50):
        alarm.watch(step, 0.0, 0.0, done=0.9)
    assert alarm.silent_steps == 0


def test_a_restored_alarm_goes_on_where_it_was() -> None:
    ratios = [1.0] * 8 + [0.0] * 60
    whole, first, second = (_alarm(collapse_after=1.0) for _ in range(3))
    end = _watch(whole, ratios)
    assert _watch(first, ratios[:15]) == 15
    second.restore(first.to_state())
    assert 15 + _watch(second, ratios[15:], first=15) == end
