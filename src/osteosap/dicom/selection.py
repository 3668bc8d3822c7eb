"""Which series of a study are read, which are not and why; from headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from osteosap.dicom.groups import (
    ProtocolGroup,
    boxes_of,
    choose_t1,
    difference_in_kind,
    group_by_protocol,
    merge_single_b,
    uncovered_span,
)
from osteosap.dicom.roles import SeriesPart
from osteosap.errors import StudyError

__all__ = ["MR_REMEDY", "Selection", "list_b", "require_complete", "select_series"]

MR_REMEDY = "Point to one MR examination with a T1-weighted and a diffusion series"
_LEAST_SPAN = 0.05
"""T1 and DWI that share less of the DWI's extent show different parts of the body."""
_WORTH_A_WARNING = 0.05
"""Share of the DWI's extent that a T1 series left out has to show for a warning."""


@dataclass(frozen=True)
class Selection:
    """The groups to read, and why other candidates are not read."""

    t1: tuple[ProtocolGroup, ...]
    dwi: tuple[ProtocolGroup, ...]
    adc: tuple[ProtocolGroup, ...]
    refused: dict[int, str]
    warnings: tuple[str, ...]

    @property
    def used(self) -> frozenset[int]:
        """Identities of the series parts to read."""
        groups = (*self.t1, *self.dwi, *self.adc)
        return frozenset(id(part) for group in groups for part in group.parts)


def select_series(parts: Sequence[SeriesPart]) -> Selection:
    """Choose what to read."""
    by_role = {
        role: group_by_protocol([p for p in parts if p.role == role])
        for role in ("t1", "dwi", "adc_map")
    }
    refused: dict[int, str] = {}
    adc = by_role["adc_map"]
    dwi, warnings = _select_dwi(by_role["dwi"], refused, merge=not adc)
    t1 = by_role["t1"]
    if t1 and dwi:  # else the study is refused (:func:`require_complete`)
        t1 = choose_t1(by_role["t1"], dwi)
        warnings += _refuse_other_t1(by_role["t1"], t1, dwi, refused)
        warnings += _check_frames(t1, dwi)
    return Selection(t1, dwi, adc, refused, warnings)


def require_complete(parts: Sequence[SeriesPart], selection: Selection) -> None:
    """Raise :class:`StudyError` unless T1 and diffusion of one region are there, and ADC can be."""
    modalities = Counter(p.first.modality for p in parts)
    found = ", ".join(f"{n} {m}" for m, n in sorted(modalities.items()))
    if "MR" not in modalities:
        raise StudyError(
            f"the study holds no MR series (found: {found}), expected T1 and diffusion MR",
            remedy=MR_REMEDY,
        )
    missing = [
        (role, name)
        for role, name, group in (
            ("t1", "T1-weighted", selection.t1),
            ("dwi", "diffusion", selection.dwi),
        )
        if not group
    ]
    if missing:
        names = [name for _, name in missing]
        raise StudyError(
            f"no {' and no '.join(names)} series among the series found ({found})"
            + _nearly(parts, [role for role, _ in missing]),
            remedy=f"Add the {' and the '.join(names)} series of the same examination; "
            "osteosap inspect names the role of each series, and takes rules of your own",
        )
    if not selection.adc and all(len(g.b_values_s_per_mm2) < 2 for g in selection.dwi):
        values = sorted({b for g in selection.dwi for b in g.b_values_s_per_mm2})
        problem = (
            f"the diffusion images have one b-value only ({list_b(values)} s/mm2)"
            if len(values) == 1
            else f"no diffusion acquisition has two b-values ({list_b(values)} s/mm2 apart)"
        )
        raise StudyError(
            f"{problem} and the study has no ADC map of the scanner",
            remedy="Add the series with a second b-value (0-100 and 800-1000) or the scanner's ADC",
        )
    if uncovered_span(boxes_of(selection.dwi), boxes_of(selection.t1)) > 1 - _LEAST_SPAN:
        raise StudyError(
            f"the T1 images ({_names(selection.t1)}) and the diffusion images show different "
            "parts of the body",
            remedy="Add the T1 series of the same region",
        )


