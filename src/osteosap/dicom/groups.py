"""Which series belong together: one protocol over all stations, and the choice of the T1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from osteosap.dicom.headers import ImageHeader
from osteosap.dicom.roles import SeriesPart, words_of
from osteosap.dicom.stations import STATION_OVERLAP, Box, axes_of, box_of, overlap_fraction

__all__ = [
    "ProtocolGroup",
    "acquisition_of",
    "boxes_of",
    "choose_t1",
    "difference_in_kind",
    "group_by_protocol",
    "merge_single_b",
    "uncovered_span",
]

_STATION_WORDS = re.compile(
    r"\b(station|stat|stage|step|st|stn|bed|pos|level|part|head|neck|chest|thora\w*|abd\w*|pelvi\w*"
    r"|legs?|thighs?|femur|upper|lower)(?= |$|\d)|\d+\b"
)
_POST_CONTRAST = re.compile(r"\bpost|\bgd\b|contrast|\bkm\b|\bc plus\b")
_COMPOSED = re.compile(r"compos|stitch|fused")
_PARTIAL_DIXON = re.compile(r"\bfat\b|\bwater\b|\bopp\w*|\b[fw]$|fat ?sat|\bfs\b|spair|spir")
_PARTIAL_TYPES = frozenset(
    ("W", "F", "WATER", "FAT", "OPP_PHASE", "OUT_PHASE", "OUT_OF_PHASE", "OPPOSED_PHASE", "OP")
)
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


def choose_t1(
    groups: Sequence[ProtocolGroup], dwi: Sequence[ProtocolGroup]
) -> tuple[ProtocolGroup, ...]:
    """The T1 group that serves best, and what completes it.

    The best, in this order: named by a rule of the user; covers most of the diffusion images from
    head to foot; before contrast; no fat-suppressed or fat/water-only image; stations rather than
    an already composed volume; spin echo before gradient echo; finest in the plane; lowest series
    number.
    It is completed by series of the same kind (:func:`difference_in_kind`) that lie mainly outside
    it: a station with another TR or another voxel size makes a group of its own.
    """
    ranked = sorted(groups, key=lambda g: _t1_rank(g, dwi))
    chosen = [ranked[0]]
    for group in ranked[1:]:
        if difference_in_kind(group, ranked[0]):
            continue
        taken = boxes_of(chosen)
        parts = [
            part
            for part, box in zip(group.parts, group.boxes, strict=True)
            if uncovered_span([box], taken) > STATION_OVERLAP
        ]
        if parts:
            chosen.append(ProtocolGroup(tuple(parts)))
    return tuple(chosen)


def difference_in_kind(group: ProtocolGroup, best: ProtocolGroup) -> str:
    """In what a T1 group differs from another so that they cannot be stitched; "" if in nothing."""
    kinds = zip(_t1_kind(group), _t1_kind(best), strict=True)
    names = ("contrast agent", "fat suppression or separation", "composition", "sequence family")
    differing = [name for name, (one, two) in zip(names, kinds, strict=True) if one != two]
    if abs(float(_normal(group.first) @ _normal(best.first))) < _SAME_PLANE_COSINE:
        differing.append("slice plane")
    return " and ".join(differing)


def acquisition_of(part: SeriesPart, dwi: Sequence[ProtocolGroup]) -> ProtocolGroup | None:
    """The diffusion acquisition that an ADC map was computed from, or None where it is not sure.

    One of the same TE, TR and place with several b-values; of more than one, that whose series
    number precedes the map's by least. A map may come from several series of one b-value each:
    then only a single candidate is sure.
    """
    fitting = [
        (
            len(group.b_values_s_per_mm2) < 2,
            part.number < source.number,
            abs(part.number - source.number),
            index,
        )
        for index, group in enumerate(dwi)
        for source in group.parts
        if _close(part.first.echo_time_ms, source.first.echo_time_ms, _TE_TOLERANCE)
        and _close(part.first.repetition_time_ms, source.first.repetition_time_ms, _TR_TOLERANCE)
        and _coincide(part, source)
    ]
    best = min(fitting, default=None)
    if best is None or (best[0] and len({f[-1] for f in fitting}) > 1):
        return None
    return dwi[best[-1]]


def boxes_of(groups: Sequence[ProtocolGroup]) -> list[Box]:
    """Boxes of all series of all groups."""
    return [box for group in groups for box in group.boxes]


def uncovered_span(boxes: Sequence[Box], by: Sequence[Box]) -> float:
    """Share of the boxes' extent along the body axis where no box of ``by`` is, in 0..1."""
    low = min(float(b.low[2]) for b in boxes)
    high = max(float(b.high[2]) for b in boxes)
    places = np.linspace(low, high, 2 + round(high - low))  # about every mm

    def within(some: Sequence[Box]) -> npt.NDArray[np.bool_]:
        hits = [(places >= b.low[2]) & (places <= b.high[2]) for b in some]
        return np.any(hits, axis=0) if hits else np.zeros(places.shape, bool)

    wanted = within(boxes)
    return float((wanted & ~within(by)).sum() / wanted.sum())


def _t1_kind(group: ProtocolGroup) -> tuple[bool, frozenset[str], bool, bool]:
    """After contrast; marks of fat/water images or fat suppression; composed; no spin echo."""
    first = group.first
    words = words_of(first)
    return (
        first.has_contrast_agent or _POST_CONTRAST.search(words) is not None,
        _PARTIAL_TYPES.intersection(first.image_type).union(_PARTIAL_DIXON.findall(words)),
        _COMPOSED.search(words + " ".join(first.image_type).lower()) is not None,
        "SE" not in first.scanning_sequence,
    )


def _t1_rank(group: ProtocolGroup, dwi: Sequence[ProtocolGroup]) -> tuple[float, ...]:
    return (
        float(not any(part.by_user for part in group.parts)),
        round(uncovered_span(boxes_of(dwi), group.boxes), 1),
        *(float(bool(mark)) for mark in _t1_kind(group)),
        round(float(np.prod(group.first.pixel_spacing_mm)), 3),
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
    if one.role == "t1" and (a.image_type, a.has_contrast_agent) != (
        b.image_type,
        b.has_contrast_agent,
    ):
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


def _normal(header: ImageHeader) -> npt.NDArray[np.float64]:
    orientation = np.asarray(header.orientation_lps, dtype=np.float64)
    return np.cross(orientation[:3], orientation[3:])


def _coincide(one: SeriesPart, two: SeriesPart) -> bool:
    axes = axes_of(one.headers)
    boxes = (box_of(part.headers, axes=axes) for part in (one, two))
    return overlap_fraction(*boxes) > STATION_OVERLAP
