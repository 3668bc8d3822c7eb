import importlib.util
import json
import logging
import re

import pytest

from osteosap.cli import _EXTRAS, console, main
from osteosap.exam import ExamPaths, write_exam


@pytest.fixture(autouse=True)
def _quiet_after():
    logger = logging.getLogger("osteosap")
    before = (logger.handlers, logger.level, logger.propagate)
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_the_version_is_printed(capsys):
    from osteosap import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"osteosap {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["run"], ["run", "x"], ["simulate", "exam"], ["simulate", "exam", "--out", "x",
     "--format", "nrrd"], ["evaluate", "--reference", "x"]],
)  # fmt: skip
def test_wrong_usage_ends_with_2(arguments, capsys):
    assert main(arguments) == 2
    assert "Usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "{}/absent", "--out", "{}/out"],
        ["run", "{}", "--out", "{}/out"],
        ["evaluate", "--reference", "{}", "--prediction", "{}/absent", "--out", "{}/out"],
        ["evaluate", "--reference", "{}", "--prediction", "{}", "--out", "{}/out"],
        ["model", "describe", "{}/absent.safetensors"],
        ["train", "skeleton", "--config", "{}/absent.yaml", "--train", "{}", "--out", "{}/out"],
        ["train", "lesions", "--config", "{}/empty.yaml", "--train", "{}", "--out", "{}/out"],
        ["simulate", "exam", "--config", "{}/absent.yaml", "--out", "{}/out"],
        ["simulate", "cohort", "{}/wrong.yaml", "--out", "{}/out"],
        ["simulate", "cohort", "{}/empty.yaml", "--out", "{}/out"],
        [
            "simulate",
            "exam",
            "--anatomy",
            "{}/no.nii.gz",
            "--legend",
            "{}/no.json",
            "--out",
            "{}/out",
        ],
        ["simulate", "exam", "--config", "{}/binary.yaml", "--out", "{}/out"],
        ["simulate", "exam", "--lesions", "3", "--out", "{}/empty.yaml"],
        ["simulate", "patient", "--out", "{}/empty.yaml"],
        [
            "train",
            "skeleton",
            "--config",
            "{}/empty.yaml",
            "--train",
            "{}",
            "--out",
            "{}/wrong.yaml",
        ],
        ["evaluate", "--reference", "{}", "--prediction", "{}", "--out", "{}/empty.yaml"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_an_explained_error_is_one_line_without_traceback(arguments, tmp_path, capsys):
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "wrong.yaml").write_text("sede: 3\n")
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\xff")
    before = sorted(tmp_path.iterdir())
    assert main([text.format(tmp_path) for text in arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "Traceback" not in "".join(lines)
    assert sorted(tmp_path.iterdir()) == before


def test_the_stages_are_listed_with_their_files(capsys):
    from osteosap.workflow import STAGES

    assert main(["stages"]) == 0
    out = capsys.readouterr().out
    for stage in STAGES:
        assert stage.name in out
        for key in stage.writes:
            assert ExamPaths.FILES[key] in out


def test_an_exam_scored_against_itself_is_perfect(exam_folder, tmp_path, capsys):
    arguments = ["--reference", str(exam_folder), "--prediction", str(exam_folder)]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["exams"][0]["skeleton_dice"]["merged"] == 1.0
    assert content["exams"][0]["lesions"]["all"]["sensitivity"] == 1.0
    rows = (tmp_path / "out" / "evaluation.csv").read_text().splitlines()
    assert len(rows) == 2
    assert "skeleton Dice, merged" in capsys.readouterr().out


def test_scores_replace_earlier_scores_but_no_other_file(exam_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--reference", str(exam_folder), "--prediction", str(exam_folder)]
    assert main(["evaluate", *arguments, "--out", str(out)]) == 0
    assert main(["evaluate", *arguments, "--out", str(out)]) == 0
    (out / "evaluation.json").write_text("my own notes")
    assert main(["evaluate", *arguments, "--out", str(out)]) == 1
    assert "has no record" in capsys.readouterr().err
    assert (out / "evaluation.json").read_text() == "my own notes"


def test_folders_of_exams_are_paired_by_name(small_exam, tmp_path):
    for side in ("truth", "result"):
        for name in ("a", "b"):
            write_exam(small_exam, tmp_path / side / name)
    arguments = ["--reference", str(tmp_path / "truth"), "--prediction", str(tmp_path / "result")]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [exam["exam"] for exam in content["exams"]] == ["a", "b"]


def test_a_result_without_a_truth_of_its_name_is_refused(small_exam, tmp_path, capsys):
    write_exam(small_exam, tmp_path / "result" / "a")
    (tmp_path / "truth").mkdir()
    arguments = ["--reference", str(tmp_path / "truth"), "--prediction", str(tmp_path / "result")]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert "same name" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_how_to_install_it(monkeypatch, capsys):
    from osteosap.cli import stages

    def command():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(stages.stages, "__code__", command.__code__)
    assert main(["stages"]) == 1
    assert "pip install '.[learn]'" in capsys.readouterr().err


def test_quiet_keeps_the_log_to_warnings():
    main(["--quiet", "stages"])
    assert logging.getLogger("osteosap").level == logging.WARNING


@pytest.fixture
def simulated(monkeypatch):
    """Settings that 'simulate exam' would have worked with."""
    seen = []
    monkeypatch.setattr(
        "osteosap.simulated_study.simulate_to_folder", lambda config, *_a, **_k: seen.append(config)
    )
    return seen


def test_a_seed_in_the_settings_counts_unless_one_is_given(tmp_path, simulated, capsys):
    (tmp_path / "seven.yaml").write_text("seed: 7\nlesions: 2\n")
    arguments = ["simulate", "exam", "--config", str(tmp_path / "seven.yaml"), "--out", "x"]
    assert main(arguments) == 0
    assert main([*arguments, "--seed", "0", "--lesions", "0", "--spacing", "4"]) == 0
    assert main(["simulate", "exam", "--out", "x"]) == 0
    assert [(config.seed, config.lesions) for config in simulated] == [(7, 2), (0, 0), (0, None)]
    assert simulated[1].body_spacing_mm == (4.0, 4.0, 4.0)
    assert "of seed 7" in capsys.readouterr().out


def test_a_cohort_is_planned_without_simulating(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(
        "groups:\n- {name: men, subjects: 2, first_seed: 7, sites: [a, b]}\n"
    )
    arguments = ["simulate", "cohort", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "x")]
    assert main([*arguments, "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [
        f"men/all/subject_{seed:06d}_{site}" for seed in (7, 8) for site in "ab"
    ]
    assert lines[-1] == "4 exams, 4 to be made"
    assert not (tmp_path / "x").exists()


def test_a_patient_over_time_is_simulated_with_the_options_that_were_given(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "osteosap.simulated_patient.simulate_patient_to_folder",
        lambda config, *_a, **_k: seen.append(config),
    )
    options = ["--timepoints", "4", "--profile", "progression", "--seed", "5", "--lesions", "3"]
    assert main(["simulate", "patient", *options, "--out", str(tmp_path)]) == 0
    (config,) = seen
    assert (config.timepoints, config.profile, config.seed) == (4, "progression", 5)
    (tmp_path / "two.yaml").write_text("timepoints: 2\n")
    for extra, expected in (([], 3), (["--config", str(tmp_path / "two.yaml")], 2)):
        assert main(["simulate", "patient", *extra, "--out", str(tmp_path)]) == 0
        assert seen[-1].timepoints == expected


def test_a_label_map_needs_its_legend(tmp_path, capsys):
    arguments = ["simulate", "exam", "--anatomy", "x.nii.gz", "--out", str(tmp_path / "o")]
    assert main(arguments) == 1
    assert "--legend" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "lesions: -3", "seed: -1", "body_spacing_mm: [0, 2, 2]", "sequence: {t1_sequence: foo}",
        "sequence: {t1_tr_ms: 0}", "scanner: {stations: {count: 0}}",
        "scanner: {t1: {snr: -0.1}}", "scanner: {dwi: {b_values_s_per_mm2: [-50]}}",
        "scanner: {dwi: {b_values_s_per_mm2: []}}", "scanner: {dwi: {spacing_mm: [3, 3, 0]}}",
        "scanner: {stations: {overlap_mm: -1}}", "site: d", "timepoint: 2", "profile: bad",
    ],
)  # fmt: skip
def test_a_simulation_that_cannot_be_is_refused(tmp_path, simulated, capsys, text):
    (tmp_path / "c.yaml").write_text(text)
    assert main(["simulate", "exam", "--config", str(tmp_path / "c.yaml"), "--out", "x"]) == 1
    assert simulated == []
    assert re.match(r"error: (setting '|time point 2 of 1)", capsys.readouterr().err)


@pytest.fixture
def two_truths_one_result(small_exam, tmp_path):
    for place in ("truth/a", "truth/b", "result/a"):
        write_exam(small_exam, tmp_path / place)
    (tmp_path / "result" / "b").mkdir()
    return [
        "evaluate", "--reference", str(tmp_path / "truth"),
        "--prediction", str(tmp_path / "result"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def test_a_truth_without_a_result_is_not_passed_over(two_truths_one_result, tmp_path, capsys):
    assert main(two_truths_one_result) == 1
    said = capsys.readouterr().err
    assert "1 of 2 exams in" in said
    assert ": b. " in said
    assert "--allow-missing" in said
    assert not (tmp_path / "out").exists()


def test_a_truth_without_a_result_may_be_left_out_and_is_counted(
    two_truths_one_result, tmp_path, capsys
):
    assert main([*two_truths_one_result, "--allow-missing"]) == 0
    assert "left out, without a prediction: b" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["references_without_prediction"] == {"n": 1, "exams": ["b"]}
    assert content["n_exams"] == 1


def raised_by_stages(monkeypatch, error):
    def fail(*_arguments):
        raise error

    monkeypatch.setattr("rich.table.Table.add_row", fail)
    return main(["stages"])


def test_what_the_system_refuses_is_one_line_without_the_file(monkeypatch, capsys):
    refused = PermissionError(13, "Permission denied", "/study/DOE_JOHN/1.dcm")
    assert raised_by_stages(monkeypatch, refused) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the system refused")
    assert "Permission denied, cli/stages.py line " in line
    assert "DOE_JOHN" not in line


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_an_interrupt_is_one_line(monkeypatch, capsys, error, code):
    assert raised_by_stages(monkeypatch, error) == code
    assert capsys.readouterr().err == "error: interrupted\n"


def test_every_library_of_an_extra_is_known_by_the_name_it_is_imported_by():
    assert [name for name in _EXTRAS if importlib.util.find_spec(name) is None] == []


def test_in_a_log_file_progress_is_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    console.set_up_logging(quiet=False)
    with console.progress_bar() as progress:
        for second, fraction in ((1, 0.01), (59, 0.2), (61, 0.25), (62, 0.3), (130, 0.6)):
            now[0] = float(second)
            progress("loss 0.5", fraction)
    assert capsys.readouterr().err.split("\n") == [" 25 %  loss 0.5", " 60 %  loss 0.5", ""]
