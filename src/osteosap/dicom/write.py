"""Write simulated station images as a DICOM study, laid out as a scanner lays it out.

Classic single-frame MR objects: one T1 series a station, one diffusion series a station with all
its b-values mixed (standard and Siemens private b-value tags), a scanner ADC series where ADC
images are given. Everything says that it is simulated; no vendor's name is claimed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from osteosap import __version__
from osteosap.config import StageConfig
from osteosap.dicom.b_values import SIEMENS_CREATOR
from osteosap.dicom.headers import SIMULATOR
from osteosap.errors import GeometryError, OutputError, VolumeError
from osteosap.exam import StationImage
from osteosap.geometry import Affine, flip_lps_ras, to_ras

__all__ = ["DicomWriterConfig", "write_study"]

GREY_LEVELS = 4095
"""Largest pixel value: 12 bits, as scanners write."""


class DicomWriterConfig(StageConfig):
    """How a simulated study is written as DICOM."""

    seed: int = 0
    """Goes into the patient's identifier and, with the images, into every UID."""
    decoys: bool = True
    """Add a localizer of three slices, so that a reader has to sort."""
    study_date: str = Field(default="20250115", pattern=r"^\d{8}$")
    t1_repetition_time_ms: float = Field(default=600.0, gt=0)
    t1_echo_time_ms: float = Field(default=11.0, gt=0)
    dwi_repetition_time_ms: float = Field(default=6500.0, gt=0)
    dwi_echo_time_ms: float = Field(default=66.0, gt=0)
    field_strength_t: float = Field(default=1.5, gt=0)


@dataclass(frozen=True)
class _Frames:
    """One volume of a series: slices (K, rows, columns) and what their headers say."""

    pixels: npt.NDArray[np.uint16]
    affine_lps: Affine
    image_type: tuple[str, ...]
    sequence_name: str
    b_value: int | None = None


@dataclass(frozen=True)
class _Series:
    description: str
    kind: str
    frames: tuple[_Frames, ...]


