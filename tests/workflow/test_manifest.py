import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from osteosap.errors import InputError, OutputError
from osteosap.exam import ExamPaths
from osteosap.manifest import (
    PARTIAL,
    RunManifest,
    StageRecord,
    atomic_outputs,
    checksums,
    replace_on_success,
    require_own,
    software_versions,
    stage_key,
    study_checksum,
    write_text,
)


def record(stage="ingest", **changes) -> StageRecord:
    values = {
        "stage": stage, "key": "k", "config": {"a": 1}, "config_hash": "h", "inputs": {},
        "outputs": {}, "versions": software_versions(), "device": "cpu",
        "started": "2026-01-01T00:00:00+00:00", "seconds": 1.5, "warnings": ("mind",),
    }  # fmt: skip
    return StageRecord(**(values | changes))


def test_a_manifest_reads_back_as_saved(tmp_path):
    manifest = RunManifest((record("ingest"), record("segment")))
    manifest.save(tmp_path / "run.json")
    assert RunManifest.load(tmp_path / "run.json") == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_no_manifest_is_an_empty_one(tmp_path):
    assert RunManifest.load(tmp_path / "run.json") == RunManifest()


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "other", "stages": []}', '{"stages": 3}'])
def test_a_foreign_run_json_is_an_input_error(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match="not a run manifest"):
        RunManifest.load(tmp_path / "run.json")


def test_a_record_of_unknown_fields_is_refused(tmp_path):
    RunManifest((record(),)).save(tmp_path / "run.json")
    content = json.loads((tmp_path / "run.json").read_text())
    content["stages"][0]["more"] = 1
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="more"):
        RunManifest.load(tmp_path / "run.json")


def test_a_new_record_replaces_that_of_its_stage_in_place():
    manifest = RunManifest((record("ingest"), record("segment")))
    changed = manifest.with_record(record("ingest", key="new"))
    assert [r.stage for r in changed.stages] == ["ingest", "segment"]
    assert changed.record_of("ingest").key == "new"
    assert changed.without(["ingest"]).record_of("ingest") is None


def test_a_key_hangs_on_stage_settings_and_inputs():
    keys = {
        stage_key("a", "h", {"x": "1"}), stage_key("b", "h", {"x": "1"}),
        stage_key("a", "i", {"x": "1"}), stage_key("a", "h", {"x": "2"}),
    }  # fmt: skip
    assert len(keys) == 4
    assert stage_key("a", "h", {"x": "1", "y": "2"}) == stage_key("a", "h", {"y": "2", "x": "1"})


def test_outputs_are_intact_until_one_changes_or_goes(tmp_path):
    (tmp_path / "skeleton.nii.gz").write_text("1")
    found = checksums(ExamPaths(tmp_path), ["skeleton"])
    kept = record(outputs=found)
    assert kept.is_intact(tmp_path)
    (tmp_path / "skeleton.nii.gz").write_text("2")
    assert not kept.is_intact(tmp_path)
    (tmp_path / "skeleton.nii.gz").unlink()
    assert not kept.is_intact(tmp_path)


def test_a_key_of_a_folder_stands_for_its_files(tmp_path):
    stations = ExamPaths(tmp_path)["stations"]
    stations.mkdir()
    (stations / "b").write_text("b")
    (stations / "a").write_text("a")
    assert list(checksums(ExamPaths(tmp_path), ["stations"])) == ["stations/a", "stations/b"]


