"""What can be wrong with training exams, found for all of them before anything is trained."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from osteosap.anatomy import N_CLASSES
from osteosap.config import canonical_hash
from osteosap.errors import InputError, OsteosapError
from osteosap.exam import MAPS
from osteosap.geometry import Array, Grid
from osteosap.training.case_layouts import TrainingCase
from osteosap.volume import read_nifti

__all__ = ["SPACING_MM", "Problem", "check_cases", "label_problem", "problem_table"]

SPACING_MM = (0.3, 15.0)
"""Edge lengths of voxels that a whole-body image can have."""

_THREADS = 4
_FEW = 1e-6


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a case, and what to do about it."""

    case: str
    problem: str
    remedy: str


def check_cases(
    cases: Sequence[TrainingCase],
    *,
    needs: str,
    channels: Sequence[str],
    progress: Callable[[str, float], None] | None = None,
    sound: Path | None = None,
) -> list[Problem]:
    """Everything that is wrong with any case, in the order of the cases.

    Headers of all files are looked at first; voxels are read only of cases whose headers fit.

    Parameters
    ----------
    cases
        Exams.
    needs
        ``"skeleton"`` or ``"lesions"``: the reference that each must have (a case declared
        healthy needs no lesion map); ``"images"``: none.
    channels
        Images that each must have; ``t1`` always (the body is found on it).
    progress
        Called with a line and the fraction done.
    sound
        A JSON file that remembers which files were found sound, so that the voxels of unchanged
        files are not read again.
    """
    wanted = tuple(dict.fromkeys(("t1", *channels)))
    found: dict[int, list[Problem]] = {n: [] for n in range(len(cases))}
    counts = Counter(case.name for case in cases)
    for number, case in enumerate(cases):
        if counts[case.name] > 1:
            found[number].append(_duplicate(case, counts[case.name]))
        found[number] += _missing(case, needs, wanted)
        found[number] += _headers(case, wanted)
    _same_files(cases, found)
    stamps = {n: _stamp(cases[n], wanted) for n in found if not found[n]}
    known = _read_sound(sound)
    todo = [n for n, stamp in stamps.items() if stamp not in known]
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        jobs = {pool.submit(_voxels, cases[n], wanted): n for n in todo}
        for done, job in enumerate(as_completed(jobs), start=1):
            found[jobs[job]] += job.result()
            if progress is not None:
                progress("check exams", done / len(todo))
    if sound is not None and todo:
        _write_sound(sound, known | {stamps[n] for n in todo if not found[n]})
    return [problem for number in sorted(found) for problem in found[number]]


def problem_table(problems: Sequence[Problem]) -> str:
    """The problems as a table of plain text."""
    rows = [("case", "problem", "remedy")]
    rows += [(p.case, p.problem, p.remedy) for p in problems]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
    return "\n".join((lines[0], "-" * max(map(len, lines)), *lines[1:]))


def label_problem(name: str, array: Array, *, healthy: bool = False) -> tuple[str, str] | None:
    """What is wrong with the values of a ``skeleton`` or ``lesions`` map, and the remedy."""
    if np.issubdtype(array.dtype, np.floating) and np.any(np.mod(array, 1)):
        return f"{name} holds values that are not integers", "Save class ids or instance numbers"
    low, high = float(array.min()), float(array.max())
    if name == "skeleton" and (low < 0 or high >= N_CLASSES):
        return (
            f"skeleton has ids from {low:g} to {high:g}, expected 0 to {N_CLASSES - 1}",
            "Use the ids of docs/how-to/own-training-data.md",
        )
    if name == "skeleton" and high == 0:
        return "skeleton is empty", "Mark the bones, or leave the case out"
    if name == "lesions" and (low < 0 or high > np.iinfo(np.int32).max):
        return f"lesions has ids from {low:g} to {high:g}", "Use 0 for none, then 1, 2, 3, ..."
    if name == "lesions" and healthy and high > 0:
        return "declared healthy, but lesions marks some", "Remove one of the two"
    return None


def _duplicate(case: TrainingCase, count: int) -> Problem:
    return Problem(case.name, f"the name occurs {count} times", "Give every case its own name")


def _missing(case: TrainingCase, needs: str, channels: Sequence[str]) -> Iterator[Problem]:
    for name in channels:
        if name not in case.images:
            yield Problem(case.name, f"no {name} image", f"Add {name}.nii.gz or leave the case out")
    files = case.files()
    if needs in MAPS and needs not in files and not (needs == "lesions" and case.healthy):
        remedy = f"Add the {needs} map or leave the case out"
        if needs == "lesions":
            remedy += "; if there is no lesion, declare it healthy"
        yield Problem(case.name, f"no {needs}.nii.gz, no reference", remedy)


