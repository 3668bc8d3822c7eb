"""The table of rules that says what each series is (``series_rules.yaml``), and how it is read.

A user's rules come first. They are written in the same language, may name series by their number,
and may say the b-value of images whose header has none.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from osteosap.config import StageConfig, read_yaml
from osteosap.dicom.headers import ImageHeader
from osteosap.errors import ConfigError

__all__ = [
    "REASON_FIELDS",
    "ROLES",
    "Conditions",
    "Limits",
    "SeriesRule",
    "load_rules",
    "rule_of",
    "say_idle_rules",
    "words_of",
]

Role = Literal["t1", "dwi", "adc_map", "computed_b", "localizer", "other"]
ROLES: tuple[str, ...] = ("t1", "dwi", "adc_map", "computed_b", "localizer", "other")

_TABLE = "series_rules.yaml"
REASON_FIELDS = frozenset(
    (
        "modality",
        "scanning_sequence",
        "sequence_name",
        "repetition_time_ms",
        "echo_time_ms",
        "flip_angle_deg",
        "b_value_s_per_mm2",
        "b_value_source",
    )
)
"""Fields of a header that a reason may name; none can hold patient data."""


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression ({error})") from error
    return pattern


def _checked_reason(reason: str) -> str:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(reason) if name is not None}
    except ValueError as error:
        raise ValueError(f"the reason '{reason}' has an unpaired brace") from error
    if names - REASON_FIELDS:
        raise ValueError(
            f"the reason names {', '.join(sorted(names - REASON_FIELDS))}, "
            f"known are {', '.join(sorted(REASON_FIELDS))}"
        )
    return reason


Patterns = tuple[Annotated[str, AfterValidator(_checked_pattern)], ...]


class Limits(StageConfig):
    """A closed range of a number; an end that is not given is open."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Limits:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


_LISTS = frozenset(
    (
        "series", "modality", "sop_class", "image_type", "words", "sequence", "sequence_name",
        "any", "none",
    )
)  # fmt: skip
"""Conditions that hold lists."""

Number = Limits | Literal["present", "absent"]


