import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pydicom
import pytest

from osteosap.cohort import (
    _THREADS,
    CohortConfig,
    _without_paths,
    cohort_state,
    plan_cohort,
    simulate_cohort,
)
from osteosap.errors import ConfigError, InputError, OsteosapError, OutputError
from osteosap.exam import read_exam
from osteosap.ingest import read_input
from osteosap.preprocess import PreprocessConfig
from osteosap.simulate import SimulationConfig
from osteosap.simulate.scanner.sites import SITES
from osteosap.simulated_patient import simulate_patient_to_folder
from osteosap.simulated_study import (
    exam_hash,
    simulate_to_folder,
    simulate_training_exam,
)
from osteosap.volume import read_nifti

REPOSITORY = Path(__file__).resolve().parents[2]
COARSE = {
    "body_spacing_mm": (8.0, 8.0, 8.0),
    "scanner": {
        "stations": {"count": 2},
        "t1": {"spacing_mm": (10.0, 10.0, 10.0)},
        "dwi": {"spacing_mm": (10.0, 10.0, 10.0)},
    },
}
QUICK = {name: {"enabled": False} for name in ("bias", "align", "eddy", "registration")}
"""Preprocessing without what takes seconds; how exams are made is not what these tests ask."""


def coarse(seed: int, *, lesions: int = 4, **values) -> SimulationConfig:
    return SimulationConfig.from_mapping({**COARSE, "seed": seed, "lesions": lesions, **values})


def test_a_training_exam_holds_what_the_product_sees_and_the_truth_on_its_grid(tmp_path):
    quick = PreprocessConfig.from_mapping(QUICK)
    simulate_training_exam(coarse(1), tmp_path / "exam", preprocess=quick)
    exam = read_exam(tmp_path / "exam")
    assert exam.images.spacing_mm == pytest.approx((10.0, 10.0, 10.0))
    assert exam.images.channels == ("t1", "b1000", "adc")
    assert set(np.unique(exam.skeleton.array)) == set(range(10))
    marker = json.loads((tmp_path / "exam" / "exam.json").read_text())
    assert marker["simulated"] is True
    assert marker["seed"] == 1
    assert marker["n_lesions_on_grid"] == np.count_nonzero(np.unique(exam.lesions.array))


def test_bone_truth_lies_where_the_stitched_image_shows_the_body(tmp_path):
    quick = PreprocessConfig.from_mapping(QUICK)
    simulate_training_exam(coarse(2), tmp_path / "exam", preprocess=quick)
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
    assert truth == [
        "adc.nii.gz",
        "exam.json",
        "lesions.nii.gz",
        "skeleton.nii.gz",
        "tissue.nii.gz",
        "truth.json",
    ]
    known = json.loads((tmp_path / "out" / "truth" / "truth.json").read_text())
    assert known["simulated"] is True
    assert known["person"]["sex"] == "male"
    assert known["burden_ml"] == pytest.approx(sum(x["volume_ml"] for x in known["lesions"]))
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


def cohort(*groups, **simulation):
    return CohortConfig.from_mapping(
        {
            "groups": list(groups),
            "simulation": {**COARSE, "lesions": 4, **simulation},
            "preprocess": QUICK,
        }
    )


def group(name, first, subjects=1, **values):
    return {"name": name, "first_seed": first, "subjects": subjects, **values}


def test_a_cohort_takes_up_where_it_stopped(tmp_path):
    men = group("men", 4)
    _, made = simulate_cohort(cohort(men), tmp_path)
    assert made == 1
    healthy = group("healthy", 5, simulation={"lesions": 0})
    exams, made = simulate_cohort(cohort(men, healthy), tmp_path)
    assert made == 1
    assert [exam.folder for exam in exams] == [
        "men/all/subject_000004_a",
        "healthy/all/subject_000005_a",
    ]
    content = json.loads((tmp_path / "cohort.json").read_text())
    assert content["simulated"] is True
    assert [row["seed"] for row in content["exams"]] == [4, 5]
    assert content["config"]["groups"][1]["name"] == "healthy"
    assert not read_exam(tmp_path / exams[1].folder).lesions.array.any()


def test_other_settings_make_an_exam_anew(tmp_path):
    simulate_cohort(cohort(group("men", 4)), tmp_path)
    _, made = simulate_cohort(cohort(group("men", 4), lesions=1), tmp_path)
    assert made == 1


