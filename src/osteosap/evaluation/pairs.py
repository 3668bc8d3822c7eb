"""Which files are scored against which: reference and prediction of equal names.

A folder is one exam (it holds ``lesions`` or ``skeleton``), a folder of exam folders, or a flat
folder of lesion masks ``NAME.nii.gz``, one an exam, as other programs write them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from osteosap.errors import InputError
from osteosap.exam import find_file

__all__ = [
    "NO_PREDICTION",
    "NO_REFERENCE",
    "ExamFiles",
    "Pair",
    "find_pairs",
    "pair_of_folders",
    "read_case_names",
]

NO_PREDICTION = "without a prediction"
NO_REFERENCE = "without a reference"
_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class ExamFiles:
    """Maps of one exam, each None where there is none."""

    lesions: Path | None = None
    skeleton: Path | None = None
    probability: Path | None = None

    def holds_any(self) -> bool:
        """Whether there is anything to score."""
        return any((self.lesions, self.skeleton, self.probability))


@dataclass(frozen=True)
class Pair:
    """One exam to score.

    Parameters
    ----------
    name
        In tables.
    reference, prediction
        Their maps.
    roi
        Mask outside which neither side counts; None for everywhere.
    patient, site
        Whose exam it is (intervals draw patients) and where it was made; by default the exam
        is a patient of its own, at no named site.
    """

    name: str
    reference: ExamFiles
    prediction: ExamFiles
    roi: Path | None = None
    patient: str = ""
    site: str = ""


def pair_of_folders(reference: Path, prediction: Path, *, name: str | None = None) -> Pair:
    """Two exam folders as a pair; patient and site as ``exam.json`` of either tells them.

    Raises
    ------
    InputError
        A folder is absent.
    """
    for folder in (reference, prediction):
        _require_folder(folder)
    label = name if name is not None else prediction.resolve().name
    return _pair(label, _files(reference), _files(prediction), (reference, prediction))


def find_pairs(
    reference: Path,
    prediction: Path,
    *,
    probability: Path | None = None,
    roi: Path | None = None,
    allow_missing: bool = False,
    cases: Sequence[str] | None = None,
) -> tuple[list[Pair], dict[str, str]]:
    """Match exams of both sides by name.

    Parameters
    ----------
    reference, prediction
        Folders, see the module; both of one exam, or both of several.
    probability, roi
        The same for probability maps (``lesion_probability``) and masks (``roi``) kept elsewhere.
    allow_missing
        Leave out references without a prediction (and ``cases`` without a reference) instead of
        refusing.
    cases
        Names of the exams to score, and no other; None for all.

    Returns
    -------
    pairs
        In order of names.
    missing
        Name of what was left out to :data:`NO_PREDICTION` or :data:`NO_REFERENCE`.

    Raises
    ------
    InputError
        A folder is absent or empty, an exam of the prediction has no reference, a reference no
        prediction, a case is on neither or one side only, or an exam has no probability or roi
        where a folder of them was given.
    """
    for folder in (reference, prediction, probability, roi):
        if folder is not None:
            _require_folder(folder)
    if _files(prediction).holds_any():
        if cases is not None:
            raise InputError(
                f"cases are named, but {prediction} is one exam",
                remedy="Leave the cases out, or give two folders of exams",
            )
        pair = pair_of_folders(reference, prediction)
        return [_with_extras(pair, probability, roi, single=True)], {}
    references, predictions = _exams(reference), _exams(prediction)
    alone = sorted(set(predictions) - set(references)) if cases is None else []
    if not predictions or alone:
        raise InputError(
            f"{len(predictions)} exams in {prediction}, {len(alone)} of them without one of the "
            f"same name in {reference}{_listed(alone)}",
            remedy="Give two exam folders, or two folders whose exams have equal names; "
            "--cases FILE scores those that it names and ignores others",
        )
    wanted = sorted(references if cases is None else set(cases))
    missing = {
        name: NO_PREDICTION if name in references else NO_REFERENCE
        for name in wanted
        if name not in references or name not in predictions
    }
    if missing and not allow_missing:
        _refuse(missing, len(wanted), reference, prediction)
    pairs = []
    for name in wanted:
        if name not in missing:
            folders = (reference / name, prediction / name)
            pair = _pair(name, references[name], predictions[name], folders)
            pairs.append(_with_extras(pair, probability, roi, single=False))
    return pairs, missing


def _refuse(missing: dict[str, str], n_wanted: int, reference: Path, prediction: Path) -> NoReturn:
    unknown = [name for name, reason in missing.items() if reason == NO_REFERENCE]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {n_wanted} cases are no exam in {reference}{_listed(unknown)}",
            remedy="Check the names, or leave these cases out of the scores with --allow-missing",
        )
    raise InputError(
        f"{len(missing)} of {n_wanted} exams in {reference} have no prediction in "
        f"{prediction}{_listed(list(missing))}",
        remedy="Make them, or leave these exams out of the scores with --allow-missing",
    )


def read_case_names(path: Path) -> list[str]:
    """Names in a JSON list: of strings, or of rows with a ``case``, as lists of trainings are.

    Raises
    ------
    InputError
        The file cannot be read, is no such list, is empty, or names a case twice.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a list of cases ({type(error).__name__})",
            remedy='Give a JSON file such as ["exam_1", "exam_2"]',
        ) from error
    rows = content if isinstance(content, list) else []
    found = [row.get("case") if isinstance(row, dict) else row for row in rows]
    names = [name for name in found if isinstance(name, str) and name]
    if not names or len(names) < len(found):
        raise InputError(
            f"{path} is no list of cases, expected names or rows with a 'case', at least one",
            remedy='Write it as ["exam_1", "exam_2"]',
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} names cases twice{_listed(twice)}", remedy="Name each once")
    return names