def write_study(images: Sequence[StationImage], folder: Path, *, config: DicomWriterConfig) -> None:
    """Write simulated station images as a DICOM study, whole or not at all.

    Parameters
    ----------
    images
        Stations of kind ``t1`` and ``dwi``, and ``adc`` (um2/s) where a scanner's map is wanted.
        Intensities of one kind and group are multiplied by one factor, over all stations and
        b-values, so that the largest becomes 4095; negative values become 0. ADC is written
        in whole um2/s.
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
    digest = _digest(images, config)
    partial = folder.with_name(f".{os.getpid()}-{folder.name}")
    try:
        for number, one in enumerate(series, start=1):
            _write_series(one, number, partial, (digest, config))
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
    """Series in the order in which they are numbered: localizer, T1, diffusion, ADC."""
    if not images:
        raise VolumeError("no images to write", remedy="Pass the stations of a simulated exam")
    factors = _grey_factors(images)
    t1 = [i for i in images if i.kind == "t1"]
    series = [_localizer(t1[len(t1) // 2], factors)] if config.decoys and t1 else []
    for number, image in enumerate(t1, start=1):
        frames = _frames(image, factors, ("ORIGINAL", "PRIMARY", "M", "ND"), "tse2d1_3")
        series.append(_Series(f"simulated t1_tse station {number}", "t1", (frames,)))
    for number, station in enumerate(_stations([i for i in images if i.kind == "dwi"]), start=1):
        frames_of = tuple(_dwi_frames(i, factors) for i in station)
        series.append(_Series(f"simulated ep2d_diff station {number}", "dwi", frames_of))
    for number, image in enumerate([i for i in images if i.kind == "adc"], start=1):
        kind = ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")
        frames = _frames(image, factors, kind, "ep_b")
        series.append(_Series(f"simulated ep2d_diff_ADC station {number}", "adc", (frames,)))
    return series


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


def _grey_factors(images: Sequence[StationImage]) -> dict[tuple[str, str], float]:
    """Factor from intensity to grey level for each kind and group."""
    largest: dict[tuple[str, str], float] = {}
    for image in images:
        array = image.volume.array
        if not np.isfinite(array).all():
            raise VolumeError(
                f"a {image.kind} station holds values that are not finite",
                remedy="Find the step of the simulation that made them",
            )
        key = (image.kind, image.group)
        largest[key] = max(largest.get(key, 0.0), float(array.max()))
    return {
        key: 1.0 if key[0] == "adc" or top <= 0 else GREY_LEVELS / top
        for key, top in largest.items()
    }


def _frames(
    image: StationImage,
    factors: dict[tuple[str, str], float],
    image_type: tuple[str, ...],
    sequence_name: str,
) -> _Frames:
    """Slices of a station as DICOM lays them: rows to the left, columns to the back."""
    array, affine = to_ras(image.volume.array[0], image.volume.affine)
    turned = affine @ _flip_in_plane(array.shape)
    factor = factors[image.kind, image.group]
    grey = np.clip(np.rint(array[::-1, ::-1].astype(np.float64) * factor), 0, GREY_LEVELS)
    b_value = image.b_value_s_per_mm2
    return _Frames(
        grey.transpose(2, 1, 0).astype(np.uint16),
        _require_right_angles(flip_lps_ras(turned)),
        image_type,
        sequence_name,
        None if b_value is None else round(b_value),
    )


def _dwi_frames(image: StationImage, factors: dict[tuple[str, str], float]) -> _Frames:
    b_value = round(image.b_value_s_per_mm2 or 0.0)
    kind = ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW")
    return _frames(image, factors, kind, f"ep_b{b_value}t" if b_value else "ep_b0")


def _localizer(image: StationImage, factors: dict[tuple[str, str], float]) -> _Series:
    """Middle slice of a T1 station in each of the three planes."""
    full = _frames(image, factors, ("ORIGINAL", "PRIMARY", "LOCALIZER"), "fl2d1")
    frames = []
    for axis in range(3):
        # axis of the pixels (K, rows, columns) that becomes the slice axis; cyclic, so that
        # the axes stay right-handed
        order = (axis, (axis + 1) % 3, (axis + 2) % 3)
        middle = full.pixels.shape[axis] // 2
        pixels = np.take(full.pixels.transpose(order), [middle], axis=0)
        columns = [2 - order[2], 2 - order[1], 2 - order[0]]
        affine = full.affine_lps[:, [*columns, 3]].copy()
        affine[:, 3] += affine[:, 2] * middle
        frames.append(_Frames(pixels, affine, full.image_type, full.sequence_name))
    return _Series("simulated localizer", "localizer", tuple(frames))


def _flip_in_plane(shape: tuple[int, ...]) -> Affine:
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = shape[0] - 1, shape[1] - 1
    return flip


def _require_right_angles(affine: Affine) -> Affine:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    worst = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if worst > 1e-4:
        raise GeometryError(
            f"the axes of a station are not at right angles (cosine {worst:.4f})",
            remedy="Resample it onto a grid without shear before writing",
        )
    return affine


def _digest(images: Sequence[StationImage], config: DicomWriterConfig) -> str:
    digest = hashlib.sha256(config.hash().encode())
    for image in images:
        digest.update(f"{image.kind} {image.b_value_s_per_mm2} {image.group}".encode())
        digest.update(np.ascontiguousarray(image.volume.affine).tobytes())
        digest.update(np.ascontiguousarray(image.volume.array).tobytes())
    return digest.hexdigest()


def _uid(digest: str, *names: object) -> str:
    """UID under 2.25 from a name-based UUID; equal input, equal UID (DICOM PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, (digest, *names)))).int}"


def _write_series(
    series: _Series, number: int, root: Path, study: tuple[str, DicomWriterConfig]
) -> None:
    digest, config = study
    folder = root / f"{number:03d}_{series.kind}"
    folder.mkdir(parents=True, exist_ok=True)
    instance = 0
    for volume in series.frames:
        for index in range(volume.pixels.shape[0]):
            instance += 1
            dataset = _new_dataset(_uid(digest, number, instance))
            _add_study(dataset, digest, config)
            _add_series(dataset, series, number, digest)
            _add_timing(dataset, series.kind, config)
            _add_slice(dataset, volume, index)
            dataset.InstanceNumber = instance
            dataset.AcquisitionNumber = 1
            dataset.save_as(folder / f"IM{instance:04d}.dcm", enforce_file_format=True)


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


