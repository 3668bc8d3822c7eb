"""Exams to learn from: found in any of three layouts, checked all at once, told apart by person.

See :mod:`osteosap.training.case_layouts` for the layouts and
:mod:`osteosap.training.case_checks` for what can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from osteosap.errors import TrainingError
from osteosap.evaluation.matching import as_components
from osteosap.training.case_checks import Problem, check_cases, problem_table
from osteosap.training.case_layouts import TrainingCase, find_cases
from osteosap.volume import read_nifti

__all__ = [
    "Problem",
    "TrainingCase",
    "check_cases",
    "describe_cases",
    "find_cases",
    "problem_table",
    "require_cases",
    "require_other_people",
]

_THREADS = 4


def require_cases(
    cases: Sequence[TrainingCase],
    *,
    needs: str,
    channels: Sequence[str],
    progress: Callable[[str, float], None] | None = None,
    sound: Path | None = None,
) -> None:
    """Check every case; see :func:`osteosap.training.case_checks.check_cases`.

    Raises
    ------
    TrainingError
        There is no case, or any of them cannot be used: the message holds a table of all
        problems of all cases.
    """
    if not cases:
        raise TrainingError("no exams to train on", remedy="Give at least one exam")
    problems = check_cases(cases, needs=needs, channels=channels, progress=progress, sound=sound)
    if problems:
        n = len({problem.case for problem in problems})
        raise TrainingError(
            f"\n{problem_table(problems)}\n\n{n} of {len(cases)} exams cannot be trained on",
            remedy="Mend their files or leave them out",
        )


def require_other_people(train: Sequence[TrainingCase], validation: Sequence[TrainingCase]) -> None:
    """Refuse an exam, or a person, on both sides.

    Two cases are of one person if their ``person`` is equal; two cases that share an image file
    are one exam. People are not known for cases without ``person``.

    Raises
    ------
    TrainingError
        Names the cases, never the person.
    """
    owners: dict[str | Path, TrainingCase] = {}
    for case in train:
        owners |= dict.fromkeys(_marks(case), case)
    both = {}
    for case in validation:
        for mark in _marks(case):
            if mark in owners:
                both[case.name] = owners[mark].name
    if both:
        pairs = ", ".join(f"{ours} (with {theirs} in training)" for ours, theirs in both.items())
        raise TrainingError(
            f"{len(both)} exams are of people both trained and validated on: {pairs}",
            remedy="Keep every person on one side",
        )


def _marks(case: TrainingCase) -> set[str | Path]:
    """What two cases of one person share."""
    marks: set[str | Path] = {path.resolve() for path in case.images.values()}
    return marks | {case.person} if case.person else marks


def describe_cases(cases: Sequence[TrainingCase]) -> list[tuple[str, str]]:
    """A summary of sound cases: rows of what and how much.

    Lesions are connected components (26-neighbourhood) of the lesion maps.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        looks = list(pool.map(_look, cases))
    people = {case.person for case in cases if case.person}
    spacings = np.array([spacing for spacing, _ in looks]).reshape(-1, 3)
    rows = [
        ("exams", str(len(cases))),
        ("people", str(len(people)) if people else "not known"),
        ("channels", ", ".join(sorted({c for case in cases for c in case.images}))),
        ("with skeleton map", str(sum(case.skeleton is not None for case in cases))),
        ("with lesion map", str(sum(case.lesions is not None for case in cases))),
    ]
    if len(spacings):
        sides = zip(spacings.min(axis=0), spacings.max(axis=0), strict=True)
        text = " x ".join(f"{a:.2f}" if b - a < 0.01 else f"{a:.2f}-{b:.2f}" for a, b in sides)
        rows.append(("voxels, mm", text))
    known = [volumes for _, volumes in looks if volumes is not None]
    return rows + _lesion_rows(known)


def _look(case: TrainingCase) -> tuple[tuple[float, float, float], npt.NDArray[np.float64] | None]:
    """Spacing (mm) and lesion volumes (mL) of a case; None where lesions are not known."""
    if case.lesions is None:
        grid = read_nifti(case.images["t1"], channel="t1", finite=False).grid
        return grid.spacing_mm, np.empty(0) if case.healthy else None
    volume = read_nifti(case.lesions, channel="lesions")
    lesions = as_components(volume.array[0].astype(np.int32))
    _, counts = np.unique(lesions[lesions != 0], return_counts=True)
    volumes: npt.NDArray[np.float64] = counts.astype(np.float64) * volume.grid.voxel_volume_ml
    return volume.spacing_mm, volumes


def _lesion_rows(known: Sequence[npt.NDArray[np.float64]]) -> list[tuple[str, str]]:
    if not known:
        return [("lesions", "not known")]
    counts = np.array([len(volumes) for volumes in known])
    every = np.concatenate(known)
    rows = [
        ("exams without lesion", str(int((counts == 0).sum()))),
        ("lesions", f"{counts.sum()} ({np.median(counts):g} an exam, up to {counts.max()})"),
    ]
    if every.size:
        low, middle, high = np.quantile(every, (0.0, 0.5, 1.0))
        burdens = [volumes.sum() for volumes in known if len(volumes)]
        rows += [
            ("lesion volume, mL", f"median {middle:.2f}, {low:.3g} to {high:.3g}"),
            ("lesions >= 1 mL", f"{np.mean(every >= 1.0):.0%}"),
            ("burden of an exam, mL", f"median {np.median(burdens):.1f}, up to {max(burdens):.1f}"),
        ]
    return rows
