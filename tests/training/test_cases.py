from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from osteosap.errors import InputError, TrainingError
from osteosap.inference.prepare import InputConfig
from osteosap.training.cases import (
    TrainingCase,
    check_cases,
    describe_cases,
    find_cases,
    require_cases,
    require_other_people,
)
from osteosap.training.data import prepare_exam

CHANNELS = ("t1", "b1000")
SKELETON = {
    "background": 0, "cervical_spine": 1, "thoracic_spine": 2, "lumbar_spine": 3, "pelvis": 4,
    "femur": 5, "humerus": 6, "scapula": 7, "clavicle": 8, "sternum": 9,
}  # fmt: skip


@pytest.fixture
def folders(tiny_exams: list[Path], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    for folder in tiny_exams:
        shutil.copytree(folder, tmp_path / "exams" / folder.name)
    return tmp_path / "exams"


def _nnunet(exams: list[Path], root: Path, *, kind: str = "lesions", labels: object = None) -> Path:
    """The tiny exams as an nnU-Net raw dataset whose channels are in an order of its own."""
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number, folder in enumerate(exams):
        for channel, code in (("b1000", "0000"), ("t1", "0002")):
            target = root / "imagesTr" / f"mets_{number:03d}_{code}.nii.gz"
            shutil.copy(folder / f"{channel}.nii.gz", target)
        shutil.copy(folder / f"{kind}.nii.gz", root / "labelsTr" / f"mets_{number:03d}.nii.gz")
    content = {
        "channel_names": {"0": "DWI_b1000", "1": "T2 HASTE", "2": "T1w"},
        "labels": labels or {"background": 0, "lesion": 1},
        "numTraining": len(exams),
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def _rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], *, affine=None) -> None:
    image = nib.load(path)
    array = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


def test_a_folder_of_exam_folders_gives_its_exams_in_order(folders: Path) -> None:
    (folders / "notes").mkdir()
    nested = folders / "exam_9" / "exam"
    nested.mkdir(parents=True)
    shutil.copy(folders / "exam_0" / "t1.nii.gz", nested)
    cases = find_cases(folders)
    assert [case.name for case in cases] == ["exam_0", "exam_1", "exam_2", "exam_9"]
    assert cases[0].images == {c: folders / "exam_0" / f"{c}.nii.gz" for c in CHANNELS}
    assert cases[0].lesions == folders / "exam_0" / "lesions.nii.gz"
    assert cases[3].images == {"t1": nested / "t1.nii.gz"}
    assert [case.name for case in find_cases(folders / "exam_1")] == ["exam_1"]


def test_simulated_people_are_known_by_their_seed_and_others_by_their_name(folders: Path) -> None:
    (folders / "exam_0" / "exam.json").write_text(json.dumps({"seed": 7}))
    (folders / "exam_1" / "exam").mkdir()
    (folders / "exam_1" / "exam" / "exam.json").write_text(json.dumps({"seed": 0}))
    (folders / "exam_2" / "exam.json").write_text(json.dumps({"person": "p1", "healthy": True}))
    assert [(case.person, case.healthy) for case in find_cases(folders)] == [
        ("7", False), ("0", False), ("p1", True),
    ]  # fmt: skip


def test_an_nnunet_dataset_is_read_by_the_names_of_its_channels(
    tiny_exams: list[Path], tmp_path: Path
) -> None:
    cases = find_cases(_nnunet(tiny_exams, tmp_path / "Dataset001_Mets"))
    assert [case.name for case in cases] == ["mets_000", "mets_001", "mets_002"]
    assert check_cases(cases, needs="lesions", channels=CHANNELS) == []
    config = InputConfig(spacing_mm=(8.0, 8.0, 8.0))
    for case, folder in zip(cases, tiny_exams, strict=True):
        ours, theirs = prepare_exam(case, config), prepare_exam(find_cases(folder)[0], config)
        assert np.array_equal(ours.images, theirs.images)
        assert np.array_equal(ours.lesions, theirs.lesions)


