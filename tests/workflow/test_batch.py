"""Many studies, each in a process of its own."""

import csv
import json
import os
import signal
import time

import pytest

from osteosap import batch as module
from osteosap.batch import Batch, find_studies, fit_cohort_standard, run_batch, write_overview
from osteosap.errors import InputError, OutputError
from osteosap.exam import ExamPaths, write_exam
from osteosap.preprocess.standardise import Standard
from osteosap.stage import Scope


@pytest.fixture
def studies(body_exam, tmp_path):
    folder = tmp_path / "studies"
    for name in ("one", "two", "broken"):
        write_exam(body_exam, folder / name)
        (folder / name / "exam.json").write_text(json.dumps({"simulated": True}))
    (folder / "broken" / "b1000.nii.gz").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_one_bad_study_does_not_stop_the_others(studies, tmp_path, config):
    out = tmp_path / "out"
    seen = []
    outcomes = run_batch(
        find_studies(studies),
        out,
        batch=Batch(config, Scope(last="preprocess"), workers=2),
        progress=lambda text, fraction: seen.append((text, fraction)),
    )
    assert [one.name for one in outcomes] == ["broken", "one", "two"]
    assert outcomes[0].error
    assert "b1000" in outcomes[0].error
    assert not outcomes[1].error
    assert not outcomes[2].error
    assert not (out / "broken").exists()
    for name in ("one", "two"):
        assert ExamPaths(out / name)["t1"].exists()
        assert not ExamPaths(out / name)["skeleton"].exists()
    assert seen[-1] == ("3 of 3 studies", 1.0)
    rows = list(csv.DictReader(write_overview(outcomes, out).read_text().splitlines()))
    assert [row["state"] for row in rows] == ["failed", "done", "done"]
    assert float(rows[1]["coverage"]) == pytest.approx(1.0, abs=0.01)
    standard = fit_cohort_standard([out / "one", out / "two"], out / "standard.json")
    assert standard.n_exams == 2
    assert Standard.from_json((out / "standard.json").read_text()) == standard
    (again,) = run_batch(
        [studies / "one"], out, batch=Batch(config, Scope(last="preprocess"), workers=1)
    )
    assert again.state == "kept"


def test_a_killed_process_is_told_with_its_likely_cause(studies, tmp_path, config, monkeypatch):
    monkeypatch.setattr(module, "_work", kill_itself)
    (only,) = run_batch([studies / "one"], tmp_path / "out", batch=Batch(config))
    assert "killed" in only.error
    assert "fewer workers" in only.error


def kill_itself(sender, task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_interrupt_ends_every_process(studies, tmp_path, config, monkeypatch):
    monkeypatch.setattr(module, "_work", wait_long)

    def interrupt(_text, _fraction):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "as_completed", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_batch(find_studies(studies), tmp_path / "out", batch=Batch(config, workers=2))
    assert time.monotonic() - begun < 30


def wait_long(sender, task):
    time.sleep(300)


def interrupted(_jobs):
    time.sleep(3)  # processes have started by now
    raise KeyboardInterrupt


def test_no_study_and_equal_names_are_refused(tmp_path, config):
    with pytest.raises(InputError, match="no folder"):
        find_studies(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it is empty"):
        find_studies(tmp_path / "empty")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "image.dcm").write_text("")
    with pytest.raises(InputError, match="1 files and no folder") as caught:
        find_studies(tmp_path / "one")
    assert "osteosap run" in caught.value.remedy
    with pytest.raises(InputError, match="1 different names"):
        run_batch([tmp_path / "a" / "x", tmp_path / "b" / "x"], tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        run_batch([tmp_path / "empty"], tmp_path / "file")


def test_workers_follow_cores_and_memory_unless_they_are_set():
    assert Batch(workers=3).n_workers == 3
    assert 1 <= Batch().n_workers <= (os.cpu_count() or 1)
