"""Which files are scored against which: reference and prediction of equal names.

A folder is one exam (it holds ``lesions`` or ``skeleton``), a folder of exam folders, or a flat
folder of lesion masks ``NAME.nii.gz``, one an exam, as other programs write them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from osteosap.errors import InputError
from osteosap.exam import find_file

__all__ = ["ExamFiles", "Pair", "find_pairs", "pair_of_folders"]

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
    """Two exam folders as a pair; patient and site from a simulated reference's ``exam.json``.

    Raises
    ------
    InputError
        A folder is absent.
    """
    for folder in (reference, prediction):
        _require_folder(folder)
    label = name if name is not None else prediction.resolve().name
    patient, site = _origin(reference)
    return Pair(
        label, _files(reference), _files(prediction), patient=patient or label, site=site or ""
    )


def find_pairs(
    reference: Path,
    prediction: Path,
    *,
    probability: Path | None = None,
    roi: Path | None = None,
    allow_missing: bool = False,
) -> tuple[list[Pair], list[str]]:
    """Match exams of both sides by name.

    Parameters
    ----------
    reference, prediction
        Folders, see the module; both of one exam, or both of several.
    probability, roi
        The same for probability maps (``lesion_probability``) and masks (``roi``) kept elsewhere.
    allow_missing
        Leave out references without a prediction instead of refusing.

    Returns
    -------
    pairs
        In order of names.
    missing
        References that have no prediction.

    Raises
    ------
    InputError
        A folder is absent or empty, an exam of the prediction has no reference, a reference no
        prediction, or an exam has no probability or roi where a folder of them was given.
    """
    for folder in (reference, prediction, probability, roi):
        if folder is not None:
            _require_folder(folder)
    if _files(prediction).holds_any():
        pair = pair_of_folders(reference, prediction)
        return [_with_extras(pair, probability, roi, single=True)], []
    predictions, references = _exams(prediction), _exams(reference)
    alone = sorted(set(predictions) - set(references))
    missing = sorted(set(references) - set(predictions))
    if not predictions or alone:
        raise InputError(
            f"{len(predictions)} exams in {prediction}, {len(alone)} of them without one of the "
            f"same name in {reference}{_listed(alone)}",
            remedy="Give two exam folders, or two folders whose exams have equal names",
        )
    if missing and not allow_missing:
        raise InputError(
            f"{len(missing)} of {len(references)} exams in {reference} have no prediction in "
            f"{prediction}{_listed(missing)}",
            remedy="Make them, or leave these exams out of the scores with --allow-missing",
        )
    pairs = []
    for name in sorted(predictions):
        patient, site = _origin(reference / name)
        pair = Pair(
            name, references[name], predictions[name], patient=patient or name, site=site or ""
        )
        pairs.append(_with_extras(pair, probability, roi, single=False))
    return pairs, missing


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


def _origin(folder: Path) -> tuple[str | None, str | None]:
    """Patient and site that a simulated exam tells of itself."""
    try:
        content = json.loads((folder / "exam.json").read_text(encoding="utf-8"))
        seed, site = content.get("seed"), content.get("config", {}).get("site")
    except (OSError, ValueError, AttributeError):
        return None, None
    return (f"seed {seed}" if isinstance(seed, int) else None), (
        site if isinstance(site, str) else None
    )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", remedy="Check the path")


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (": " + ", ".join(names[:most]) + more) if names else ""