def test_nnunet_labels_that_name_bones_are_a_skeleton(
    tiny_exams: list[Path], tmp_path: Path
) -> None:
    one = _nnunet(tiny_exams[:1], tmp_path / "a", kind="skeleton", labels=SKELETON)
    old = {str(number): name for name, number in SKELETON.items()}
    two = _nnunet(tiny_exams[:1], tmp_path / "b", kind="skeleton", labels=old)
    for source in (one, two):
        (case,) = find_cases(source)
        assert case.skeleton is not None
        assert case.lesions is None
        assert check_cases([case], needs="skeleton", channels=CHANNELS) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_names": {"0": "DWI", "1": "T2"}}, "none of them means t1"),
        ({"channel_names": {"0": "T1", "1": "t1w", "2": "DWI"}}, "two channels that mean t1"),
        ({"labels": {"background": 0, "femur": 1, "pelvis": 2}}, "bone classes with these ids"),
        ({"labels": {"background": 0, "lesion": 1, "node": 2}}, "one label 'lesion'"),
        ({"labels": None}, "labels"),
        ({"file_ending": ".mha"}, r"file_ending '\.mha'"),
    ],
)
def test_an_nnunet_dataset_that_cannot_be_meant_is_refused(
    tiny_exams: list[Path], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    root = _nnunet(tiny_exams[:1], tmp_path)
    content = json.loads((root / "dataset.json").read_text()) | change
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        find_cases(root)


def _rows(folders: Path, base: str) -> list[dict[str, str]]:
    rows = []
    for folder in sorted(folders.iterdir()):
        files = {n: f"{base}{folder.name}/{n}.nii.gz" for n in (*CHANNELS, "skeleton", "lesions")}
        rows.append({"case": folder.name, **files, "person": folder.name[-1], "healthy": ""})
    rows[2] |= {"lesions": "", "healthy": "Yes"}
    return rows


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_csv_list_gives_paths_relative_to_itself(folders: Path, delimiter: str) -> None:
    path = folders.parent / "list.csv"
    rows = _rows(folders, "exams/")
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    cases = find_cases(path)
    assert [(c.name, c.person, c.healthy) for c in cases] == [
        ("exam_0", "0", False), ("exam_1", "1", False), ("exam_2", "2", True),
    ]  # fmt: skip
    assert cases[2].lesions is None
    assert check_cases(cases, needs="lesions", channels=CHANNELS) == []


def test_a_json_list_may_be_bare_or_below_cases(folders: Path) -> None:
    rows: list[dict[str, object]] = [dict(row) for row in _rows(folders, f"{folders}/")]
    rows[0] |= {"healthy": False, "lesions": None, "person": 12}
    for content in (rows, {"cases": rows}):
        (folders.parent / "list.json").write_text(json.dumps(content))
        cases = find_cases(folders.parent / "list.json")
        assert (cases[0].person, cases[0].healthy, cases[0].lesions) == ("12", False, None)
        assert cases[1].lesions == folders / "exam_1" / "lesions.nii.gz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,t1,b100\na,b,c\n", "unknown column 'b100'; did you mean 'b1000'"),
        ("case,t1\n,b\n", r"list\.csv, case 1 has no name"),
        ("case,t1,healthy\na,b,perhaps\n", "healthy is 'perhaps'"),
        ("case,t1\na,b,c\n", "more cells"),
        ("case,t1\n", "lists no case"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path / "list.csv")


@pytest.mark.parametrize("text", ["{", '"a"', "[1]", "[]"])
def test_json_that_lists_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError):
        find_cases(tmp_path / "list.json")


def test_a_place_without_exams_is_refused(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "absent", tmp_path / "absent.csv"):
        with pytest.raises(InputError, match="no exam folder"):
            find_cases(source)


