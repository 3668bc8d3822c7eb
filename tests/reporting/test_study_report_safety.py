"""The report of a study touches nothing that is not its own, and is never half written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from study_maker import ARMS, contents, copy_study, draw_only, edit

from osteosap.errors import InputError, OutputError
from osteosap.manifest import read_json
from osteosap.reporting import study_report
from osteosap.reporting.study_report import write_study_report
from osteosap.reporting.study_results import read_study

pytestmark = pytest.mark.usefixtures("coarse")


@pytest.mark.parametrize("name", ["../../cohort/patients/all/subject_1", "/etc", "..", "a\\b"])
def test_a_name_that_is_a_path_is_not_followed(
    name: str, simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copy_study(simulated_study, tmp_path / "study")
    for arm in ARMS:
        path = study / f"scores/{arm}/evaluation.json"
        exams = read_json(path)["exams"]
        edit(path, exams=[exam | {"exam": name} for exam in exams[:1]])
    draw_only(monkeypatch, pictures=True)
    paths = write_study_report(study)
    assert "scores/sap/evaluation.json cannot be read" in paths[0].read_text()
    assert [path.name for path in paths] == ["study.html", "study.md"]
    edit(study / "study.json", arms=[name])
    with pytest.raises(InputError, match="what was compared: arms"):
        write_study_report(study)


@pytest.mark.parametrize(
    "change",
    [
        {"arms": "sap"}, {"arms": []}, {"arms": None}, {"seeds": 42}, {"simulated": "no"},
        {"simulated": None},
    ],
)  # fmt: skip
def test_a_study_that_does_not_say_what_it_is_is_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "study.json").write_text('{"arms": ["sap"], "seeds": [42], "simulated": true}')
    assert read_study(tmp_path).arms == ("sap",)
    edit(tmp_path / "study.json", **change)
    with pytest.raises(InputError, match=f"does not say what was compared: {next(iter(change))}"):
        read_study(tmp_path)


def test_odd_settings_of_a_study_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"arms": ["sap"], "simulated": true}')
    edit(tmp_path / "study.json", config=[1], versions="9")
    found = read_study(tmp_path)
    assert (found.config, found.versions, found.profile) == ({}, {}, "unnamed")


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no study\.json"):
        write_study_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "study.json").write_text('{"arms": ')
    with pytest.raises(InputError, match="cannot be read as JSON"):
        write_study_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


@pytest.mark.parametrize("foreign", ["study.html", "study.md", "figures/mine.png"])
def test_foreign_files_are_not_replaced(
    foreign: str, simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_only(monkeypatch, pictures=False)
    out = tmp_path / "out"
    if foreign.startswith("figures"):
        write_study_report(simulated_study, out)
    (out / foreign).parent.mkdir(parents=True, exist_ok=True)
    (out / foreign).write_text("mine")
    before = contents(out)
    with pytest.raises(OutputError, match="no record"):
        write_study_report(simulated_study, out)
    assert contents(out) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        write_study_report(simulated_study, tmp_path / "file")


def test_a_second_report_replaces_the_first_and_its_figures(
    simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copy_study(simulated_study, tmp_path / "study")
    draw_only(monkeypatch, ("features",), pictures=False)
    assert study / "report/figures/features.png" in write_study_report(study)
    (study / "report/notes.txt").write_text("mine")
    shutil.rmtree(study / "features")
    edit(study / "study.json", profile="other")
    paths = write_study_report(study)
    assert "profile other" in paths[0].read_text()
    assert set(contents(study / "report")) == {
        "notes.txt", *(path.relative_to(study / "report").as_posix() for path in paths)
    }  # fmt: skip
    assert not (study / "report/figures/features.png").exists()


def test_a_failing_figure_leaves_everything_as_it_was(
    simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_only(monkeypatch, pictures=False)
    out = tmp_path / "new/out"
    with monkeypatch.context() as patch:
        patch.setattr(study_report, "exam_picture", _fail)
        with pytest.raises(ZeroDivisionError):
            write_study_report(simulated_study, out)
    assert list(tmp_path.iterdir()) == []
    write_study_report(simulated_study, out)
    before = contents(out)
    monkeypatch.setitem(study_report._CHARTS, "training", _fail)
    with pytest.raises(ZeroDivisionError):
        write_study_report(simulated_study, out)
    assert contents(out) == before


@pytest.mark.parametrize("last", range(8))
def test_a_write_that_is_killed_leaves_whole_pages_and_their_figures(
    last: int, simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_only(monkeypatch, pictures=False)
    out = tmp_path / "out"
    written = len(write_study_report(simulated_study, out))
    old, moved = contents(out), []
    monkeypatch.setattr(study_report, "exam_picture", lambda *_: b"newer")
    monkeypatch.setattr(study_report, "LIMITS", ("a newer limit",))
    plain = study_report.move_into_place

    def move(source: Path, target: Path) -> None:
        if len(moved) == last:
            raise KeyboardInterrupt
        moved.append(target)
        plain(source, target)

    monkeypatch.setattr(study_report, "move_into_place", move)
    if last < written:
        with pytest.raises(KeyboardInterrupt):
            write_study_report(simulated_study, out)
    else:
        write_study_report(simulated_study, out)
    now = contents(out)
    assert set(now) == set(old)  # nothing lacks, nothing is left aside
    for name in ("study.html", "study.md"):
        assert (b"a newer limit" in now[name]) is (out / name in moved)
        assert now[name].rstrip().endswith((b"</html>", b"100745."))
    monkeypatch.setattr(study_report, "move_into_place", plain)
    write_study_report(simulated_study, out)  # what is there is known to be ours
    assert b"a newer limit" in (out / "study.md").read_bytes()


def _fail(*_: object) -> bytes:
    raise ZeroDivisionError
