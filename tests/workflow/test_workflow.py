import json
import logging

import numpy as np
import pytest

from osteosap import workflow
from osteosap.errors import ConfigError, InputError, OutputError, StudyError
from osteosap.exam import ExamPaths, StationImage, read_exam
from osteosap.manifest import RunManifest
from osteosap.stage import STUDY, Scope, Stage
from osteosap.volume import Volume, read_nifti
from osteosap.workflow import STAGES, RunConfig, run_exam


def started(manifest: RunManifest) -> dict[str, tuple[str, float]]:
    return {record.stage: (record.started, record.seconds) for record in manifest.stages}


def test_every_stage_reads_only_what_an_earlier_one_writes():
    known = {STUDY}
    for stage in STAGES:
        assert set(stage.reads) <= known, stage.name
        known |= {*stage.writes, *stage.may_write}
    assert known - {STUDY} == set(ExamPaths.FILES) - {"run"}


def test_the_settings_have_one_block_a_stage_of_its_class():
    fields = RunConfig.model_fields
    assert list(fields) == [stage.name for stage in STAGES]
    assert all(fields[stage.name].annotation is stage.config for stage in STAGES)


def test_a_setting_of_an_unknown_stage_is_refused():
    with pytest.raises(ConfigError, match="ingest, preprocess, segment, measure, report"):
        RunConfig.from_mapping({"segmant": {}})


def test_a_study_becomes_masks_measurements_and_a_report(study, tmp_path, config):
    out = tmp_path / "new" / "out"
    manifest = run_exam(study, out, config=config, scope=Scope(keep=True))
    paths = ExamPaths(out)
    assert [key for key in ExamPaths.FILES if not paths[key].exists()] == []
    assert [record.stage for record in manifest.stages] == [stage.name for stage in STAGES]
    assert RunManifest.load(paths["run"]) == manifest
    exam = read_exam(out)
    assert exam.images.channels == ("t1", "b1000", "adc")
    assert read_nifti(paths["lesions"], channel="lesions").array.dtype == np.int32
    assert not list(out.rglob(".*"))


def test_what_is_simulated_is_called_simulated_to_the_end(study, tmp_path, config):
    run_exam(study, tmp_path / "out", config=config)
    paths = ExamPaths(tmp_path / "out")
    assert json.loads(paths["measurements"].read_text())["provenance"]["simulated"] is True
    assert "simulated" in paths["report"].read_text().lower()


def test_results_hold_no_path_of_the_study(study, tmp_path, config):
    named = study.rename(tmp_path / "DOE_JOHN")
    run_exam(named, tmp_path / "out", config=config)
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".json", ".html", ".csv"):
            assert "DOE_JOHN" not in file.read_text(), file


def test_a_second_run_does_nothing_and_says_so(study, tmp_path, config, calls_of, caplog):
    calls = calls_of()
    first = run_exam(study, tmp_path / "out", config=config)
    assert len(calls) == len(STAGES)
    with caplog.at_level(logging.INFO, "osteosap"):
        second = run_exam(study, tmp_path / "out", config=config)
    assert len(calls) == len(STAGES)
    assert started(first) == started(second)
    assert caplog.text.count("kept") == len(STAGES)


def test_force_runs_every_stage_again(study, tmp_path, config, calls_of):
    run_exam(study, tmp_path / "out", config=config)
    calls = calls_of()
    run_exam(study, tmp_path / "out", config=config, scope=Scope(force=True))
    assert calls == [stage.name for stage in STAGES]


def test_another_threshold_runs_only_what_hangs_on_it(study, tmp_path, config, calls_of):
    run_exam(study, tmp_path / "out", config=config)
    calls = calls_of()
    values = config.to_mapping() | {"measure": {"candidates": {"threshold": 0.9}}}
    run_exam(study, tmp_path / "out", config=RunConfig.from_mapping(values))
    assert calls == ["measure", "report"]


@pytest.mark.slow
def test_a_damaged_output_is_made_again(study, tmp_path, config, calls_of):
    run_exam(study, tmp_path / "out", config=config)
    ExamPaths(tmp_path / "out")["skeleton"].write_bytes(b"damaged")
    calls = calls_of()
    run_exam(study, tmp_path / "out", config=config)
    assert calls[0] == "segment"


@pytest.mark.slow
def test_other_weights_under_the_same_name_are_noticed(study, tmp_path, config, calls_of):
    copies = tmp_path / "weights"
    copies.mkdir()
    values = config.to_mapping()
    for task in ("skeleton", "lesion"):
        source = getattr(config.segment, f"{task}_weights")
        (copies / f"{task}.safetensors").write_bytes(source.read_bytes())
        values["segment"][f"{task}_weights"] = str(copies / f"{task}.safetensors")
    own = RunConfig.from_mapping(values)
    run_exam(study, tmp_path / "out", config=own)
    change_weights(copies / "lesion.safetensors")
    calls = calls_of()
    run_exam(study, tmp_path / "out", config=own)
    assert calls[0] == "segment"


