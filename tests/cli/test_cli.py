import json
import logging

import pytest

from osteosap.cli import main
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
        ["simulate", "cohort", "--config", "{}/wrong.yaml", "--count", "1", "--out", "{}/out"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_an_explained_error_is_one_line_without_traceback(arguments, tmp_path, capsys):
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "wrong.yaml").write_text("sede: 3\n")
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
    assert "pip install 'osteosap[learn]'" in capsys.readouterr().err


def test_quiet_keeps_the_log_to_warnings():
    main(["--quiet", "stages"])
    assert logging.getLogger("osteosap").level == logging.WARNING