def _nearly(parts: Sequence[SeriesPart], roles: Sequence[str]) -> str:
    """Series that would have one of the roles but for the reason given."""
    almost = [p for p in parts if p.almost in (*roles, "any")]
    listed = "; ".join(f"series {p.number} is not taken for one: {p.reason}" for p in almost[:3])
    return f"; {listed}" if listed else ""


def list_b(values: Sequence[float]) -> str:
    """B-values as text."""
    return ", ".join(f"{b:g}" for b in values)


def _select_dwi(
    groups: tuple[ProtocolGroup, ...], refused: dict[int, str], *, merge: bool
) -> tuple[tuple[ProtocolGroup, ...], tuple[str, ...]]:
    """Diffusion acquisitions; single b-values are joined where nothing else gives an ADC."""
    trace = [g for g in groups if not g.is_directional]
    for group in groups:
        if group.is_directional and any(
            g.b_values_s_per_mm2 == group.b_values_s_per_mm2 for g in trace
        ):
            _refuse(group, "its trace-weighted images are a series of their own", refused)
    dwi = tuple(g for g in groups if id(g.parts[0]) not in refused)
    if not merge or any(len(g.b_values_s_per_mm2) > 1 for g in dwi):
        return dwi, ()
    merged = merge_single_b(dwi)
    return merged, tuple(
        f"{g.name}: b-values {list_b(g.b_values_s_per_mm2)} come from series of equal "
        "protocol; equal scaling of their pixels is assumed"
        for g in merged
        if len(g.b_values_s_per_mm2) > 1
    )


def _refuse_other_t1(
    groups: Sequence[ProtocolGroup],
    chosen: Sequence[ProtocolGroup],
    dwi: Sequence[ProtocolGroup],
    refused: dict[int, str],
) -> tuple[str, ...]:
    """Note why the other T1 series are not read; warn where they show more of the body."""
    warnings: tuple[str, ...] = ()
    if len(chosen) > 1:
        warnings = (
            f"the T1 is put together from series of different protocols ({_names(chosen)}), which "
            "show different parts of the body; their contrast may differ",
        )
    used = {id(part) for group in chosen for part in group.parts}
    wanted, taken = boxes_of(dwi), boxes_of(chosen)
    for group in groups:
        rest = tuple(part for part in group.parts if id(part) not in used)
        if not rest:
            continue
        left = ProtocolGroup(rest)
        difference = difference_in_kind(left, chosen[0])
        why = f"it differs in {difference}" if difference else "it mostly repeats what is used"
        _refuse(left, f"{chosen[0].name} serves better ({why})", refused)
        lost = uncovered_span(wanted, taken) - uncovered_span(wanted, [*taken, *left.boxes])
        if lost > _WORTH_A_WARNING:
            warnings += (
                f"{lost:.0%} of the diffusion images' extent from head to foot is on no T1 that is "
                f"used, though on {left.name}, which cannot complete {chosen[0].name} ({why}); "
                "lesions there are not looked for",
            )
    return warnings


def _check_frames(t1: Sequence[ProtocolGroup], dwi: Sequence[ProtocolGroup]) -> tuple[str, ...]:
    """Warn of diffusion images whose coordinates the scanner does not call those of the T1."""
    known = {f for group in t1 for f in _frames(group)}
    odd = [group for group in dwi if _frames(group) - known]
    if not known or not odd:
        return ()
    return (
        f"{_names(odd)} and the T1 ({_names(t1)}) have different frames of reference: the scanner "
        "does not vouch that their coordinates agree; check the overlay, or set "
        "preprocess.registration to rigid",
    )


def _frames(group: ProtocolGroup) -> set[str]:
    frames = {h.frame_of_reference for part in group.parts for h in part.headers}
    return frames - {""}


def _names(groups: Sequence[ProtocolGroup]) -> str:
    return "; ".join(group.name for group in groups)


def _refuse(group: ProtocolGroup, why: str, refused: dict[int, str]) -> None:
    refused.update({id(part): f"; not used: {why}" for part in group.parts})
