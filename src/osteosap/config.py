"""Base of all stage configurations: frozen, typed, unknown keys refused, hashable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from osteosap.errors import ConfigError

__all__ = ["StageConfig", "canonical_hash"]


class StageConfig(BaseModel):
    """A stage's settings. Subclass, give every field a default and a unit in its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Self:
        """Build from a mapping; wrong keys or values raise :class:`ConfigError`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(p) for p in first["loc"]) or cls.__name__
            raise ConfigError(
                f"setting '{place}' of {cls.__name__}: {first['msg']} (got {first['input']!r})",
                remedy=f"Known settings: {', '.join(cls.model_fields)}",
            ) from error

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read a YAML file; an empty one means all defaults."""
        return cls.from_mapping(read_yaml(path))

    def to_mapping(self) -> dict[str, Any]:
        """All settings, resolved, as plain JSON types."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """SHA-256 of the resolved settings."""
        return canonical_hash(self.to_mapping())


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; anything else raises :class:`ConfigError`."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"no configuration file {path}", remedy="Check the path") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML", remedy="Check its syntax") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}, expected 'key: value' lines",
            remedy="See the files in configs/",
        )
    return values


def canonical_hash(values: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