def _pair(
    name: str, reference: ExamFiles, prediction: ExamFiles, folders: tuple[Path, Path]
) -> Pair:
    patient, site = _origin(folders)
    return Pair(name, reference, prediction, patient=patient or name, site=site or "")


def _with_extras(pair: Pair, probability: Path | None, roi: Path | None, *, single: bool) -> Pair:
    if probability is not None:
        found = _map_of(probability, pair.name, "lesion_probability", single=single)
        pair = replace(pair, prediction=replace(pair.prediction, probability=found))
    if roi is not None:
        pair = replace(pair, roi=_map_of(roi, pair.name, "roi", single=single))
    return pair


def _map_of(folder: Path, name: str, what: str, *, single: bool) -> Path:
    """A map of an exam in a folder of one exam, of exams, or of files named after exams."""
    places = [folder] if single else [folder / name]
    found = next((p for place in places if (p := find_file(place, what))), None)
    found = found or next((p for s in _SUFFIXES if (p := folder / f"{name}{s}").is_file()), None)
    if found is None:
        raise InputError(
            f"no {what}.nii.gz of exam {name} in {folder}",
            remedy=f"Put it at {name}/{what}.nii.gz or {name}.nii.gz, or leave the option out",
        )
    return found


def _exams(folder: Path) -> dict[str, ExamFiles]:
    """Exams below a folder by name."""
    found = {p.name: _files(p) for p in sorted(folder.iterdir()) if p.is_dir()}
    exams = {name: files for name, files in found.items() if files.holds_any()}
    if exams:
        return exams
    return {
        p.name.removesuffix(suffix): ExamFiles(lesions=p)
        for suffix in _SUFFIXES
        for p in sorted(folder.glob(f"*{suffix}"))
    }


def _files(folder: Path) -> ExamFiles:
    return ExamFiles(
        find_file(folder, "lesions"),
        find_file(folder, "skeleton"),
        find_file(folder, "lesion_probability"),
    )


def _origin(folders: Iterable[Path]) -> tuple[str | None, str | None]:
    """Patient and site of ``exam.json``, of folders or their ``exam/``; the first word counts.

    Whose an exam is, is told as for a training: by ``person``, else by ``seed``.
    """
    places = [f / name for f in folders for name in ("exam.json", "exam/exam.json")]
    records = [_record(path) for path in places]
    named = [_name(record.get(key)) for key in ("person", "seed") for record in records]
    configs = [record.get("config") for record in records]
    sites = [config.get("site") for config in configs if isinstance(config, dict)]
    return (
        next((f"person {name}" for name in named if name), None),
        next((site for site in sites if isinstance(site, str)), None),
    )


def _name(value: Any) -> str:
    """A name or number as text; empty for anything else."""
    return "" if value is None or isinstance(value, bool | dict | list) else str(value).strip()


def _record(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", remedy="Check the path")


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (": " + ", ".join(names[:most]) + more) if names else ""
