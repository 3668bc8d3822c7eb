"""Folds: stratified by lesions, persons kept together, repeatable."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import ConfigError
from osteosap.folds import make_folds, read_folds, write_folds


def _cohort(n: int, seed: int = 0) -> dict[str, int]:
    counts = np.random.default_rng(seed).lognormal(2.0, 1.0, n).astype(int)
    return {f"exam_{i:02d}": int(c) for i, c in enumerate(counts)}


def test_seven_folds_of_forty_have_alike_numbers_of_exams_and_lesions() -> None:
    lesions = _cohort(40)
    folds = make_folds(lesions, n_folds=7)
    sizes = [len(fold) for fold in folds.folds]
    assert sorted(e for fold in folds.folds for e in fold) == sorted(lesions)
    assert max(sizes) - min(sizes) <= 1
    # each round of seven people lies in seven folds: the six richest differ by their own spread
    richest = sorted(lesions.values(), reverse=True)
    totals = [sum(lesions[e] for e in fold) for fold in folds.folds]
    assert max(totals) - min(totals) <= richest[0]
    assert folds.test_folds == (1, 2, 3, 4, 5, 6)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 30), st.integers(2, 4), st.integers(0, 999))
def test_a_person_is_never_in_two_folds(n: int, n_folds: int, seed: int) -> None:
    lesions = _cohort(n, seed)
    persons = {exam: f"person {i // 2}" for i, exam in enumerate(lesions)}
    if len(set(persons.values())) < n_folds:
        return
    folds = make_folds(lesions, n_folds=n_folds, persons=persons, seed=seed)
    where = [{persons[e] for e in fold} for fold in folds.folds]
    assert sum(map(len, where)) == len(set(persons.values()))
    assert folds == make_folds(lesions, n_folds=n_folds, persons=persons, seed=seed)


def test_training_exams_are_neither_tested_nor_tuned_on() -> None:
    lesions = _cohort(21)
    folds = make_folds(lesions, n_folds=7, tuning=3)
    for tested in folds.test_folds:
        training = set(folds.training(tested))
        assert not training & set(folds.folds[tested])
        assert not training & set(folds.folds[3])
        assert len(training) == 15
    with pytest.raises(ConfigError, match="tuning on fold 3"):
        folds.training(3)


def test_folds_are_written_and_read_and_checked(tmp_path: Path) -> None:
    lesions = _cohort(9)
    folds = make_folds(lesions, n_folds=3)
    path = tmp_path / "folds.json"
    write_folds(folds, path, lesions=lesions)
    assert read_folds(path, exams=list(lesions)) == folds
    with pytest.raises(ConfigError, match="in one alone"):
        read_folds(path, exams=["other"])
    path.write_text('{"folds": [["a"], ["a"]], "tuning": 0, "seed": 1}')
    with pytest.raises(ConfigError, match="twice"):
        read_folds(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="holds no folds"):
        read_folds(path)


def test_impossible_folds_are_refused() -> None:
    for n_folds, tuning in ((1, 0), (4, 0), (3, 3)):
        with pytest.raises(ConfigError, match="folds of 3 people"):
            make_folds({"a": 1, "b": 2, "c": 3}, n_folds=n_folds, tuning=tuning)
