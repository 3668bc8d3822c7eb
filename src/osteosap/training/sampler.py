"""Which patches a network sees, as a pure function of seed and step.

A run that is resumed sees the same patches as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from osteosap.anatomy import N_CLASSES
from osteosap.config import StageConfig
from osteosap.errors import TrainingError
from osteosap.training.data import TrainingExam

__all__ = [
    "LesionSampler",
    "LesionSamplingConfig",
    "PatchPlace",
    "Sampler",
    "SkeletonSampler",
    "SkeletonSamplingConfig",
    "cut",
]

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class PatchPlace:
    """Where a patch is cut: exam number and first voxel (may be negative: zero padding).

    ``lesion`` is the id of the lesion it was drawn for, 0 for a background or skeleton patch.
    """

    exam: int
    start: Shape
    lesion: int = 0


class Sampler(Protocol):
    """Draws the patches of a step."""

    @property
    def config(self) -> StageConfig:
        """Its settings."""
        ...

    def draw(self, step: int, batch_size: int) -> list[PatchPlace]:
        """Places of the patches of one step."""
        ...


def cut(array: npt.NDArray[Any], start: Shape, patch: Shape) -> npt.NDArray[Any]:
    """Copy a patch (..., I, J, K) that may reach over the border; zeros there."""
    result = np.zeros((*array.shape[:-3], *patch), dtype=array.dtype)
    source: list[slice] = []
    target: list[slice] = []
    for first, side, n in zip(start, patch, array.shape[-3:], strict=True):
        low, high = max(0, first), min(n, first + side)
        if high <= low:
            return result
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    result[..., target[0], target[1], target[2]] = array[..., source[0], source[1], source[2]]
    return result


def _random_start(
    generator: np.random.Generator, centre: npt.NDArray[np.int_], shape: Shape, *, patch: Shape
) -> Shape:
    """First voxel of a patch with ``centre`` at a random place, inside the exam if it fits."""
    start = []
    for c, n, side in zip(centre.tolist(), shape, patch, strict=True):
        if n <= side:
            start.append(int(generator.integers(n - side, 1)))
            continue
        edge = side // 8
        first = c - int(generator.integers(edge, side - edge))
        start.append(min(max(0, first), n - side))
    return start[0], start[1], start[2]


class SkeletonSamplingConfig(StageConfig):
    """``foreground`` is the share of patches drawn for a class, each class equally often."""

    foreground: float = Field(default=0.8, ge=0.0, le=1.0)
    voxels_per_class: int = Field(default=1000, ge=1)


class SkeletonSampler:
    """Class-balanced patches: each bone class is the target equally often.

    Parameters
    ----------
    exams
        With skeleton maps.
    patch
        Size in voxels.
    config
        Shares.
    seed
        Of the whole run.
    """

    def __init__(
        self,
        exams: Sequence[TrainingExam],
        patch: Shape,
        *,
        config: SkeletonSamplingConfig,
        seed: int,
    ) -> None:
        self.patch = patch
        self.config = config
        self.seed = seed
        self.shapes = [exam.grid.shape for exam in exams]
        self.voxels: dict[int, list[tuple[int, npt.NDArray[np.int_]]]] = {}
        generator = np.random.default_rng([seed, 0])
        for number, exam in enumerate(exams):
            if exam.skeleton is None:
                raise TrainingError(
                    "an exam without skeleton map", remedy="Leave it out of skeleton training"
                )
            for class_id in range(N_CLASSES):
                hits = np.flatnonzero(
                    exam.skeleton == class_id if class_id else exam.body & (exam.skeleton == 0)
                )
                if hits.size:
                    kept = generator.permutation(hits)[: config.voxels_per_class]
                    self.voxels.setdefault(class_id, []).append((number, kept))
        if set(self.voxels) <= {0}:
            raise TrainingError(
                "no bone in any skeleton map", remedy="Check the skeleton maps of the exams"
            )

    def draw(self, step: int, batch_size: int) -> list[PatchPlace]:
        """Places of the patches of one step."""
        generator = np.random.default_rng([self.seed, 1, step])
        return [self._one(generator) for _ in range(batch_size)]

    def _one(self, generator: np.random.Generator) -> PatchPlace:
        bones = sorted(c for c in self.voxels if c > 0)
        wanted = int(generator.choice(bones))
        if 0 in self.voxels and generator.random() >= self.config.foreground:
            wanted = 0
        choices = self.voxels[wanted]
        exam, voxels = choices[int(generator.integers(len(choices)))]
        shape = self.shapes[exam]
        centre = np.array(np.unravel_index(int(generator.choice(voxels)), shape))
        return PatchPlace(exam, _random_start(generator, centre, shape, patch=self.patch))


class LesionSamplingConfig(StageConfig):
    """Instance-balanced sampling.

    ``background_ratio`` is the number of background patches a lesion, ``hard`` the share of them
    placed on bright b1000 voxels, ``tries`` how often a place without lesion is looked for before
    the least affected one is taken (where patches are large, few are free of lesions).
    """

    background_ratio: float = Field(default=0.67, ge=0.0)
    hard: float = Field(default=0.5, ge=0.0, le=1.0)
    bright_quantile: float = Field(default=0.95, gt=0.0, lt=1.0)
    tries: int = Field(default=10, ge=1)


class LesionSampler:
    """Every lesion exactly once an epoch, and newly drawn background patches.

    Parameters
    ----------
    exams
        With lesion maps; exams without lesions give background patches.
    patch
        Size in voxels.
    config
        Shares.
    seed
        Of the whole run; the patches of an epoch depend on it and the epoch alone.

    References
    ----------
    Wuts et al. 2025, doi 10.1007/978-3-032-08009-7_18
    """

    def __init__(
        self,
        exams: Sequence[TrainingExam],
        patch: Shape,
        *,
        config: LesionSamplingConfig,
        seed: int,
    ) -> None:
        self.exams = exams
        self.patch = patch
        self.config = config
        self.seed = seed
        self.lesions: list[tuple[int, int, npt.NDArray[np.int_]]] = []
        self.bright: list[npt.NDArray[np.int_]] = []
        for number, exam in enumerate(exams):
            lesions = _lesions_of(exam)
            hits = np.flatnonzero(lesions)
            ids = lesions.ravel()[hits]
            for lesion in np.unique(ids):
                self.lesions.append((number, int(lesion), hits[ids == lesion]))
            self.bright.append(_bright_voxels(exam, config.bright_quantile))
        if not self.lesions:
            raise TrainingError(
                f"no lesion in any of {len(exams)} exams", remedy="Add exams with lesions"
            )
        self._epoch: tuple[int, list[PatchPlace]] | None = None

    @property
    def epoch_length(self) -> int:
        """Patches an epoch."""
        return len(self.lesions) + round(self.config.background_ratio * len(self.lesions))

    def epoch(self, number: int) -> list[PatchPlace]:
        """All patches of an epoch, shuffled."""
        if self._epoch is not None and self._epoch[0] == number:
            return self._epoch[1]
        generator = np.random.default_rng([self.seed, number])
        places = []
        for exam, lesion, voxels in self.lesions:
            shape = self.exams[exam].grid.shape
            centre = np.array(np.unravel_index(int(generator.choice(voxels)), shape))
            start = _random_start(generator, centre, shape, patch=self.patch)
            places.append(PatchPlace(exam, start, lesion))
        places += [self._background(generator) for _ in range(self.epoch_length - len(places))]
        shuffled = [places[i] for i in generator.permutation(len(places))]
        self._epoch = (number, shuffled)
        return shuffled

    def draw(self, step: int, batch_size: int) -> list[PatchPlace]:
        """Places of the patches of one step: the epochs one after the other, none lost."""
        result = []
        for flat in range(step * batch_size, (step + 1) * batch_size):
            number, position = divmod(flat, self.epoch_length)
            result.append(self.epoch(number)[position])
        return result

    def _background(self, generator: np.random.Generator) -> PatchPlace:
        exam = int(generator.integers(len(self.exams)))
        shape = self.exams[exam].grid.shape
        lesions = _lesions_of(self.exams[exam])
        voxels = self.bright[exam]
        if generator.random() >= self.config.hard or not voxels.size:
            voxels = np.flatnonzero(self.exams[exam].body)
        best: tuple[int, Shape] | None = None
        for _ in range(self.config.tries):
            centre = np.array(np.unravel_index(int(generator.choice(voxels)), shape))
            start = _random_start(generator, centre, shape, patch=self.patch)
            held = int(np.count_nonzero(cut(lesions, start, self.patch)))
            if best is None or held < best[0]:
                best = (held, start)
            if held == 0:
                break
        return PatchPlace(exam, best[1] if best else (0, 0, 0))


def _lesions_of(exam: TrainingExam) -> npt.NDArray[np.int32]:
    if exam.lesions is None:
        raise TrainingError("an exam without lesion map", remedy="Leave it out of lesion training")
    return exam.lesions


def _bright_voxels(exam: TrainingExam, quantile: float) -> npt.NDArray[np.int_]:
    """Voxels of the body that are bright on b1000 and no lesion."""
    if "b1000" not in exam.channels:
        return np.empty(0, dtype=np.int_)
    bright = exam.images[exam.channels.index("b1000")].astype(np.float32)
    limit = float(np.quantile(bright[exam.body], quantile))
    return np.flatnonzero((bright >= limit) & exam.body & (_lesions_of(exam) == 0))
