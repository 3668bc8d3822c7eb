"""Which images make which volumes: the stations to read, checked from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osteosap.dicom.groups import acquisition_of
from osteosap.dicom.pixels import require_decodable
from osteosap.dicom.roles import SeriesPart
from osteosap.dicom.selection import Selection
from osteosap.dicom.stations import Slices, box_of, check_spacing, positions_of, split_stations
from osteosap.errors import StudyError

__all__ = ["StationPlan", "check_images", "find_gaps", "plan_stations", "source_of"]

_GAP_SLICES = 1.5
"""Ours: slices that may lie between the outermost slice centres of neighbouring stations."""


@dataclass(frozen=True)
class StationPlan:
    """The images of one station of a series.

    Parameters
    ----------
    kind
        ``"t1"``, ``"dwi"`` or ``"adc"``.
    group
        Name of the acquisition whose images may be used together.
    source
        How messages name the series.
    protocol
        Name of the series' own protocol: maps of one protocol have one unit.
    contrasts
        Slices by b-value, rising; of T1 and ADC maps by None.
    """

    kind: str
    group: str
    source: str
    protocol: str
    contrasts: tuple[tuple[float | None, Slices], ...]

    @property
    def top_mm(self) -> float:
        """Head end along the body axis."""
        return float(box_of(self.contrasts[0][1]).high[2])

    @property
    def bottom_mm(self) -> float:
        """Foot end along the body axis."""
        return float(box_of(self.contrasts[0][1]).low[2])


def plan_stations(selection: Selection) -> tuple[StationPlan, ...]:
    """Divide the series that are read into stations: T1, diffusion, ADC maps.

    Raises
    ------
    StudyError
        B-values of a series differ in their slices, slices are missing or unevenly spaced, or
        pixels are compressed in a way that cannot be decoded.
    """
    plans: list[StationPlan] = []
    for group in selection.t1:
        for part in group.parts:
            plans += _plan_part(part, "t1", group.name)
    for group in selection.dwi:
        for part in group.parts:
            plans += _plan_dwi(part, group.name)
    for group in selection.adc:
        for part in group.parts:
            home = acquisition_of(part, selection.dwi) or group
            plans += _plan_part(part, "adc", home.name, protocol=group.name)
    return tuple(plans)


def check_images(plans: Sequence[StationPlan]) -> None:
    """Raise :class:`StudyError` where slices are missing, or pixels cannot be decoded."""
    for plan in plans:
        for b, slices in plan.contrasts:
            what = plan.source if b is None else f"{plan.source} (b {b:g})"
            require_decodable(slices, what=what)
            check_spacing(slices, what=what)


def find_gaps(plans: Sequence[StationPlan]) -> tuple[str, ...]:
    """Say where neighbouring stations leave a gap of more than a slice along the body axis."""
    warnings = []
    for kind, name in (("t1", "T1"), ("dwi", "diffusion")):
        own = sorted((p for p in plans if p.kind == kind), key=lambda p: -p.top_mm)
        for index, plan in enumerate(own[1:], start=1):
            lowest = min(own[:index], key=lambda p: p.bottom_mm)
            gap = lowest.bottom_mm - plan.top_mm
            if gap > _GAP_SLICES * max(_step_mm(lowest), _step_mm(plan)):
                warnings.append(
                    f"{name}: no image shows the body between {plan.top_mm:.0f} and "
                    f"{lowest.bottom_mm:.0f} mm along the body axis ({gap:.0f} mm, between "
                    f"{lowest.source} and {plan.source}); a station may be missing"
                )
    return tuple(warnings)


def source_of(part: SeriesPart) -> str:
    """How messages name a series; no patient data."""
    return f"series {part.number}"


def _plan_part(part: SeriesPart, kind: str, group: str, *, protocol: str = "") -> list[StationPlan]:
    return [
        StationPlan(kind, group, source_of(part), protocol or group, ((None, slices),))
        for slices in split_stations(part.headers)
    ]


def _plan_dwi(part: SeriesPart, group: str) -> list[StationPlan]:
    """All stations of a diffusion series, b-values of a station together."""
    by_b = {
        b: split_stations([h for h in part.headers if h.b_value_s_per_mm2 == b])
        for b in part.b_values_s_per_mm2
    }
    _require_equal_slices(part, by_b)
    n_stations = len(next(iter(by_b.values())))
    return [
        StationPlan(
            "dwi", group, source_of(part), group, tuple((b, s[index]) for b, s in by_b.items())
        )
        for index in range(n_stations)
    ]


def _require_equal_slices(part: SeriesPart, by_b: dict[float, tuple[Slices, ...]]) -> None:
    for b, stations in by_b.items():
        for slices in stations:
            check_spacing(slices, what=f"{source_of(part)} (b {b:g})")
    slices_of = {b: [_n_positions(s) for s in stations] for b, stations in by_b.items()}
    lowest = next(iter(slices_of))
    for b, counts in slices_of.items():
        if counts != slices_of[lowest]:
            raise StudyError(
                f"{source_of(part)}: b {b:g} has {sum(counts)} slices in {len(counts)} stations, "
                f"b {lowest:g} has {sum(slices_of[lowest])} in {len(slices_of[lowest])}",
                remedy="Export or copy the series again with all its images",
            )


def _n_positions(slices: Slices) -> int:
    return len(np.unique(positions_of(slices).round(1)))


def _step_mm(plan: StationPlan) -> float:
    """Distance that the centres of neighbouring slices, or of voxels, have along the body axis."""
    header = plan.contrasts[0][1][0]
    positions = np.unique(positions_of(plan.contrasts[0][1]).round(2))
    step = float(np.median(np.diff(positions))) if len(positions) > 1 else 0.0
    return max(step, *header.pixel_spacing_mm)
