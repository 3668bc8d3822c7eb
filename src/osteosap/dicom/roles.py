"""Divide the images of a series by what they are: the table of rules, then what it cannot say.

The table (:mod:`osteosap.dicom.rules`) looks at one image at a time. Here roles are taken back
from images that make no volume, and images with b = 0 join the others of their series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from osteosap.dicom.headers import ImageHeader
from osteosap.dicom.rules import REASON_FIELDS, ROLES, SeriesRule, load_rules, rule_of, words_of

__all__ = ["ROLES", "SeriesPart", "sort_series", "words_of"]

_LEAST_POSITIONS = 3
_VOLUMES = ("t1", "dwi", "adc_map")
"""Roles of series that are read as volumes."""


@dataclass(frozen=True)
class SeriesPart:
    """Images of one series with one role, and why.

    Parameters
    ----------
    role
        One of :data:`ROLES`.
    reason
        For the log and the record; no patient data.
    headers
        At least one.
    almost
        The role it would have but for what the reason says; "" if none.
    by_user
        Whether a rule of the user gave the role.
    """

    role: str
    reason: str
    headers: tuple[ImageHeader, ...]
    almost: str = ""
    by_user: bool = False

    @property
    def first(self) -> ImageHeader:
        """The header that stands for all."""
        return self.headers[0]

    @property
    def number(self) -> int:
        """Series number; -1 where the header has none."""
        return -1 if self.first.series_number is None else self.first.series_number

    @property
    def b_values_s_per_mm2(self) -> tuple[float, ...]:
        """B-values in rising order; empty for all but acquired and computed diffusion images."""
        if self.role not in ("dwi", "computed_b"):
            return ()
        values = {h.b_value_s_per_mm2 for h in self.headers}
        return tuple(sorted(v for v in values if v is not None))


def sort_series(
    headers: Sequence[ImageHeader], rules: Sequence[SeriesRule] | None = None
) -> tuple[SeriesPart, ...]:
    """Divide the images of one series by role, and T1 further by echo and image type.

    Parameters
    ----------
    headers
        All images of one series.
    rules
        The table, its first rule first; None: that of osteosap.
    """
    table = load_rules() if rules is None else rules
    found = [rule_of(h, table) for h in headers]
    acquired = next((r for r in found if r.role == "dwi"), None)
    parts: dict[tuple[object, ...], list[ImageHeader]] = {}
    chosen: dict[tuple[object, ...], SeriesRule] = {}
    for header, first_rule in zip(headers, found, strict=True):
        rule = first_rule
        undecided = rule.role in ("other", "t1") and not rule.by_user
        if acquired and header.b_value_s_per_mm2 == 0 and undecided:
            rule = acquired  # b = 0 images of a series whose others are diffusion-weighted
        key: tuple[object, ...] = (rule.role, rule.reason)
        if rule.role == "t1":
            key = (*key, header.image_type, header.echo_time_ms)
        parts.setdefault(key, []).append(_with_b_value(header, rule))
        chosen.setdefault(key, rule)
    return tuple(_demote(_make_part(chosen[key], images)) for key, images in parts.items())


def _with_b_value(header: ImageHeader, rule: SeriesRule) -> ImageHeader:
    if rule.b_value_s_per_mm2 is None:
        return header
    value = float(round(rule.b_value_s_per_mm2))
    return replace(header, b_value_s_per_mm2=value, b_value_source="your rules")


def _make_part(rule: SeriesRule, images: list[ImageHeader]) -> SeriesPart:
    first = images[0]
    fields = {name: _shown(getattr(first, name)) for name in REASON_FIELDS}
    reason = rule.reason.format(**fields)
    return SeriesPart(rule.role, reason, tuple(images), rule.almost, rule.by_user)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "unknown" if value is None or value == "" else str(value)


def _demote(part: SeriesPart) -> SeriesPart:
    """Take back a role that needs a volume where the images make none."""
    if part.role not in _VOLUMES:
        return part
    if not all(h.has_geometry for h in part.headers):
        return _refused(part, "no position, orientation or pixel spacing")
    normals = Counter(_plane(h) for h in part.headers)
    if len(normals) > 1:
        counts = " and ".join(str(n) for n in normals.values())
        return _refused(
            part, f"{len(normals)} orientations in one series ({counts} images)", role="localizer"
        )
    why = _why_no_volume(part)
    return _refused(part, why) if why else part


def _why_no_volume(part: SeriesPart) -> str:
    if part.role == "dwi" and any(h.b_value_s_per_mm2 is None for h in part.headers):
        return "diffusion images without a b-value; your rule has to say it"
    places = Counter(tuple(round(x, 1) for x in h.position_lps_mm) for h in part.headers)
    if len(places) < _LEAST_POSITIONS:
        return f"{len(places)} slice positions, expected {_LEAST_POSITIONS}"
    if part.role == "t1" and sorted(places.values())[len(places) // 2] > 1:
        return f"dynamic or repeated: {len(part.headers)} images at {len(places)} positions"
    return ""


def _refused(part: SeriesPart, why: str, *, role: str = "other") -> SeriesPart:
    return replace(part, role=role, reason=why, almost=part.role)


def _plane(header: ImageHeader) -> int:
    """World axis nearest to the slice normal."""
    a, b, c, d, e, f = header.orientation_lps
    normal = (abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d))
    return normal.index(max(normal))
