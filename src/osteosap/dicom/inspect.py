"""Say what every series of a study is and what would be used of it, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osteosap.dicom.duplicates import drop_duplicates
from osteosap.dicom.plan import StationPlan, check_images, find_gaps, plan_stations
from osteosap.dicom.records import SeriesRecord, make_record
from osteosap.dicom.rules import load_rules, say_idle_rules
from osteosap.dicom.selection import Selection, list_b, require_complete, select_series
from osteosap.dicom.study import find_problem, find_series, sort_all
from osteosap.errors import StudyError

__all__ = ["StudyInspection", "inspect_study"]

_NEAR_1000 = (950.0, 1050.0)
"""B-values in s/mm2 that are shown as an acquired b1000; preprocessing has the last word."""


@dataclass(frozen=True)
class StudyInspection:
    """What a study holds.

    Parameters
    ----------
    series
        One record a series, or part of it with its own role.
    plan
        What would be used for t1, for b-values and for the ADC, in words; empty where the study
        cannot be processed.
    warnings
        What a reader should know.
    problem
        The error that processing the study would end with; None if headers show none.
    """

    series: tuple[SeriesRecord, ...]
    plan: tuple[str, ...]
    warnings: tuple[str, ...]
    problem: str | None


def inspect_study(folder: Path, rules: Path | None = None) -> StudyInspection:
    """Sort a study as :func:`osteosap.dicom.read_study` does, without reading its images.

    It works on studies that cannot be processed. What only pixels show, such as an empty station,
    is not found. (Pixels are opened where two images of a series lie at one position.)

    Parameters
    ----------
    folder
        DICOM files of any nesting.
    rules
        YAML file with rules that come before those of osteosap.

    Raises
    ------
    StudyError
        No folder, or no DICOM in it.
    ConfigError
        The rules cannot be read.
    """
    table = load_rules(rules)
    if folder.is_dir():
        _refuse_nifti(folder)
    scan = find_series(folder)
    headers, warnings = drop_duplicates(scan.headers)
    problem = scan.problem or find_problem(headers)
    parts = sort_all(headers, table)
    selection = select_series([] if find_problem(headers) else parts)
    plans: tuple[StationPlan, ...] = ()
    if problem is None:
        try:
            require_complete(parts, selection)
            plans = plan_stations(selection)
            check_images(plans)
        except StudyError as error:
            problem = error
    idle = say_idle_rules(headers, table)
    warnings = (*warnings, *idle, *selection.warnings, *find_gaps(plans))
    records = tuple(make_record(part, selection) for part in parts)
    plan = () if problem else _say_plan(selection, plans)
    return StudyInspection(records, plan, warnings, str(problem) if problem else None)


def _refuse_nifti(folder: Path) -> None:
    found = [p for p in folder.iterdir() if p.name.lower().endswith((".nii", ".nii.gz"))]
    if found:
        raise StudyError(
            f"{folder} holds NIfTI images ({len(found)}), expected a DICOM study",
            remedy="NIfTI images have their role in their file name (t1, b1000, adc) and need no "
            "sorting: hand the folder to osteosap run",
        )


def _say_plan(selection: Selection, plans: Sequence[StationPlan]) -> tuple[str, ...]:
    """Lines for t1, diffusion, b1000 and ADC."""
    lines = [f"t1: {_stations(plans, 't1')}"]
    for group in selection.dwi:
        where = _stations([p for p in plans if p.group == group.name], "dwi")
        lines.append(f"diffusion: b {list_b(group.b_values_s_per_mm2)} s/mm2 from {where}")
    fitted = [g for g in selection.dwi if len(g.b_values_s_per_mm2) > 1]
    acquired = sorted({b for g in fitted or selection.dwi for b in g.b_values_s_per_mm2})
    near = [b for b in acquired if _NEAR_1000[0] <= b <= _NEAR_1000[1]]
    lines.append(
        f"b1000: acquired (b {list_b(near)})"
        if near
        else f"b1000: none near 1000 was acquired (b {list_b(acquired)}); preprocessing computes "
        "or chooses it, and says so"
    )
    if fitted:
        values = " or b ".join(list_b(g.b_values_s_per_mm2) for g in fitted)
        lines.append(f"adc: fitted from b {values}")
    if selection.adc:
        use = "for comparison" if fitted else "used as it is"
        lines.append(f"adc of the scanner: {_stations(plans, 'adc')}, {use}")
    return tuple(lines)


def _stations(plans: Sequence[StationPlan], kind: str) -> str:
    own = [p for p in plans if p.kind == kind]
    numbers = ", ".join(dict.fromkeys(p.source.removeprefix("series ") for p in own))
    return f"series {numbers} ({len(own)} station{'s' if len(own) > 1 else ''})"
