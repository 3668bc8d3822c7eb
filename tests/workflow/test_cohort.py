import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future

import numpy as np
import pytest

from osteosap.cohort import (
    _THREADS,
    CohortEntry,
    simulate_cohort,
    simulate_to_folder,
    simulate_training_exam,
)
from osteosap.errors import ConfigError, InputError, OsteosapError, OutputError
from osteosap.exam import read_exam
from osteosap.ingest import read_input
from osteosap.simulate import ScannerConfig, SimulationConfig

COARSE = ScannerConfig(
    n_stations=2, t1_spacing_mm=(10.0, 10.0, 10.0), dwi_spacing_mm=(10.0, 10.0, 10.0)
)


def coarse(seed: int, *, lesions: int = 4) -> SimulationConfig:
    return SimulationConfig(
        seed=seed, lesions=lesions, body_spacing_mm=(8.0, 8.0, 8.0), scanner=COARSE
    )


def test_a_training_exam_holds_what_the_product_sees_and_the_truth_on_its_grid(tmp_path):
    simulate_training_exam(coarse(1), tmp_path / "exam")
    exam = read_exam(tmp_path / "exam")
    assert exam.images.spacing_mm == pytest.approx((10.0, 10.0, 10.0))
    assert exam.images.channels == ("t1", "b1000", "adc")
    assert set(np.unique(exam.skeleton.array)) == set(range(10))
    marker = json.loads((tmp_path / "exam" / "exam.json").read_text())
    assert marker["simulated"] is True
    assert marker["seed"] == 1
    assert marker["n_lesions_on_grid"] == np.count_nonzero(np.unique(exam.lesions.array))


def test_bone_truth_lies_where_the_stitched_image_shows_the_body(tmp_path):
    simulate_training_exam(coarse(2), tmp_path / "exam")
    exam = read_exam(tmp_path / "exam")
    t1 = exam.images.channel("t1")
    bone = exam.skeleton.array[0] > 0
    assert np.median(t1[bone]) > 5 * np.median(t1[exam.images.channel("adc") == 0])


def test_a_simulated_study_is_written_for_users_with_its_truth_beside(tmp_path):
    simulate_to_folder(coarse(3), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "dicom",
        "exam",
        "exam.json",
        "truth",
    ]
    truth = sorted(p.name for p in (tmp_path / "out" / "truth").iterdir())
    assert truth == ["adc.nii.gz", "exam.json", "lesions.nii.gz", "skeleton.nii.gz"]
    assert read_exam(tmp_path / "out" / "exam").skeleton is not None
    for folder in ("dicom", "exam"):
        found = read_input(tmp_path / "out" / folder)
        assert found.simulated
        assert {image.kind for image in found.images} >= {"t1", "dwi"}


def test_only_what_was_asked_for_is_written(tmp_path):
    simulate_to_folder(coarse(3), tmp_path / "out", formats=["nifti"])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["exam", "exam.json", "truth"]


@pytest.mark.parametrize("formats", [[], ["nrrd"]])
def test_a_format_that_is_not_known_is_refused(tmp_path, formats):
    with pytest.raises(ConfigError, match="format"):
        simulate_to_folder(coarse(3), tmp_path / "out", formats=formats)


def test_a_cohort_takes_up_where_it_stopped(tmp_path):
    first = simulate_cohort([coarse(4)], tmp_path)
    again = simulate_cohort([coarse(4), coarse(5, lesions=0)], tmp_path)
    assert [entry.made_now for entry in first] == [True]
    assert [(e.folder, e.made_now) for e in again] == [
        ("exam_000004", False),
        ("exam_000005", True),
    ]
    content = json.loads((tmp_path / "cohort.json").read_text())
    assert content["simulated"] is True
    assert [row["seed"] for row in content["exams"]] == [4, 5]
    assert not read_exam(tmp_path / "exam_000005").lesions.array.any()


def test_other_settings_make_an_exam_anew(tmp_path):
    simulate_cohort([coarse(4)], tmp_path)
    (entry,) = simulate_cohort([coarse(4, lesions=1)], tmp_path)
    assert entry.made_now


def test_two_exams_of_one_seed_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="2 exams with 1 different seeds"):
        simulate_cohort([coarse(4), coarse(4)], tmp_path)


def test_a_cohort_stops_at_an_exam_that_fails_and_names_it(tmp_path, monkeypatch):
    def broken(_config, _out):
        raise InputError("no body", remedy="Choose another seed")

    monkeypatch.setattr("osteosap.cohort.simulate_training_exam", broken)
    with pytest.raises(OsteosapError, match="exam_000004: no body"):
        simulate_cohort([coarse(4)], tmp_path)
    assert not (tmp_path / "cohort.json").exists()


