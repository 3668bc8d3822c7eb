"""One simulated examination on disk: a study to run on, an exam to train on.

Everything written here says of itself that it is simulated (``exam.json``; DICOM manufacturer).
Training exams go through the same preprocessing as the product's input, so that a network trained
on them has seen the stitching, the registration and the faults it will meet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osteosap import __version__
from osteosap.config import canonical_hash
from osteosap.errors import ConfigError, InputError
from osteosap.exam import Exam, write_exam
from osteosap.ingest import MARKER
from osteosap.label_maps import resample_classes, resample_lesions
from osteosap.manifest import (
    file_checksum,
    read_json,
    replace_on_success,
    write_json,
)
from osteosap.marked_folder import files_below, replace_marked, require_marked
from osteosap.volume import Volume, write_nifti

if TYPE_CHECKING:
    from osteosap.dicom import DicomWriterConfig
    from osteosap.preprocess import PreprocessConfig
    from osteosap.simulate import SimulatedExam, SimulationConfig

__all__ = [
    "FORMATS",
    "exam_hash",
    "headers_of",
    "is_complete",
    "recorded_config",
    "simulate_to_folder",
    "simulate_training_exam",
]

FORMATS = ("dicom", "nifti")
"""What :func:`simulate_to_folder` can write: a multi-station DICOM study, an exam folder."""

_STUDY_PARTS = ("dicom", "exam", "truth")
_TRAINING_PARTS = (
    *(f"{name}.nii.gz" for name in ("t1", "b1000", "adc", "skeleton", "lesions", "body")),
    "truth.json",
)

FIRST_DAY = date(2025, 1, 15)
"""Of simulated studies; time points are 90 days apart."""


def simulate_to_folder(
    config: SimulationConfig,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Simulate one examination and write it as a user would receive it, with its truth beside.

    ``out/dicom`` holds the acquired stations as DICOM, ``out/exam`` images and truth on one grid
    as NIfTI (ideal: no stations, noise or distortion of a scanner), ``out/truth`` the skeleton,
    the lesions and the ADC (um2/s) alone, for scoring. ``out/exam.json`` lists these files; what an
    earlier call wrote is replaced as a whole.

    Parameters
    ----------
    config
        The person, the disease and the scanner.
    out
        Output folder; made if absent.
    formats
        Of :data:`FORMATS`.
    progress
        Called with what is being done and the fraction done.

    Raises
    ------
    ConfigError
        An unknown format.
    OutputError
        The folder cannot be written, and nothing is left of it then; or it holds files of these
        places that no earlier call wrote.
    """
    report = progress or _silent
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ConfigError(
            f"unknown format {', '.join(unknown) or '(none given)'}",
            remedy=f"Choose from {', '.join(FORMATS)}",
        )
    require_marked(out, _STUDY_PARTS)
    from osteosap.simulate import simulate_exam

    if "dicom" in formats:  # a missing library shows before the work
        from osteosap.dicom import write_study
    report("simulate the body and its images", 0.0)
    simulated = simulate_exam(config, acquire="dicom" in formats)
    with replace_on_success(out) as aside:
        if "dicom" in formats:
            report("write DICOM", 0.6)
            write_study(simulated.stations, aside / "dicom", config=headers_of(simulated))
        report("write NIfTI", 0.8)
        if "nifti" in formats:
            write_exam(simulated.exam, aside / "exam", simulated=True)
            _write_marker(aside / "exam", config, {})
        _write_truth(simulated, aside / "truth")
        _write_marker(aside / "truth", config, {})
        _write_marker(aside, config, {})
        replace_marked(aside, out)


def simulate_training_exam(
    config: SimulationConfig, out: Path, *, preprocess: PreprocessConfig | None = None
) -> None:
    """Simulate one examination, preprocess its stations, and write images with truth on their grid.

    The folder reads with :func:`osteosap.exam.read_exam`. Truth comes onto the T1 grid by the share
    of each voxel that it fills (:mod:`osteosap.label_maps`).

    Parameters
    ----------
    config
        The person, the disease and the scanner.
    out
        Output folder; made if absent.
    preprocess
        How; None: as the product does it.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds files of these names that no earlier call wrote.
    """
    require_marked(out, _TRAINING_PARTS)
    from osteosap.preprocess import PreprocessConfig, assemble_exam
    from osteosap.simulate import simulate_exam

    preprocess = preprocess or PreprocessConfig()
    simulated = simulate_exam(config)
    assembled = assemble_exam(simulated.stations, preprocess, threads=1)
    grid = assembled.images.grid
    maps = {
        volume.channels[0]: Volume.single(
            move(volume.array[0], volume.grid, grid), grid.affine, volume.channels[0]
        )
        for volume, move in (
            (simulated.exam.skeleton, resample_classes),
            (simulated.exam.lesions, resample_lesions),
        )
        if volume is not None
    }
    facts: dict[str, Any] = {
        "preprocessing": preprocess.to_mapping(),
        "n_lesions": _count(simulated.exam.lesions),
        "n_lesions_on_grid": _count(maps.get("lesions")),
        "grid": grid.describe(),
        "warnings": list(assembled.warnings),
    }
    with replace_on_success(out) as aside:
        exam = Exam(assembled.images, maps.get("skeleton"), maps.get("lesions"))
        write_exam(exam, aside, simulated=True)
        write_nifti(assembled.body, aside / "body.nii.gz")
        write_json(aside / "truth.json", _facts(simulated))
        facts["hash"] = exam_hash(config, preprocess=preprocess)
        _write_marker(aside, config, facts)
        replace_marked(aside, out)


