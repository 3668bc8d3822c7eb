"""Lists of a study: whole people on one side, every change of an exam noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from osteosap.errors import InputError
from osteosap.exam import Exam, write_exam
from osteosap.geometry import make_affine
from osteosap.manifest import read_json
from osteosap.study.lists import write_lists
from osteosap.volume import Volume, write_nifti

AFFINE = make_affine((10.0,) * 3, (0.0, 0.0, 0.0))
SHAPE = (12, 12, 12)


def _exam(folder: Path, *, ids: tuple[int, ...] | None, person: str = "") -> None:
    rng = np.random.default_rng(len(str(folder)))
    images = Volume(rng.random((2, *SHAPE)).astype(np.float32) + 1, AFFINE, ("t1", "b1000"))
    labels = np.zeros(SHAPE, np.int32)
    for place, number in enumerate(ids or ()):
        labels[3 * place : 3 * place + 2, 2:4, 2:4] = number
    skeleton = Volume.single(np.ones(SHAPE, np.uint8), AFFINE, "skeleton")
    lesions = None if ids is None else Volume.single(labels, AFFINE, "lesions")
    write_exam(Exam(images, skeleton=skeleton, lesions=lesions), folder)
    if person:
        (folder / "exam.json").write_text(json.dumps({"person": person}))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for number in range(4):
        _exam(data / "healthy" / f"h{number}", ids=None)
    for number in range(6):
        _exam(data / "patients" / f"p{number}", ids=(5, 40)[: 1 + number % 2])
    (tmp_path / "study" / "recipes").mkdir(parents=True)
    settings(tmp_path / "study")
    return tmp_path / "study"


def settings(study: Path, **values: object) -> None:
    content = {
        "n_folds": 3, "tuning_fold": 0, "tested_folds": [1, 2], "seed": 1,
        "validation_share": 0.25, "data": str(study.parent / "data"), **values,
    }  # fmt: skip
    (study / "recipes" / "folds.yaml").write_text(yaml.safe_dump(content))


def contents(study: Path) -> dict[str, str]:
    return {p.stem: p.read_text() for p in (study / "lists" / "contents").glob("*.json")}


def names(study: Path, name: str) -> list[str]:
    return [row["case"] for row in json.loads((study / "lists" / f"{name}.json").read_text())]


def test_every_patient_tunes_or_is_tested_never_both(study: Path) -> None:
    write_lists(study)
    tuning, test = names(study, "tuning"), names(study, "test")
    assert sorted(tuning + test) == [f"p{n}" for n in range(6)]
    for fold in (1, 2):
        tested = names(study, f"test_fold{fold}")
        learnt = names(study, f"training_fold{fold}")
        assert not set(tested) & set(learnt)
        assert not set(tuning) & {*learnt, *tested}
    assert len(names(study, "healthy_validation")) == 1


def test_one_of_few_healthy_people_is_kept_aside(study: Path) -> None:
    """Four people, a share of 0.1: less than half a person."""
    settings(study, validation_share=0.1)
    write_lists(study)
    assert len(names(study, "healthy_validation")) == 1
    assert len(names(study, "healthy_training")) == 3


def test_lesions_are_counted_not_their_largest_number(study: Path) -> None:
    """Instances 5 and 40 are two lesions."""
    write_lists(study)
    counts = read_json(study / "folds.json")["counts"]
    assert sum(c["n_lesions"] for c in counts) == 3 * 1 + 3 * 2


def test_a_corrected_mark_changes_the_lists_of_its_exam_and_no_other(study: Path) -> None:
    write_lists(study)
    before = contents(study)
    (case, *_) = names(study, "test_fold1")
    path = study.parent / "data" / "patients" / case / "lesions.nii.gz"
    labels = np.zeros(SHAPE, np.int32)
    labels[8, 8, 8] = 5  # one lesion, elsewhere
    if case in ("p1", "p3", "p5"):
        labels[2, 2, 2] = 40  # two, as before: folds stay
    write_nifti(Volume.single(labels, AFFINE, "lesions"), path)
    write_lists(study)
    changed = {name for name, text in contents(study).items() if text != before[name]}
    assert changed == {"test", "test_fold1", "training_fold2"}


def test_a_patient_and_a_healthy_person_may_have_one_name(study: Path) -> None:
    data = study.parent / "data"
    (data / "healthy" / "h0").rename(data / "healthy" / "p0")
    write_lists(study)
    healthy, patients = (
        {k: v for name in lists for k, v in json.loads(contents(study)[name]).items()}
        for lists in (("healthy_training", "healthy_validation"), ("test", "tuning"))
    )
    assert set(healthy["p0"]["files"]) == {"t1", "b1000", "skeleton"}
    assert set(patients["p0"]["files"]) == {"t1", "b1000", "skeleton", "lesions"}


def test_an_exam_without_an_image_is_left_for_the_training_to_tell(study: Path) -> None:
    (study.parent / "data" / "healthy" / "h1" / "t1.nii.gz").unlink()
    write_lists(study)
    listed = names(study, "healthy_training") + names(study, "healthy_validation")
    assert "h1" in listed


def test_what_is_no_longer_planned_is_removed(study: Path) -> None:
    write_lists(study)
    assert "test_fold2" in contents(study)
    (study / "lists" / "patients" / "gone").mkdir()
    (study / "lists" / "patients" / "gone" / "t1.nii.gz").symlink_to("nowhere")
    settings(study, tested_folds=[1])
    write_lists(study)
    assert "test_fold2" not in contents(study)
    assert not (study / "lists" / "test_fold2.json").exists()
    links = sorted(p.name for p in (study / "lists" / "patients").iterdir())
    assert links == [f"p{n}" for n in range(6)]
    assert (study / "lists" / "patients" / "p0" / "lesions.nii.gz").is_file()


def test_exams_of_one_person_stay_together(study: Path) -> None:
    for number in (0, 3):
        record = study.parent / "data" / "patients" / f"p{number}" / "exam.json"
        record.write_text(json.dumps({"person": "one"}))
    write_lists(study)
    folds = read_json(study / "folds.json")["folds"]
    assert sum({"p0", "p3"} <= set(fold) for fold in folds) == 1


def test_a_patient_without_lesion_map_is_refused(study: Path) -> None:
    (study.parent / "data" / "patients" / "p2" / "lesions.nii.gz").unlink()
    with pytest.raises(InputError, match="p2 has no lesion map"):
        write_lists(study)