def test_a_person_is_scanned_at_every_site_or_at_one_in_turn():
    everywhere = plan_cohort(cohort(group("men", 1, 3, sites=["a", "b", "c"])))
    assert [(exam.seed, exam.site) for exam, _ in everywhere] == [
        (seed, site) for seed in (1, 2, 3) for site in "abc"
    ]
    in_turn = plan_cohort(cohort(group("men", 1, 3, sites=["a", "b", "c"], in_turn=True)))
    assert [(exam.seed, exam.site) for exam, _ in in_turn] == [(1, "a"), (2, "b"), (3, "c")]
    assert [settings.site for _, settings in in_turn] == ["a", "b", "c"]


def test_all_scans_of_a_person_lie_on_one_side():
    several = group(
        "men", 1, 9, sites=["a", "b"], scans=2, split={"training": 6, "validation": 2, "test": 1}
    )
    plan = plan_cohort(cohort(several, timepoints=2))
    assert len(plan) == 9 * 2 * 2 * 2
    assert len({exam.folder for exam, _ in plan}) == len(plan)
    sides = {}
    for exam, settings in plan:
        assert exam.folder.startswith(f"men/{exam.side}/")
        assert (settings.seed, settings.scan, settings.timepoint) == (
            exam.seed, exam.scan, exam.timepoint,
        )  # fmt: skip
        sides.setdefault(exam.seed, set()).add(exam.side)
    assert all(len(found) == 1 for found in sides.values())
    counts = Counter(next(iter(found)) for found in sides.values())
    assert counts == {"training": 6, "validation": 2, "test": 1}


def test_the_sides_are_balanced_by_the_number_of_lesions():
    split = {"training": 30, "test": 10}
    plan = plan_cohort(cohort(group("men", 100, 40, split=split), lesions=None))
    burden = {
        side: np.array([exam.n_lesions for exam, _ in plan if exam.side == side]) for side in split
    }
    everyone = np.array([exam.n_lesions for exam, _ in plan])
    assert len(burden["test"]) == 10
    assert np.median(burden["test"]) == pytest.approx(np.median(everyone), abs=2)
    assert burden["test"].max() > np.quantile(everyone, 0.8)
    assert burden["test"].min() <= np.quantile(everyone, 0.2)


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([group("men", 4, 3), group("women", 6, 2)], "person 6 is in 'men' and in 'women'"),
        ([group("men", 4), group("men", 9)], "two groups of one name"),
        ([group("men", 4, 3, split={"training": 2})], "holds 2 people, the group 3"),
        ([group("men", 4, sites=["a", "a"])], "names a site twice"),
        ([group("../men", 4)], "name"),
        ([group("men", 4, simulation={"site": "c"})], "site in 'simulation'"),
        (
            [
                group(
                    "men",
                    4,
                    2,
                    split={"training": 1, "test": 1},
                    simulation={"anatomy": {"labels": "a", "legend": "b"}},
                )
            ],
            "one label map",
        ),
        ([], "groups"),
    ],
)
def test_a_cohort_that_cannot_be_is_refused(groups, problem):
    with pytest.raises(ConfigError, match=problem):
        cohort(*groups)


def test_settings_of_a_group_lie_over_those_of_the_cohort_block_by_block():
    men = group("men", 1, simulation={"scanner": {"t1": {"snr": 9.0}}})
    config = CohortConfig.from_mapping(
        {"groups": [men], "simulation": {"scanner": {"dwi": {"snr": 7.0}, "t1": {"snr": 5.0}}}}
    )
    ((_, settings),) = plan_cohort(config)
    assert (settings.scanner.dwi.snr, settings.scanner.t1.snr) == (7.0, 9.0)


@pytest.mark.slow
def test_a_cohort_that_grows_never_leaves_a_person_on_two_sides(tmp_path):
    split = {"training": 1, "test": 1}
    simulate_cohort(cohort(group("men", 1, 2, split=split)), tmp_path)
    larger = cohort(group("men", 1, 3, split={"training": 1, "test": 2}))
    with contextlib.suppress(OutputError):  # refused where a person would have to move
        simulate_cohort(larger, tmp_path)
    folders = [p.name for p in tmp_path.glob("*/*/subject_*")]
    assert len(folders) == len(set(folders))
    simulate_cohort(cohort(group("men", 1)), tmp_path / "other")
    with pytest.raises(OutputError, match=r"1 exams in .* are not of this cohort"):
        simulate_cohort(cohort(group("men", 2)), tmp_path / "other")


