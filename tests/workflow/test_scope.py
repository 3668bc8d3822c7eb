"""Parts of the main job: from and to a stage, and files that only pass through."""

import json
import logging

import pytest

from osteosap.errors import ConfigError, InputError
from osteosap.exam import ExamPaths
from osteosap.manifest import RunManifest
from osteosap.stage import Scope
from osteosap.workflow import STAGES, RunConfig, run_exam

NAMES = [stage.name for stage in STAGES]


def files_of(out):
    return {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}


def test_the_job_stops_after_the_last_stage_of_the_scope(study, tmp_path, config, calls_of):
    calls = calls_of()
    manifest = run_exam(study, tmp_path / "out", config=config, scope=Scope(last="preprocess"))
    assert calls == ["ingest", "preprocess"]
    assert [record.stage for record in manifest.stages] == calls
    assert ExamPaths(tmp_path / "out")["t1"].exists()
    assert not ExamPaths(tmp_path / "out")["skeleton"].exists()


def test_a_job_that_was_stopped_goes_on_from_there(study, tmp_path, config, calls_of):
    run_exam(study, tmp_path / "out", config=config, scope=Scope(last="preprocess"))
    calls = calls_of()
    run_exam(study, tmp_path / "out", config=config)
    assert calls == ["segment", "measure", "report"]


def test_from_a_stage_on_everything_is_run_anew(study, tmp_path, config, calls_of):
    run_exam(study, tmp_path / "out", config=config)
    calls = calls_of()
    run_exam(study, tmp_path / "out", config=config, scope=Scope(first="measure"))
    assert calls == ["measure", "report"]


def test_a_single_stage_can_be_run(study, tmp_path, config, calls_of):
    run_exam(study, tmp_path / "out", config=config)
    calls = calls_of()
    scope = Scope(first="segment", last="segment")
    run_exam(study, tmp_path / "out", config=config, scope=scope)
    assert calls == ["segment"]


def test_beginning_in_the_middle_of_nothing_is_refused(study, tmp_path, config):
    with pytest.raises(InputError, match="'ingest' has not been run"):
        run_exam(study, tmp_path / "out", config=config, scope=Scope(first="segment"))
    assert not (tmp_path / "out").exists()


def test_beginning_after_a_changed_result_is_refused(study, tmp_path, config):
    run_exam(study, tmp_path / "out", config=config)
    ExamPaths(tmp_path / "out")["t1"].write_bytes(b"mine")
    with pytest.raises(InputError, match="'preprocess' was run, but its files were changed"):
        run_exam(study, tmp_path / "out", config=config, scope=Scope(first="segment"))


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        (Scope(first="segmant"), "no stage 'segmant'"),
        (Scope(last="reports"), "no stage 'reports'"),
        (Scope(first="report", last="ingest"), "comes after"),
    ],
)
def test_a_scope_that_cannot_be_is_refused_with_the_names(study, tmp_path, config, scope, said):
    with pytest.raises(ConfigError, match=said) as caught:
        run_exam(study, tmp_path / "out", config=config, scope=scope)
    assert "ingest, preprocess, segment, measure, report" in str(caught.value)


def test_stations_pass_through_and_are_on_record(study, tmp_path, config):
    manifest = run_exam(study, tmp_path / "out", config=config)
    record = manifest.record_of("ingest")
    assert record.removed
    assert all(name.startswith("stations/") and name.endswith(".nii.gz") for name in record.removed)
    assert set(record.removed) <= set(record.outputs)
    left = {name for name in files_of(tmp_path / "out") if name.startswith("stations/")}
    assert left == {"stations/series.json"}
    assert RunManifest.load(ExamPaths(tmp_path / "out")["run"]) == manifest


def test_stations_stay_while_someone_still_has_to_read_them(study, tmp_path, config):
    run_exam(study, tmp_path / "out", config=config, scope=Scope(last="ingest"))
    assert any(name.endswith("dwi_b1000.nii.gz") for name in files_of(tmp_path / "out"))


def test_stations_that_are_gone_are_read_again_when_needed(study, tmp_path, config, calls_of):
    run_exam(study, tmp_path / "out", config=config)
    calls = calls_of()
    values = config.to_mapping()
    values["preprocess"]["min_coverage"] = 0.2
    run_exam(study, tmp_path / "out", config=RunConfig.from_mapping(values))
    assert calls[:2] == ["ingest", "preprocess"]


def test_stations_are_kept_on_demand_as_read_and_as_corrected(study, tmp_path, config, calls_of):
    out = tmp_path / "out"
    run_exam(study, out, config=config)
    calls = calls_of()
    run_exam(study, out, config=config, scope=Scope(keep=True))
    assert calls == ["ingest", "preprocess"]  # same exam, so that what follows is kept
    files = files_of(out)
    assert {"exam/stations/t1_1.nii.gz", "exam/stations/dwi_1_b1000.nii.gz"} <= files
    assert any(name.startswith("stations/") and name.endswith(".nii.gz") for name in files)
    run_exam(study, out, config=config, scope=Scope(keep=True))
    assert calls == ["ingest", "preprocess"]
    run_exam(study, out, config=config)
    assert not any(name.startswith("exam/stations/") for name in files_of(out))
    assert calls == ["ingest", "preprocess"]


def test_a_run_after_stations_were_removed_does_nothing(study, tmp_path, config, caplog):
    run_exam(study, tmp_path / "out", config=config)
    with caplog.at_level(logging.INFO, "osteosap"):
        run_exam(study, tmp_path / "out", config=config)
    assert caplog.text.count("kept") == len(STAGES)


def test_the_manifest_of_another_schema_is_refused(study, tmp_path, config):
    run_exam(study, tmp_path / "out", config=config)
    path = ExamPaths(tmp_path / "out")["run"]
    content = json.loads(path.read_text()) | {"schema": "osteosap run 1"}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="not a run manifest"):
        run_exam(study, tmp_path / "out", config=config)
