"""Which series belong together: one protocol over all stations, and the choice of the T1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from osteosap.dicom.headers import ImageHeader
from osteosap.dicom.roles import SeriesPart, words_of
from osteosap.dicom.stations import STATION_OVERLAP, Box, box_of, overlap_fraction

__all__ = ["ProtocolGroup", "choose_t1", "group_by_protocol", "merge_single_b", "span_fraction"]

_STATION_WORDS = re.compile(
    r"\b(station|stat|stage|step|st|stn|bed|pos|level|part|head|neck|chest|thora\w*|abd\w*|pelvi\w*"
    r"|legs?|thighs?|femur|upper|lower)(?= |$|\d)|\d+\b"
)
_POST_CONTRAST = re.compile(r"\bpost|\bgd\b|contrast|\bkm\b|\bc plus\b")
_COMPOSED = re.compile(r"compos|stitch|fused")
_PARTIAL_DIXON = re.compile(r"\bfat\b|\bwater\b|\bopp\w*|\b[fw]$|fat ?sat|\bfs\b|spair|spir")
_TE_TOLERANCE, _TR_TOLERANCE, _SPACING_TOLERANCE = 0.02, 0.10, 0.05
_SAME_PLANE_COSINE = 0.87


@dataclass(frozen=True)
class ProtocolGroup:
    """Series acquired with one protocol; they differ in their station only."""

    parts: tuple[SeriesPart, ...]

    @property
    def first(self) -> ImageHeader:
        """Header that stands for the protocol."""
        return self.parts[0].first

    @property
    def b_values_s_per_mm2(self) -> tuple[float, ...]:
        """All b-values of the group in rising order."""
        return tuple(sorted({b for p in self.parts for b in p.b_values_s_per_mm2}))

    @cached_property
    def boxes(self) -> tuple[Box, ...]:
        """One box a series."""
        return tuple(box_of(p.headers) for p in self.parts)

    @property
    def name(self) -> str:
        """Unique in a study, the same for all stations; no patient data."""
        numbers = "+".join(dict.fromkeys(str(p.number) for p in self.parts))
        timing = f"TE {self.first.echo_time_ms or 0:g} TR {self.first.repetition_time_ms or 0:g} ms"
        return f"series {numbers}, {timing}"

    @property
    def is_directional(self) -> bool:
        """Whether it holds single diffusion directions and no trace-weighted images."""
        kinds = {h.directionality for p in self.parts for h in p.headers}
        return "direction" in kinds and "trace" not in kinds


def group_by_protocol(parts: Sequence[SeriesPart]) -> tuple[ProtocolGroup, ...]:
    """Join series of one protocol at different stations.

    Series at one station never share a group, even when their protocols agree: scanners scale
    the pixels of each series on its own.
    """
    groups: list[list[SeriesPart]] = []
    for part in sorted(parts, key=lambda p: (p.number, p.first.series_uid)):
        home = next((g for g in groups if _belongs(part, g)), None)
        if home is None:
            groups.append([part])
        else:
            home.append(part)
    return tuple(ProtocolGroup(tuple(g)) for g in groups)


def merge_single_b(groups: Sequence[ProtocolGroup]) -> tuple[ProtocolGroup, ...]:
    """Join groups of one b-value each that share protocol, matrix and place.

    For scanners that write one series a b-value; to be used when no group has two.
    """
    merged: list[ProtocolGroup] = []
    for group in groups:
        for index, home in enumerate(merged):
            if _differ_in_b_only(home, group):
                merged[index] = ProtocolGroup((*home.parts, *group.parts))
                break
        else:
            merged.append(group)
    return tuple(merged)


def choose_t1(groups: Sequence[ProtocolGroup], dwi: Sequence[ProtocolGroup]) -> ProtocolGroup:
    """The T1 group that serves best.

    In this order: covers most of the diffusion images from head to foot; before contrast; no
    fat-suppressed or fat/water-only image; stations rather than an already composed volume;
    spin echo before gradient echo; finest in the plane; lowest series number.
    """
    return min(groups, key=lambda g: _t1_rank(g, dwi))


def span_fraction(group: ProtocolGroup, others: Sequence[ProtocolGroup]) -> float:
    """Part of the others' extent along the body axis that a group covers, in 0..1."""
    if not others:
        return 1.0
    low = min(float(b.low[2]) for g in others for b in g.boxes)
    high = max(float(b.high[2]) for g in others for b in g.boxes)
    own_low = min(float(b.low[2]) for b in group.boxes)
    own_high = max(float(b.high[2]) for b in group.boxes)
    return max(0.0, min(high, own_high) - max(low, own_low)) / max(high - low, 1e-6)


