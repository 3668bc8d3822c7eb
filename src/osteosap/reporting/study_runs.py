"""Trainings, features and times of a study, as its folder holds them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.errors import InputError
from osteosap.manifest import read_json

__all__ = ["EncoderPlane", "Run", "UnitTime", "read_planes", "read_run", "read_units"]

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Steps and values."""

_HEADER_BYTES = 8
_LARGEST_HEADER = 100_000_000
_ARM_RUN = re.compile(r"(?P<arm>.+)_fold(?P<fold>\d+)")


@dataclass(frozen=True)
class Run:
    """One training.

    Parameters
    ----------
    name
        Of its folder.
    arm, fold
        Of a fine-tuning; ``""`` and None of a pretraining.
    training, validation
        Curves by the names of the logs; without the values that are no numbers.
    metadata
        Of the weights: threshold, rates, steps, numbers of exams; empty while there are none.
    network
        Its settings.
    """

    name: str
    arm: str
    fold: int | None
    training: Mapping[str, Curve]
    validation: Mapping[str, Curve]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rates(self) -> tuple[float, float] | None:
        """Learning rates of encoder and decoder; None where unknown."""
        recipe = self.metadata.get("recipe") or {}
        own = (recipe.get("arms") or {}).get(self.arm) or recipe
        names = ("encoder_learning_rate", "decoder_learning_rate")
        encoder, decoder = (own.get(name) for name in names)
        if not isinstance(encoder, int | float) or not isinstance(decoder, int | float):
            return None
        return float(encoder), float(decoder)


@dataclass(frozen=True)
class EncoderPlane:
    """Patches as one encoder sees them.

    Parameters
    ----------
    name
        ``ssl``, ``sap``, ``random``.
    plane
        (N, 2) by t-SNE; None where it was not made.
    is_lesion
        (N,).
    in_features, in_plane
        Distances between and within the classes by name; the second None without t-SNE.
    """

    name: str
    plane: npt.NDArray[np.float64] | None
    is_lesion: npt.NDArray[np.bool_]
    in_features: Mapping[str, float | None]
    in_plane: Mapping[str, float | None] | None


@dataclass(frozen=True)
class UnitTime:
    """A finished unit: when it started, how long it took."""

    name: str
    started: str
    seconds: float


def read_run(folder: Path) -> Run | None:
    """A training's logs and what its weights say of themselves; None for a folder without logs."""
    training = folder / "training.csv"
    if not training.is_file():
        return None
    found = _ARM_RUN.fullmatch(folder.name)
    weights = sorted(folder.glob("*.safetensors"))
    told = _header(weights[0]) if weights else {}
    return Run(
        folder.name,
        found["arm"] if found else "",
        int(found["fold"]) if found else None,
        _columns(training),
        _metrics(folder / "validation.csv"),
        told.get("metadata") or {},
        told.get("spec") or {},
    )


def read_planes(path: Path) -> tuple[EncoderPlane, ...]:
    """Encoders of ``features.json`` with the points of ``features.csv`` beside it."""
    points: dict[str, list[tuple[bool, str, str]]] = {}
    table = path.with_name("features.csv")
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                one = (row["kind"] == "lesion", row["tsne_1"], row["tsne_2"])
                points.setdefault(row["encoder"], []).append(one)
    found = []
    for name, values in read_json(path)["encoders"].items():
        own = points.get(name, [])
        known = bool(own) and all(x and y for _, x, y in own)
        found.append(
            EncoderPlane(
                name,
                np.array([(float(x), float(y)) for _, x, y in own]) if known else None,
                np.array([lesion for lesion, _, _ in own], dtype=bool),
                dict(values["features"]),
                dict(values["tsne"]) if values.get("tsne") else None,
            )
        )
    return tuple(found)


def read_units(folder: Path) -> tuple[UnitTime, ...]:
    """Records of finished units in the order they started; what is no record is passed over."""
    found = []
    for path in sorted(p for p in folder.glob("*.json") if not p.name.startswith(".")):
        try:
            content = read_json(path)
            found.append(
                UnitTime(
                    str(content["name"]),
                    str(content.get("started", "")),
                    float(content["seconds"]),
                )
            )
        except (InputError, KeyError, TypeError, ValueError):
            continue
    return tuple(sorted(found, key=lambda unit: (unit.started, unit.name)))


def _columns(path: Path) -> dict[str, Curve]:
    """Every column of a log over ``step``."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name not in (None, "step")]
    return {name: _curve([(row.get("step"), row.get(name)) for row in rows]) for name in names}


def _metrics(path: Path) -> dict[str, Curve]:
    """Every metric of a long log: step, metric, value."""
    if not path.is_file():
        return {}
    points: dict[str, list[tuple[Any, Any]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            points.setdefault(str(row.get("metric")), []).append(
                (row.get("step"), row.get("value"))
            )
    return {name: _curve(pairs) for name, pairs in points.items()}


def _curve(pairs: list[tuple[Any, Any]]) -> Curve:
    """Steps and values, those that are finite numbers."""
    kept = []
    for step, value in pairs:
        try:
            kept.append((float(step), float(value)))
        except (TypeError, ValueError):  # half a row of a run that was killed
            continue
    table = np.array(kept, dtype=np.float64).reshape(-1, 2)
    table = table[np.isfinite(table).all(axis=1)]
    return table[:, 0], table[:, 1]


def _header(path: Path) -> dict[str, Any]:
    """What a weight file says of itself: JSON at its head; no tensor is read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(_HEADER_BYTES), "little")
            if not 0 < size < _LARGEST_HEADER:
                return {}
            header = json.loads(file.read(size))
        content = json.loads(header["__metadata__"]["osteosap"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return content if isinstance(content, dict) else {}
