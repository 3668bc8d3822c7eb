"""Units run once, in order, and go on after a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from osteosap.errors import OutputError
from osteosap.manifest import read_json
from osteosap.study import engine
from osteosap.study.engine import Engine, finished_units, is_finished, run_plan, run_unit
from osteosap.study.plan import Unit

# stands for 'osteosap': appends a line to the file named, after some seconds; 'fail' fails
PROGRAM = """
import os, pathlib, sys, time
what, path, seconds = sys.argv[1:4]
time.sleep(float(seconds))
if what == "fail":
    sys.exit(3)
file = pathlib.Path(path)
file.parent.mkdir(parents=True, exist_ok=True)
if what == "make":
    file.write_text("made\\n")
if what == "threads":
    file.write_text(os.environ.get("OMP_NUM_THREADS", "all"))
with pathlib.Path("calls.txt").open("a") as log:
    log.write(path + "\\n")
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "code" / "osteosap"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))


def _unit(name: str, *needs: str, what: str = "make", seconds: float = 0.0) -> Unit:
    return Unit(name, (what, f"{name}.txt", str(seconds)), needs, (f"{name}.txt",))


def _calls(study: Path) -> list[str]:
    path = study / "calls.txt"
    return path.read_text().split() if path.is_file() else []


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    return folder


def test_units_run_after_what_they_need_and_once(study: Path) -> None:
    units = [_unit("c", "a", "b"), _unit("a"), _unit("b", "a"), _unit("d", "c")]
    run_plan(units, study, engine=Engine(at_once=2))
    calls = _calls(study)
    assert sorted(calls) == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert calls.index("a.txt") < calls.index("b.txt") < calls.index("c.txt")
    run_plan(units, study, engine=Engine())
    assert _calls(study) == calls
    assert all(is_finished(unit, study) for unit in units)
    assert read_json(study / "units" / "a.json")["seconds"] >= 0.0


@pytest.mark.parametrize(
    ("at_once", "asked", "threads"),
    [(1, None, "all"), (2, None, "2"), (9, None, "1"), (2, "3", "3")],
)
def test_units_side_by_side_share_the_cores(
    study: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, asked: str | None, threads: str
) -> None:
    monkeypatch.setattr(engine.os, "cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    run_plan([_unit("a", what="threads")], study, engine=Engine(at_once=at_once))
    assert (study / "a.txt").read_text() == threads


def test_a_changed_result_or_setting_runs_what_follows_again(study: Path) -> None:
    (study / "settings.yaml").write_text("x: 1")
    first = Unit("a", ("make", "a.txt", "0"), (), ("a.txt",), ("settings.yaml",))
    units = [first, _unit("b", "a")]
    run_plan(units, study, engine=Engine())
    (study / "settings.yaml").write_text("x: 2")
    run_plan(units, study, engine=Engine())
    # 'a' was run again; it made the same, so that 'b' was not
    assert _calls(study) == ["a.txt", "b.txt", "a.txt"]
    (study / "b.txt").write_text("somebody's")
    assert not is_finished(units[1], study)
    run_plan(units, study, engine=Engine())
    assert _calls(study) == ["a.txt", "b.txt", "a.txt", "b.txt"]


def _training(study: Path, setting: str, *, what: str = "make") -> Unit:
    (study / "settings.yaml").write_text(setting)
    return Unit(
        "t", (what, "runs/t/w.txt", "0"), (), ("runs/t/w.txt",), ("settings.yaml",), folder="runs/t"
    )


def test_a_stopped_unit_goes_on_in_its_folder_and_one_of_other_settings_begins_anew(
    study: Path,
) -> None:
    with pytest.raises(OutputError):
        run_unit(_training(study, "x: 1", what="fail"), study)
    state = study / "runs" / "t" / "state.pt"
    state.parent.mkdir(parents=True)
    state.write_text("half of it")
    with pytest.raises(OutputError):  # the same again: it may go on from its state
        run_unit(_training(study, "x: 1", what="fail"), study)
    assert state.read_text() == "half of it"
    run_unit(_training(study, "x: 2"), study)
    assert not state.exists()
    assert (study / "replaced" / "t" / "state.pt").read_text() == "half of it"
    run_unit(_training(study, "x: 3"), study)
    assert {p.name for p in (study / "replaced" / "t").iterdir()} == {"w.txt"}  # the last one


def test_progress_names_what_is_running(study: Path) -> None:
    told: list[tuple[str, float]] = []
    units = [_unit("a"), _unit("b", "a")]
    run_plan(units, study, engine=Engine(), progress=lambda *line: told.append(line))
    assert told == [("a", 0.0), ("b", 0.5)]


def test_a_unit_waits_for_others_whose_results_do_not_count(study: Path) -> None:
    (study / "list.json").write_text("[1]")
    lists = Unit("a", ("make", "a.txt", "0.3"), (), ("a.txt",), always=True)
    reader = Unit("b", ("make", "b.txt", "0"), (), ("b.txt",), ("list.json",), ("a",))
    run_plan([reader, lists], study, engine=Engine(at_once=2))
    (study / "a.txt").write_text("other")
    run_plan([reader, lists], study, engine=Engine())
    assert _calls(study) == ["a.txt", "b.txt", "a.txt"]  # 'a' at every start
    kept = (study / "units" / "a.json").read_text()
    run_plan([reader, lists], study, engine=Engine())
    assert _calls(study) == ["a.txt", "b.txt", "a.txt", "a.txt"]
    assert (study / "units" / "a.json").read_text() == kept  # its time is that of the making
    (study / "list.json").write_text("[2]")
    run_plan([reader, lists], study, engine=Engine())
    assert _calls(study)[4:] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_a_damaged_record_is_no_record(study: Path, damage: bytes) -> None:
    units = [_unit("a"), _unit("b", "a")]
    run_plan(units, study, engine=Engine())
    (study / "units" / "a.json").write_bytes(damage)
    assert not is_finished(units[0], study)
    run_plan(units, study, engine=Engine())
    assert _calls(study) == ["a.txt", "b.txt", "a.txt"]


def test_half_written_files_of_a_killed_process_are_not_results(study: Path) -> None:
    unit = Unit("a", ("make", "lists/one.json", "0"), (), ("lists/*.json",))
    run_unit(unit, study)
    (study / "lists" / ".77-two.json").write_text("half")
    assert is_finished(unit, study)


def test_a_failure_while_the_lock_is_held_is_told_as_it_is(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object, **__: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(engine.subprocess, "Popen", no_process)
    with pytest.raises(BlockingIOError, match="no more processes"):
        run_unit(_unit("a"), study)


def test_a_failed_unit_stops_those_that_need_it_and_no_other(study: Path) -> None:
    units = [_unit("a", what="fail"), _unit("b", "a"), _unit("c")]
    with pytest.raises(OutputError, match="2 of 3 units are not finished; first a"):
        run_plan(units, study, engine=Engine())
    assert _calls(study) == ["c.txt"]
    assert "made" not in read_json(study / "units" / "a.json")
    with pytest.raises(OutputError, match="made none"):
        run_unit(Unit("e", ("nothing", "e.txt", "0"), (), ("other.txt",)), study)


def test_patterns_stand_for_the_exams_of_a_list(study: Path) -> None:
    (study / "list.json").write_text('[{"case": "x"}, {"case": "y"}]')
    unit = Unit("p", ("make", "out/x/done", "0"), (), ("out/{case}/done",), cases="list.json")
    with pytest.raises(OutputError, match="made none"):  # y is missing
        run_unit(unit, study)
    (study / "out" / "y").mkdir()
    (study / "out" / "y" / "done").write_text("made")
    run_unit(unit, study)
    assert set(read_json(study / "units" / "p.json")["made"]) == {"out/x/done", "out/y/done"}


@pytest.mark.slow
def test_a_unit_that_outlives_its_killed_starter_is_waited_for_never_run_beside_it(
    study: Path,
) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(engine.__file__).parents[2])!r})\n"
        "from osteosap.study.engine import run_unit\nfrom osteosap.study.plan import Unit\n"
        f"run_unit(Unit('a', ('make', 'a.txt', '3'), (), ('a.txt',)), Path({str(study)!r}))\n"
    )
    code = str(study.parent / "code")
    starter = subprocess.Popen([sys.executable, "-c", _keeping(script, code)])
    while not list((study / "units").glob("a.log")) and starter.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    starter.kill()
    starter.wait()
    assert not (study / "a.txt").exists()
    unit = Unit("a", ("make", "a.txt", "3"), (), ("a.txt",))
    started = time.monotonic()
    run_unit(unit, study)
    assert time.monotonic() - started > 1.0  # it waited for the first one
    assert is_finished(unit, study)


