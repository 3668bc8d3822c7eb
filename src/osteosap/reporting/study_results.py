"""What a study's folder holds, read for its report. Nothing but ``study.json`` need be there.

What is missing, or cannot be read, is left out and named in :attr:`StudyResults.remarks`. Light to
import: no drawing, no templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from osteosap.errors import InputError
from osteosap.folds import Folds, read_folds
from osteosap.manifest import read_json
from osteosap.reporting.study_runs import EncoderPlane, Run, UnitTime, read_planes, read_run
from osteosap.reporting.study_runs import read_units as _read_units
from osteosap.reporting.study_scores import (
    ArmScores,
    MeasureTest,
    arm_title,
    as_number,
    is_plain_name,
    read_arm,
    read_tests,
)

__all__ = ["StudyResults", "read_study"]

_PATIENTS = ("lists/patients", "exams/patients", "cohort/patients/all", "cohort/patients")
_UNREADABLE = (InputError, KeyError, TypeError, ValueError, AttributeError, OSError)
T = TypeVar("T")


@dataclass(frozen=True)
class StudyResults:
    """Everything of a study that its report shows.

    Parameters
    ----------
    folder
        Of the study.
    profile, simulated, arms, seeds, config, versions, config_hash
        From ``study.json``.
    scores
        By arm, in the order of ``arms``.
    tests
        Between arms.
    folds, fold_counts
        Division of patients; None and empty where there is none.
    runs
        Trainings by folder name.
    encoders
        Points of the t-SNE and distances, by encoder.
    units
        Finished units in the order they started.
    patients
        Folder of exam folders, or None.
    remarks
        What is missing.
    """

    folder: Path
    profile: str
    simulated: bool
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    config_hash: str
    scores: Mapping[str, ArmScores] = field(default_factory=dict)
    tests: tuple[MeasureTest, ...] = ()
    folds: Folds | None = None
    fold_counts: tuple[Mapping[str, int], ...] = ()
    runs: Mapping[str, Run] = field(default_factory=dict)
    encoders: tuple[EncoderPlane, ...] = ()
    units: tuple[UnitTime, ...] = ()
    patients: Path | None = None
    remarks: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """For the heading and every figure: whose exams these are."""
        return "SIMULATED examinations" if self.simulated else "real examinations"

    @property
    def featured(self) -> ArmScores | None:
        """The arm whose examples are shown: SAP, or else the one of the highest patient Dice."""
        if "sap" in self.scores:
            return self.scores["sap"]

        def dice(arm: ArmScores) -> float:
            return as_number(arm.find("lesions_all", "dice_mean_misses_as_0", "median"), -1.0)

        return max(self.scores.values(), key=dice, default=None)

    def label(self, exam: str) -> str:
        """An exam for readers: its name if simulated, else a number, since a name may tell whose.

        Numbers follow the names in alphabetical order, as rows of ``evaluation.csv`` do.
        """
        if self.simulated:
            return exam
        names = sorted({name for arm in self.scores.values() for name in arm.names})
        return f"exam {names.index(exam) + 1}" if exam in names else "an exam"


def read_study(folder: Path) -> StudyResults:
    """Read whatever a study's folder holds.

    Raises
    ------
    InputError
        It holds no ``study.json``, or one that names no arms.
    """
    if not (folder / "study.json").is_file():
        raise InputError(
            f"no study.json in {folder}", remedy="Point to a folder of 'osteosap reproduce'"
        )
    content = read_json(folder / "study.json")
    arms, seeds = _identity(content, folder / "study.json")
    notes = _Notes([])
    scores = _read_scores(folder, arms, notes)
    folds = notes.part(folder, "folds.json", read_folds)
    counts = notes.part(folder, "folds.json", lambda path: tuple(read_json(path)["counts"]))
    planned = _planned(content)
    runs = _read_runs(folder, planned, notes)
    tests: tuple[MeasureTest, ...] = ()
    if len(arms) > 1:
        tests = notes.part(folder, "comparison/comparison.json", read_tests) or ()
    else:
        notes.add("the study has one arm: there is nothing to test it against")
    return StudyResults(
        folder=folder,
        profile=str(content.get("profile", "unnamed")),
        simulated=content["simulated"],
        arms=arms,
        seeds=seeds,
        config=_mapping(content.get("config")),
        versions={str(k): str(v) for k, v in _mapping(content.get("versions")).items()},
        config_hash=str(content.get("config_hash", "")),
        scores=scores,
        tests=tests,
        folds=folds,
        fold_counts=counts or (),
        runs=runs,
        encoders=notes.part(folder, "features/features.json", read_planes) or (),
        units=tuple(
            u for u in _read_units(folder / "units") if planned is None or u.name in planned
        ),
        patients=_patients(folder, content, notes),
        remarks=tuple(dict.fromkeys(notes.lines)),
    )


def _identity(content: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Arms and seeds of ``study.json``, which must also say whether the exams are simulated."""
    arms, seeds = content.get("arms"), content.get("seeds", [])
    wrong = [
        name
        for name, right in (
            ("arms", isinstance(arms, list) and arms and all(map(is_plain_name, arms))),
            ("seeds", isinstance(seeds, list) and all(isinstance(s, int) for s in seeds)),
            # whatever else stands there must not let the names of real exams through
            ("simulated", isinstance(content.get("simulated"), bool)),
        )
        if not right
    ]
    if wrong:
        raise InputError(
            f"{path} does not say what was compared: {', '.join(wrong)} missing or no such value",
            remedy="Start the study again with 'osteosap reproduce'",
        )
    return tuple(arms or ()), tuple(seeds)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


