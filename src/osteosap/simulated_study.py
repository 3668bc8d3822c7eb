"""One simulated examination on disk: a study to run on, an exam to train on, a patient over time.

Everything written here says of itself that it is simulated (``exam.json``; DICOM manufacturer).
Training exams go through the same preprocessing as the product's input, so that a network trained
on them has seen the stitching, the registration and the faults it will meet.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
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
    move_into_place,
    read_json,
    replace_on_success,
    require_folder,
    require_own,
    write_json,
    write_text,
)
from osteosap.volume import Volume, write_nifti

if TYPE_CHECKING:
    from osteosap.dicom import DicomWriterConfig
    from osteosap.simulate import SimulatedExam, SimulationConfig

__all__ = [
    "FORMATS",
    "exam_hash",
    "is_complete",
    "says_simulated",
    "simulate_patient_to_folder",
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
_COURSE = ("course.json", "course.csv")

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
    _require_own(out, _STUDY_PARTS)
    from osteosap.simulate import simulate_exam

    if "dicom" in formats:  # a missing library shows before the work
        from osteosap.dicom import write_study
    report("simulate the body and its images", 0.0)
    simulated = simulate_exam(config, acquire="dicom" in formats)
    with replace_on_success(out) as aside:
        if "dicom" in formats:
            report("write DICOM", 0.6)
            write_study(simulated.stations, aside / "dicom", config=_headers(simulated))
        report("write NIfTI", 0.8)
        if "nifti" in formats:
            write_exam(simulated.exam, aside / "exam", simulated=True)
            _write_marker(aside / "exam", config, {})
        _write_truth(simulated, aside / "truth")
        _write_marker(aside / "truth", config, {})
        _write_marker(aside, config, {})
        _replace_own(aside, out)


def simulate_patient_to_folder(
    config: SimulationConfig,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Simulate every time point of one patient, and say what each lesion did.

    ``out/time_0``, ``out/time_1``, ... are as :func:`simulate_to_folder` writes them; a lesion has
    the same number in all of them. ``out/course.csv`` and ``course.json`` hold a row for every
    lesion and time point: course, volume (mL) and ADC (um2/s), empty where it is not there, and
    their change against the first time point at which it was.

    Raises
    ------
    ConfigError, OutputError
        As for :func:`simulate_to_folder`.
    """
    if config.timepoints < 2 or config.timepoint:
        raise ConfigError(
            f"{config.timepoints} time points and the time point {config.timepoint} for a patient "
            "over time",
            remedy="Give at least two time points, and leave 'timepoint' out",
        )
    report = progress or _silent
    names = [f"time_{timepoint}" for timepoint in range(config.timepoints)]
    _require_own(out, [*names, *_COURSE], marker=_COURSE[0])
    with replace_on_success(out) as aside:
        tables = []
        for timepoint, name in enumerate(names):

            def part(what: str, fraction: float, done: int = timepoint) -> None:
                report(f"time {done}: {what}", (done + fraction) / config.timepoints)

            one = config.model_copy(update={"timepoint": timepoint})
            simulate_to_folder(one, aside / name, formats=formats, progress=part)
            tables.append(read_json(aside / name / "truth" / "truth.json")["lesions"])
        _write_course(list(_course_rows(tables)), aside, config)
        _replace_own(aside, out, marker=_COURSE[0])


