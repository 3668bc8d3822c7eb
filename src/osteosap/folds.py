"""Folds of a cohort: as many lesions in each, every person in one fold only.

As in Wuts et al. 2026 (doi 10.1016/j.jbo.2026.100745): seven folds stratified by the number of
lesions, one of them fixed to tune the threshold, the others tested in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osteosap.errors import ConfigError
from osteosap.manifest import read_json, write_json

__all__ = ["Folds", "make_folds", "read_folds", "write_folds"]


@dataclass(frozen=True)
class Folds:
    """Which exams lie in which fold.

    Parameters
    ----------
    folds
        Names of exams, a tuple a fold.
    tuning
        Index of the fold on which the threshold is tuned and that is never tested.
    seed
        That drew them.
    """

    folds: tuple[tuple[str, ...], ...]
    tuning: int
    seed: int

    @property
    def test_folds(self) -> tuple[int, ...]:
        """Indices of the folds that are tested in turn."""
        return tuple(i for i in range(len(self.folds)) if i != self.tuning)

    def training(self, tested: int) -> tuple[str, ...]:
        """Exams to learn from when a fold is tested: neither that one nor the tuning fold.

        The paper learns from the tuning fold too; leaving it out keeps the threshold honest.
        """
        if tested not in self.test_folds:
            raise ConfigError(
                f"fold {tested} of {len(self.folds)}, tuning on fold {self.tuning}",
                remedy=f"Test one of {', '.join(map(str, self.test_folds))}",
            )
        return tuple(
            name
            for i, fold in enumerate(self.folds)
            if i not in (tested, self.tuning)
            for name in fold
        )

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"seed": self.seed, "tuning": self.tuning, "folds": [list(f) for f in self.folds]}


def make_folds(
    lesions: Mapping[str, int],
    *,
    n_folds: int = 7,
    persons: Mapping[str, str] | None = None,
    tuning: int = 0,
    seed: int = 42,
) -> Folds:
    """Divide exams into folds with alike numbers of lesions.

    People in order of their number of lesions are dealt out in rounds of ``n_folds``, within a
    round by chance; so each fold has about as many people, and as many with few and many lesions.

    Parameters
    ----------
    lesions
        Exam to its number of lesions.
    n_folds
        At least 2.
    persons
        Exam to person; an exam that is left out is a person of its own.
    tuning
        Fold to tune on.
    seed
        Equal seeds and exams give equal folds.

    Raises
    ------
    ConfigError
        Fewer people than folds, fewer than two folds, or no such tuning fold.

    Examples
    --------
    >>> make_folds({"a": 9, "b": 1, "c": 8, "d": 2}, n_folds=2, seed=1).folds
    (('a', 'd'), ('b', 'c'))
    """
    owner = {exam: (persons or {}).get(exam, exam) for exam in lesions}
    totals: dict[str, int] = {}
    for exam, count in lesions.items():
        totals[owner[exam]] = totals.get(owner[exam], 0) + count
    if not 2 <= n_folds <= len(totals) or not 0 <= tuning < n_folds:
        raise ConfigError(
            f"{n_folds} folds of {len(totals)} people, tuning on fold {tuning}",
            remedy="Take at least 2 folds, no more than people, and one of them to tune on",
        )
    generator = np.random.default_rng(seed)
    order = sorted(totals, key=lambda person: (-totals[person], person))
    fold_of: dict[str, int] = {}
    for start in range(0, len(order), n_folds):
        places = generator.permutation(n_folds).tolist()
        fold_of |= dict(zip(order[start : start + n_folds], places, strict=False))
    folds: list[list[str]] = [[] for _ in range(n_folds)]
    for exam in sorted(lesions):
        folds[fold_of[owner[exam]]].append(exam)
    return Folds(tuple(map(tuple, folds)), tuning, seed)


def write_folds(folds: Folds, path: Path, *, lesions: Mapping[str, int]) -> None:
    """Write folds with the numbers of exams and lesions of each."""
    counts = [
        {"n_exams": len(fold), "n_lesions": sum(lesions[e] for e in fold)} for fold in folds.folds
    ]
    write_json(path, {**folds.to_mapping(), "counts": counts})


def read_folds(path: Path, *, exams: Sequence[str] | None = None) -> Folds:
    """Read what :func:`write_folds` wrote.

    Raises
    ------
    ConfigError
        An exam lies in two folds, the file is no such file, or it names other exams than ``exams``.
    """
    content = read_json(path)
    try:
        folds = tuple(tuple(str(e) for e in fold) for fold in content["folds"])
        result = Folds(folds, int(content["tuning"]), int(content["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no folds", remedy="Make them with make_folds") from error
    named = [exam for fold in folds for exam in fold]
    if len(set(named)) != len(named):
        raise ConfigError(f"{path} names an exam twice", remedy="Keep every exam in one fold")
    if exams is not None and set(exams) != set(named):
        raise ConfigError(
            f"{path} names {len(named)} exams, {len(set(exams) ^ set(named))} of them or of the "
            f"{len(exams)} given are in one alone",
            remedy="Make folds of the exams at hand",
        )
    return result