def _headers(case: TrainingCase, channels: Sequence[str]) -> Iterator[Problem]:
    """Files that are absent or unreadable, other grids, odd spacings."""
    grids: dict[str, Grid] = {}
    for name, path in case.files(channels).items():
        if not path.is_file():
            yield Problem(case.name, f"{name}: no file {path.name}", "Check the path")
            continue
        try:
            grids[name] = _grid(path)
        except OsteosapError as error:
            yield Problem(case.name, f"{name}: {error.problem}", error.remedy)
    if not grids:
        return
    first = next(iter(grids))
    for name, grid in grids.items():
        spacing = grid.spacing_mm
        if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in spacing):
            text = "x".join(f"{s:.3g}" for s in spacing)
            yield Problem(
                case.name,
                f"{name}: voxels of {text} mm, expected {SPACING_MM[0]:g} to {SPACING_MM[1]:g}",
                "Check the header: are its units millimetres?",
            )
        if not grid.same_as(grids[first]):
            yield Problem(
                case.name,
                f"{first} and {name} are on different grids: {grids[first].describe()} and "
                f"{grid.describe()}",
                f"Resample {name} onto {first}",
            )


def _grid(path: Path) -> Grid:
    """The grid of a NIfTI file, from its header."""
    try:
        image = nib.load(path)
        shape, affine = list(image.shape), np.asarray(image.affine, dtype=np.float64)
        kind = np.dtype(image.get_data_dtype())
    except Exception as error:  # nibabel raises many kinds for broken files
        raise InputError(
            f"cannot be read as NIfTI ({type(error).__name__})",
            remedy="Check that the file is complete",
        ) from error
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3 or 0 in shape:
        raise InputError(
            f"has {len(shape)} axes {tuple(shape)}, expected 3", remedy="Give one volume a file"
        )
    if not (np.issubdtype(kind, np.floating) or np.issubdtype(kind, np.integer)):
        raise InputError(f"has voxels of type {kind}", remedy="Save it with one number a voxel")
    return Grid((shape[0], shape[1], shape[2]), affine)


def _same_files(cases: Sequence[TrainingCase], found: dict[int, list[Problem]]) -> None:
    """Two cases with the same t1 file are one exam listed twice."""
    owners: dict[Path, int] = {}
    for number, case in enumerate(cases):
        if "t1" not in case.images:
            continue
        first = owners.setdefault(case.images["t1"].resolve(), number)
        if first != number:
            text = f"has the same t1 file as {cases[first].name}"
            found[number].append(Problem(case.name, text, "List every exam once"))


def _voxels(case: TrainingCase, channels: Sequence[str]) -> list[Problem]:
    """What is wrong with the values of one case."""
    found = []
    for name, path in case.files(channels).items():
        try:
            array = read_nifti(path, channel=name).array[0]
        except OsteosapError as error:
            text = error.problem.replace(str(path), name)
            found.append(Problem(case.name, text, error.remedy))
            continue
        if name in MAPS:
            problem = label_problem(name, array, healthy=case.healthy)
        else:
            problem = _image_problem(name, array)
        if problem is not None:
            found.append(Problem(case.name, *problem))
    return found


def _image_problem(name: str, array: Array) -> tuple[str, str] | None:
    low, high = float(array.min()), float(array.max())
    if low == high:
        kind = "empty (all 0)" if low == 0 else f"constant (all {low:g})"
        return f"{name} is {kind}", "Export the image again, or leave the case out"
    if np.count_nonzero(array != array.flat[0]) < max(1.0, _FEW * array.size):
        return f"{name} is constant but for a few voxels", "Export the image again"
    return None


def _stamp(case: TrainingCase, channels: Sequence[str]) -> str:
    """Changes when a file of the case changes."""
    files = []
    for name, path in sorted(case.files(channels).items()):
        stat = path.stat()
        files.append([name, str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return canonical_hash([files, case.healthy])[:32]


def _read_sound(path: Path | None) -> set[str]:
    try:
        content = json.loads(path.read_text()) if path else []
    except (OSError, ValueError):
        return set()
    return set(map(str, content)) if isinstance(content, list) else set()


def _write_sound(path: Path, stamps: set[str]) -> None:
    """Remember; a disk that is full or not ours costs only the time to read again."""
    partial = path.with_name(f".{path.name}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(sorted(stamps)))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
