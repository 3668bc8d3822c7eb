"""Who is on which side of a study: lists of exams for every training, and the folds of patients."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from osteosap.config import read_yaml
from osteosap.errors import InputError
from osteosap.evaluation.matching import as_components
from osteosap.folds import Folds, make_folds, write_folds
from osteosap.manifest import file_checksum, write_json, write_text
from osteosap.study.config import StudyConfig
from osteosap.study.plan import CONTENTS, PATIENTS, RECIPES
from osteosap.training.case_layouts import TrainingCase, find_cases
from osteosap.volume import read_nifti

__all__ = ["write_lists"]


def write_lists(study: Path) -> None:
    """Write ``folds.json``, ``lists/*.json`` and checksums of their exams; remove older lists.

    Healthy people are those of ``cohort/healthy`` (split as the cohort says) or of the data
    folder's ``healthy`` (split by ``validation_share``, whole persons, at least one unless it is
    0); patients are divided into folds by their number of lesions.

    Raises
    ------
    InputError
        There are no exams, or a patient has no lesion map.
    """
    values = read_yaml(study / RECIPES / "folds.yaml")
    data = values.pop("data")
    config = StudyConfig.from_mapping(values)
    root = Path(data) if data else study / "cohort"
    training, validation = _healthy(root, config, simulated=not data)
    patients = find_cases(root / "patients" if data else root / "patients" / "all")
    lesions = {case.name: _count(case) for case in patients}
    folds = make_folds(
        lesions,
        n_folds=config.n_folds,
        persons={case.name: case.person for case in patients if case.person},
        tuning=config.tuning_fold,
        seed=config.seed,
    )
    sides = _sides(patients, folds, config.test_folds)
    sides |= {"healthy_training": training, "healthy_validation": validation}
    checksum = functools.cache(file_checksum)  # most exams are in several lists
    for name, cases in sides.items():
        _write(cases, study / "lists" / f"{name}.json")
        content = {case.name: _content(case, checksum) for case in cases}
        write_json(study / CONTENTS / f"{name}.json", content)
    for folder in (study / "lists", study / CONTENTS):
        for path in folder.glob("*.json"):
            if path.stem not in sides:
                path.unlink()
    _link(patients, study / PATIENTS)
    write_folds(folds, study / "folds.json", lesions=lesions)


def _healthy(
    root: Path, config: StudyConfig, *, simulated: bool
) -> tuple[list[TrainingCase], list[TrainingCase]]:
    if simulated:
        return find_cases(root / "healthy/training"), find_cases(root / "healthy/validation")
    cases = find_cases(root / "healthy")
    people = sorted({case.person or case.name for case in cases})
    order = np.random.default_rng([config.seed, 7]).permutation(len(people))
    n_validation = round(config.validation_share * len(people))
    if config.validation_share and len(people) > 1:
        n_validation = max(1, n_validation)
    kept = {people[i] for i in order[:n_validation]}
    sides: tuple[list[TrainingCase], list[TrainingCase]] = ([], [])
    for case in cases:
        sides[(case.person or case.name) in kept].append(case)
    return sides


def _sides(
    patients: Sequence[TrainingCase], folds: Folds, tested: Sequence[int]
) -> dict[str, list[TrainingCase]]:
    by_name = {case.name: case for case in patients}
    sides = {"tuning": [by_name[name] for name in folds.folds[folds.tuning]]}
    for fold in tested:
        sides[f"test_fold{fold}"] = [by_name[name] for name in folds.folds[fold]]
        sides[f"training_fold{fold}"] = [by_name[name] for name in folds.training(fold)]
    sides["rates_training"] = sides[f"training_fold{tested[0]}"]
    sides["test"] = [case for fold in tested for case in sides[f"test_fold{fold}"]]
    return sides


def _count(case: TrainingCase) -> int:
    """Lesions: connected components of the map; none of a patient known to be healthy."""
    if case.lesions is None:
        if case.healthy:
            return 0
        raise InputError(
            f"the patient {case.name} has no lesion map",
            remedy="Add lesions.nii.gz (all zero where there is none)",
        )
    parts = as_components(read_nifti(case.lesions, channel="lesions").array[0])
    return int(np.count_nonzero(np.unique(parts)))


def _content(case: TrainingCase, checksum: Callable[[Path], str]) -> dict[str, Any]:
    """All of an exam that a result may depend on; what is missing, the training will tell."""
    files = {n: checksum(path) for n, path in _all_files(case).items() if path.is_file()}
    return {"files": files, "person": case.person, "healthy": case.healthy}


def _all_files(case: TrainingCase) -> dict[str, Path]:
    """Images, truth, and the record that names person and site."""
    files = case.files()
    record = next(iter(files.values())).parent / "exam.json"
    return {**files, "exam": record} if record.is_file() else files


def _write(cases: Sequence[TrainingCase], path: Path) -> None:
    """A list that the trainings read; paths relative to its folder."""
    rows: list[dict[str, Any]] = []
    for case in cases:
        row: dict[str, Any] = {"case": case.name}
        row |= {name: _relative(file, path.parent) for name, file in case.files().items()}
        if case.person:
            row["person"] = case.person
        if case.healthy:
            row["healthy"] = True
        rows.append(row)
    write_text(path, json.dumps(rows, indent=1) + "\n")


def _link(cases: Sequence[TrainingCase], folder: Path) -> None:
    """One folder a patient with links to its files: the evaluation takes folders."""
    for link in folder.glob("*/*"):
        if link.is_symlink():
            link.unlink()
    for case in cases:
        own = folder / case.name
        own.mkdir(parents=True, exist_ok=True)
        for name, file in _all_files(case).items():
            link = own / ("exam.json" if name == "exam" else f"{name}{_suffix(file)}")
            link.symlink_to(_relative(file, own))
    for own in folder.iterdir():
        with contextlib.suppress(OSError):  # not empty: of a patient
            own.rmdir()


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file.resolve(), folder.resolve())
