"""The table of roles, and a user's rules that come before it."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from dicom_studies import edit, files_of
from pydicom.dataset import Dataset

from osteosap.dicom import read_study
from osteosap.dicom.rules import load_rules
from osteosap.errors import ConfigError, StudyError


def rules_file(folder: Path, text: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def roles(folder: Path, rules: Path | None = None) -> dict[int, str]:
    return {r.number: r.role for r in read_study(folder, rules).series}


def test_every_rule_of_the_table_has_a_reason_and_a_condition() -> None:
    table = load_rules()
    assert len(table) >= 15
    assert {r.role for r in table} == {"t1", "dwi", "adc_map", "computed_b", "localizer", "other"}
    assert not any(r.is_empty or r.by_user or r.reason == "as your rules say" for r in table)


def test_a_users_rule_names_a_series_by_its_number(study: Path, tmp_path: Path) -> None:
    own = rules_file(tmp_path, "rules:\n- {role: other, series: [2], reason: moved in it}\n")
    reading = read_study(study, own)
    assert roles(study)[2] == "t1"
    assert reading.series[1].role == "other"
    assert reading.series[1].reason == "moved in it"
    assert [i.source for i in reading.images if i.kind == "t1"] == ["series 3"]


def test_the_t1_that_a_user_names_is_used_though_another_ranks_higher(
    study: Path, tmp_path: Path
) -> None:
    def gradient_echo_of_unknown_name(dataset: Dataset) -> None:
        dataset.SeriesDescription, dataset.ScanningSequence = "anatomy", "RM"
        dataset.SeriesInstanceUID += ".7"
        dataset.SeriesNumber = int(dataset.SeriesNumber) + 40
        dataset.SOPInstanceUID = dataset.SOPInstanceUID[:-2] + "77"

    for folder in sorted(study.glob("*_t1")):
        copy = study / f"copy{folder.name}"
        copy.mkdir()
        for number, path in enumerate(sorted(folder.iterdir())):
            dataset = pydicom.dcmread(path)
            gradient_echo_of_unknown_name(dataset)
            dataset.SOPInstanceUID += str(number)
            dataset.save_as(copy / path.name)
    assert roles(study)[42] == "other"
    own = rules_file(tmp_path, "rules: [{role: t1, series: [42, 43]}]")
    reading = read_study(study, own)
    sources = [i.source for i in reading.images if i.kind == "t1"]
    assert sources == ["series 42", "series 43"]
    assert next(r for r in reading.series if r.number == 42).reason == "as your rules say"


def test_a_user_may_say_the_b_value_that_the_headers_lack(study: Path, tmp_path: Path) -> None:
    def strip(dataset: Dataset) -> None:
        b = int(dataset.DiffusionBValue)
        for tag in (0x00189087, 0x00189075, 0x0019100C, 0x0019100D):
            del dataset[tag]
        dataset.SequenceName = "epfid"
        dataset.SeriesNumber = int(dataset.SeriesNumber) * 10_000 + b
        dataset.SeriesInstanceUID = f"{dataset.SeriesInstanceUID[:-4]}{b}"

    edit(files_of(study, "dwi"), strip)
    with pytest.raises(StudyError, match="diffusion images without a b-value"):
        read_study(study)
    own = rules_file(
        tmp_path,
        "rules:\n"
        + "".join(
            f"- {{role: dwi, series: [{40_000 + b}, {50_000 + b}], b_value_s_per_mm2: {b}}}\n"
            for b in (0, 50, 1000)
        ),
    )
    reading = read_study(study, own)
    found = [i.b_value_s_per_mm2 for i in reading.images if i.kind == "dwi"]
    assert sorted(b for b in found if b is not None) == [0, 0, 50, 50, 1000, 1000]


def test_diffusion_by_a_users_rule_still_needs_a_b_value(study: Path, tmp_path: Path) -> None:
    own = rules_file(tmp_path, "rules: [{role: dwi, series: [2]}]")
    reading = read_study(study, own)
    assert reading.series[1].role == "other"
    assert "without a b-value" in reading.series[1].reason


def test_a_localizer_stays_unused_even_where_a_rule_calls_it_t1(
    study: Path, tmp_path: Path
) -> None:
    own = rules_file(tmp_path, "rules: [{role: t1, words: [locali]}]")
    record = read_study(study, own).series[0]
    assert (record.role, record.used) == ("localizer", False)
    assert "orientations" in record.reason


def test_a_single_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    first, second = (
        load_rules(rules_file(tmp_path, f"rules: [{text}]"))[0]
        for text in (
            "{role: t1, series: 12, words: abc, any: {sequence: SE}}",
            "{role: t1, series: [12], words: [abc], any: [{sequence: [SE]}]}",
        )
    )
    assert first == second


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [{role: t1, wrods: [x]}]", "rule 1 of rules.yaml (role t1): "),
        ("rules: [{role: t1, wrods: [x]}]", "did you mean 'words'"),
        ("rules: [{role: t1, series: [1]}, {role: dwi, words: ['b(']}]", "rule 2 of rules.yaml"),
        ("rules: [{role: t1, words: ['b(']}]", "'b(' is no regular expression"),
        ("rules: [{role: t1, any: [{image_type: ['*']}]}]", "'*' is no regular expression"),
        ("rules: [{role: t3, series: [1]}]", "rule 1 of rules.yaml (role t3)"),
        ("rules: [{series: [1]}]", "role"),
        ("rules: [{role: t1}]", "no condition"),
        ("rules: [{role: t1, te_ms: {min: 9, max: 3}}]", "min 9 is above max 3"),
        ("rules: [{role: t1, te_ms: {}}]", "needs min or max"),
        ("rules: [{role: t1, te_ms: perhaps}]", "te_ms"),
        ("rules: [{role: t1, series: [1], b_value_s_per_mm2: 50}]", "goes with the role dwi"),
        ("rules: [{role: t1, series: [1], reason: 'of {patient}'}]", "the reason names patient"),
        ("rules: [{role: t1, series: [1], reason: 'of {'}]", "unpaired brace"),
        ("rules: [t1]", "rule 1 of rules.yaml is a str"),
        ("rules: []", "expected one list 'rules'"),
        ("rule: [{role: t1, series: [1]}]", "expected one list 'rules'"),
        ("- role: t1", "expected 'key: value' lines"),
        ("rules: [", "not valid YAML"),
    ],
)
def test_a_wrong_rule_is_refused_and_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_rules(rules_file(tmp_path, text))
    assert said in str(caught.value)
    assert caught.value.remedy


def test_a_missing_file_of_rules_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load_rules(tmp_path / "nothing.yaml")