@pytest.mark.slow
def test_an_interrupt_ends_a_wait_for_another_start_and_what_runs_meanwhile(study: Path) -> None:
    """Unit 'a' is held by somebody, 'b' runs: Ctrl-C reaches the starter alone."""
    script = (
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored after 'nohup'
        f"sys.path.insert(0, {str(Path(engine.__file__).parents[2])!r})\n"
        "from osteosap.study.engine import Engine, run_plan\n"
        "from osteosap.study.plan import Unit\n"
        "units = [Unit(n, ('make', n + '.txt', '60'), (), (n + '.txt',)) for n in 'ab']\n"
        f"run_plan(units, Path({str(study)!r}), engine=Engine(at_once=2))\n"
    )
    (study / "units").mkdir()
    with engine._lock(study / "units" / ".a.lock", threading.Event()) as held:
        held.write("4321\n")
        held.flush()
        starter = subprocess.Popen(
            [sys.executable, "-c", _keeping(script, str(study.parent / "code"))],
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (study / "units" / "b.json").exists() and starter.poll() is None:
            time.sleep(0.05)
        time.sleep(1.0)
        starter.send_signal(signal.SIGINT)
        try:
            _, told = starter.communicate(timeout=30)
        finally:
            starter.kill()
            starter.wait()
    assert "KeyboardInterrupt" in told
    assert "a is still being made by an earlier start (process 4321); waiting" in told
    assert not (study / "b.txt").exists()


def test_a_plan_of_other_settings_is_not_finished_nor_what_needs_it(study: Path) -> None:
    (study / "settings.yaml").write_text("x: 1")
    first = Unit("a", ("make", "a.txt", "0"), (), ("a.txt",), ("settings.yaml",))
    units = [first, _unit("b", "a"), _unit("c")]
    run_plan(units, study, engine=Engine())
    assert finished_units(units, study) == {"a", "b", "c"}
    assert finished_units(units, study, settings={"settings.yaml": "x: 1"}) == {"a", "b", "c"}
    assert finished_units(units, study, settings={"settings.yaml": "x: 2"}) == {"c"}
    assert finished_units(units, study / "absent") == set()


def _keeping(script: str, code: str) -> str:
    """The script, whose units run the stand-in although it imports the real package."""
    return f"import os\nos.environ['PYTHONPATH'] = {code!r}\n{script}"