def exam_hash(
    config: SimulationConfig, *, form: str = "exams", preprocess: PreprocessConfig | None = None
) -> str:
    """What an exam on disk depends on: settings, label map, and the code that makes it.

    Parameters
    ----------
    config
        Of the simulation.
    form
        "exams" for training exams, "studies" for DICOM, which are not preprocessed.
    preprocess
        Of training exams; None: all defaults.
    """
    values: list[Any] = [form, recorded_config(config), __version__, _code_checksum()]
    if form == "exams":
        from osteosap.preprocess import PreprocessConfig

        values.append((preprocess or PreprocessConfig()).to_mapping())
    return canonical_hash(values)


@lru_cache(maxsize=1)
def _code_checksum() -> str:
    """SHA-256 over the source of what makes an exam: other code, another exam."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for part in ("simulate", "preprocess", "dicom", "geometry.py", "label_maps.py"):
        paths = [root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py"))
        for path in paths:
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def recorded_config(config: SimulationConfig) -> dict[str, Any]:
    """Settings as JSON; files by what is in them, since their names may name a person."""
    values = config.to_mapping()
    if config.anatomy is not None:
        values["anatomy"] = {
            "labels_sha256": _checksum(config.anatomy.labels),
            "legend_sha256": _checksum(config.anatomy.legend),
            "deformation": config.anatomy.deformation.to_mapping(),
        }
    return values


def _checksum(path: Path) -> str:
    try:
        return file_checksum(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror})", remedy="Check the path of the anatomy"
        ) from error


def is_complete(folder: Path, wanted: str, *, form: str = "exams") -> bool:
    """Whether a folder holds a whole exam of a form that was made by settings of this hash."""
    try:
        marker = read_json(folder / MARKER)
    except InputError:
        return False
    files = marker.get("files")
    if marker.get("hash") != wanted or not isinstance(files, list):
        return False
    needed = _TRAINING_PARTS if form == "exams" else ("truth/truth.json",)
    return set(needed) <= set(files) and all((folder / str(name)).is_file() for name in files)


def _write_marker(folder: Path, config: SimulationConfig, facts: dict[str, Any]) -> None:
    """Write what a folder is, and the files that are in it so far; ``facts`` have the last word."""
    files = files_below(folder)
    recorded = recorded_config(config)
    content = {
        "simulated": True,
        "osteosap": __version__,
        "seed": config.seed,
        "config": recorded,
        "config_hash": canonical_hash(recorded),
        "hash": exam_hash(config, form="studies"),
        "files": files,
        **facts,
    }
    write_json(folder / MARKER, content)


def _write_truth(simulated: SimulatedExam, folder: Path) -> None:
    """Maps for scoring, the tissue map that says what a false positive lies in, and the table."""
    exam = simulated.exam
    for volume in (exam.skeleton, exam.lesions, simulated.tissue):
        if volume is not None:
            write_nifti(volume, folder / f"{volume.channels[0]}.nii.gz", simulated=True)
    adc = Volume.single(exam.images.channel("adc"), exam.images.affine, "adc")
    write_nifti(adc, folder / "adc.nii.gz", simulated=True)
    write_json(folder / "truth.json", _facts(simulated))


def _facts(simulated: SimulatedExam) -> dict[str, Any]:
    """Person, lesions and benign findings, in numbers."""
    body = int(np.count_nonzero(simulated.tissue.array))
    lesion = int(np.count_nonzero(simulated.exam.lesions.array)) if simulated.exam.lesions else 0
    config = simulated.config
    return {
        "simulated": True,
        "protocol": {
            "sequence": simulated.sequence.to_mapping(),
            "scanner": simulated.scanner.to_mapping(),
        },
        "stations": [
            {
                "kind": one.kind,
                "index": one.index,
                "gain": round(one.gain, 4),
                "shift_mm": [round(v, 2) for v in one.shift_mm],
            }
            for one in simulated.acquisition
        ],
        "seed": config.seed,
        "site": config.site,
        "scan": config.scan,
        "timepoint": config.timepoint,
        "person": simulated.person,
        "burden_ml": round(sum(one.volume_ml for one in simulated.lesions), 4),
        "prevalence": lesion / max(body, 1),
        "lesions": [asdict(one) for one in simulated.lesions],
        "benign_findings": [asdict(one) for one in simulated.benign],
    }


def headers_of(simulated: SimulatedExam) -> DicomWriterConfig:
    """What the headers of the site's scanner say: the protocol that was run, and when."""
    from osteosap.dicom import DicomWriterConfig
    from osteosap.simulate.scanner.sites import SITES

    config, sequence = simulated.config, simulated.sequence
    timing: dict[str, Any] = {
        "t1_repetition_time_ms": sequence.t1_tr_ms,
        "t1_echo_time_ms": sequence.t1_te_ms,
    }
    if sequence.t1_sequence == "gre":
        timing = {
            "t1_repetition_time_ms": sequence.gre_tr_ms,
            "t1_echo_time_ms": sequence.gre_te_ms,
            "t1_flip_angle_deg": sequence.gre_flip_deg,
        }
    day = FIRST_DAY + timedelta(days=90 * config.timepoint + config.scan)
    return DicomWriterConfig(
        seed=config.seed,
        study_date=day.strftime("%Y%m%d"),
        dialect=SITES[config.site].dialect,
        t1_sequence=sequence.t1_sequence,
        fat_suppression=sequence.fat_suppression,
        dwi_repetition_time_ms=sequence.dwi_tr_ms,
        dwi_echo_time_ms=sequence.dwi_te_ms,
        field_strength_t=sequence.field_strength_t,
        **timing,
    )


def _count(lesions: Volume | None) -> int:
    return 0 if lesions is None else int(np.count_nonzero(np.unique(lesions.array)))


def _silent(_message: str, _fraction: float) -> None:
    pass
