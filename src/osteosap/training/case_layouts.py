"""The three ways in which a group may lay out its training exams, and how each is read.

1. A folder of exam folders (``t1``, ``b1000``, optional ``adc``, ``skeleton``, ``lesions``).
2. An nnU-Net raw dataset: ``dataset.json``, ``imagesTr``, ``labelsTr``.
3. A list: CSV or JSON, one row a case, with the path of each file.

Nothing but names and small text files is read here; :mod:`osteosap.training.case_checks` looks at
the images.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osteosap.anatomy import REGIONS
from osteosap.errors import InputError
from osteosap.exam import INPUT_CHANNELS, MAPS, find_file

__all__ = ["COLUMNS", "TrainingCase", "find_cases"]

COLUMNS = ("case", "t1", "b1000", "adc", "skeleton", "lesions", "person", "healthy")
"""Columns of a list of cases."""

_CHANNELS = (*INPUT_CHANNELS, "adc")
_ALIASES = {
    "t1": {"t1", "t1w", "t1weighted", "mrt1", "t1tse", "t1gre"},
    "b1000": {"b1000", "dwi", "dwib1000", "b1000dwi", "dwi1000", "highb", "dwihighb", "hbdwi"},
    "adc": {"adc", "adcmap"},
}
_LESION_WORDS = ("lesion", "metasta", "tumor", "tumour", "mets")
_YES, _NO = {"true", "yes", "1"}, {"false", "no", "0", ""}


@dataclass(frozen=True)
class TrainingCase:
    """The files of one exam to learn from.

    Parameters
    ----------
    name
        Its name in messages and tables.
    images
        Path by channel: ``t1``, ``b1000``, ``adc``.
    skeleton, lesions
        Paths of the reference maps; None where there is none.
    person
        Who it is (any word), to keep all scans of a person on one side; None if not known.
    healthy
        Known to hold no lesion: then it needs no lesion map to give background patches.
    """

    name: str
    images: Mapping[str, Path]
    skeleton: Path | None = None
    lesions: Path | None = None
    person: str | None = None
    healthy: bool = False

    def files(self, channels: Iterable[str] | None = None) -> dict[str, Path]:
        """Path by name of its images (all, or those of ``channels``) and maps."""
        wanted = self.images if channels is None else dict.fromkeys(channels)
        files = {name: self.images[name] for name in wanted if name in self.images}
        maps = {"skeleton": self.skeleton, "lesions": self.lesions}
        return files | {name: path for name, path in maps.items() if path is not None}


def find_cases(source: Path) -> list[TrainingCase]:
    """Cases of a folder or list, in the order of their names (of a list: its own order).

    Parameters
    ----------
    source
        A folder of exam folders, one exam folder, an nnU-Net raw dataset, or a ``.csv`` or
        ``.json`` file. Paths in a list are relative to the list's folder.

    Raises
    ------
    InputError
        Nothing is found there, or a list or ``dataset.json`` cannot be understood. Files that
        are missing are no error here: :func:`osteosap.training.cases.check_cases` lists them.
    """
    if source.is_file() and source.suffix.lower() in (".csv", ".json"):
        return _from_list(source)
    if (source / "dataset.json").is_file():
        return _from_nnunet(source)
    if source.is_dir():
        inside = [p for p in sorted(source.iterdir()) if p.is_dir() and _holds_exam(p)]
        folders = [source] if find_file(source, "t1") else inside
        if folders:
            return [_from_folder(folder) for folder in folders]
    raise InputError(
        f"no exam folder with t1.nii.gz in {source}, and it is no nnU-Net dataset and no .csv or "
        ".json list",
        remedy="Make exams with 'osteosap simulate cohort', check the path, or see "
        "docs/how-to/own-training-data.md",
    )


def _holds_exam(folder: Path) -> bool:
    return any(find_file(folder, name) for name in (*_CHANNELS, *MAPS))


def _from_folder(folder: Path) -> TrainingCase:
    found = {name: find_file(folder, name) for name in (*_CHANNELS, *MAPS)}
    person, healthy = _who(folder)
    return TrainingCase(
        folder.name,
        {name: path for name in _CHANNELS if (path := found[name]) is not None},
        found["skeleton"],
        found["lesions"],
        person,
        healthy,
    )


def _who(folder: Path) -> tuple[str | None, bool]:
    """``person`` and ``healthy`` of ``exam.json``; simulated people are their seed."""
    for path in (folder / "exam.json", folder / "exam" / "exam.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            person = content.get("person", content.get("seed"))
            return _person(person), content.get("healthy") is True
    return None, False


def _person(value: Any) -> str | None:
    text = "" if value is None or isinstance(value, bool | dict | list) else str(value).strip()
    return text or None


def _from_nnunet(source: Path) -> list[TrainingCase]:
    content = _json(source / "dataset.json")
    if not isinstance(content, dict):
        raise InputError("dataset.json holds no object", remedy="See nnU-Net's dataset format")
    channels = _nnunet_channels(content)
    ending = str(content.get("file_ending", ".nii.gz"))
    if ending not in (".nii.gz", ".nii"):
        raise InputError(
            f"dataset.json says file_ending '{ending}', expected .nii.gz or .nii",
            remedy="Convert the images to NIfTI",
        )
    kind = _nnunet_labels(content.get("labels"))
    marker = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}")
    names: dict[str, None] = {}
    for path in sorted((source / "imagesTr").glob(f"*{ending}")):
        match = marker.fullmatch(path.name)
        if match:
            names[match[1]] = None
    if not names:
        raise InputError(
            f"no image CASE_0000{ending} in {source / 'imagesTr'}", remedy="Check the folder"
        )
    cases = []
    for name in names:
        images = {c: source / "imagesTr" / f"{name}_{n}{ending}" for c, n in channels.items()}
        label = source / "labelsTr" / f"{name}{ending}"
        maps = {kind: label if label.is_file() else None}
        cases.append(TrainingCase(name, images, maps.get("skeleton"), maps.get("lesions")))
    return cases


def _nnunet_channels(content: dict[str, Any]) -> dict[str, str]:
    """Our channel to nnU-Net's four digits; channels that we do not know are left alone."""
    given = content.get("channel_names", content.get("modality"))
    given = given if isinstance(given, dict) else {}
    found: dict[str, str] = {}
    for number, title in given.items():
        plain = re.sub(r"[^a-z0-9]", "", str(title).lower())
        for channel, names in _ALIASES.items():
            if plain not in names:
                continue
            if channel in found:
                raise InputError(
                    f"dataset.json has two channels that mean {channel}",
                    remedy="Name each channel once: t1, b1000, adc",
                )
            found[channel] = f"{int(number):04d}" if str(number).isdigit() else str(number)
    missing = [name for name in INPUT_CHANNELS if name not in found]
    if missing:
        raise InputError(
            f"dataset.json names the channels {', '.join(map(str, given.values())) or 'nothing'}; "
            f"none of them means {' or '.join(missing)}",
            remedy="Name them t1 and b1000 (or T1w, DWI_b1000) in channel_names",
        )
    return {name: found[name] for name in _CHANNELS if name in found}