def change_weights(path):
    from osteosap.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

    old = load_checkpoint(path)
    save_checkpoint(
        Checkpoint(old.spec, old.metadata, {k: v + 0.01 for k, v in old.state.items()}), path
    )


def test_results_of_another_study_do_not_stay_when_the_new_one_fails(
    study, tmp_path, config, body_exam, monkeypatch
):
    out = tmp_path / "out"
    run_exam(study, out, config=config)
    from osteosap.volume import write_nifti

    changed = Volume.single(body_exam.images.channel("t1") + 1.0, body_exam.images.affine, "t1")
    write_nifti(changed, study / "t1.nii.gz")

    def broken(_context):
        raise InputError("segmentation cannot go on", remedy="Try again")

    stages = tuple(
        Stage(**{**vars(s), "run": broken}) if s.name == "segment" else s for s in STAGES
    )
    monkeypatch.setattr(workflow, "STAGES", stages)
    with pytest.raises(InputError, match="cannot go on"):
        run_exam(study, out, config=config)
    paths = ExamPaths(out)
    assert paths["t1"].exists()
    assert not paths["report"].exists()
    assert not paths["skeleton"].exists()
    assert [r.stage for r in RunManifest.load(paths["run"]).stages] == ["ingest", "preprocess"]
    assert not list(out.glob(".*"))


def test_without_adc_the_chain_runs_and_measures_no_adc(study, tmp_path, config):
    out = tmp_path / "out"
    run_exam(study, out, config=config)
    (study / "adc.nii.gz").unlink()
    manifest = run_exam(study, out, config=config)
    assert not ExamPaths(out)["adc"].exists()
    summary = json.loads(ExamPaths(out)["measurements"].read_text())
    assert summary["adc_um2_per_s"] is None
    assert any("adc" in text.lower() for text in manifest.record_of("ingest").warnings)


@pytest.mark.parametrize("error", [InputError("x", remedy="y"), KeyboardInterrupt(), ValueError()])
def test_a_first_stage_that_fails_leaves_no_output_folder(
    study, tmp_path, config, monkeypatch, error
):
    def broken(context):
        context.aside["stations"].mkdir()
        (context.aside["stations"] / "half.nii.gz").write_bytes(b"half")
        raise error

    first = Stage(**{**vars(STAGES[0]), "run": broken})
    monkeypatch.setattr(workflow, "STAGES", (first, *STAGES[1:]))
    with pytest.raises(type(error)):
        run_exam(study, tmp_path / "deep" / "out", config=config)
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("missing", ["t1", "b1000"])
def test_a_nifti_study_without_a_network_input_is_refused(study, tmp_path, config, missing):
    (study / f"{missing}.nii.gz").unlink()
    with pytest.raises(InputError, match=missing):
        run_exam(study, tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path, config):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="no DICOM"):
        run_exam(tmp_path / "empty", tmp_path / "out", config=config)
    with pytest.raises(InputError, match="no folder"):
        run_exam(tmp_path / "absent", tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_results_never_go_into_the_study(study):
    for out in (study, study / "out"):
        with pytest.raises(OutputError, match="inside the study"):
            run_exam(study, out)


def test_an_output_that_is_a_file_is_refused(study, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        run_exam(study, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_simulated_dicom_study_runs_and_is_called_simulated(body_exam, tmp_path, config):
    from osteosap.dicom import DicomWriterConfig, write_study

    images = body_exam.images
    t1, b1000 = images.channel("t1"), images.channel("b1000")
    b0 = b1000 * np.exp(images.channel("adc") * 1e-6 * 1000)
    stations = [StationImage(Volume.single(t1, images.affine, "t1"), "t1", group="t1")]
    for b_value, array in ((0.0, b0), (1000.0, b1000)):
        volume = Volume.single(array, images.affine, "dwi")
        stations.append(StationImage(volume, "dwi", b_value, group="dwi"))
    write_study(stations, tmp_path / "dicom", config=DicomWriterConfig())
    run_exam(tmp_path / "dicom", tmp_path / "out", config=config)
    paths = ExamPaths(tmp_path / "out")
    series = json.loads(paths["series"].read_text())
    assert series["simulated"] is True
    assert {entry["role"] for entry in series["series"]} >= {"t1", "dwi"}
    adc = read_exam(tmp_path / "out").images.channel("adc")
    inside = read_exam(tmp_path / "out").images.channel("t1") > 150
    assert np.median(adc[inside]) == pytest.approx(1000, rel=0.05)
