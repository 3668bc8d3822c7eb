"""Base of all stage configurations: frozen, typed, unknown keys refused, hashable."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path, PurePath
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from osteosap.errors import ConfigError

__all__ = ["StageConfig", "canonical_hash"]


class StageConfig(BaseModel):
    """A stage's settings. Subclass, give every field a default and a unit in its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Self:
        """Build from a mapping; wrong keys or values raise :class:`ConfigError`."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _explained(cls, error.errors()[0]) from error

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read a YAML file; an empty one means all defaults."""
        return cls.from_mapping(read_yaml(path))

    def to_mapping(self) -> dict[str, Any]:
        """All settings, resolved, as plain JSON types."""
        return self.model_dump(mode="json")

    def to_record(self) -> dict[str, Any]:
        """As :meth:`to_mapping`, files by their names alone: folders may name a person."""
        return {name: _without_folders(value) for name, value in self.model_dump().items()}

    def hash(self) -> str:
        """SHA-256 of the resolved settings."""
        return canonical_hash(self.to_mapping())


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; anything else raises :class:`ConfigError`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file {path}", remedy="Check the path") from error
    except OSError as error:
        raise ConfigError(
            f"the configuration file {path} cannot be read ({error.strerror})",
            remedy="Check the path and its permissions",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no text file in UTF-8", remedy="Point to a YAML file, such as in configs/"
        ) from error
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


def _explained(config: type[BaseModel], found: Any) -> ConfigError:
    """What a validator found, in words."""
    place = ".".join(str(p) for p in found["loc"])
    if found["type"] == "value_error":  # of settings that do not agree; the words are ours
        where = f"{place}: " if place else ""
        return ConfigError(
            where + found["msg"].removeprefix("Value error, "),
            remedy=f"Change the settings of {config.__name__} so that they agree",
        )
    block, known = _block(config, found["loc"])
    problem = f"setting '{place or config.__name__}' of {config.__name__}: "
    if found["type"] == "extra_forbidden":
        key = str(found["loc"][-1])
        near = difflib.get_close_matches(key, known, n=1)
        first, _, inner = key.partition(".")
        nests = inner and _block(config, (*found["loc"][:-1], first, inner))[0] != block
        problem += "not known" + (f"; did you mean '{near[0]}'?" if near and not nests else "")
        if nests:
            problem += f"; a dot does not nest, write '{first}:' and below it, indented, '{inner}'"
    else:
        problem += f"{found['msg']} (got {found['input']!r})"
    names = f"Known settings{f' of {block}' if block else ''}: {', '.join(known)}"
    return ConfigError(problem, remedy=names)


def _block(config: type[BaseModel], place: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """Path of the block of settings that a place lies in, and what that block knows."""
    path: list[str] = []
    for part in place[:-1]:
        field = config.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        config = inner
        path.append(str(part))
    return ".".join(path), list(config.model_fields)


def _without_folders(value: Any) -> Any:
    """The same in JSON types, with a file's name for its path."""
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    return value
