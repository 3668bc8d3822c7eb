"""The report of a study that lacks something says so; small parts of a report."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from study_maker import (
    ARMS,
    CHARTS,
    PEOPLE,
    Written,
    copy_study,
    draw_only,
    edit,
    make_study,
    score,
)

from osteosap.errors import OsteosapError
from osteosap.manifest import read_json
from osteosap.reporting import study_pictures
from osteosap.reporting.study_boxes import stars
from osteosap.reporting.study_pictures import choose_examples
from osteosap.reporting.study_report import write_study_report
from osteosap.reporting.study_results import read_study
from osteosap.volume import Volume, read_nifti, write_nifti

pytestmark = pytest.mark.usefixtures("coarse")


def _no_lesion_found(study: Path) -> None:
    for path in study.glob("predictions/*/*/lesion*.nii.gz"):
        old = read_nifti(path, channel="any")
        write_nifti(Volume.single(np.zeros_like(old.array[0]), old.affine, "lesions"), path)
    score(study, ARMS)


def _no_skeleton(study: Path) -> None:
    for path in study.glob("predictions/*/*/skeleton.nii.gz"):
        path.unlink()
    shutil.rmtree(study / "runs/skeleton")
    score(study, ARMS)


def _one_exam(study: Path) -> None:
    for folder in study.glob("predictions/*/*"):
        if folder.name != "subject_4":
            shutil.rmtree(folder)
    score(study, ARMS)


def _one_arm(study: Path) -> None:
    edit(study / "study.json", arms=["sap"])
    for arm in ("baseline", "ssl"):
        shutil.rmtree(study / "scores" / arm)
    shutil.rmtree(study / "comparison")


def _no_images(study: Path) -> None:
    for folder in ("lists", "cohort"):
        shutil.rmtree(study / folder)


def _truncated(study: Path) -> None:
    for name in ("scores/ssl/evaluation.json", "comparison/comparison.json", "folds.json"):
        text = (study / name).read_text()
        (study / name).write_text(text[: len(text) // 2])
    (study / "units/other.json").write_text('{"name": ')


def _nothing(study: Path) -> None:
    for path in study.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    (study / "folds.json").unlink()


DRAWN = ("boxes", "froc", "volume", "burden", "calibration")
LESS = ("boxes", "burden")
Case = tuple[Callable[[Path], None], tuple[str, ...], set[str], tuple[str, ...]]


def _without(part: str) -> Callable[[Path], None]:
    return lambda study: shutil.rmtree(study / part)


CASES: dict[str, Case] = {
    "features": (
        _without("features"), ("features",), set(),
        ("features/features.json is missing", "No figure: t-SNE of bottleneck features"),
    ),
    "comparison": (
        _without("comparison"), ("boxes",), {"boxes"},
        ("comparison/comparison.json is missing", "No tests: there is one arm, or"),
    ),
    "runs": (
        _without("runs"), ("training",), set(),
        ("there is no training with a log", "No pretraining was logged.", "No figure: Training"),
    ),
    "scores": (
        _without("scores/baseline"), ("burden",), {"burden"},
        ("scores/baseline/evaluation.json is missing",),
    ),
    "one arm": (_one_arm, LESS, set(LESS), ("the study has one arm", "No tests:")),
    "one exam": (
        _one_exam, DRAWN, set(DRAWN), ("we test 1 exam,", "25th and 50th and 75th percentile")
    ),
    "no lesion found": (_no_lesion_found, DRAWN, set(DRAWN), ("n = 0 lesions",)),
    "skeleton": (_no_skeleton, (), set(), ("No skeleton was scored.",)),
    "images": (_no_images, (), set(), ("exams is not there: no pictures", "No examples:")),
    "truncated": (
        _truncated, ("boxes",), {"boxes"},
        (
            "scores/ssl/evaluation.json cannot be read (InputError)",
            "comparison/comparison.json cannot be read (InputError)",
            "folds.json cannot be read", "The folds are not known.",
        ),
    ),
    "nothing": (
        _nothing, tuple(CHARTS), set(),
        (
            "No arm has been scored yet.", "No lesion was scored.", "The exams name no site.",
            "No unit left a record of its time.", "No examples:", "No exam has a missed",
        ),
    ),
}  # fmt: skip
"""How to spoil a study, what to draw, what can be drawn, what the page says."""
LONG = dict.fromkeys(("one exam", "no lesion found"), pytest.mark.slow)


@pytest.mark.parametrize("case", [pytest.param(c, marks=LONG.get(c, ())) for c in CASES])
def test_what_is_missing_is_said(
    case: str,
    simulated_report: Written,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil, charts, drawn, said = CASES[case]
    whole = unescape(simulated_report.html)
    study = copy_study(simulated_report.folder.parent, tmp_path / "study")
    spoil(study)
    draw_only(monkeypatch, charts, pictures=False)
    write_study_report(study)
    html = unescape((study / "report/study.html").read_text())
    markdown = (study / "report/study.md").read_text()
    for words in said:
        assert words in html
        assert words not in whole
    assert "Table 1" in markdown
    assert "SIMULATED DATA" in html
    assert {path.stem for path in study.glob("report/figures/*")} & CHARTS == drawn
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", html + markdown)


@pytest.mark.slow
def test_an_exam_without_a_lesion_found_has_pictures_too(
    simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copy_study(simulated_study, tmp_path / "study")
    _no_lesion_found(study)
    draw_only(monkeypatch, pictures=True)
    names = {path.stem for path in write_study_report(study)[2:]}
    assert names == {"example_1", "example_2", "example_3", "worst_missed"}


def test_a_real_exam_that_cannot_be_drawn_is_not_named(
    real_study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = copy_study(real_study, tmp_path / "study")
    for number, link in enumerate(sorted(study.glob("lists/patients/*/t1.nii.gz"))):
        content = link.read_bytes()
        link.unlink()
        if number % 2:
            link.write_bytes(content[: len(content) // 2])
    edit(study / "study.json", data_folder=str(tmp_path / "Xanthippe"))
    draw_only(monkeypatch, pictures=True)
    told: list[str] = []
    with caplog.at_level("DEBUG"):
        write_study_report(study, progress=lambda line, _: told.append(line))
    html = unescape((study / "report/study.html").read_text())
    assert html.count("cannot be drawn: an image, map or prediction") == 5
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 5
    whole = "\n".join([html, (study / "report/study.md").read_text(), caplog.text, *told])
    for name in (*PEOPLE, "Xanthippe"):
        assert name not in whole
        assert re.split(r"[_^\-]", name)[0] not in whole


def test_trainings_and_units_of_an_earlier_plan_are_not_counted(
    simulated_study: Path, tmp_path: Path
) -> None:
    mine = copy_study(simulated_study, tmp_path / "study")
    before = read_study(mine)
    assert before.runs
    assert before.units
    dropped = {before.units[0].name, "ssl_fold1"}
    assert "ssl_fold1" in before.runs
    planned = {unit.name for unit in before.units} | set(before.runs)
    edit(mine / "study.json", units=sorted(planned - dropped))
    after = read_study(mine)
    assert set(before.runs) - set(after.runs) == dropped & set(before.runs)
    assert before.units[0].name not in {unit.name for unit in after.units}
    assert len(after.units) == len(before.units) - 1
    assert any("is of no unit of the plan" in remark for remark in after.remarks)


def test_marks_of_significance_are_in_the_tables(
    simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [stars(p) for p in (0.0009, 0.009, 0.049, 0.05, float("nan"))] == [
        "***", "**", "*", "", ""
    ]  # fmt: skip
    study = copy_study(simulated_study, tmp_path / "study")
    path = study / "comparison/comparison.json"
    tests = read_json(path)["tests"]
    tests[0] |= {"p": 0.0002, "p_bonferroni": 0.0006}
    edit(path, tests=tests)
    draw_only(monkeypatch, pictures=False)
    html, markdown = (path.read_text() for path in write_study_report(study)[:2])
    assert '<td class="n different">&lt; 0.001 ***</td>' in html
    assert "| < 0.001 \\*\\*\\* |" in markdown


def test_other_measures_than_the_papers_are_named(
    simulated_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = copy_study(simulated_study, tmp_path / "study")
    score(study, ARMS[:1], min_volume_ml=2.0, froc_limit=8.0)
    edit(study / "study.json", arms=["ssl"])
    draw_only(monkeypatch, pictures=False)
    html = unescape(write_study_report(study)[0].read_text())
    assert "our large lesions are of at least 2 mL instead of 1 mL" in html
    assert "our FROC area ends at 8 false positives per exam instead of 15" in html
    assert "scores/baseline is of no arm of study.json" in html


def test_examples_are_the_quartiles_of_the_featured_arm(tmp_path: Path) -> None:
    study = make_study(tmp_path, ["tuning", "a", "b", "c"], simulated=True, arms=("ssl",))
    arm = read_study(study).featured
    assert arm is not None
    dice = {exam.name: exam.value("dice_mean_misses_as_0") for exam in arm.exams}
    found = choose_examples(arm)
    order = sorted(dice, key=lambda name: (dice[name], name))
    assert [case.exam.name for case in found] in (order[:2], order[1:], order)
    assert order[1] in [case.exam.name for case in found if "50th" in case.why]
    assert " ".join(case.why for case in found).count("th") == 3
    assert "SSL Dice" in found[0].why


def test_an_exam_whose_files_do_not_fit_is_an_error_of_ours(
    simulated_study: Path, tmp_path: Path
) -> None:
    study = copy_study(simulated_study, tmp_path / "study")
    for path in study.glob("predictions/*/subject_4"):
        shutil.rmtree(path)
    found = read_study(study)
    arm = found.featured
    assert arm is not None
    case = next(exam for exam in arm.exams if exam.name == "subject_4")
    with pytest.raises(OsteosapError, match="no arm's prediction"):
        study_pictures.exam_picture(found, study_pictures.Case(case, "why"))