def _t1_rank(group: ProtocolGroup, dwi: Sequence[ProtocolGroup]) -> tuple[float, ...]:
    first = group.first
    words = words_of(first)
    types = " ".join(first.image_type)
    contrast = first.has_contrast_agent or _POST_CONTRAST.search(words) is not None
    partial = _PARTIAL_DIXON.search(words) is not None or any(
        t in first.image_type for t in ("W", "F", "WATER", "FAT", "OPP_PHASE", "OUT_PHASE", "OP")
    )
    composed = _COMPOSED.search(words + types.lower()) is not None
    return (
        -round(span_fraction(group, dwi), 1),
        float(contrast),
        float(partial),
        float(composed),
        float("SE" not in first.scanning_sequence),
        round(float(np.prod(first.pixel_spacing_mm)), 3),
        float(group.parts[0].number),
    )


def _belongs(part: SeriesPart, group: Sequence[SeriesPart]) -> bool:
    return (
        _same_protocol(part, group[0], same_words=True)
        and part.b_values_s_per_mm2 == group[0].b_values_s_per_mm2
        and all(not _coincide(part, other) for other in group)
    )


def _differ_in_b_only(first: ProtocolGroup, second: ProtocolGroup) -> bool:
    one, two = first.parts[0], second.parts[0]
    shape = (one.first.rows, one.first.columns)
    return (
        _same_protocol(one, two, same_words=False)
        and shape == (two.first.rows, two.first.columns)
        and not set(first.b_values_s_per_mm2) & set(second.b_values_s_per_mm2)
        and len(first.parts[0].headers) == len(second.parts[0].headers)
        and _coincide(one, two)
    )


def _same_protocol(one: SeriesPart, two: SeriesPart, *, same_words: bool) -> bool:
    a, b = one.first, two.first
    if same_words and _protocol_words(a) != _protocol_words(b):
        return False
    if one.role == "t1" and a.image_type != b.image_type:
        return False
    return (
        _close(a.echo_time_ms, b.echo_time_ms, _TE_TOLERANCE)
        and _close(a.repetition_time_ms, b.repetition_time_ms, _TR_TOLERANCE)
        and all(
            _close(x, y, _SPACING_TOLERANCE)
            for x, y in zip(a.pixel_spacing_mm, b.pixel_spacing_mm, strict=True)
        )
        and abs(float(_normal(a) @ _normal(b))) >= _SAME_PLANE_COSINE
    )


def _protocol_words(header: ImageHeader) -> tuple[str, ...]:
    """Words of the description without those that name a station."""
    return tuple(_STATION_WORDS.sub(" ", words_of(header)).split())


def _close(one: float | None, two: float | None, tolerance: float) -> bool:
    if one is None or two is None:
        return one is two
    return abs(one - two) <= tolerance * max(abs(one), abs(two), 1e-9)


def _normal(header: ImageHeader) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    orientation = np.asarray(header.orientation_lps, dtype=np.float64)
    return np.cross(orientation[:3], orientation[3:])


def _coincide(one: SeriesPart, two: SeriesPart) -> bool:
    return overlap_fraction(box_of(one.headers), box_of(two.headers)) > STATION_OVERLAP
