"""What ``osteosap evaluate`` and ``compare-methods`` say of the arms of a study, read again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osteosap.manifest import read_json

__all__ = [
    "ARM_TITLES",
    "ArmScores",
    "ExamResult",
    "LesionResult",
    "MeasureTest",
    "arm_title",
    "as_number",
    "encoder_title",
    "is_plain_name",
    "read_arm",
    "read_tests",
]

ARM_TITLES = {"baseline": "Baseline", "ssl": "SSL", "sap": "SAP"}


@dataclass(frozen=True)
class LesionResult:
    """One lesion of either side.

    Parameters
    ----------
    side
        ``"reference"`` or ``"prediction"``.
    id
        Of its component.
    region
        Name of the bone; ``""`` where unknown.
    volume_ml, dice, nsd
        NaN where undefined.
    outcome
        As in ``lesions.csv``.
    centre_ras_mm
        None for a lesion without a voxel.
    """

    side: str
    id: int
    region: str
    volume_ml: float
    outcome: str
    dice: float
    nsd: float
    centre_ras_mm: tuple[float, float, float] | None

    @property
    def is_missed(self) -> bool:
        """A reference lesion that nothing touches."""
        return self.side == "reference" and self.outcome.startswith("missed")

    @property
    def is_false(self) -> bool:
        """A predicted lesion that touches nothing."""
        return self.side == "prediction" and self.outcome == "false positive"

    @property
    def is_detected(self) -> bool:
        """A reference lesion that something touches."""
        return self.side == "reference" and not self.is_missed


@dataclass(frozen=True)
class ExamResult:
    """Scores of one exam; undefined ones are NaN.

    Parameters
    ----------
    name
        Of its folder.
    patient, site
        Whose, and where made.
    all, large
        Measures of all lesions and of large ones, by the names of ``evaluation.json``.
    global_dice, burden_reference_ml, burden_prediction_ml
        Of all its lesions together.
    lesions
        Of both sides.
    """

    name: str
    patient: str
    site: str
    all: Mapping[str, float]
    large: Mapping[str, float]
    global_dice: float
    burden_reference_ml: float
    burden_prediction_ml: float
    lesions: tuple[LesionResult, ...]

    @property
    def missed(self) -> list[LesionResult]:
        """Missed reference lesions, largest first."""
        return sorted((x for x in self.lesions if x.is_missed), key=lambda x: -x.volume_ml)

    @property
    def false(self) -> list[LesionResult]:
        """False predictions, largest first."""
        return sorted((x for x in self.lesions if x.is_false), key=lambda x: -x.volume_ml)

    def value(self, measure: str) -> float:
        """A measure by the name that the comparison gives it; NaN where there is none."""
        if measure == "global_dice":
            return self.global_dice
        large = measure.endswith("_large")
        plain = measure.removesuffix("_large")
        name = {
            "precision": "precision_reference_side",
            "false_positives_per_exam": "n_false_positives",
        }.get(plain, plain)
        return (self.large if large else self.all).get(name, math.nan)


@dataclass(frozen=True)
class ArmScores:
    """What ``osteosap evaluate`` says of one arm.

    Parameters
    ----------
    name
        ``baseline``, ``ssl``, ``sap`` or another.
    summary, settings
        As in ``evaluation.json``.
    exams
        Those with lesion scores.
    names
        Of all exams, those without lesion scores among them.
    n_left_out
        References without a prediction (those of the tuning fold).
    """

    name: str
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    exams: tuple[ExamResult, ...]
    names: tuple[str, ...] = ()
    n_left_out: int = 0

    @property
    def title(self) -> str:
        """For people."""
        return arm_title(self.name)

    def find(self, *keys: str) -> Any:
        """A part of the summary; None where there is none."""
        found: Any = self.summary
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def detected(self, measure: str) -> list[float]:
        """``dice`` or ``nsd`` of all detected lesions."""
        values = [getattr(x, measure) for e in self.exams for x in e.lesions if x.is_detected]
        return [v for v in values if math.isfinite(v)]


@dataclass(frozen=True)
class MeasureTest:
    """One test between two arms; undefined values are NaN."""

    measure: str
    a: str
    b: str
    test: str
    n_a: int
    n_b: int
    median_a: float
    median_b: float
    p: float
    p_bonferroni: float
    effect: float


def arm_title(name: str) -> str:
    """An arm for people."""
    return ARM_TITLES.get(name, name)


def encoder_title(name: str) -> str:
    """An encoder for people: that of an arm, or one that never learnt."""
    return "Random weights" if name == "random" else f"{arm_title(name)} encoder"


def as_number(value: Any, otherwise: float = math.nan) -> float:
    """A number of JSON; null and what is no number become ``otherwise``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return otherwise
    return float(value) if math.isfinite(value) else otherwise


def is_plain_name(name: object) -> bool:
    """Whether this can only be the name of one file or folder, no path that leads elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def read_arm(path: Path, name: str) -> ArmScores:
    """Scores of an arm from its ``evaluation.json``.

    Raises
    ------
    ValueError
        An exam's name is a path.
    """
    content = read_json(path)
    names = tuple(row["exam"] for row in content["exams"])
    if not all(map(is_plain_name, names)):
        raise ValueError("an exam's name is a path")
    left_out = content.get("references_without_prediction") or {}
    return ArmScores(
        name,
        dict(content["summary"]),
        dict(content["settings"]),
        tuple(_exam(row) for row in content["exams"] if row.get("lesions")),
        names,
        int(left_out.get("n", 0)),
    )


def _exam(row: Mapping[str, Any]) -> ExamResult:
    lesions = row["lesions"]
    sides = {
        key: {name: as_number(value) for name, value in lesions[key].items()}
        for key in ("all", "large")
    }
    return ExamResult(
        str(row["exam"]),
        str(row.get("patient") or row["exam"]),
        str(row.get("site") or ""),
        sides["all"],
        sides["large"],
        as_number(lesions["global_dice"]),
        as_number(lesions["burden_reference_ml"]),
        as_number(lesions["burden_prediction_ml"]),
        tuple(_lesion(lesion) for lesion in row.get("lesion_rows", ())),
    )


def _lesion(row: Mapping[str, Any]) -> LesionResult:
    centre = tuple(as_number(row.get(key)) for key in ("r_mm", "a_mm", "s_mm"))
    return LesionResult(
        str(row["side"]),
        int(row["id"]),
        str(row.get("region") or ""),
        as_number(row["volume_ml"]),
        str(row["outcome"]),
        as_number(row.get("dice")),
        as_number(row.get("nsd")),
        (centre[0], centre[1], centre[2]) if all(map(math.isfinite, centre)) else None,
    )


def read_tests(path: Path) -> tuple[MeasureTest, ...]:
    """Tests between arms from ``comparison.json``."""
    return tuple(
        MeasureTest(
            str(row["measure"]),
            str(row["a"]),
            str(row["b"]),
            str(row["test"]),
            int(row["n_a"]),
            int(row["n_b"]),
            *(as_number(row[k]) for k in ("median_a", "median_b", "p", "p_bonferroni", "effect")),
        )
        for row in read_json(path)["tests"]
    )
