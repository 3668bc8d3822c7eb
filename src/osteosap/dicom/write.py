"""Write simulated station images as a DICOM study, laid out as a scanner lays it out.

Classic single-frame MR objects in the dialect of one of three vendors
(:mod:`osteosap.dicom.dialects`). Everything says that it is simulated: manufacturer, patient,
study description and image comments; no product is named.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from osteosap import __version__
from osteosap.config import StageConfig
from osteosap.dicom.dialects import DIALECTS, Dialect, DialectName, Protocol
from osteosap.dicom.frames import (
    GREY_LEVELS,
    Frames,
    Scale,
    decimals,
    decoy_of,
    frames_of,
    localizer_of,
    tops_of,
)
from osteosap.errors import OutputError, VolumeError
from osteosap.exam import StationImage

__all__ = ["DicomWriterConfig", "write_study"]

DecoyKind = Literal["t2", "stir", "dixon_fat"]

_MHZ_PER_T = 42.577
"""Gyromagnetic ratio of 1H over 2 pi (CODATA)."""


_SPECTRAL = ("SFS", "FS")
"""Scan options that say that fat was saturated spectrally."""


class DicomWriterConfig(StageConfig):
    """How a simulated study is written as DICOM.

    Parameters
    ----------
    seed
        Goes into the patient's identifier and, with the images, into every UID.
    dialect
        Whose scanner's export it looks like.
    decoys
        Add a localizer of three slices, so that a reader has to sort.
    decoy_series
        Further series made up from the T1 stations, one a station: T2, STIR, the fat images of a
        Dixon series. They test how series are told apart and show nothing true.
    scanner_adc
        Write images of kind ``adc`` as the scanner's map; None: as the vendor's protocols do
        (Siemens yes, others no).
    t1_sequence
        Turbo spin echo (``tse``) or spoiled gradient echo (``gre``).
    fat_suppression
        Of diffusion: ``spectral`` or ``stir``.
    """

    seed: int = 0
    dialect: DialectName = "siemens"
    decoys: bool = True
    decoy_series: tuple[DecoyKind, ...] = ()
    scanner_adc: bool | None = None
    study_date: str = Field(default="20250115", pattern=r"^\d{8}$")
    t1_sequence: Literal["tse", "gre"] = "tse"
    t1_repetition_time_ms: float = Field(default=600.0, gt=0)
    t1_echo_time_ms: float = Field(default=11.0, gt=0)
    t1_flip_angle_deg: float = Field(default=150.0, gt=0, le=180)
    fat_suppression: Literal["spectral", "stir"] = "spectral"
    dwi_repetition_time_ms: float = Field(default=6500.0, gt=0)
    dwi_echo_time_ms: float = Field(default=66.0, gt=0)
    field_strength_t: float = Field(default=1.5, gt=0)


@dataclass(frozen=True)
class _Series:
    """Volumes that share a series; ``b_values`` are those of the study, for names."""

    kind: str
    frames: tuple[Frames, ...]
    b_values: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Study:
    """What every slice's header needs to know."""

    digest: str
    config: DicomWriterConfig

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.config.dialect]

    def protocol(self, kind: str) -> Protocol:
        name = f"t1_{self.config.t1_sequence}" if kind == "t1" else kind
        return self.dialect.protocols[name]

    def uid(self, *names: object) -> str:
        """UID under 2.25 from a name-based UUID; equal input, equal UID (DICOM PS3.5 B.2)."""
        text = "/".join(map(str, (self.digest, *names)))
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def write_study(images: Sequence[StationImage], folder: Path, *, config: DicomWriterConfig) -> None:
    """Write simulated station images as a DICOM study, whole or not at all.

    Parameters
    ----------
    images
        Stations of kind ``t1`` and ``dwi``, and ``adc`` (um2/s) where a scanner's map is wanted.
        Intensities of one kind and group are multiplied by one factor, over all stations and
        b-values, so that the largest becomes 4095; negative values become 0. (Philips stores each
        series with a factor of its own; its rescale slope leads back to the common one.) ADC is
        written in whole um2/s, with a rescale slope where the vendor shows another unit.
    folder
        New or empty.
    config
        Equal images and config give equal bytes.

    Raises
    ------
    VolumeError
        No images, or values that are not finite.
    GeometryError
        Axes that are not at right angles, which DICOM cannot say.
    OutputError
        The folder holds files, or cannot be written.
    """
    series = _plan(images, config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not empty", remedy="Choose another folder")
    study = _Study(_digest(images, config), config)
    partial = folder.with_name(f".{os.getpid()}-{folder.name}")
    try:
        for number, one in enumerate(series, start=1):
            _write_series(one, number, partial, study)
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder} ({error.strerror or error})",
            remedy="Free disk space or choose another output folder",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _plan(images: Sequence[StationImage], config: DicomWriterConfig) -> list[_Series]:
    """Series in the order in which they are numbered: localizer, T1, diffusion, ADC, decoys."""
    if not images:
        raise VolumeError("no images to write", remedy="Pass the stations of a simulated exam")
    dialect, tops = DIALECTS[config.dialect], tops_of(images)
    t1 = [
        _volumes([image], tops, dialect, first_station=number)
        for number, image in enumerate((i for i in images if i.kind == "t1"), start=1)
    ]
    stations = _stations([i for i in images if i.kind == "dwi"])
    dwi = [
        _volumes(station, tops, dialect, first_station=number)
        for number, station in enumerate(stations, start=1)
    ]
    b_values = tuple(sorted({f.b_value for frames in dwi for f in frames if f.b_value is not None}))
    series = (
        [_Series("localizer", localizer_of(t1[len(t1) // 2][0]))] if config.decoys and t1 else []
    )
    series += [_Series("t1", frames) for frames in t1]
    groups = [station[0].group for station in stations]
    for frames in _joined(dwi, groups) if dialect.joins_stations else dwi:
        series.append(_Series("dwi", frames, b_values))
    wanted = dialect.has_adc_map if config.scanner_adc is None else config.scanner_adc
    for number, image in enumerate([i for i in images if i.kind == "adc" and wanted], start=1):
        frames = _volumes([image], tops, dialect, first_station=number)
        series.append(_Series("adc", frames, b_values))
    for kind in config.decoy_series:
        series += [_Series(kind, tuple(decoy_of(f, kind) for f in frames)) for frames in t1]
    return series


def _volumes(
    station: Sequence[StationImage],
    tops: Mapping[tuple[str, str], float],
    dialect: Dialect,
    *,
    first_station: int,
) -> tuple[Frames, ...]:
    """All images of one station, scaled alike."""
    first = station[0]
    top = tops[first.kind, first.group]
    if first.kind == "adc":
        scale = Scale(1.0, dialect.adc_slope)
    elif top <= 0:
        scale = Scale(1.0)
    elif dialect.rescales:
        own = max(float(i.volume.array.max()) for i in station)
        own = own if own > 0 else top
        scale = Scale(GREY_LEVELS / own, own / top)
    else:
        scale = Scale(GREY_LEVELS / top)
    return tuple(frames_of(image, scale, station=first_station) for image in station)


def _stations(images: Iterable[StationImage]) -> list[list[StationImage]]:
    """Diffusion images of one group and grid together, b rising."""
    stations: list[list[StationImage]] = []
    for image in images:
        for station in stations:
            if station[0].group == image.group and station[0].volume.grid.same_as(
                image.volume.grid
            ):
                station.append(image)
                break
        else:
            stations.append([image])
    return [sorted(s, key=lambda i: i.b_value_s_per_mm2 or 0.0) for s in stations]


def _joined(
    stations: Sequence[tuple[Frames, ...]], groups: Sequence[str]
) -> list[tuple[Frames, ...]]:
    """Stations of one group behind one another."""
    joined: dict[str, tuple[Frames, ...]] = {}
    for frames, group in zip(stations, groups, strict=True):
        joined[group] = (*joined.get(group, ()), *frames)
    return list(joined.values())


def _digest(images: Sequence[StationImage], config: DicomWriterConfig) -> str:
    digest = hashlib.sha256(config.hash().encode())
    for image in images:
        digest.update(f"{image.kind} {image.b_value_s_per_mm2} {image.group}".encode())
        digest.update(np.ascontiguousarray(image.volume.affine).tobytes())
        digest.update(np.ascontiguousarray(image.volume.array).tobytes())
    return digest.hexdigest()


def _write_series(series: _Series, number: int, root: Path, study: _Study) -> None:
    folder = root / f"{number:03d}_{series.kind}"
    folder.mkdir(parents=True, exist_ok=True)
    for instance, (volume, index) in enumerate(_order(series, study.dialect), start=1):
        dataset = _new_dataset(study.uid(number, instance))
        _add_study(dataset, study)
        _add_series(dataset, series, number, study)
        _add_timing(dataset, series.kind, study)
        _add_slice(dataset, volume, index)
        protocol = study.protocol(series.kind)
        if protocol.sequence_name:
            dataset.SequenceName = _fill(protocol.sequence_name, series, volume, study)
        study.dialect.add_private(dataset, protocol, volume)
        dataset.InstanceNumber = instance
        dataset.AcquisitionNumber = volume.station if study.dialect.joins_stations else 1
        dataset.save_as(folder / f"IM{instance:04d}.dcm", enforce_file_format=True)


def _order(series: _Series, dialect: Dialect) -> list[tuple[Frames, int]]:
    """Slices in the order in which they are numbered."""
    slices = [(frames, index) for frames in series.frames for index in range(len(frames.pixels))]
    if dialect.b_fastest:
        slices.sort(key=lambda one: (one[0].station, one[1]))  # stable: b-values stay in order
    return slices


def _fill(template: str, series: _Series, frames: Frames, study: _Study) -> str:
    dialect = study.dialect
    return template.format(
        plane=dialect.plane(frames),
        station=frames.station,
        fat=dialect.fat[study.config.fat_suppression],
        b_values=dialect.b_values(series.b_values),
        b=f"{frames.b_value}t" if frames.b_value else "0",
    )


def _new_dataset(sop_uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = sop_uid
    return dataset


def _set(dataset: Dataset, values: dict[str, Any]) -> None:
    for keyword, value in values.items():
        setattr(dataset, keyword, value)


def _add_study(dataset: Dataset, study: _Study) -> None:
    config = study.config
    _set(
        dataset,
        {
            "PatientName": "SIMULATED^EXAM",
            "PatientID": f"SIM-{config.seed}",
            "PatientBirthDate": "",
            "PatientSex": "O",
            "PatientComments": "Simulated, no person",
            "StudyInstanceUID": study.uid("study"),
            "StudyDate": config.study_date,
            "StudyTime": "120000",
            "StudyID": str(config.seed)[:16],
            "StudyDescription": "Simulated whole-body MRI",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "FrameOfReferenceUID": study.uid("frame of reference"),
            "PositionReferenceIndicator": "",
            "Manufacturer": study.dialect.manufacturer,
            "ManufacturerModelName": "phantom",
            "SoftwareVersions": f"osteosap {__version__}",
            "MagneticFieldStrength": config.field_strength_t,
            "ImagingFrequency": decimals([config.field_strength_t * _MHZ_PER_T])[0],
        },
    )


def _add_series(dataset: Dataset, series: _Series, number: int, study: _Study) -> None:
    protocol = study.protocol(series.kind)
    description = _fill(protocol.description, series, series.frames[0], study)[:64]
    step, offset = study.dialect.series_numbers
    decoy = series.kind in study.config.decoy_series
    _set(
        dataset,
        {
            "Modality": "MR",
            "SeriesInstanceUID": study.uid("series", number),
            "SeriesNumber": number * step + offset,
            "SeriesDescription": description,
            "ProtocolName": description,
            "ImageType": list(protocol.image_type),
            "ImageComments": "simulated; decoy, made up from T1" if decoy else "simulated",
            "BodyPartExamined": "WHOLEBODY",
            "PatientPosition": "HFS",
        },
    )
    minute = f"{12 + number // 60:02d}{number % 60:02d}00"
    for name in ("Series", "Acquisition", "Content"):
        _set(dataset, {f"{name}Date": dataset.StudyDate, f"{name}Time": minute})


def _add_timing(dataset: Dataset, kind: str, study: _Study) -> None:
    config, protocol = study.config, study.protocol(kind)
    spectral = config.fat_suppression == "spectral"
    gradient = kind == "t1" and config.t1_sequence == "gre"
    t1 = (config.t1_repetition_time_ms, config.t1_echo_time_ms, config.t1_flip_angle_deg)
    epi = (config.dwi_repetition_time_ms, config.dwi_echo_time_ms, 90.0, 64)
    repetition, echo, flip, train = {
        "localizer": (7.8, 3.7, 20.0, 1),
        "t1": (*t1, 1 if gradient else 3),
        "t2": (4000.0, 100.0, 150.0, 15),
        "stir": (5000.0, 60.0, 150.0, 15),
        "dixon_fat": (6.9, 2.4, 10.0, 1),
    }.get(kind, epi)
    _set(
        dataset,
        {
            "ScanningSequence": list(protocol.scanning_sequence),
            "SequenceVariant": list(protocol.sequence_variant),
            "ScanOptions": [o for o in protocol.scan_options if spectral or o not in _SPECTRAL],
            "MRAcquisitionType": "3D" if gradient or kind == "dixon_fat" else "2D",
            "RepetitionTime": repetition,
            "EchoTime": echo,
            "FlipAngle": flip,
            "EchoTrainLength": train,
            "ImagedNucleus": "1H",
        },
    )
    if kind == "stir":
        dataset.InversionTime = 160.0


def _add_slice(dataset: Dataset, volume: Frames, index: int) -> None:
    affine = volume.affine_lps
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing
    position = affine[:3, 3] + affine[:3, 2] * index
    pixels = np.ascontiguousarray(volume.pixels[index])
    _set(
        dataset,
        {
            "ImagePositionPatient": decimals(position),
            "ImageOrientationPatient": decimals([*cosines[:, 0], *cosines[:, 1]]),
            "PixelSpacing": decimals([spacing[1], spacing[0]]),
            "SliceThickness": decimals([spacing[2]])[0],
            "SpacingBetweenSlices": decimals([spacing[2]])[0],
            "SliceLocation": decimals([float(position @ np.cross(*cosines.T[:2]))])[0],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
        },
    )
    dataset.PixelData = pixels.astype("<u2").tobytes()
