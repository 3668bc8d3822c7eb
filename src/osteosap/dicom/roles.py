"""What each series of a study is: readable rules, the first that applies decides.

Names are compared in lower case with separators turned to blanks. Limits of TR, TE and flip angle
are those that separate T1 from other weightings at 1.5 and 3 T with a wide margin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from osteosap.dicom.headers import MR_IMAGE_STORAGE, ImageHeader

__all__ = ["ROLES", "SeriesPart", "sort_series", "words_of"]

ROLES = ("t1", "dwi", "adc_map", "computed_b", "localizer", "other")

_ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"

_LOCALIZER = re.compile(r"locali[sz]|scout|survey|\bloc\b|\b3 ?plane")
_ADC = re.compile(r"\bd?adc(map)?\b|apparent diff|diffusion coeff")
_EXPONENTIAL_ADC = re.compile(r"\be ?adc\b|\bexp(onential)? ?(adc|app)")
_COMPUTED = re.compile(r"calc ?b|\bcalculated|\bcomputed|\bsynth\w* ?(b|d)|\bcdwi\b|\bcb ?\d{3,}")
_DERIVED = re.compile(r"\bsub(tract\w*)?\b|\bminip\b|\bmip\b|\bfa\b|\btensor\b|\b(t1|t2) ?map")
_DIFFUSION = re.compile(r"dwi|diff|\bdti\b|\btrace\w?\b|resolve")
_DYNAMIC = re.compile(r"dyn|twist|perf|\bdce\b|grasp|tricks|\b4d\b|time ?res|\bcine\b")
_CALIBRATION = re.compile(r"field ?map|\bb[01] ?map|shim|calib|\basset\b|\btof\b|angio|phoenix")
_T2 = re.compile(r"t2|stir|tirm|haste|ssfse|flair|\bpd\b|trufi|fiesta")
_T1 = re.compile(r"t1(?!\d)")
_T1_GRADIENT_ECHO = re.compile(r"vibe|lava|thrive|flash|spgr|mp ?rage|dixon|bravo")
_DERIVED_TYPES = frozenset(
    ("PROJECTION IMAGE", "MIP", "MNIP", "SUBTRACT", "SUBTRACTION", "FA", "TENSOR", "MOSAIC", "P")
)


@dataclass(frozen=True)
class Rule:
    """One line of the table: images to which ``applies`` says yes have the role.

    ``reason`` may name fields of :class:`ImageHeader` in braces.
    """

    role: str
    reason: str
    applies: Callable[[ImageHeader], bool]


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
    """

    role: str
    reason: str
    headers: tuple[ImageHeader, ...]

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


def words_of(header: ImageHeader) -> str:
    """Series description in lower case, separators as blanks."""
    return re.sub(r"[\W_]+", " ", header.description.lower()).strip()


def _named(pattern: re.Pattern[str]) -> Callable[[ImageHeader], bool]:
    return lambda header: pattern.search(words_of(header)) is not None


def _is_computed(header: ImageHeader) -> bool:
    typed = any("CALC_BVAL" in t or "SYNTHETIC" in t for t in header.image_type)
    diffusion = header.b_value_s_per_mm2 is not None or "DIFFUSION" in header.image_type
    return typed or (diffusion and _COMPUTED.search(words_of(header)) is not None)


def _is_diffusion(header: ImageHeader) -> bool:
    return "DIFFUSION" in header.image_type or _DIFFUSION.search(words_of(header)) is not None


def _is_dwi(header: ImageHeader) -> bool:
    b_value = header.b_value_s_per_mm2
    return b_value is not None and (b_value > 0 or _is_diffusion(header))


def _is_t1(header: ImageHeader) -> bool:
    """T1 by name with timing that allows it, or by timing alone."""
    echo, repetition = header.echo_time_ms, header.repetition_time_ms
    named = _T1.search(words_of(header)) is not None
    if echo is None or repetition is None:
        return named
    if named:
        return echo <= 35 and repetition <= 3000
    if "GR" in header.scanning_sequence:
        fast = _T1_GRADIENT_ECHO.search(words_of(header)) is not None
        flip = header.flip_angle_deg
        return echo <= 10 and repetition <= 1000 and (fast or (flip is not None and flip >= 8))
    return "SE" in header.scanning_sequence and echo <= 30 and repetition <= 1000


def _is_t2(header: ImageHeader) -> bool:
    named_t1 = _T1.search(words_of(header)) is not None
    long_echo = "SE" in header.scanning_sequence and (header.echo_time_ms or 0) >= 60
    return long_echo or (not named_t1 and _T2.search(words_of(header)) is not None)


