"""What belongs to the user stays, and what cannot end well does not begin."""

import json
import os
import shutil
import sys

import numpy as np
import pytest

from osteosap.errors import CheckpointError, ConfigError, OutputError
from osteosap.exam import ExamPaths, write_exam
from osteosap.manifest import RunManifest
from osteosap.stage import STUDY, Scope, StageContext
from osteosap.volume import read_nifti
from osteosap.workflow import STAGES, RunConfig, run_exam


def content_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["exam", "stations"])
def test_a_study_is_never_replaced_by_its_results(body_exam, tmp_path, config, name):
    parent = tmp_path / "mine"
    write_exam(body_exam, parent / name)
    before = content_of(parent)
    with pytest.raises(OutputError, match=r"where the study .* lies.*empty folder"):
        run_exam(parent / name, parent, config=config)
    assert content_of(parent) == before


def test_a_link_does_not_lead_results_into_the_study(study, tmp_path, config):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stations").symlink_to(study)
    before = content_of(study)
    with pytest.raises(OutputError, match="lies"):
        run_exam(study, tmp_path / "out", config=config)
    assert content_of(study) == before


def test_a_study_beside_its_results_is_fine(body_exam, tmp_path, config):
    write_exam(body_exam, tmp_path / "study")
    run_exam(tmp_path / "study", tmp_path, config=config)
    assert ExamPaths(tmp_path)["report"].is_file()


@pytest.mark.parametrize(
    "file", ["exam/t1.nii.gz", "stations/notes.txt", "lesions.csv", "exam/adc.nii.gz"]
)
def test_files_that_no_run_has_on_record_are_not_replaced(study, tmp_path, config, file):
    mine = tmp_path / "out" / file
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputError, match=rf"{file}.*no record.*empty folder"):
        run_exam(study, tmp_path / "out", config=config)
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_a_file_put_beside_the_stations_of_an_earlier_run_is_not_deleted(study, tmp_path, config):
    run_exam(study, tmp_path / "out", config=config)
    mine = tmp_path / "out" / "stations" / "notes.txt"
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"stations/notes\.txt"):
        run_exam(study, tmp_path / "out", config=config, scope=Scope(force=True))
    assert mine.read_text() == "mine"


def test_a_run_json_that_claims_files_elsewhere_is_refused(study, tmp_path, config):
    out = tmp_path / "out"
    run_exam(study, out, config=config)
    content = json.loads((out / "run.json").read_text())
    content["stages"][2]["outputs"]["../mine.txt"] = "0"
    (out / "run.json").write_text(json.dumps(content))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Exception, match="an output outside the folder"):
        run_exam(study, out, config=config)
    assert (tmp_path / "mine.txt").exists()


def refused_before_anything(study, out, config, calls, error):
    with pytest.raises(error) as caught:
        run_exam(study, out, config=config)
    assert calls == []
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("case", ["absent", "exchanged", "foreign"])
def test_weights_that_do_not_fit_are_refused_before_the_work(
    study, tmp_path, weights, calls_of, case
):
    (tmp_path / "foreign.safetensors").write_text("no weights")
    chosen = {
        "absent": tmp_path / "absent.safetensors",
        "exchanged": weights["skeleton"],
        "foreign": tmp_path / "foreign.safetensors",
    }[case]
    values = {"skeleton_weights": weights["skeleton"], "lesion_weights": chosen, "device": "cpu"}
    config = RunConfig.from_mapping({"segment": values})
    refused_before_anything(study, tmp_path / "out", config, calls_of(), CheckpointError)


def test_a_device_that_is_not_there_is_refused_before_the_work(
    study, tmp_path, config, calls_of, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cuda = config.on_device("cuda")
    said = refused_before_anything(study, tmp_path / "out", cuda, calls_of(), ConfigError)
    assert "no GPU" in said


@pytest.fixture(params=["SimpleITK", "osteosap.reporting.exam_report"])
def _missing_library(request, monkeypatch):
    monkeypatch.setitem(sys.modules, request.param, None)


@pytest.mark.usefixtures("_missing_library")
def test_a_library_that_is_missing_is_noticed_before_the_work(study, tmp_path, config, calls_of):
    refused_before_anything(study, tmp_path / "out", config, calls_of(), ModuleNotFoundError)


def test_a_run_holds_no_folder_of_the_weights(study, tmp_path, config, weights):
    run_exam(study, tmp_path / "out", config=config)
    folder = str(weights["skeleton"].parent)
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".json", ".html", ".csv"):
            assert folder not in file.read_text(), file
    record = RunManifest.load(tmp_path / "out" / "run.json").record_of("segment")
    assert record.config["skeleton_weights"] == "skeleton.safetensors"
    assert "weights/skeleton" in record.inputs


def test_weights_may_move_between_two_runs(study, tmp_path, config, weights, calls_of):
    run_exam(study, tmp_path / "out", config=config)
    moved = shutil.copytree(weights["skeleton"].parent, tmp_path / "moved")
    values = config.to_mapping()
    for key in ("skeleton_weights", "lesion_weights"):
        values["segment"][key] = str(moved / os.path.basename(values["segment"][key]))  # noqa: PTH119
    calls = calls_of()
    run_exam(study, tmp_path / "out", config=RunConfig.from_mapping(values))
    assert calls == []


def test_a_stage_reads_nothing_but_what_it_says(study, tmp_path, config):
    out = tmp_path / "out"
    run_exam(study, out, config=config, scope=Scope(keep=True))
    for stage in STAGES:
        if STUDY in stage.reads:
            continue
        copy, files = tmp_path / stage.name, ExamPaths.FILES
        shutil.copytree(out, copy)
        may_read = {copy / files[key] for key in stage.reads}
        for file in copy.rglob("*"):
            if file.is_file() and not may_read & {file, *file.parents}:
                file.write_bytes(b"not to be read")
        aside = ExamPaths(tmp_path / f"{stage.name}_aside")
        aside.root.mkdir()
        stage.run(StageContext(tmp_path, ExamPaths(copy), aside, config, lambda *_: None))
        assert all(aside[key].exists() for key in stage.writes), stage.name


def test_the_report_shows_the_lesions_of_the_table(study, tmp_path, config, monkeypatch):
    import osteosap.reporting.exam_report as page

    shown = []
    monkeypatch.setattr(page, "write_report", lambda path, content, config: shown.append(content))
    with pytest.raises(OutputError, match="did not write report"):
        run_exam(study, tmp_path / "out", config=config)
    (content,) = shown
    paths = ExamPaths(tmp_path / "out")
    rows = json.loads(paths["measurements"].read_text())["lesions"]
    assert [lesion.to_row() for lesion in content.findings] == rows
    found = np.unique(read_nifti(paths["lesions"], channel="lesions").array)
    assert len(rows) == np.count_nonzero(found)