def _write_course(rows: list[dict[str, Any]], folder: Path, config: SimulationConfig) -> None:
    """The course as a table and, with the record of all files of the patient, as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(_COURSE_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / _COURSE[1], text.getvalue())
    content = {
        "simulated": True,
        "osteosap": __version__,
        "config_hash": canonical_hash(_recorded(config)),
        "rows": rows,
        "files": _files_below(folder),
    }
    write_json(folder / _COURSE[0], content)


_COURSE_COLUMNS = (
    "lesion_id", "timepoint", "bone", "course", "present", "volume_ml", "adc_um2_per_s",
    "volume_change_percent", "adc_change_percent",
)  # fmt: skip


def _course_rows(tables: Sequence[list[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    """One row a lesion and time point, lesions in order."""
    by_time = [{one["id"]: one for one in table} for table in tables]
    for number in sorted({key for table in by_time for key in table}):
        seen = [table.get(number) for table in by_time]
        first = next(one for one in seen if one is not None)
        for timepoint, one in enumerate(seen):
            row = dict.fromkeys(_COURSE_COLUMNS, None) | {
                "lesion_id": number,
                "timepoint": timepoint,
                "bone": first["bone"],
                "course": first["course"],
                "present": one is not None,
            }
            if one is not None:
                for name, digits in (("volume_ml", 4), ("adc_um2_per_s", 1)):
                    row[name] = round(one[name], digits)
                    change = 100.0 * (one[name] / first[name] - 1.0)
                    row[f"{name.split('_')[0]}_change_percent"] = round(change, 1)
            yield row


def simulate_training_exam(config: SimulationConfig, out: Path) -> None:
    """Simulate one examination, preprocess its stations, and write images with truth on their grid.

    The folder reads with :func:`osteosap.exam.read_exam`. Truth comes onto the T1 grid by the share
    of each voxel that it fills (:mod:`osteosap.label_maps`).

    Raises
    ------
    OutputError
        The folder cannot be written, or holds files of these names that no earlier call wrote.
    """
    _require_own(out, _TRAINING_PARTS)
    from osteosap.preprocess import PreprocessConfig, assemble_exam
    from osteosap.simulate import simulate_exam

    preprocess = PreprocessConfig()
    simulated = simulate_exam(config)
    assembled = assemble_exam(simulated.stations, preprocess)
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
        _write_marker(aside, config, facts, form="exams")
        _replace_own(aside, out)


def exam_hash(config: SimulationConfig, *, form: str = "exams") -> str:
    """What an exam on disk depends on: settings, label map, and the code that makes it.

    Parameters
    ----------
    config
        Of the simulation.
    form
        "exams" for training exams, "studies" for DICOM, which are not preprocessed.
    """
    values: list[Any] = [form, _recorded(config), __version__, _code_checksum()]
    if form == "exams":
        from osteosap.preprocess import PreprocessConfig

        values.append(PreprocessConfig().to_mapping())
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


def _recorded(config: SimulationConfig) -> dict[str, Any]:
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


def _write_marker(
    folder: Path, config: SimulationConfig, facts: dict[str, Any], *, form: str = "studies"
) -> None:
    """Write what a folder is, and the files that are in it so far."""
    files = _files_below(folder)
    recorded = _recorded(config)
    content = {
        "simulated": True,
        "osteosap": __version__,
        "seed": config.seed,
        "config": recorded,
        "config_hash": canonical_hash(recorded),
        "hash": exam_hash(config, form=form),
        "files": files,
        **facts,
    }
    write_json(folder / MARKER, content)


def says_simulated(marker: Path) -> bool:
    """Whether a JSON file of an earlier call says that it is simulated."""
    with contextlib.suppress(InputError):
        return marker.is_file() and read_json(marker).get("simulated") is True
    return False


def _own_files(out: Path, marker: str) -> set[str]:
    """Files that an earlier call put on record in its marker."""
    files = read_json(out / marker).get("files") if says_simulated(out / marker) else None
    if not isinstance(files, list):
        return set()
    return {marker, *(name for name in files if isinstance(name, str))}


def _files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _require_own(out: Path, parts: Sequence[str], *, marker: str = MARKER) -> None:
    """Refuse a folder where ``parts`` or a marker are not, by the marker, from an earlier call."""
    require_folder(out)
    require_own(out, [*parts, marker], _own_files(out, marker))


def _replace_own(aside: Path, out: Path, *, marker: str = MARKER) -> None:
    """Put what lies aside in the place of all that an earlier call wrote.

    The marker goes last and comes first: whatever is there is on record, even after a crash.
    Files of others stay where they are.
    """
    parts = sorted(p.name for p in aside.iterdir() if p.name != marker)
    _require_own(out, parts, marker=marker)
    own = _own_files(out, marker)
    for name in sorted(own - {marker}):
        (out / name).unlink(missing_ok=True)
    folders = {parent for name in own for parent in (out / name).parents if out in parent.parents}
    for folder in sorted(folders, key=lambda f: -len(f.parts)):
        with contextlib.suppress(OSError):  # not empty: something of the user's is in it
            folder.rmdir()
    (out / marker).unlink(missing_ok=True)
    for name in (marker, *parts):
        move_into_place(aside / name, out / name)


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


def _headers(simulated: SimulatedExam) -> DicomWriterConfig:
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
