"""Methods against each other: the right tests on the right values."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from osteosap.cli import main
from osteosap.errors import InputError
from osteosap.evaluation.cohort import CohortScores, evaluate_cohort
from osteosap.evaluation.compare import LESION_MEASURES, PATIENT_MEASURES, compare_methods
from osteosap.evaluation.config import EvaluateConfig
from osteosap.evaluation.pairs import find_pairs
from osteosap.geometry import make_affine
from osteosap.manifest import read_json
from osteosap.volume import Volume, write_nifti

AFFINE = make_affine((10.0, 10.0, 10.0), (0.0, 0.0, 0.0))
N = 9


def _write(folder: Path, array: np.ndarray) -> None:
    write_nifti(Volume.single(array, AFFINE, "lesions"), folder / "lesions.nii.gz")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exams with three lesions; 'good' finds more of them than 'poor'; 'odd' lacks an exam."""
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(11)
    for number in range(N):
        truth = np.zeros((30, 12, 12), np.int32)
        for lesion, start in enumerate((2, 12, 22), start=1):
            truth[start : start + 4, 3:7, 3:7] = lesion
        _write(root / "truth" / f"exam_{number}", truth)
        for method, chance, shift in (("good", 0.9, 1), ("poor", 0.4, 2)):
            found = np.zeros_like(truth)
            for start in (2, 12, 22):
                if rng.random() < chance:
                    found[start + shift : start + shift + 4, 3:7, 3:7] = 1
            if rng.random() < 0.5:
                found[:2, 10:12, 10:12] = 1
            _write(root / method / f"exam_{number}", found)
            if number:
                _write(root / "odd" / f"exam_{number}", found)
    return root


def _scores(cohort: Path, method: str, **settings: object) -> CohortScores:
    pairs, _ = find_pairs(cohort / "truth", cohort / method, allow_missing=True)
    return evaluate_cohort(pairs, config=EvaluateConfig.from_mapping(settings))


def test_every_measure_is_tested_as_scipy_does_and_corrected(cohort: Path) -> None:
    methods = {name: _scores(cohort, name) for name in ("good", "poor")}
    methods["again"] = methods["poor"]
    rows = {(r["measure"], r["a"], r["b"]): r for r in compare_methods(methods)}
    assert len(rows) == 3 * (len(PATIENT_MEASURES) + len(LESION_MEASURES))
    f2 = {m: [e.lesions.all.f2 for e in s.exams if e.lesions] for m, s in methods.items()}
    row = rows["f2", "good", "poor"]
    expected = stats.wilcoxon(np.subtract(f2["poor"], f2["good"]), zero_method="pratt").pvalue
    assert row["p"] == pytest.approx(expected)
    assert row["p_bonferroni"] == pytest.approx(min(1.0, 3 * expected))
    assert (row["test"], row["n_a"], row["n_b"]) == ("wilcoxon", N, N)
    assert row["effect"] < 0.0  # poor is the smaller one
    dice = {
        m: [d for e in s.exams if e.lesions for d in e.lesions.detected_dice()]
        for m, s in methods.items()
    }
    row = rows["dice_detected", "good", "poor"]
    assert row["p"] == pytest.approx(stats.mannwhitneyu(dice["good"], dice["poor"]).pvalue)
    assert (row["n_a"], row["n_b"]) == (len(dice["good"]), len(dice["poor"]))
    assert rows["f2", "poor", "again"]["p"] == 1.0


def test_other_exams_or_settings_are_refused(cohort: Path) -> None:
    good = _scores(cohort, "good")
    with pytest.raises(InputError, match="not scored on the same exams: 1 differ"):
        compare_methods({"a": good, "b": _scores(cohort, "odd")})
    with pytest.raises(InputError, match="different settings"):
        compare_methods({"a": good, "b": _scores(cohort, "poor", min_volume_ml=2.0)})
    with pytest.raises(InputError, match="1 methods"):
        compare_methods({"a": good})


def test_the_command_writes_tables_and_is_not_fooled(cohort: Path, tmp_path: Path) -> None:
    methods = [f"{m}={cohort / m}" for m in ("good", "poor")]
    options = ["--reference", str(cohort / "truth"), "--out", str(tmp_path / "out")]
    assert main(["compare-methods", *methods, *options]) == 0
    content = read_json(tmp_path / "out" / "comparison.json")
    assert set(content["methods"]) == {"good", "poor"}
    assert content["settings"]["connectivity"] == 26
    assert (tmp_path / "out" / "comparison.csv").read_text().startswith("measure,a,b,test,n_a")
    assert main(["compare-methods", *methods, *options]) == 0  # its own files may be replaced
    assert main(["compare-methods", "good", *options]) == 1
    assert main(["compare-methods", methods[0], methods[0], *options]) == 1
    for other in ("my own notes", '{"settings": {}}'):  # but no file of somebody else
        (tmp_path / "out" / "comparison.json").write_text(other)
        assert main(["compare-methods", *methods, *options]) == 1
        assert (tmp_path / "out" / "comparison.json").read_text() == other