def _nnunet_labels(labels: Any) -> str:
    """``lesions`` or ``skeleton``: what the ids in labelsTr are."""
    given = labels if isinstance(labels, dict) else {}
    try:  # nnU-Net 1 wrote {"1": "lesion"}, nnU-Net 2 writes {"lesion": 1}
        ids = {
            (str(v) if str(k).isdigit() else str(k)): int(k if str(k).isdigit() else v)
            for k, v in given.items()
        }
    except (TypeError, ValueError):
        ids = {}
    bones = {re.sub(r"[\s-]+", "_", name.lower()): i for name, i in ids.items() if i > 0}
    if len(bones) == 1 and any(word in next(iter(bones)) for word in _LESION_WORDS):
        return "lesions"
    ours = {region.name: region.id for region in REGIONS}
    if bones and all(ours.get(name) == i for name, i in bones.items()):
        return "skeleton"
    expected = ", ".join(f"{name} {i}" for name, i in ours.items())
    raise InputError(
        f"dataset.json has the labels {given}; expected one label 'lesion', or bone classes with "
        f"these ids: {expected}",
        remedy="Change the ids in labelsTr and dataset.json, or list the files in a CSV",
    )


def _from_list(path: Path) -> list[TrainingCase]:
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    if not rows:
        raise InputError(f"{path.name} lists no case", remedy=f"Columns: {', '.join(COLUMNS)}")
    return [_from_row(row, path, number) for number, row in enumerate(rows, start=1)]


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path.name} is no text in UTF-8", remedy="Save it as CSV UTF-8"
        ) from error
    header = text.split("\n", maxsplit=1)[0]
    delimiter = ";" if header.count(";") > header.count(",") else ","
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


def _json_rows(path: Path) -> list[dict[str, Any]]:
    content = _json(path)
    rows = content.get("cases") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{path.name} holds no list of cases",
            remedy='Write [{"case": "a", "t1": "a/t1.nii.gz", ...}, ...]',
        )
    return rows


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} is no valid JSON", remedy="Check its syntax") from error


def _from_row(row: dict[str, Any], path: Path, number: int) -> TrainingCase:
    values = {
        str(key).strip().lower(): value.strip() if isinstance(value, str) else value
        for key, value in row.items()
        if key is not None
    }
    _require_known(values, row, f"{path.name}, case {number}")
    name = _person(values.get("case"))
    if name is None:
        raise InputError(f"{path.name}, case {number} has no name", remedy="Fill in 'case'")
    healthy = str(values.get("healthy") or "").lower()
    if healthy not in _YES | _NO:
        raise InputError(
            f"{path.name}, case {number}: healthy is '{healthy}'", remedy="Write true or false"
        )

    def file(key: str) -> Path | None:
        given = values.get(key)
        return path.parent / str(given) if given else None

    return TrainingCase(
        name,
        {c: found for c in _CHANNELS if (found := file(c)) is not None},
        file("skeleton"),
        file("lesions"),
        _person(values.get("person")),
        healthy in _YES,
    )


def _require_known(values: dict[str, Any], row: dict[str, Any], where: str) -> None:
    unknown = [key for key in values if key not in COLUMNS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], COLUMNS, n=1)
        raise InputError(
            f"{where}: unknown column '{unknown[0]}'"
            + (f"; did you mean '{near[0]}'?" if near else ""),
            remedy=f"Columns: {', '.join(COLUMNS)}",
        )
    if None in row:  # csv puts cells beyond the header there
        raise InputError(f"{where}: more cells than columns", remedy="Check the commas")
