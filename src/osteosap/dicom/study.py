"""Read a DICOM study: find the series, say what each is, hand on the stations as volumes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osteosap.adc_unit import TO_UM2_PER_S, detect_adc_unit
from osteosap.dicom.assemble import read_station
from osteosap.dicom.duplicates import drop_duplicates
from osteosap.dicom.files import FolderScan, scan_folder
from osteosap.dicom.headers import ImageHeader
from osteosap.dicom.pixels import PixelReader
from osteosap.dicom.plan import StationPlan, check_images, find_gaps, plan_stations
from osteosap.dicom.records import SeriesRecord, log_record, make_record
from osteosap.dicom.roles import SeriesPart, sort_series
from osteosap.dicom.rules import SeriesRule, load_rules, say_idle_rules
from osteosap.dicom.selection import MR_REMEDY, require_complete, select_series
from osteosap.errors import StudyError, VolumeError
from osteosap.exam import StationImage
from osteosap.volume import Volume

__all__ = ["SeriesRecord", "StudyReading", "find_problem", "find_series", "read_study", "sort_all"]

_LOG = logging.getLogger(__name__)
_WHAT = {"t1": "T1", "dwi": "diffusion", "adc": "ADC"}


@dataclass(frozen=True)
class StudyReading:
    """A sorted study: a record of every series, the images to use, what to mind.

    ``simulated`` is set where any image says of itself that osteosap simulated it.
    """

    series: tuple[SeriesRecord, ...]
    images: tuple[StationImage, ...]
    warnings: tuple[str, ...]
    simulated: bool


def read_study(folder: Path, rules: Path | None = None) -> StudyReading:
    """Sort the DICOM files below a folder and read the images of the examination.

    Parameters
    ----------
    folder
        Any nesting; files that are not DICOM are passed over.
    rules
        YAML file with rules that come before those of osteosap (``series_rules.yaml``).

    Returns
    -------
    StudyReading
        ``images`` holds the stations of the T1 series chosen, of every acquired b-value
        and of the scanner's ADC maps (um2/s), axes turned to RAS.

    Raises
    ------
    StudyError
        No DICOM, no MR, two studies, a truncated file, T1 or diffusion missing, a single
        b-value without ADC map, slices missing, or pixels that cannot be right.
    ConfigError
        The rules cannot be read.
    """
    table = load_rules(rules)
    scan = find_series(folder)
    if scan.problem:
        raise scan.problem
    headers, warnings = drop_duplicates(scan.headers)
    _require_one_study(headers)
    parts = sort_all(headers, table)
    selection = select_series(parts)
    records = tuple(make_record(part, selection) for part in parts)
    for record in records:
        log_record(record)
    require_complete(parts, selection)
    plans = plan_stations(selection)
    check_images(plans)
    images, notes = _read_images(plans)
    simulated = any(header.simulated for header in headers)
    idle = say_idle_rules(headers, table)
    said = (*warnings, *idle, *selection.warnings, *find_gaps(plans), *notes)
    return StudyReading(records, images, said, simulated)


def find_series(folder: Path) -> FolderScan:
    """Headers of all images below a folder.

    Raises
    ------
    StudyError
        No folder, or no DICOM file in it.
    """
    if not folder.is_dir():
        raise StudyError(f"no folder {folder}", remedy="Check the path of the study")
    scan = scan_folder(folder)
    if not scan.headers and not scan.problem:
        n_files = sum(1 for path in folder.rglob("*") if path.is_file())
        raise StudyError(
            f"no DICOM file in {folder} ({n_files} files), expected an MR examination",
            remedy=MR_REMEDY,
        )
    return scan


def find_problem(headers: Sequence[ImageHeader]) -> StudyError | None:
    """The error of a folder that holds more than one examination."""
    try:
        _require_one_study(headers)
    except StudyError as error:
        return error
    return None


def sort_all(headers: Sequence[ImageHeader], rules: Sequence[SeriesRule]) -> tuple[SeriesPart, ...]:
    """All series of a study divided by role, in the order of their numbers."""
    series: dict[str, list[ImageHeader]] = {}
    for header in headers:
        key = header.series_uid or f"number {header.series_number}"
        series.setdefault(key, []).append(header)
    parts = [part for images in series.values() for part in sort_series(images, rules)]
    return tuple(sorted(parts, key=lambda p: (p.number, p.first.series_uid, p.role)))


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


def _read_images(
    plans: Sequence[StationPlan],
) -> tuple[tuple[StationImage, ...], tuple[str, ...]]:
    """Volumes of all stations; those without any signal are left out and named."""
    reader = PixelReader()
    images: list[StationImage] = []
    maps: dict[str, list[tuple[StationPlan, Volume]]] = {}
    warnings: list[str] = []
    for plan in plans:
        volumes, notes = _read_station_of(plan, reader)
        empty = [b for b, volume in volumes if not volume.array.any()]
        if empty:
            warnings.append(_say_empty(plan, empty))
            continue
        warnings += notes
        for b, volume in volumes:
            if plan.kind == "adc":
                maps.setdefault(plan.protocol, []).append((plan, volume))
            else:
                images.append(StationImage(volume, plan.kind, b, plan.group, plan.source))
    _require_signal(images)
    for protocol, stations in maps.items():
        images += _convert_maps(protocol, stations, warnings)
    return tuple(images), tuple(warnings)


def _read_station_of(
    plan: StationPlan, reader: PixelReader
) -> tuple[list[tuple[float | None, Volume]], list[str]]:
    volumes: list[tuple[float | None, Volume]] = []
    warnings: list[str] = []
    for b, slices in plan.contrasts:
        what = plan.source if b is None else f"{plan.source} (b {b:g})"
        channel = plan.kind if b is None else f"b{b:g}"
        volume, notes = read_station(slices, channel=channel, what=what, pixels=reader)
        volumes.append((b, volume))
        warnings += notes
    return volumes, warnings


def _say_empty(plan: StationPlan, empty: Sequence[float | None]) -> str:
    values = ", ".join(f"{b:g}" for b in empty if b is not None)
    return (
        f"{plan.source}: every pixel of the station from {plan.top_mm:.0f} to "
        f"{plan.bottom_mm:.0f} mm{f' is 0 at b {values}' if values else ' is 0'}; the station is "
        f"left out of the {_WHAT[plan.kind]} images, and lesions there are not looked for"
    )


def _require_signal(images: Sequence[StationImage]) -> None:
    for kind in ("t1", "dwi"):
        if not any(i.kind == kind for i in images):
            raise StudyError(
                f"every pixel of the {_WHAT[kind]} images is 0 in every station",
                remedy="Export the series again; its images are empty",
            )


def _convert_maps(
    protocol: str, stations: Sequence[tuple[StationPlan, Volume]], warnings: list[str]
) -> list[StationImage]:
    """ADC maps of the scanner in um2/s, one unit for all stations, in the group of their DWI."""
    try:
        unit, typical = detect_adc_unit([volume.array for _, volume in stations])
    except VolumeError as error:
        warnings.append(f"{protocol}: {error.problem}; the map is left out")
        return []
    said = f"{protocol}: ADC map in {unit} (90th percentile {typical:.4g})"
    _LOG.info("%s", said)
    if unit != "um2/s":
        warnings.append(f"{said}, converted to um2/s")
    images = []
    for plan, volume in stations:
        array = volume.channel("adc").astype(np.float32) * np.float32(TO_UM2_PER_S[unit])
        scaled = Volume.single(array, volume.affine, "adc")
        images.append(StationImage(scaled, "adc", None, plan.group, plan.source))
    return images