def _compare(cohort: Path, out: Path, *options: str, methods: tuple[str, ...] = ()) -> int:
    named = [f"{m}={cohort / m}" for m in methods or ("good", "poor")]
    fixed = ["--reference", str(cohort / "truth"), "--out", str(out)]
    return main(["compare-methods", *named, *fixed, *options])


def test_what_is_left_out_is_said(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ("odd", "odd_too")
    (cohort / "odd_too").unlink(missing_ok=True)
    (cohort / "odd_too").symlink_to(cohort / "odd")
    assert _compare(cohort, tmp_path / "refused", methods=odd) == 1
    assert _compare(cohort, tmp_path / "out", "--allow-missing", methods=odd) == 0
    said = capsys.readouterr().out
    assert "odd: left out, without a prediction: exam_0" in said
    assert "odd_too: left out, without a prediction: exam_0" in said
    content = read_json(tmp_path / "out" / "comparison.json")
    missing = content["left_out"]["odd"]["references_without_prediction"]
    assert missing == {"n": 1, "exams": ["exam_0"]}


def test_an_exam_that_one_method_lacks_is_left_out_of_all(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _compare(cohort, out, methods=("good", "odd")) == 1
    assert _compare(cohort, out, "--allow-missing", methods=("good", "odd")) == 0
    assert "1 exams are left out for all methods" in capsys.readouterr().out
    content = read_json(out / "comparison.json")
    assert {row["n_a"] for row in content["tests"] if row["measure"] == "f2"} == {N - 1}
    assert content["left_out"]["odd"]["references_without_prediction"]["exams"] == ["exam_0"]


def test_methods_are_compared_on_the_cases_that_are_named(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases.json"
    cases.write_text('["exam_1", "exam_2", "exam_5"]')
    out = tmp_path / "out"
    # 'odd' lacks exam_0, which is not asked for
    assert _compare(cohort, out, "--cases", str(cases), methods=("good", "odd")) == 0
    tests = read_json(out / "comparison.json")["tests"]
    assert {row["n_a"] for row in tests if row["measure"] == "f2"} == {3}
    cases.write_text('["exam_0", "exam_1", "exam_77"]')
    named = ("--cases", str(cases))
    assert _compare(cohort, out, *named, methods=("good", "odd")) == 1
    assert "cases are no exam in" in (said := capsys.readouterr().err)
    assert "exam_77" in said
    assert _compare(cohort, out, *named, "--allow-missing") == 0
    assert "good: left out, without a reference: exam_77" in capsys.readouterr().out


def test_one_case_is_scored_and_one_that_is_missing_is_named(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, out = tmp_path / "cases.json", tmp_path / "out"
    sides = ["--reference", str(cohort / "truth"), "--prediction", str(cohort / "odd")]
    options = [*sides, "--out", str(out), "--cases", str(cases)]
    cases.write_text('[{"case": "exam_3"}]')
    assert main(["evaluate", *options]) == 0
    content = read_json(out / "evaluation.json")
    assert [exam["exam"] for exam in content["exams"]] == ["exam_3"]
    assert content["references_without_prediction"] == {"n": 0, "exams": []}
    cases.write_text('["exam_3", "exam_0"]')
    assert main(["evaluate", *options]) == 1
    assert ": exam_0. " in capsys.readouterr().err
    assert main(["evaluate", *options, "--allow-missing"]) == 0
    content = read_json(out / "evaluation.json")
    assert content["references_without_prediction"] == {"n": 1, "exams": ["exam_0"]}
    assert content["cases_without_reference"] == {"n": 0, "exams": []}


def test_methods_are_compared_inside_a_region_of_interest(cohort: Path, tmp_path: Path) -> None:
    for number in range(N):
        region = np.zeros((30, 12, 12), np.uint8)
        region[:10] = 1
        write_nifti(
            Volume.single(region, AFFINE, "roi"), tmp_path / "roi" / f"exam_{number}.nii.gz"
        )
    assert _compare(cohort, tmp_path / "out", "--roi", str(tmp_path / "roi")) == 0
    methods = read_json(tmp_path / "out" / "comparison.json")["methods"]
    assert methods["good"]["lesions_all"]["n_reference"] == N  # of three lesions each, the first