SHIFTED = np.diag([8.0, 8.0, 8.0, 1.0])
SHIFTED[2, 3] = 40.0


def _nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[3, 4, 5] = np.nan
    return array


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "absent": ("no b1000 image", lambda e: (e / "b1000.nii.gz").unlink()),
    "unreadable": (
        "cannot be read as NIfTI",
        lambda e: (e / "t1.nii.gz").write_bytes((e / "t1.nii.gz").read_bytes()[:200]),
    ),
    "cut short": (
        "cannot be read as NIfTI",
        lambda e: (e / "t1.nii.gz").write_bytes((e / "t1.nii.gz").read_bytes()[:-900]),
    ),
    "another grid": (
        "different grids",
        lambda e: _rewrite(e / "b1000.nii.gz", lambda a: a, affine=SHIFTED),
    ),
    "another shape": ("different grids", lambda e: _rewrite(e / "lesions.nii.gz", lambda a: a[1:])),
    "four axes": (
        "has 4 axes",
        lambda e: _rewrite(e / "t1.nii.gz", lambda a: np.stack([a, a], -1)),
    ),
    "NaN": ("NaN or infinite", lambda e: _rewrite(e / "b1000.nii.gz", _nan)),
    "a class too many": (
        "ids from 0 to 10, expected 0 to 9",
        lambda e: _rewrite(e / "skeleton.nii.gz", lambda a: np.where(a == 9, 10, a)),
    ),
    "a class too many to count": (
        "ids from 0 to 265",
        lambda e: _rewrite(e / "skeleton.nii.gz", lambda a: (a + 256 * (a == 9)).astype(np.int16)),
    ),
    "probabilities": (
        "lesions holds values that are not integers",
        lambda e: _rewrite(e / "lesions.nii.gz", lambda a: a.astype(np.float32) * 0.3),
    ),
    "negative ids": (
        "lesions has ids from -1",
        lambda e: _rewrite(e / "lesions.nii.gz", lambda a: a.astype(np.int16) - 1),
    ),
    "empty": (r"t1 is empty", lambda e: _rewrite(e / "t1.nii.gz", np.zeros_like)),
    "constant": ("b1000 is constant", lambda e: _rewrite(e / "b1000.nii.gz", np.ones_like)),
    "metres": (
        "voxels of 0.008x0.008x0.008 mm",
        lambda e: [
            _rewrite(p, lambda a: a, affine=np.diag([0.008] * 3 + [1])) for p in e.glob("*.nii.gz")
        ],
    ),
    "no bone": ("skeleton is empty", lambda e: _rewrite(e / "skeleton.nii.gz", np.zeros_like)),
    "no reference": (r"no lesions\.nii\.gz", lambda e: (e / "lesions.nii.gz").unlink()),
    "healthy with lesions": (
        "declared healthy",
        lambda e: (e / "exam.json").write_text('{"healthy": true}'),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_named_and_told_with_its_remedy(folders: Path, fault: str) -> None:
    message, harm = FAULTS[fault]
    harm(folders / "exam_1")
    problems = check_cases(find_cases(folders), needs="lesions", channels=CHANNELS)
    assert {problem.case for problem in problems} == {"exam_1"}
    assert any(re.search(message, problem.problem) for problem in problems)
    assert all(problem.remedy for problem in problems)


def test_all_cases_are_checked_and_all_problems_told_at_once(folders: Path) -> None:
    (folders / "exam_0" / "b1000.nii.gz").unlink()
    FAULTS["NaN"][1](folders / "exam_1")
    FAULTS["another grid"][1](folders / "exam_2")
    cases = find_cases(folders)
    cases.append(replace(cases[1], images=dict(cases[1].images)))
    with pytest.raises(TrainingError) as raised:
        require_cases(cases, needs="lesions", channels=CHANNELS)
    lines = str(raised.value).splitlines()
    assert lines[1].split() == ["case", "problem", "remedy"]
    told = [line.split("  ")[0] for line in lines[3:] if "exam_" in line[:6]]
    assert set(told) == {"exam_0", "exam_1", "exam_2"}
    assert "the name occurs 2 times" in str(raised.value)
    assert "same t1 file as exam_1" in str(raised.value)
    assert "3 of 4 exams cannot be trained on" in lines[-1]


def test_sound_exams_pass_and_channels_that_are_not_needed_are_not_read(folders: Path) -> None:
    shutil.copy(folders / "exam_0" / "t1.nii.gz", folders / "exam_0" / "adc.nii.gz")
    _rewrite(folders / "exam_0" / "adc.nii.gz", _nan)
    cases = find_cases(folders)
    for needs in ("lesions", "skeleton", "images"):
        require_cases(cases, needs=needs, channels=CHANNELS)
    with pytest.raises(TrainingError, match="no adc image"):
        require_cases(cases, needs="images", channels=("t1", "adc"))
    with pytest.raises(TrainingError, match="no exams"):
        require_cases([], needs="lesions", channels=CHANNELS)


def test_what_was_found_sound_is_not_read_again_until_it_changes(
    folders: Path, tmp_path: Path
) -> None:
    sound = tmp_path / "store" / "sound.json"
    cases = find_cases(folders)

    def reads() -> int:
        steps: list[float] = []
        check_cases(
            cases,
            needs="lesions",
            channels=CHANNELS,
            progress=lambda _, done: steps.append(done),
            sound=sound,
        )
        return len(steps)

    assert [reads(), reads()] == [3, 0]
    FAULTS["NaN"][1](folders / "exam_1")
    for _ in range(2):
        assert reads() == 1
        assert check_cases(cases, needs="lesions", channels=CHANNELS, sound=sound)
    sound.write_text("{ damaged")
    assert reads() == 3


def test_nobody_is_on_both_sides_and_no_person_is_named() -> None:
    def case(name: str, person: str | None, file: str | None = None) -> TrainingCase:
        return TrainingCase(name, {"t1": Path(f"/none/{file or name}")}, person=person)

    train = [case("a", "Mr X"), case("b", None)]
    require_other_people(train, [case("c", "Mr Y"), case("d", None)])
    with pytest.raises(TrainingError, match=r"both trained and validated on: c \(with a") as raised:
        require_other_people(train, [case("c", "Mr X"), case("d", None)])
    assert "Mr X" not in str(raised.value)
    with pytest.raises(TrainingError, match=r"d \(with b"):
        require_other_people(train, [case("d", None, "b")])


def test_a_cohort_is_described_by_counts_spacing_and_volumes(folders: Path) -> None:
    (folders / "exam_0" / "exam.json").write_text('{"person": "p"}')
    (folders / "exam_2" / "lesions.nii.gz").unlink()
    (folders / "exam_2" / "exam.json").write_text('{"person": "p", "healthy": true}')
    rows = dict(describe_cases(find_cases(folders)))
    assert (rows["exams"], rows["people"]) == ("3", "1")
    assert (rows["with skeleton map"], rows["with lesion map"]) == ("3", "2")
    assert rows["voxels, mm"] == "8.00 x 8.00 x 8.00"
    assert rows["exams without lesion"] == "1"
    assert rows["lesions"] == "6 (3 an exam, up to 3)"
    # a lesion of the tiny exams is a ball of 33 voxels of 0.512 mL
    assert rows["lesion volume, mL"] == "median 16.90, 16.9 to 16.9"
    assert rows["lesions >= 1 mL"] == "100%"
    assert rows["burden of an exam, mL"] == "median 50.7, up to 50.7"
    assert dict(describe_cases([])) == {
        "exams": "0", "people": "not known", "channels": "", "with skeleton map": "0",
        "with lesion map": "0", "lesions": "not known",
    }  # fmt: skip
