"""What each series of a study is, as told to the user."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osteosap.dicom.headers import ImageHeader, redact
from osteosap.dicom.roles import SeriesPart
from osteosap.dicom.selection import Selection, list_b
from osteosap.dicom.stations import Slices, axes_of, positions_of, split_stations

__all__ = ["SeriesRecord", "log_record", "make_record"]

_LOG = logging.getLogger(__name__)
_PLANES = ("sagittal", "coronal", "axial")
_STRAIGHT_DEG = 1.0


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
    plane
        Of the slices: ``"axial"``, ``"coronal"`` or ``"sagittal"``, with the tilt where there is
        one; "" without geometry.
    n_images
        More than the files where enhanced files hold several frames.
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
    plane: str = ""
    n_images: int = 0


def make_record(part: SeriesPart, selection: Selection) -> SeriesRecord:
    """Describe a series part; it is used where the selection holds it."""
    first = part.first
    stations: tuple[Slices, ...] = ()
    if part.role in ("t1", "dwi", "adc_map", "computed_b"):
        lowest = part.b_values_s_per_mm2[:1]
        wanted = [h for h in part.headers if not lowest or h.b_value_s_per_mm2 == lowest[0]]
        stations = split_stations(wanted) if all(h.has_geometry for h in wanted) else ()
    return SeriesRecord(
        number=part.number,
        description=redact(first.description, first.private_words),
        modality=first.modality,
        n_files=len({h.path for h in part.headers}),
        role=part.role,
        reason=redact(part.reason, first.private_words) + selection.refused.get(id(part), ""),
        b_values_s_per_mm2=part.b_values_s_per_mm2,
        n_stations=len(stations),
        geometry=_describe(first, stations[0] if stations else part.headers),
        used=id(part) in selection.used,
        plane=_plane(part.headers),
        n_images=len(part.headers),
    )


def log_record(record: SeriesRecord) -> None:
    """Log a record in a line."""
    values = f", b {list_b(record.b_values_s_per_mm2)}" if record.b_values_s_per_mm2 else ""
    _LOG.info(
        "series %d '%s': %d images -> %s%s (%s)",
        record.number,
        record.description,
        record.n_images,
        record.role,
        values,
        record.reason,
    )


def _describe(first: ImageHeader, slices: Slices) -> str:
    if not all(h.has_geometry for h in (first, *slices)):
        return "no geometry"
    if len({h.orientation_lps for h in slices}) > 1:
        return f"{first.columns}x{first.rows} pixels, {len(slices)} images in several planes"
    positions = np.unique(positions_of(slices).round(2))
    step = f"x{np.median(np.diff(positions)):.3g}" if len(positions) > 1 else ""
    down, across = first.pixel_spacing_mm
    return (
        f"{first.columns}x{first.rows}x{len(positions)} voxels of {across:.3g}x{down:.3g}{step} mm"
    )


def _plane(headers: Sequence[ImageHeader]) -> str:
    """The plane in words, with the tilt in degrees; several where a localizer has several."""
    if not all(h.has_geometry for h in headers):
        return ""
    names = []
    for orientation in dict.fromkeys(h.orientation_lps for h in headers):
        header = next(h for h in headers if h.orientation_lps == orientation)
        cosines = np.abs(axes_of([header])[:, 2])
        name = _PLANES[int(np.argmax(cosines))]
        tilt = float(np.degrees(np.arccos(np.clip(cosines.max(), 0.0, 1.0))))
        names.append(name if tilt < _STRAIGHT_DEG else f"{name}, tilted {tilt:.0f} degrees")
    return " / ".join(dict.fromkeys(names))