@pytest.mark.slow
def test_a_patient_made_again_leaves_the_users_files_alone(tmp_path):
    config = coarse(6, lesions=2, timepoints=3)
    simulate_patient_to_folder(config, tmp_path, formats=["nifti"])
    for name in ("time_notes/notes.txt", "time_2/reading.txt", "time_log.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    shorter = coarse(7, lesions=2, timepoints=2)
    simulate_patient_to_folder(shorter, tmp_path, formats=["nifti"])
    assert (tmp_path / "time_notes" / "notes.txt").read_text() == "mine"
    assert files_in(tmp_path / "time_2") == {"reading.txt"}
    seeds = {json.loads(p.read_text())["seed"] for p in tmp_path.glob("time_*/exam.json")}
    assert seeds == {7}
    (tmp_path / "time_1" / "reading.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"time_1/reading\.txt"):
        simulate_patient_to_folder(shorter, tmp_path, formats=["nifti"])
    assert (tmp_path / "course.csv").is_file()


def test_an_interrupted_patient_leaves_the_earlier_one_whole(tmp_path, monkeypatch):
    simulate_patient_to_folder(coarse(6, timepoints=2), tmp_path, formats=["nifti"])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    real = simulate_to_folder

    def interrupted(config, out, **options):
        if config.timepoint:
            raise KeyboardInterrupt
        real(config, out, **options)

    monkeypatch.setattr("osteosap.simulated_patient.simulate_to_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate_patient_to_folder(coarse(7, timepoints=2), tmp_path, formats=["nifti"])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_a_cohort_of_another_form_leaves_nothing_of_the_one_before(tmp_path):
    for form, expected in (("exams", "t1.nii.gz"), ("studies", "truth"), ("exams", "t1.nii.gz")):
        config = CohortConfig.from_mapping(
            {
                "form": form,
                "groups": [group("men", 4)],
                "simulation": COARSE,
                "preprocess": QUICK,
            }
        )
        (exam,), made = simulate_cohort(config, tmp_path)
        names = {p.name for p in (tmp_path / exam.folder).iterdir()}
        assert made == 1
        assert expected in names
        assert ("dicom" in names) == (form == "studies")
        assert ("body.nii.gz" in names) == (form == "exams")


def test_other_preprocessing_makes_an_exam_anew(tmp_path):
    plain = cohort(group("men", 4))
    values = plain.to_mapping()
    values["preprocess"]["min_coverage"] = 0.2
    ((one, _),), ((two, _),) = plan_cohort(plain), plan_cohort(CohortConfig.from_mapping(values))
    assert one.hash != two.hash
    simulate_cohort(plain, tmp_path)
    marker = json.loads((tmp_path / one.folder / "exam.json").read_text())
    assert marker["hash"] == one.hash
    assert marker["preprocessing"] == plain.preprocess.to_mapping()


def test_the_state_of_a_cohort_is_told_without_making_it(tmp_path):
    simulate_cohort(cohort(group("men", 4)), tmp_path)
    state = cohort_state(cohort(group("men", 4, 2)), tmp_path)
    assert [there for _, there in state] == [True, False]
    with pytest.raises(OutputError, match="not of this cohort"):
        cohort_state(cohort(group("men", 5)), tmp_path)


def test_half_an_exam_is_made_again(tmp_path):
    (exam,), _ = simulate_cohort(cohort(group("men", 4)), tmp_path)
    (tmp_path / exam.folder / "body.nii.gz").unlink()
    assert simulate_cohort(cohort(group("men", 4)), tmp_path)[1] == 1
    assert (tmp_path / exam.folder / "body.nii.gz").is_file()


def test_the_code_that_makes_an_exam_is_part_of_its_hash(monkeypatch):
    before = exam_hash(coarse(1))
    monkeypatch.setattr("osteosap.simulated_study._code_checksum", lambda: "other")
    assert exam_hash(coarse(1)) != before


def test_what_a_cohort_writes_names_no_file_of_the_user():
    config = cohort(group("men", 1), anatomy={"labels": "/home/doe/a.nii.gz", "legend": "/x.json"})
    assert "doe" not in json.dumps(_without_paths(config.to_mapping()))


@pytest.mark.slow
def test_headers_say_the_protocol_that_was_run_and_the_day(tmp_path):
    config = coarse(3, vary_protocol=True, timepoints=2, timepoint=1)
    simulate_to_folder(config, tmp_path, formats=["dicom"])
    known = json.loads((tmp_path / "truth" / "truth.json").read_text())["protocol"]["sequence"]
    assert known["t1_tr_ms"] != pytest.approx(config.sequence.t1_tr_ms)
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in tmp_path.rglob("*.dcm")]
    t1 = [h for h in headers if h.ScanningSequence == "SE"]
    assert t1
    assert {round(float(h.RepetitionTime), 3) for h in t1} == {round(known["t1_tr_ms"], 3)}
    assert {h.StudyDate for h in headers} == {"20250415"}


def test_one_exam_that_fails_does_not_stop_the_others_and_is_named(tmp_path, monkeypatch):
    real = simulate_training_exam

    def broken(config, out, **options):
        if config.seed == 4:
            raise InputError("no body", remedy="Choose another seed")
        real(config, out, **options)

    monkeypatch.setattr("osteosap.cohort.simulate_training_exam", broken)
    with pytest.raises(
        OsteosapError, match=r"1 of 2 exams failed .* men/all/subject_000004_a first: no b"
    ):
        simulate_cohort(cohort(group("men", 4, 2)), tmp_path)
    assert read_exam(tmp_path / "men" / "all" / "subject_000005_a").lesions is not None
    assert not (tmp_path / "cohort.json").exists()


@pytest.mark.slow
def test_a_cohort_of_studies_holds_dicom_and_truth(tmp_path):
    config = CohortConfig.from_mapping(
        {"form": "studies", "groups": [group("men", 4, sites=["c"])], "simulation": COARSE}
    )
    (exam,), made = simulate_cohort(config, tmp_path)
    assert made == 1
    names = sorted(p.name for p in (tmp_path / exam.folder).iterdir())
    assert names == ["dicom", "exam.json", "truth"]
    assert simulate_cohort(config, tmp_path)[1] == 0


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs").glob("cohort_*.yaml")), ids=lambda p: p.stem
)
def test_every_cohort_file_can_be_planned(path):
    config = CohortConfig.from_yaml(path)
    plan = plan_cohort(config)
    assert len({exam.folder for exam, _ in plan}) == len(plan) > 0


def test_a_patient_over_time_has_a_course_with_every_lesion(tmp_path):
    config = coarse(6, lesions=8).model_copy(update={"timepoints": 3, "profile": "mixed response"})
    simulate_patient_to_folder(config, tmp_path, formats=["nifti"])
    rows = list(csv.DictReader((tmp_path / "course.csv").read_text().splitlines()))
    numbers = {row["lesion_id"] for row in rows}
    assert len(rows) == 3 * len(numbers) >= 3 * 6
    for time in range(3):
        truth = json.loads((tmp_path / f"time_{time}" / "truth" / "truth.json").read_text())
        maps = read_nifti(tmp_path / f"time_{time}" / "truth" / "lesions.nii.gz", channel="lesions")
        counts = np.bincount(maps.array.astype(int).ravel())
        known = {str(one["id"]): one for one in truth["lesions"]}
        for row in (row for row in rows if row["timepoint"] == str(time)):
            assert (row["present"] == "True") == (row["lesion_id"] in known)
            if row["present"] == "True":
                volume = counts[int(row["lesion_id"])] * maps.grid.voxel_volume_ml
                assert float(row["volume_ml"]) == pytest.approx(volume, abs=1e-3)
    first = [row for row in rows if row["timepoint"] == "0" and row["present"] == "True"]
    assert {row["volume_change_percent"] for row in first} == {"0.0"}


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


@pytest.mark.slow
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
    mine = tmp_path / "men" / "all" / "subject_000004_a" / "t1.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputError, match=r"subject_000004_a first: .*t1\.nii\.gz"):
        simulate_cohort(cohort(group("men", 4)), tmp_path)
    assert mine.read_text() == "mine"


def test_a_cohort_does_not_replace_a_foreign_cohort_json(tmp_path):
    (tmp_path / "cohort.json").write_text('{"patients": 40}')
    with pytest.raises(OutputError, match=r"cohort\.json"):
        simulate_cohort(cohort(group("men", 4)), tmp_path)
    assert files_in(tmp_path) == {"cohort.json"}


def test_a_missing_dicom_library_is_noticed_before_the_simulation(tmp_path, monkeypatch):
    def simulate(_config, **_options):
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
            future.set_result(arguments[0].seed > 0)
            return future

        def shutdown(self, **_options):
            pass

    monkeypatch.setattr("osteosap.cohort.ProcessPoolExecutor", Pool)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    simulate_cohort(cohort(group("men", 1, 2)), tmp_path, processes=2)
    assert len(seen) == 2
    assert all(set(values.values()) == {"1"} for values in seen)
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.server
@pytest.mark.parametrize("site", list(SITES))
def test_a_simulated_study_of_every_site_is_valid_for_an_independent_validator(tmp_path, site):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    simulate_to_folder(coarse(7, site=site), tmp_path / "study", formats=("dicom",))
    files = sorted((tmp_path / "study" / "dicom").rglob("*.dcm"))
    assert len(files) > 100
    for path in files[::12]:
        output = subprocess.run(
            ["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60
        )
        lines = (output.stdout + output.stderr).splitlines()
        assert not [line for line in lines if line.startswith("Error")]
