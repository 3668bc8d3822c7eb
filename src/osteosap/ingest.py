"""First stage: from what the user hands over to named station images.

A STUDY is a DICOM folder of any nesting, or a folder with ``t1``, ``b1000`` and, where known,
``adc`` as NIfTI. Either way the rest of the chain sees the same thing: station images in RAS, with
their kind and b-value, and a table of what every series was taken for and why.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from osteosap.adc_unit import TO_UM2_PER_S, AdcUnit, detect_adc_unit
from osteosap.config import StageConfig
from osteosap.errors import InputError, StudyError
from osteosap.exam import HANDED_OVER, INPUT_CHANNELS, StationImage, find_file, require_file
from osteosap.manifest import read_json, write_json
from osteosap.volume import SIMULATED, Volume, read_description, read_nifti, write_nifti

__all__ = [
    "IngestConfig",
    "StudyInput",
    "read_input",
    "read_stations",
    "require_study",
    "write_stations",
]

log = logging.getLogger(__name__)

MARKER = "exam.json"
"""Beside the images of an exam: says whether they are simulated."""


class IngestConfig(StageConfig):
    """Settings of the ingest stage.

    Parameters
    ----------
    nifti_adc_unit
        Unit of ``adc`` in a NIfTI folder; ``auto`` tells it from the magnitude. (DICOM maps are
        converted by :mod:`osteosap.dicom`, which knows more about them.)
    rules
        YAML file of rules on what a DICOM series is, which come before the package's own
        (:mod:`osteosap.dicom.rules`).
    """

    nifti_adc_unit: AdcUnit | Literal["auto"] = "auto"
    rules: Path | None = None


@dataclass(frozen=True)
class StudyInput:
    """The images of a study and where they came from.

    Parameters
    ----------
    images
        Station images of kinds ``t1``, ``dwi`` and ``adc``.
    series
        One mapping a series: number, description, role, reason, b-values. JSON types only.
    kind
        ``dicom`` or ``nifti``.
    simulated
        Whether the study says of itself that it was simulated.
    warnings
        What a reader should know.
    """

    images: tuple[StationImage, ...]
    series: tuple[dict[str, Any], ...]
    kind: str
    simulated: bool
    warnings: tuple[str, ...] = ()


def read_input(study: Path, config: IngestConfig | None = None) -> StudyInput:
    """Read a study folder, DICOM or NIfTI; log every series with its role and the reason.

    Raises
    ------
    InputError
        The folder is absent or empty, or a NIfTI folder lacks ``t1`` or ``b1000``.
    StudyError
        A DICOM study without T1 or without diffusion images, or with broken series.
    """
    require_study(study)
    if _holds_nifti(study):
        found = _read_nifti_folder(study, config or IngestConfig())
    else:
        found = _read_dicom_folder(study, config or IngestConfig())
    _require_kinds(found)
    return found


def require_study(study: Path) -> None:
    """Refuse a study that is no folder.

    Raises
    ------
    InputError
        It is absent or a file.
    """
    if not study.is_dir():
        raise InputError(
            f"no folder {study}" if not study.exists() else f"{study} is a file, not a folder",
            remedy="Point to the folder that holds the DICOM study or the NIfTI files",
        )


def write_stations(found: StudyInput, folder: Path) -> None:
    """Write station images as NIfTI and ``series.json`` beside them, for :func:`read_stations`."""
    entries = []
    for index, image in enumerate(found.images):
        b_value = image.b_value_s_per_mm2
        name = f"{index:03d}_{image.kind}" + ("" if b_value is None else f"_b{b_value:g}")
        write_nifti(image.volume, folder / f"{name}.nii.gz")
        entry = {"kind": image.kind, "b_value_s_per_mm2": b_value, "group": image.group}
        entries.append({"file": f"{name}.nii.gz", **entry, "source": image.source})
    content = {
        "study": found.kind,
        "simulated": found.simulated,
        "series": list(found.series),
        "images": entries,
        "warnings": list(found.warnings),
    }
    write_json(folder / "series.json", content)


def read_stations(folder: Path) -> StudyInput:
    """Read what :func:`write_stations` wrote."""
    content = read_json(folder / "series.json")
    images = [
        StationImage(
            read_nifti(folder / entry["file"], channel=entry["kind"]),
            entry["kind"],
            entry["b_value_s_per_mm2"],
            entry["group"],
            entry["source"],
        )
        for entry in content["images"]
    ]
    return StudyInput(
        tuple(images),
        tuple(content["series"]),
        content["study"],
        content["simulated"],
        tuple(content["warnings"]),
    )


def _holds_nifti(study: Path) -> bool:
    if any(find_file(study, name) for name in ("t1", "b1000")):
        return True
    return any(study.glob("*.nii")) or any(study.glob("*.nii.gz"))


def _read_nifti_folder(study: Path, config: IngestConfig) -> StudyInput:
    home = require_file(study, "t1").parent
    if home != study and (study / "dicom").is_dir():
        raise StudyError(
            f"{study} holds both a DICOM study (dicom/) and NIfTI images ({home.name}/)",
            remedy=f"Point to {study / 'dicom'} or to {home}",
        )
    marker = home / MARKER
    simulated = marker.is_file() and read_json(marker).get("simulated") is True
    simulated = simulated or says_simulated(home)
    warnings: list[str] = []
    images = []
    series = []
    for name in ("t1", "b1000", "adc"):
        if name == "adc" and find_file(study, "adc") is None:
            continue
        path = require_file(study, name)
        image, reason = _nifti_image(path, name, config)
        images.append(image)
        if not _knows_its_place(path):
            warnings.append(
                f"{path.name} does not say where it lies in space (sform and qform are unset): its "
                "position and sides are a guess, left and right may be exchanged"
            )
        role = {"t1": "t1", "b1000": "dwi", "adc": "adc_map"}[name]
        b_values = [] if image.b_value_s_per_mm2 is None else [image.b_value_s_per_mm2]
        log.info("%s: %s (%s)", path.name, role, reason)
        series.append(
            {"name": path.name, "role": role, "reason": reason, "b_values_s_per_mm2": b_values}
        )
    if len(images) == 2:
        warnings.append("no adc image: ADC of lesions cannot be measured from b1000 alone")
    return StudyInput(tuple(images), tuple(series), "nifti", simulated, tuple(warnings))


def says_simulated(folder: Path) -> bool:
    """Whether the header of ``t1`` or ``b1000`` says that the image was simulated."""
    paths = [find_file(folder, name) for name in INPUT_CHANNELS]
    return any(path is not None and SIMULATED in read_description(path) for path in paths)


def _nifti_image(path: Path, name: str, config: IngestConfig) -> tuple[StationImage, str]:
    volume = read_nifti(path, channel=name)
    array = volume.array.astype(np.float32)
    if name == "adc":
        unit, how = config.nifti_adc_unit, "as set"
        if unit == "auto":
            (unit, _), how = detect_adc_unit([array]), "told from its magnitude"
        scaled = Volume(array * np.float32(TO_UM2_PER_S[unit]), volume.affine, ("adc",))
        return StationImage(
            scaled, "adc", group=HANDED_OVER, source=path.name
        ), f"unit {unit}, {how}"
    kind = "t1" if name == "t1" else "dwi"
    named = Volume(array, volume.affine, (kind,))
    b_value = 1000.0 if kind == "dwi" else None
    return StationImage(named, kind, b_value, HANDED_OVER, path.name), "named by its file"


def _knows_its_place(path: Path) -> bool:
    """Whether the header of a NIfTI file says where its voxels lie (sform or qform is set)."""
    header = nib.load(path).header
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _read_dicom_folder(study: Path, config: IngestConfig) -> StudyInput:
    from osteosap.dicom import read_study

    reading = read_study(study, config.rules)
    series = []
    for record in reading.series:
        values = json.loads(json.dumps(asdict(record), default=str))
        series.append({"name": f"series {record.number} '{record.description}'", **values})
    return StudyInput(reading.images, tuple(series), "dicom", reading.simulated, reading.warnings)


def _require_kinds(found: StudyInput) -> None:
    kinds = {image.kind for image in found.images}
    for kind, what in (("t1", "T1-weighted"), ("dwi", "diffusion-weighted")):
        if kind not in kinds:
            raise StudyError(
                f"the study has no {what} images (found {len(found.series)} series: "
                f"{', '.join(sorted({e['role'] for e in found.series})) or 'none'})",
                remedy="Export the whole examination; T1 and diffusion series are both needed",
            )
