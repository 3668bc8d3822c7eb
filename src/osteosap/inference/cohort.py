"""Predict a folder of exams with given weights: masks and maps that any evaluation can read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import osteosap
from osteosap.config import canonical_hash
from osteosap.errors import CheckpointError, InputError
from osteosap.exam import read_exam_files
from osteosap.inference.candidates import CandidateConfig, extract_lesions
from osteosap.inference.predict import SegmentConfig, predict_map
from osteosap.manifest import (
    file_checksum,
    move_into_place,
    read_json,
    replace_on_success,
    require_own,
    software_versions,
    write_json,
)
from osteosap.models.checkpoint import Checkpoint, load_checkpoint
from osteosap.volume import Volume, write_nifti

__all__ = ["predict_exams"]

_log = logging.getLogger(__name__)
_RECORD = "prediction.json"
_FILES = ("skeleton.nii.gz", "lesions.nii.gz", "lesion_probability.nii.gz", _RECORD)


def predict_exams(
    exams: Mapping[str, Mapping[str, Path]],
    out: Path,
    *,
    weights: Sequence[Path],
    config: SegmentConfig = SegmentConfig(),  # noqa: B008  (frozen)
    candidates: CandidateConfig = CandidateConfig(),  # noqa: B008  (frozen)
    progress: Callable[[str, float], None] | None = None,
) -> list[Path]:
    """Predict exams, each into a folder of its name; finished ones are kept.

    Parameters
    ----------
    exams
        Name to image files by channel (see :func:`osteosap.exam.read_exam_files`).
    out
        Each exam's ``skeleton.nii.gz``, or ``lesions.nii.gz`` and ``lesion_probability.nii.gz``,
        and ``prediction.json`` (weights, settings, versions).
    weights
        At most one skeleton and one lesion network.
    config
        Windows and device.
    candidates
        Threshold (None: the one tuned with the weights) and smallest volume.

    Returns
    -------
    folders
        Of the predictions, in the order of the exams.

    Raises
    ------
    InputError
        There is no exam, or a name that is no folder's.
    CheckpointError
        No weights, or two of a kind.
    """
    odd = [name for name in exams if Path(name).name != name]
    if not exams or odd:
        raise InputError(
            f"{len(exams)} exams, {len(odd)} with names that are no folder's",
            remedy="Give at least one exam, each with a plain name",
        )
    checkpoints = _loaded(weights)
    folders = []
    for number, (name, files) in enumerate(exams.items()):

        def part(line: str, fraction: float, done: int = number, what: str = name) -> None:
            if progress is not None:
                progress(f"{what}: {line}", (done + fraction) / len(exams))

        key = _key(files, checkpoints, config, candidates)
        recorded = _record_of(out / name)
        if recorded.get("key") == key and _is_whole(out / name, recorded):
            _log.info("%s: predicted by the same weights and settings, kept", name)
        else:
            require_own(out / name, _FILES, _FILES if "key" in recorded else ())
            with replace_on_success(out / name) as aside:
                _predict(
                    files, aside, checkpoints, config=config, candidates=candidates, progress=part
                )
                made = sorted(p.name for p in aside.iterdir())
                record = {"key": key, "files": made, **_description(checkpoints, candidates)}
                write_json(aside / _RECORD, record)
                # the record goes last and comes first: whatever is there, even after a kill, is
                # on record, and is not whole while a file of it is missing
                for old in _FILES:
                    (out / name / old).unlink(missing_ok=True)
                for file in (_RECORD, *made):
                    move_into_place(aside / file, out / name / file)
        folders.append(out / name)
    return folders


def _loaded(weights: Sequence[Path]) -> dict[str, Checkpoint]:
    """Task to checkpoint."""
    found: dict[str, Checkpoint] = {}
    for path in weights:
        checkpoint = load_checkpoint(path)
        task = checkpoint.metadata.task
        if task not in ("skeleton", "lesions") or task in found:
            raise CheckpointError(
                f"{path} holds weights for '{task}'{', a second time' if task in found else ''}",
                remedy="Give at most one skeleton and one lesion network",
            )
        found[task] = checkpoint
    if not found:
        raise CheckpointError("no weights to predict with", remedy="Give at least one file")
    return found


def _predict(
    files: Mapping[str, Path],
    out: Path,
    checkpoints: dict[str, Checkpoint],
    *,
    config: SegmentConfig,
    candidates: CandidateConfig,
    progress: Callable[[str, float], None],
) -> None:
    images = read_exam_files(files).images
    for checkpoint in checkpoints.values():
        found = predict_map(images, checkpoint, config=config, progress=progress)
        write_nifti(found, out / f"{found.channels[0]}.nii.gz")
        if found.channels[0] == "lesion_probability":
            settings = candidates.with_threshold(_threshold_of(checkpoint))
            lesions = extract_lesions(found.array[0], found.grid.voxel_volume_ml, config=settings)
            write_nifti(Volume.single(lesions, found.affine, "lesions"), out / "lesions.nii.gz")


def _threshold_of(checkpoint: Checkpoint) -> float:
    return 0.5 if checkpoint.metadata.threshold is None else checkpoint.metadata.threshold


def _description(checkpoints: dict[str, Checkpoint], candidates: CandidateConfig) -> dict[str, Any]:
    content: dict[str, Any] = {
        "weights_sha256": {task: c.sha256 for task, c in checkpoints.items()},
        "versions": software_versions(),
    }
    if "lesions" in checkpoints:
        resolved = candidates.with_threshold(_threshold_of(checkpoints["lesions"]))
        content["candidates"] = resolved.to_mapping()
    return content


def _key(
    files: Mapping[str, Path],
    checkpoints: dict[str, Checkpoint],
    config: SegmentConfig,
    candidates: CandidateConfig,
) -> str:
    """Hash of all that the prediction depends on."""
    images = {channel: file_checksum(path) for channel, path in sorted(files.items())}
    windows = {k: v for k, v in config.to_mapping().items() if not k.endswith("_weights")}
    return canonical_hash(
        [
            images,
            {task: c.sha256 for task, c in checkpoints.items()},
            windows,
            candidates.to_mapping(),
            osteosap.__version__,
        ]
    )


def _is_whole(folder: Path, record: Mapping[str, Any]) -> bool:
    files = record.get("files") or ()
    return bool(files) and all((folder / name).is_file() for name in files)


def _record_of(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / _RECORD)
    except InputError:
        return {}