def files_in(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["dicom", "exam", "truth"])
def test_a_folder_of_the_user_is_not_replaced_by_a_simulation(tmp_path, name):
    mine = tmp_path / name / "deep" / "mine.dcm"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"deep/mine\.dcm.*empty folder"):
        simulate_to_folder(coarse(3), tmp_path)
    assert mine.read_text() == "mine"
    assert files_in(tmp_path) == {f"{name}/deep/mine.dcm"}


@pytest.mark.parametrize("text", ['{"simulated": true}', '{"id": 7}', "no json"])
def test_a_marker_that_lists_no_files_gives_nothing_free(tmp_path, text):
    (tmp_path / "exam.json").write_text(text)
    with pytest.raises(OutputError, match=r"exam\.json"):
        simulate_to_folder(coarse(3), tmp_path)
    assert (tmp_path / "exam.json").read_text() == text


def test_another_simulation_leaves_nothing_of_the_one_before(tmp_path):
    out = tmp_path / "out"
    simulate_to_folder(coarse(3), out, formats=["dicom"])
    (out / "notes.txt").write_text("mine")
    simulate_to_folder(coarse(4), out, formats=["nifti"])
    assert sorted(p.name for p in out.iterdir()) == ["exam", "exam.json", "notes.txt", "truth"]
    seeds = {json.loads(p.read_text())["seed"] for p in out.rglob("exam.json")}
    assert seeds == {4}
    listed = set(json.loads((out / "exam.json").read_text())["files"])
    assert listed | {"exam.json", "notes.txt"} == files_in(out)


def test_what_was_put_into_a_simulated_study_is_not_deleted(tmp_path):
    simulate_to_folder(coarse(3), tmp_path, formats=["nifti"])
    (tmp_path / "exam" / "reader.nii.gz").write_text("mine")
    with pytest.raises(OutputError, match=r"exam/reader\.nii\.gz"):
        simulate_to_folder(coarse(3), tmp_path, formats=["nifti"])
    assert (tmp_path / "exam" / "reader.nii.gz").read_text() == "mine"


def test_a_cohort_does_not_replace_an_exam_that_is_not_its_own(tmp_path):
    mine = tmp_path / "exam_000004" / "t1.nii.gz"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"exam_000004: .*t1\.nii\.gz"):
        simulate_cohort([coarse(4)], tmp_path)
    assert mine.read_text() == "mine"


def test_a_cohort_does_not_replace_a_foreign_cohort_json(tmp_path):
    (tmp_path / "cohort.json").write_text('{"patients": 40}')
    with pytest.raises(OutputError, match=r"cohort\.json"):
        simulate_cohort([coarse(4)], tmp_path)
    assert files_in(tmp_path) == {"cohort.json"}


def test_a_missing_dicom_library_is_noticed_before_the_simulation(tmp_path, monkeypatch):
    def simulate(_config):
        raise AssertionError("simulated before the library was looked for")

    monkeypatch.setattr("osteosap.simulate.simulate_exam", simulate)
    monkeypatch.setitem(sys.modules, "osteosap.dicom.write", None)
    with pytest.raises(ModuleNotFoundError):
        simulate_to_folder(coarse(3), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_progress_of_a_simulation_is_told(tmp_path):
    told = []
    simulate_to_folder(
        coarse(3), tmp_path / "out", formats=["nifti"], progress=lambda *step: told.append(step)
    )
    assert len(told) >= 2
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)


def test_workers_start_with_one_thread_each_and_the_parent_keeps_its_own(tmp_path, monkeypatch):
    seen = []

    class Pool:
        def __init__(self, *_args, **_options):
            pass

        def submit(self, function, *arguments):
            seen.append({name: os.environ.get(name) for name in _THREADS})
            future = Future()
            future.set_result(CohortEntry("x", arguments[0].seed, "", 0.0, made_now=True))
            return future

        def shutdown(self, **_options):
            pass

    monkeypatch.setattr("osteosap.cohort.ProcessPoolExecutor", Pool)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    simulate_cohort([coarse(1), coarse(2)], tmp_path, processes=2)
    assert len(seen) == 2
    assert all(set(values.values()) == {"1"} for values in seen)
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.server
def test_a_simulated_study_is_valid_dicom_for_an_independent_validator(tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    simulate_to_folder(coarse(7), tmp_path / "study", formats=("dicom",))
    files = sorted((tmp_path / "study" / "dicom").rglob("*.dcm"))
    assert len(files) > 100
    for path in files[::12]:
        output = subprocess.run(
            ["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60
        )
        lines = (output.stdout + output.stderr).splitlines()
        assert not [line for line in lines if line.startswith("Error")]