@dataclass
class _Notes:
    """Remarks on what is missing, gathered while reading."""

    lines: list[str]

    def add(self, line: str) -> None:
        self.lines.append(line)

    def part(self, folder: Path, name: str, read: Callable[[Path], T]) -> T | None:
        """Read a file of the study; None, with a remark, where that is not possible."""
        path = folder / name
        if not path.is_file():
            self.add(f"{name} is missing: what rests on it is left out")
            return None
        try:
            return read(path)
        except _UNREADABLE as error:
            self.add(
                f"{name} cannot be read ({type(error).__name__}): what rests on it is left out"
            )
            return None


def _read_scores(folder: Path, arms: Sequence[str], notes: _Notes) -> dict[str, ArmScores]:
    extra = sorted(
        p.parent.name for p in folder.glob("scores/*/evaluation.json") if p.parent.name not in arms
    )
    found = {}
    for name in (*arms, *extra):
        scores = notes.part(
            folder,
            f"scores/{name}/evaluation.json",
            lambda path, arm=name: read_arm(path, arm),  # type: ignore[misc]
        )
        if scores is not None:
            found[name] = scores
            if name in extra:
                notes.add(f"scores/{name} is of no arm of study.json, perhaps of an earlier start")
            if not scores.exams:
                notes.add(f"{arm_title(name)}: no exam has lesion scores")
    if len({tuple(e.name for e in arm.exams) for arm in found.values()}) > 1:
        notes.add("the arms were scored on different exams: compare their numbers with care")
    return found


def _planned(content: Mapping[str, Any]) -> frozenset[str] | None:
    """Units of the plan; None where ``study.json`` does not name them."""
    names = content.get("units")
    return frozenset(map(str, names)) if isinstance(names, list) else None


def _read_runs(folder: Path, planned: frozenset[str] | None, notes: _Notes) -> dict[str, Run]:
    found = {}
    for place in sorted(p for p in folder.glob("runs/*") if p.is_dir()):
        if planned is not None and place.name not in planned:
            notes.add(f"runs/{place.name} is of no unit of the plan: left out")
            continue
        try:
            run = read_run(place)
        except _UNREADABLE as error:
            notes.add(f"runs/{place.name} cannot be read ({type(error).__name__})")
            continue
        if run is not None:
            found[place.name] = run
    if not found:
        notes.add("there is no training with a log: no curves, rates or thresholds")
    return found


def _patients(folder: Path, content: Mapping[str, Any], notes: _Notes) -> Path | None:
    given = content.get("patients")
    places = [Path(given)] if isinstance(given, str) else []
    places += [folder / name for name in _PATIENTS]  # a data folder may be of another layout
    if isinstance(content.get("data_folder"), str):
        places.append(Path(content["data_folder"]) / "patients")
    for place in places:
        if place.is_dir():
            return place
    notes.add("the folder of the patients' exams is not there: no pictures")
    return None