class Conditions(StageConfig):
    """Conditions on the header of one image; those that are given have to hold together.

    Each is explained at the top of ``series_rules.yaml``.
    """

    series: tuple[int, ...] = ()
    modality: tuple[str, ...] = ()
    sop_class: tuple[str, ...] = ()
    image_type: Patterns = ()
    words: Patterns = ()
    sequence: tuple[str, ...] = ()
    sequence_name: Patterns = ()
    te_ms: Number | None = None
    tr_ms: Number | None = None
    flip_deg: Number | None = None
    b_value: Number | None = None
    has_geometry: bool | None = None
    multi_frame: bool | None = None
    any: tuple[Conditions, ...] = ()
    none: tuple[Conditions, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _list_single_values(cls, values: object) -> object:
        """Take ``series: 12`` for ``series: [12]``."""
        if not isinstance(values, dict):
            return values
        return {
            key: [value] if key in _LISTS and isinstance(value, str | int | dict) else value
            for key, value in values.items()
        }

    def hold(self, header: ImageHeader) -> bool:
        """Whether they all hold for an image."""
        return (
            self._words_hold(header)
            and self._numbers_hold(header)
            and (not self.any or any(c.hold(header) for c in self.any))
            and not any(c.hold(header) for c in self.none)
        )

    def _words_hold(self, header: ImageHeader) -> bool:
        sequences = header.scanning_sequence.split("/")
        listed = (
            (not self.series or header.series_number in self.series)
            and (not self.modality or header.modality in self.modality)
            and (not self.sop_class or header.sop_class in self.sop_class)
            and (not self.sequence or any(s in self.sequence for s in sequences))
        )
        return (
            listed
            and _found(self.words, words_of(header))
            and _found(self.sequence_name, header.sequence_name)
            and (not self.image_type or _matches(self.image_type, header.image_type))
        )

    def _numbers_hold(self, header: ImageHeader) -> bool:
        numbers = (
            (self.te_ms, header.echo_time_ms),
            (self.tr_ms, header.repetition_time_ms),
            (self.flip_deg, header.flip_angle_deg),
            (self.b_value, header.b_value_s_per_mm2),
        )
        flags = (
            (self.has_geometry, header.has_geometry),
            (self.multi_frame, header.frames > 1),
        )
        return all(wanted is None or _within(wanted, found) for wanted, found in numbers) and all(
            wanted is None or wanted == found for wanted, found in flags
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked, so that every image complies."""
        return not any(getattr(self, name) not in ((), None) for name in Conditions.model_fields)


class SeriesRule(Conditions):
    """One line of the table: images for which the conditions hold have the role.

    Parameters
    ----------
    role
        One of :data:`ROLES`.
    reason
        Shown to the user; may name fields of the header in braces.
    almost
        The role that the images would have but for what the reason says, or ``any``; errors name
        them.
    b_value_s_per_mm2
        Of images whose header has no b-value or a wrong one; for rules of a user.
    by_user
        Set for rules of a user.
    """

    role: Role
    reason: Annotated[str, AfterValidator(_checked_reason)] = "as your rules say"
    almost: Role | Literal["any", ""] = ""
    b_value_s_per_mm2: float | None = Field(default=None, ge=0, le=20_000)
    by_user: bool = False

    @model_validator(mode="after")
    def _check(self) -> SeriesRule:
        if self.is_empty:
            raise ValueError("it has no condition and would apply to every image")
        if self.b_value_s_per_mm2 is not None and self.role not in ("dwi", "computed_b"):
            raise ValueError(f"a b-value goes with the role dwi, not with {self.role}")
        return self


@dataclass(frozen=True)
class _Source:
    """Where rules stand, for messages."""

    name: str
    by_user: bool


def load_rules(own: Path | None = None) -> tuple[SeriesRule, ...]:
    """The rules of a user, if any, followed by those that are part of osteosap.

    Parameters
    ----------
    own
        YAML file with a list ``rules``.

    Raises
    ------
    ConfigError
        The file cannot be read, or a rule has an unknown key, a wrong value or a pattern that is
        no regular expression; the message says which rule.
    """
    if own is None:
        return _shipped_rules()
    return (*_parse(read_yaml(own), _Source(own.name, by_user=True)), *_shipped_rules())


def rule_of(header: ImageHeader, rules: Sequence[SeriesRule]) -> SeriesRule:
    """The first rule that applies to an image; one that says so where none does."""
    return next((rule for rule in rules if rule.hold(header)), _UNKNOWN)


def say_idle_rules(headers: Sequence[ImageHeader], rules: Sequence[SeriesRule]) -> tuple[str, ...]:
    """A warning for each rule of the user that decides about no image."""
    own = [rule for rule in rules if rule.by_user]
    at_work = {id(rule_of(header, own)) for header in headers} if own else set()
    return tuple(
        f"rule {number} of your rules (role {rule.role}) applies to no image: its conditions hold "
        "for none, or an earlier rule comes first"
        for number, rule in enumerate(own, start=1)
        if id(rule) not in at_work
    )


def words_of(header: ImageHeader) -> str:
    """Series description in lower case, separators as blanks."""
    return _plain(header.description)


@cache
def _shipped_rules() -> tuple[SeriesRule, ...]:
    text = resources.files("osteosap.dicom").joinpath(_TABLE).read_text(encoding="utf-8")
    return _parse(yaml.safe_load(text), _Source(_TABLE, by_user=False))


def _parse(content: dict[str, Any], source: _Source) -> tuple[SeriesRule, ...]:
    entries = content.get("rules")
    if set(content) != {"rules"} or not isinstance(entries, list) or not entries:
        raise ConfigError(
            f"{source.name} has the keys {', '.join(map(str, content)) or 'none'}, "
            "expected one list 'rules'",
            remedy="Write 'rules:' and below it '- role: t1' with its conditions, a rule each",
        )
    return tuple(_parse_one(entry, n, source) for n, entry in enumerate(entries, start=1))


def _parse_one(entry: object, number: int, source: _Source) -> SeriesRule:
    place = f"rule {number} of {source.name}"
    if not isinstance(entry, dict):
        raise ConfigError(
            f"{place} is a {type(entry).__name__}, expected 'key: value' lines",
            remedy="Begin each rule with '- role: ...' and put its conditions below",
        )
    if "role" in entry:
        place += f" (role {entry['role']})"
    try:
        return SeriesRule.from_mapping({**entry, "by_user": source.by_user})
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.problem}", remedy=error.remedy) from error


@lru_cache(maxsize=4096)
def _plain(description: str) -> str:
    return re.sub(r"[\W_]+", " ", description.lower()).strip()


@cache
def _joined(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in patterns))


def _found(patterns: tuple[str, ...], text: str) -> bool:
    """Whether one of the patterns, if there are any, is found in a text."""
    return not patterns or _joined(patterns).search(text) is not None


def _matches(patterns: tuple[str, ...], values: Sequence[str]) -> bool:
    """Whether one of the values matches one of the patterns as a whole."""
    return any(_joined(patterns).fullmatch(value) for value in values)


def _within(wanted: Number, found: float | None) -> bool:
    if isinstance(wanted, str):
        return (found is not None) == (wanted == "present")
    if found is None:
        return False
    return (wanted.min is None or found >= wanted.min) and (
        wanted.max is None or found <= wanted.max
    )


_UNKNOWN = SeriesRule(
    role="other",
    reason="no rule recognises it ({scanning_sequence}, TR {repetition_time_ms} ms, "
    "TE {echo_time_ms} ms)",
    has_geometry=True,
)