def _add_study(dataset: Dataset, digest: str, config: DicomWriterConfig) -> None:
    _set(
        dataset,
        {
            "PatientName": "SIMULATED^EXAM",
            "PatientID": f"SIM-{config.seed}",
            "PatientBirthDate": "",
            "PatientSex": "O",
            "PatientComments": "Simulated, no person",
            "StudyInstanceUID": _uid(digest, "study"),
            "StudyDate": config.study_date,
            "StudyTime": "120000",
            "StudyID": str(config.seed)[:16],
            "StudyDescription": "Simulated whole-body MRI",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "FrameOfReferenceUID": _uid(digest, "frame of reference"),
            "PositionReferenceIndicator": "",
            "Manufacturer": SIMULATOR,
            "ManufacturerModelName": "phantom",
            "SoftwareVersions": f"osteosap {__version__}",
            "MagneticFieldStrength": config.field_strength_t,
        },
    )


def _add_series(dataset: Dataset, series: _Series, number: int, digest: str) -> None:
    _set(
        dataset,
        {
            "Modality": "MR",
            "SeriesInstanceUID": _uid(digest, "series", number),
            "SeriesNumber": number,
            "SeriesDescription": series.description,
            "ProtocolName": series.description,
            "ImageComments": "simulated",
            "BodyPartExamined": "WHOLEBODY",
            "PatientPosition": "HFS",
        },
    )
    minute = f"{12 + number // 60:02d}{number % 60:02d}00"
    for name in ("Series", "Acquisition", "Content"):
        _set(dataset, {f"{name}Date": dataset.StudyDate, f"{name}Time": minute})


def _add_timing(dataset: Dataset, kind: str, config: DicomWriterConfig) -> None:
    sequence, variant, repetition, echo, flip, train = {
        "localizer": ("GR", "SP", 7.8, 3.7, 20.0, 1),
        "t1": ("SE", "SK", config.t1_repetition_time_ms, config.t1_echo_time_ms, 150.0, 3),
    }.get(kind, ("EP", "SK", config.dwi_repetition_time_ms, config.dwi_echo_time_ms, 90.0, 64))
    _set(
        dataset,
        {
            "ScanningSequence": sequence,
            "SequenceVariant": variant,
            "ScanOptions": "",
            "MRAcquisitionType": "2D",
            "RepetitionTime": repetition,
            "EchoTime": echo,
            "FlipAngle": flip,
            "EchoTrainLength": train,
            "ImagedNucleus": "1H",
        },
    )


def _add_slice(dataset: Dataset, volume: _Frames, index: int) -> None:
    affine = volume.affine_lps
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing
    position = affine[:3, 3] + affine[:3, 2] * index
    pixels = np.ascontiguousarray(volume.pixels[index])
    _set(
        dataset,
        {
            "ImageType": list(volume.image_type),
            "SequenceName": volume.sequence_name,
            "ImagePositionPatient": _decimals(position),
            "ImageOrientationPatient": _decimals([*cosines[:, 0], *cosines[:, 1]]),
            "PixelSpacing": _decimals([spacing[1], spacing[0]]),
            "SliceThickness": _decimals([spacing[2]])[0],
            "SpacingBetweenSlices": _decimals([spacing[2]])[0],
            "SliceLocation": _decimals([float(position @ np.cross(*cosines.T[:2]))])[0],
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
    if volume.b_value is not None:
        _add_b_value(dataset, volume.b_value)
    dataset.PixelData = pixels.astype("<u2").tobytes()


def _add_b_value(dataset: Dataset, b_value: int) -> None:
    """The b-value in the standard attribute and where Siemens scanners write it."""
    direction = "ISOTROPIC" if b_value else "NONE"
    dataset.DiffusionBValue = float(b_value)
    dataset.DiffusionDirectionality = direction
    block = dataset.private_block(0x0019, SIEMENS_CREATOR, create=True)
    block.add_new(0x0C, "IS", b_value)
    block.add_new(0x0D, "CS", direction)


def _decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters, as DICOM allows, with all digits that fit."""
    texts = []
    for value in values:
        number = float(value) + 0.0
        digits = next(d for d in range(15, 0, -1) if len(f"{number:.{d}g}") <= 16)
        texts.append(f"{0.0 if abs(number) < 1e-12 else number:.{digits}g}")
    return texts
