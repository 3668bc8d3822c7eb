"""Read a DICOM study: find the series, say what each is, hand on the stations as volumes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osteosap.adc_unit import TO_UM2_PER_S, detect_adc_unit
from osteosap.dicom.assemble import read_station
from osteosap.dicom.groups import ProtocolGroup, acquisition_of
from osteosap.dicom.headers import ImageHeader, read_headers, redact
from osteosap.dicom.roles import SeriesPart, sort_series
from osteosap.dicom.selection import (
    MR_REMEDY,
    Selection,
    list_b,
    require_complete,
    select_series,
)
from osteosap.dicom.stations import Slices, check_spacing, positions_of, split_stations
from osteosap.errors import StudyError, VolumeError
from osteosap.exam import StationImage
from osteosap.volume import Volume

__all__ = ["SeriesRecord", "StudyReading", "read_study"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesRecord:
    """What one series (or a part of it with its own role) is, and why.

    Parameters
    ----------
    number
        Series number; -1 where the header has none.
    description
        Series description without the patient's name and identifier.
    modality, n_files
        As found.
    role
        ``"t1"``, ``"dwi"``, ``"adc_map"``, ``"computed_b"``, ``"localizer"`` or ``"other"``.
    reason
        Why it has this role, and why it is not used where it could have been.
    b_values_s_per_mm2
        Of acquired (``dwi``) and computed (``computed_b``) diffusion images, rising.
    n_stations
        Bed positions; 0 where the series makes no volume for this project.
    geometry
        Matrix and voxel size of the first station.
    used
        Whether its images are handed on.
    """

    number: int
    description: str
    modality: str
    n_files: int
    role: str
    reason: str
    b_values_s_per_mm2: tuple[float, ...]
    n_stations: int
    geometry: str
    used: bool = False


@dataclass(frozen=True)
class StudyReading:
    """A sorted study: a record of every series, the images to use, what to mind.

    ``simulated`` is set where any image says of itself that osteosap simulated it.
    """

    series: tuple[SeriesRecord, ...]
    images: tuple[StationImage, ...]
    warnings: tuple[str, ...]
    simulated: bool


def read_study(folder: Path) -> StudyReading:
    """Sort the DICOM files below a folder and read the images of the examination.

    Parameters
    ----------
    folder
        Any nesting; files that are not DICOM are passed over.

    Returns
    -------
    StudyReading
        ``images`` holds the stations of the T1 series chosen, of every acquired b-value
        and of the scanner's ADC maps (um2/s), axes turned to RAS.

    Raises
    ------
    StudyError
        No DICOM, no MR, two studies, a truncated file, T1 or diffusion missing, a single
        b-value without ADC map, or slices missing.
    """
    headers, warnings = _drop_duplicates(_read_folder(folder))
    _require_one_study(headers)
    parts = _sort(headers)
    selection = select_series(parts)
    records = tuple(_record(part, selection) for part in parts)
    for record in records:
        _log(record)
    require_complete(parts, selection)
    images, notes = _read_images(selection)
    simulated = any(header.simulated for header in headers)
    return StudyReading(records, images, (*warnings, *selection.warnings, *notes), simulated)


def _read_folder(folder: Path) -> tuple[ImageHeader, ...]:
    if not folder.is_dir():
        raise StudyError(f"no folder {folder}", remedy="Check the path of the study")
    headers = read_headers(folder)
    if not headers:
        n_files = sum(1 for path in folder.rglob("*") if path.is_file())
        raise StudyError(
            f"no DICOM file in {folder} ({n_files} files), expected an MR examination",
            remedy=MR_REMEDY,
        )
    return headers


def _drop_duplicates(
    headers: Sequence[ImageHeader],
) -> tuple[tuple[ImageHeader, ...], tuple[str, ...]]:
    """Keep one file an image; files that hold the same one are counted, not read twice."""
    kept: dict[str, ImageHeader] = {}
    dropped: Counter[str] = Counter()
    for index, header in enumerate(headers):
        key = header.sop_uid or f"file {index}"
        if key in kept:
            dropped[f"series {header.series_number}"] += 1
        kept.setdefault(key, header)
    warnings = tuple(f"{name}: {n} duplicate files dropped" for name, n in dropped.items())
    return tuple(kept.values()), warnings


def _require_one_study(headers: Sequence[ImageHeader]) -> None:
    for what, values in (
        ("patients", {h.patient for h in headers if h.patient.startswith("id")}),
        ("patients", {h.patient for h in headers if h.patient.startswith("name")}),
        ("studies", {h.study_uid for h in headers if h.study_uid}),
    ):
        if len(values) > 1:
            raise StudyError(
                f"the folder holds images of {len(values)} {what}, expected one",
                remedy="Put each examination into a folder of its own",
            )


def _sort(headers: Sequence[ImageHeader]) -> tuple[SeriesPart, ...]:
    series: dict[str, list[ImageHeader]] = {}
    for header in headers:
        key = header.series_uid or f"number {header.series_number}"
        series.setdefault(key, []).append(header)
    parts = [part for images in series.values() for part in sort_series(images)]
    return tuple(sorted(parts, key=lambda p: (p.number, p.first.series_uid, p.role)))


def _read_images(selection: Selection) -> tuple[tuple[StationImage, ...], tuple[str, ...]]:
    images: list[StationImage] = []
    warnings: list[str] = []
    for group in selection.t1:
        for part in group.parts:
            for volume, notes in _volumes(part, "t1"):
                images.append(StationImage(volume, "t1", None, group.name, _source(part)))
                warnings += notes
    for group in selection.dwi:
        for part in group.parts:
            images += _read_dwi(part, group.name, warnings)
    for group in selection.adc:
        images += _read_adc(group, selection.dwi, warnings)
    return tuple(images), tuple(warnings)


def _volumes(part: SeriesPart, channel: str) -> list[tuple[Volume, tuple[str, ...]]]:
    return [
        read_station(slices, channel=channel, what=_source(part))
        for slices in split_stations(part.headers)
    ]


def _read_dwi(part: SeriesPart, group: str, warnings: list[str]) -> list[StationImage]:
    """All stations and b-values of a diffusion series, b-values of a station together."""
    by_b = {
        b: split_stations([h for h in part.headers if h.b_value_s_per_mm2 == b])
        for b in part.b_values_s_per_mm2
    }
    _require_equal_slices(part, by_b)
    images = []
    for index in range(len(next(iter(by_b.values())))):
        for b, stations in by_b.items():
            what = f"{_source(part)} (b {b:g})"
            volume, notes = read_station(stations[index], channel=f"b{b:g}", what=what)
            images.append(StationImage(volume, "dwi", b, group, _source(part)))
            warnings += notes
    return images


def _require_equal_slices(part: SeriesPart, by_b: dict[float, tuple[Slices, ...]]) -> None:
    for b, stations in by_b.items():
        for slices in stations:
            check_spacing(slices, what=f"{_source(part)} (b {b:g})")
    slices_of = {b: [_n_positions(s) for s in stations] for b, stations in by_b.items()}
    lowest = next(iter(slices_of))
    for b, counts in slices_of.items():
        if counts != slices_of[lowest]:
            raise StudyError(
                f"{_source(part)}: b {b:g} has {sum(counts)} slices in {len(counts)} stations, "
                f"b {lowest:g} has {sum(slices_of[lowest])} in {len(slices_of[lowest])}",
                remedy="Export or copy the series again with all its images",
            )


def _read_adc(
    group: ProtocolGroup, dwi: Sequence[ProtocolGroup], warnings: list[str]
) -> list[StationImage]:
    """ADC maps of the scanner in um2/s, one unit for all stations, in the group of their DWI."""
    volumes = [(part, *v) for part in group.parts for v in _volumes(part, "adc")]
    try:
        unit, typical = detect_adc_unit([volume.array for _, volume, _ in volumes])
    except VolumeError as error:
        warnings.append(f"{group.name}: {error.problem}; the map is left out")
        return []
    said = f"{group.name}: ADC map in {unit} (90th percentile {typical:.4g})"
    _LOG.info("%s", said)
    if unit != "um2/s":
        warnings.append(f"{said}, converted to um2/s")
    images = []
    for part, volume, notes in volumes:
        warnings += notes
        array = volume.channel("adc").astype(np.float32) * np.float32(TO_UM2_PER_S[unit])
        scaled = Volume.single(array, volume.affine, "adc")
        name = (acquisition_of(part, dwi) or group).name
        images.append(StationImage(scaled, "adc", None, name, _source(part)))
    return images


def _record(part: SeriesPart, selection: Selection) -> SeriesRecord:
    first = part.first
    stations: tuple[Slices, ...] = ()
    if part.role in ("t1", "dwi", "adc_map", "computed_b"):
        lowest = part.b_values_s_per_mm2[:1]
        stations = split_stations(
            [h for h in part.headers if not lowest or h.b_value_s_per_mm2 == lowest[0]]
        )
    return SeriesRecord(
        number=part.number,
        description=redact(first.description, first.private_words),
        modality=first.modality,
        n_files=len(part.headers),
        role=part.role,
        reason=part.reason + selection.refused.get(id(part), ""),
        b_values_s_per_mm2=part.b_values_s_per_mm2,
        n_stations=len(stations),
        geometry=_describe(first, stations[0] if stations else part.headers),
        used=id(part) in selection.used,
    )


def _describe(first: ImageHeader, slices: Slices) -> str:
    if not first.has_geometry or not all(h.has_geometry for h in slices):
        return "no geometry"
    positions = np.unique(positions_of(slices).round(2))
    step = f"x{np.median(np.diff(positions)):.3g}" if len(positions) > 1 else ""
    down, across = first.pixel_spacing_mm
    return (
        f"{first.columns}x{first.rows}x{len(positions)} voxels of {across:.3g}x{down:.3g}{step} mm"
    )


def _log(record: SeriesRecord) -> None:
    values = f", b {list_b(record.b_values_s_per_mm2)}" if record.b_values_s_per_mm2 else ""
    _LOG.info(
        "series %d '%s': %d images -> %s%s (%s)",
        record.number,
        record.description,
        record.n_files,
        record.role,
        values,
        record.reason,
    )


def _n_positions(slices: Slices) -> int:
    return len(np.unique(positions_of(slices).round(1)))


def _source(part: SeriesPart) -> str:
    return f"series {part.number}"