def test_a_study_checksum_sees_content_and_names_but_not_the_place(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("x")
    one, two = (study_checksum(tmp_path / name) for name in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "deep" / "file").write_text("y")
    assert study_checksum(tmp_path / "two") != one


def test_files_appear_only_when_the_block_has_ended_well(tmp_path):
    root = tmp_path / "out"
    with atomic_outputs(root, ["skeleton", "t1"]) as aside:
        for key in ("skeleton", "t1"):
            aside[key].parent.mkdir(exist_ok=True)
            aside[key].write_text(key)
        assert not ExamPaths(root)["skeleton"].exists()
    assert ExamPaths(root)["t1"].read_text() == "t1"
    assert sorted(p.name for p in root.iterdir()) == ["exam", "skeleton.nii.gz"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("old", "new"):
        with atomic_outputs(tmp_path, ["stations"]) as aside:
            aside["stations"].mkdir()
            (aside["stations"] / name).touch()
    assert [p.name for p in ExamPaths(tmp_path)["stations"].iterdir()] == ["new"]


def test_an_optional_file_that_is_not_written_again_goes(tmp_path):
    for written in (True, False):
        with atomic_outputs(tmp_path, ["t1"], optional=["adc"]) as aside:
            aside["t1"].parent.mkdir()
            aside["t1"].touch()
            if written:
                aside["adc"].touch()
        assert ExamPaths(tmp_path)["adc"].exists() == written


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_after_an_error_everything_is_as_before(tmp_path, error):
    root = tmp_path / "out"
    root.mkdir()
    (root / "skeleton.nii.gz").write_text("old")

    def write_and_fail() -> None:
        with atomic_outputs(root, ["skeleton"]) as aside:
            aside["skeleton"].write_text("new")
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert [p.name for p in root.iterdir()] == ["skeleton.nii.gz"]
    assert (root / "skeleton.nii.gz").read_text() == "old"


def test_a_file_that_was_promised_and_not_written_is_an_error(tmp_path):
    root = tmp_path / "out"
    with pytest.raises(OutputError, match="did not write t1"), atomic_outputs(root, ["t1"]):
        pass
    assert not root.exists()


def test_a_full_disk_is_an_output_error_and_leaves_nothing(tmp_path):
    root = tmp_path / "a" / "out"
    with pytest.raises(OutputError, match="No space left"), atomic_outputs(root, ["t1"]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_reading_elsewhere_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_outputs(tmp_path / "out", ["t1"]):
        (tmp_path / "absent").read_text()


def test_a_place_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot write"),
        replace_on_success(tmp_path / "file/out"),
    ):
        pass


def test_what_a_killed_run_left_aside_is_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f"{PARTIAL}{gone.pid}").mkdir()
    (tmp_path / f"{PARTIAL}{os.getppid()}").mkdir()
    with replace_on_success(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [f"{PARTIAL}{os.getppid()}"]


def test_a_run_that_is_interrupted_from_outside_cleans_up(tmp_path):
    code = (
        "import signal, sys, time; from pathlib import Path\n"
        "from osteosap.manifest import atomic_outputs\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # off in background jobs\n"
        "with atomic_outputs(Path(sys.argv[1]), ['t1']) as aside:\n"
        "    (aside.root / 'half').write_text('x'); print('ready', flush=True); time.sleep(60)\n"
    )
    root = tmp_path / "out"
    command = [sys.executable, "-c", code, str(root)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        assert (root / f"{PARTIAL}{process.pid}" / "half").exists()
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        ended = process.poll() is not None
        process.kill()
    assert ended
    assert not root.exists()


def test_versions_name_only_what_is_loaded():
    versions = software_versions()
    assert {"osteosap", "python", "numpy"} <= set(versions)
    assert ("torch" in versions) == ("torch" in sys.modules)


def test_a_file_in_the_place_of_a_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "file" / "report.html", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "folder", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_text_is_written_in_utf_8_whatever_the_locale(tmp_path):
    write_text(tmp_path / "a.txt", "b = 1000 s/mm\N{SUPERSCRIPT TWO}\n")
    assert (tmp_path / "a.txt").read_bytes() == b"b = 1000 s/mm\xc2\xb2\n"


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_self, _target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_only_files_on_record_may_be_replaced(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("deep/a", "deep/er/b", "c"):
        (tmp_path / name).touch()
    require_own(tmp_path, ["deep", "c", "absent"], ["deep/a", "deep/er/b", "c"])
    require_own(tmp_path, ["c"], ["c"])
    with pytest.raises(OutputError, match="1 files, such as deep/er/b"):
        require_own(tmp_path, ["deep", "c"], ["deep/a", "c"])
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="link"):
        require_own(tmp_path, ["link"], [])
