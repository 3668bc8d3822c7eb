"""Exams at the network's spacing: prepared once, kept in a store, cut on the fly."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from osteosap.config import canonical_hash
from osteosap.errors import TrainingError
from osteosap.evaluation.matching import as_components
from osteosap.exam import INPUT_CHANNELS, MAPS, read_exam_files
from osteosap.geometry import Array, Grid
from osteosap.inference.prepare import InputConfig, prepare_images
from osteosap.label_maps import resample_classes, resample_lesions
from osteosap.training.case_checks import label_problem
from osteosap.training.case_layouts import TrainingCase
from osteosap.training.places import ExamIndex, LesionPlace, build_parts
from osteosap.training.store import DamagedPackError, Pack, VoxelArray, open_pack, write_pack

__all__ = ["TrainingExam", "load_exams", "prepare_exam"]

_log = logging.getLogger(__name__)
_FORMAT = 3
"""Raise it when prepared exams of the same files and settings come out differently."""

_PLACES = "places/"


@dataclass(frozen=True)
class TrainingExam:
    """One exam, ready to be cut into patches; cropped to the body.

    Its arrays are in memory or in a store (:class:`osteosap.training.store.StoredArray`): both
    have ``shape`` and ``dtype`` and are read by slicing, ``np.asarray`` or ``astype``.

    Parameters
    ----------
    images
        float16 (C, I, J, K) in [0, 1].
    body
        bool (I, J, K).
    skeleton
        uint8 class map (I, J, K), or None.
    lesions
        int32 instance map (I, J, K), or None.
    grid
        Where the voxels are.
    channels
        Names of the images' channels, in order.
    recorded_checksum, recorded_index
        Of an exam from a store; made from the arrays where they are None.
    """

    images: VoxelArray
    body: VoxelArray
    skeleton: VoxelArray | None
    lesions: VoxelArray | None
    grid: Grid
    channels: tuple[str, ...] = INPUT_CHANNELS
    recorded_checksum: int | None = field(default=None, repr=False)
    recorded_index: ExamIndex | None = field(default=None, repr=False)

    def checksum(self) -> int:
        """CRC-32 of all voxels: tells whether two runs learn from the same exams."""
        if self.recorded_checksum is not None:
            return self.recorded_checksum
        value = 0
        for array in (self.images, self.body, self.skeleton, self.lesions):
            if array is not None:
                whole = np.ascontiguousarray(np.asarray(array))
                value = zlib.crc32(whole.view(np.uint8).data, value)
        return value

    @cached_property
    def index(self) -> ExamIndex:
        """Places of body, bones, lesions and bright voxels."""
        if self.recorded_index is not None:
            return self.recorded_index
        return ExamIndex(*_places(self), self.grid.shape)


def load_exams(
    cases: Sequence[TrainingCase],
    config: InputConfig,
    *,
    needs: str,
    store: Path,
    progress: Callable[[str, float], None] | None = None,
) -> list[TrainingExam]:
    """Open exams in a store; those that it lacks are prepared first.

    A prepared exam is known by its files (path, size, time) and ``config``. Several processes
    may work on one store at once. A damaged exam is prepared again, with a warning.

    Parameters
    ----------
    cases
        Exams, checked by :func:`osteosap.training.cases.require_cases`.
    config
        Channels, spacing, scaling.
    needs
        ``"skeleton"`` or ``"lesions"``: the reference each exam must have; ``"images"``: none.
    store
        Folder of prepared exams.
    progress
        Called with a line and the fraction done.

    Raises
    ------
    TrainingError
        There is no exam, or one lacks its reference or has an impossible one.
    OutputError
        The store cannot be written (disk full).
    """
    if not cases:
        raise TrainingError("no exams to train on", remedy="Give at least one exam")
    exams = []
    for number, case in enumerate(cases):
        if progress is not None:
            progress("prepare exams", number / len(cases))
        if (
            needs in MAPS
            and needs not in case.files()
            and not (needs == "lesions" and case.healthy)
        ):
            raise TrainingError(
                f"{case.name} has no {needs}.nii.gz, expected a reference for every exam",
                remedy=f"Add the {needs} map or leave the exam out",
            )
        exams.append(_stored(case, config, store))
    if progress is not None:
        progress("prepare exams", 1.0)
    return exams


def prepare_exam(case: TrainingCase, config: InputConfig) -> TrainingExam:
    """Read one exam and bring its images and references to the network's grid, in memory.

    Lesions are connected components (26-neighbourhood) of the lesion map, whatever its ids; a
    healthy exam without a lesion map has an empty one.

    Raises
    ------
    InputError
        Files are missing, unreadable, or on different grids.
    TrainingError
        A reference has impossible values.
    """
    channels = dict.fromkeys((*config.channels, "t1"))
    missing = [name for name in channels if name not in case.images]
    if missing:
        raise TrainingError(
            f"{case.name} has no {', '.join(missing)}", remedy="Add it or leave the exam out"
        )
    files = case.files(channels)
    exam = read_exam_files(files)
    prepared = prepare_images(exam.images, config)
    skeleton: npt.NDArray[np.uint8] | None = None
    lesions: npt.NDArray[np.int32] | None = None
    if exam.skeleton is not None:
        array = _sound(case, exam.skeleton.channel("skeleton"), "skeleton")
        skeleton = resample_classes(array, exam.skeleton.grid, prepared.grid)
    if exam.lesions is not None:
        array = as_components(_sound(case, exam.lesions.channel("lesions"), "lesions"))
        lesions = resample_lesions(array, exam.lesions.grid, prepared.grid)
        lost = len(np.unique(array)) - len(np.unique(lesions))
        if lost:
            _log.warning("%d lesions of %s lie outside the body and are left out", lost, case.name)
    elif case.healthy:
        lesions = np.zeros(prepared.grid.shape, dtype=np.int32)
    images = prepared.array.astype(np.float16)
    return TrainingExam(
        images, prepared.body, skeleton, lesions, prepared.grid, tuple(config.channels)
    )


def _sound(case: TrainingCase, array: Array, name: str) -> Array:
    problem = label_problem(name, array, healthy=case.healthy)
    if problem is not None:
        raise TrainingError(f"{case.name}: {problem[0]}", remedy=problem[1])
    return array


def _stored(case: TrainingCase, config: InputConfig, store: Path) -> TrainingExam:
    path = store / f"{_fingerprint(case, config)}.exam"
    exam = _open(path)
    if exam is None:
        prepared = prepare_exam(case, config)
        exam = _open(path, warn=False)  # another process may have been faster
        if exam is None:
            _write(path, prepared)
            exam = _open(path)
    if exam is None:
        raise TrainingError(
            f"the exam just prepared as {path} cannot be read back",
            remedy="Check the disk of the store",
        )
    return exam


def _open(path: Path, *, warn: bool = True) -> TrainingExam | None:
    """A stored exam; None where there is none that is whole."""
    try:
        return _from_pack(open_pack(path))
    except FileNotFoundError:
        return None
    except (DamagedPackError, OSError, KeyError, TypeError, ValueError) as error:
        if warn:
            _log.warning("prepared %s is damaged (%s); preparing it again", path.name, error)
        return None


def _write(path: Path, exam: TrainingExam) -> None:
    arrays = {"images": exam.images, "body": exam.body}
    arrays |= {
        name: array
        for name, array in (("skeleton", exam.skeleton), ("lesions", exam.lesions))
        if array is not None
    }
    parts, lesions = _places(exam)
    header = {
        "affine": exam.grid.affine.tolist(),
        "channels": list(exam.channels),
        "checksum": exam.checksum(),
        "lesions": [asdict(lesion) for lesion in lesions],
    }
    whole = {name: np.asarray(array) for name, array in arrays.items()}
    write_pack(path, whole | {f"{_PLACES}{name}": part for name, part in parts.items()}, header)


def _from_pack(pack: Pack) -> TrainingExam:
    header = pack.header
    images = pack["images"]
    i, j, k = images.shape[1:]
    grid = Grid((i, j, k), np.asarray(header["affine"], dtype=np.float64))
    lesions = tuple(
        LesionPlace(v["id"], tuple(v["start"]), tuple(v["stop"]), v["voxels"])
        for v in header["lesions"]
    )
    return TrainingExam(
        images,
        pack["body"],
        pack.get("skeleton"),
        pack.get("lesions"),
        grid,
        tuple(header["channels"]),
        int(header["checksum"]),
        ExamIndex(pack.below(_PLACES), lesions, grid.shape),
    )


def _places(exam: TrainingExam) -> tuple[dict[str, Array], tuple[LesionPlace, ...]]:
    """The index of an exam in memory."""
    bright = None
    if "b1000" in exam.channels:
        bright = np.asarray(exam.images[exam.channels.index("b1000")])
    skeleton, lesions = (
        None if m is None else np.asarray(m) for m in (exam.skeleton, exam.lesions)
    )
    return build_parts(np.asarray(exam.body), skeleton, lesions, bright)


def _fingerprint(case: TrainingCase, config: InputConfig) -> str:
    files = []
    for name, path in sorted(case.files(dict.fromkeys((*config.channels, "t1"))).items()):
        try:
            stat = path.stat()
        except OSError as error:
            raise TrainingError(
                f"{case.name}: {name} cannot be read ({error.strerror})", remedy="Check the path"
            ) from error
        files.append([name, str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return canonical_hash([_FORMAT, config.to_mapping(), files, case.healthy])[:32]