_TIMING = "{scanning_sequence}, TR {repetition_time_ms} ms, TE {echo_time_ms} ms"

RULES: tuple[Rule, ...] = (
    Rule("other", "modality {modality}, expected MR", lambda h: h.modality != "MR"),
    Rule(
        "other",
        "enhanced multi-frame MR, which is not read; export it as classic single frames",
        lambda h: h.sop_class == _ENHANCED_MR or h.frames > 1,
    ),
    Rule("other", "no MR image object", lambda h: h.sop_class != MR_IMAGE_STORAGE),
    Rule(
        "localizer",
        "localizer by its name or image type",
        lambda h: _named(_LOCALIZER)(h) or "LOCALIZER" in h.image_type,
    ),
    Rule("other", "no position, orientation or pixel spacing", lambda h: not h.has_geometry),
    Rule("other", "exponential ADC", _named(_EXPONENTIAL_ADC)),
    Rule(
        "adc_map",
        "ADC map of the scanner by its image type or name, not acquired",
        lambda h: "ADC" in h.image_type or _named(_ADC)(h),
    ),
    Rule("computed_b", "b-value image computed by the scanner, not acquired", _is_computed),
    Rule(
        "other",
        "derived images (projection, subtraction, map, mosaic or phase)",
        lambda h: bool(_DERIVED_TYPES.intersection(h.image_type)) or _named(_DERIVED)(h),
    ),
    Rule("dwi", "acquired diffusion images, b-value from {b_value_source}", _is_dwi),
    Rule("other", "diffusion images without a b-value", _is_diffusion),
    Rule("other", "dynamic series by its name", _named(_DYNAMIC)),
    Rule("other", "calibration or angiography by its name", _named(_CALIBRATION)),
    Rule("other", f"T2-weighted or fluid-sensitive ({_TIMING})", _is_t2),
    Rule("t1", f"T1-weighted ({_TIMING}, flip {{flip_angle_deg}} degrees)", _is_t1),
)


def sort_series(headers: Sequence[ImageHeader]) -> tuple[SeriesPart, ...]:
    """Divide the images of one series by role, and T1 further by echo and image type.

    Parameters
    ----------
    headers
        All images of one series.
    """
    rules = [_rule_of(h) for h in headers]
    acquired = next((r for r in rules if r.role == "dwi"), None)
    parts: dict[tuple[object, ...], list[ImageHeader]] = {}
    chosen: dict[tuple[object, ...], Rule] = {}
    for header, first_rule in zip(headers, rules, strict=True):
        rule = first_rule
        if acquired and header.b_value_s_per_mm2 == 0 and rule.role in ("other", "t1"):
            rule = acquired  # b = 0 images of a series whose others are diffusion-weighted
        key: tuple[object, ...] = (rule.role, rule.reason)
        if rule.role == "t1":
            key = (*key, header.image_type, header.echo_time_ms)
        parts.setdefault(key, []).append(header)
        chosen.setdefault(key, rule)
    return tuple(_demote(_make_part(chosen[key], images)) for key, images in parts.items())


def _rule_of(header: ImageHeader) -> Rule:
    unknown = Rule("other", f"no rule recognises it ({_TIMING})", lambda _: True)
    return next((rule for rule in RULES if rule.applies(header)), unknown)


def _make_part(rule: Rule, images: list[ImageHeader]) -> SeriesPart:
    first = images[0]
    fields = {name: getattr(first, name) for name in ImageHeader.__slots__}
    return SeriesPart(rule.role, rule.reason.format(**fields), tuple(images))


def _demote(part: SeriesPart) -> SeriesPart:
    """Take back a role that needs a volume where the images make none."""
    if part.role not in ("t1", "dwi", "adc_map"):
        return part
    normals = {_plane(h) for h in part.headers}
    if len(normals) > 1:
        reason = f"{len(normals)} orientations in one series"
        return SeriesPart("localizer", reason, part.headers)
    places = Counter(tuple(round(x, 1) for x in h.position_lps_mm) for h in part.headers)
    if len(places) < 3:
        return SeriesPart("other", f"{len(places)} slice positions, expected 3", part.headers)
    if part.role == "t1" and sorted(places.values())[len(places) // 2] > 1:
        reason = f"dynamic or repeated: {len(part.headers)} images at {len(places)} positions"
        return SeriesPart("other", reason, part.headers)
    return part


def _plane(header: ImageHeader) -> int:
    """World axis nearest to the slice normal."""
    a, b, c, d, e, f = header.orientation_lps
    normal = (abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d))
    return normal.index(max(normal))
