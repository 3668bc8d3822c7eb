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

from osteosap.config import StageConfig
from osteosap.errors import TrainingError
from osteosap.training.data import TrainingExam
from osteosap.training.places import BRIGHT_FROM, Runs
from osteosap.training.store import VoxelArray

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


def cut(array: VoxelArray, start: Shape, patch: Shape) -> npt.NDArray[Any]:
    """Copy a patch (..., I, J, K) that may reach over the border; zeros there."""
    shape = array.shape[-3:]
    inside = [
        (max(0, first), min(n, first + side))
        for first, side, n in zip(start, patch, shape, strict=True)
    ]
    if any(high <= low for low, high in inside):
        return np.zeros((*array.shape[:-3], *patch), dtype=array.dtype)
    i, j, k = (slice(low, high) for low, high in inside)
    values = np.array(array[..., i, j, k])
    if values.shape[-3:] == tuple(patch):
        return values
    result = np.zeros((*array.shape[:-3], *patch), dtype=array.dtype)
    i, j, k = (
        slice(low - first, high - first) for (low, high), first in zip(inside, start, strict=True)
    )
    result[..., i, j, k] = values
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


def _centre(place: int, shape: Shape) -> npt.NDArray[np.int_]:
    return np.array(np.unravel_index(place, shape))


class SkeletonSamplingConfig(StageConfig):
    """``foreground`` is the share of patches drawn for a class, each class equally often."""

    foreground: float = Field(default=0.8, ge=0.0, le=1.0)


class SkeletonSampler:
    """Class-balanced patches: each bone class is the target equally often.

    A patch of a class is drawn for any of the exams that have the class, each equally often, and
    there for any of its voxels.

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

    Raises
    ------
    TrainingError
        An exam has no skeleton map, or none holds bone.
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
        self.places: dict[int, list[tuple[int, Runs]]] = {}
        for number, exam in enumerate(exams):
            if exam.skeleton is None:
                raise TrainingError(
                    "an exam without skeleton map", remedy="Leave it out of skeleton training"
                )
            for class_id, runs in exam.index.classes.items():
                self.places.setdefault(class_id, []).append((number, runs))
        self.bones = sorted(c for c in self.places if c > 0)
        if not self.bones:
            raise TrainingError(
                "no bone in any skeleton map", remedy="Check the skeleton maps of the exams"
            )

    def draw(self, step: int, batch_size: int) -> list[PatchPlace]:
        """Places of the patches of one step, over all ranks."""
        generator = np.random.default_rng([self.seed, 1, step])
        return [self._one(generator) for _ in range(batch_size)]

    def _one(self, generator: np.random.Generator) -> PatchPlace:
        wanted = int(generator.choice(self.bones))
        if 0 in self.places and generator.random() >= self.config.foreground:
            wanted = 0
        choices = self.places[wanted]
        exam, runs = choices[int(generator.integers(len(choices)))]
        shape = self.shapes[exam]
        centre = _centre(runs.draw(generator), shape)
        return PatchPlace(exam, _random_start(generator, centre, shape, patch=self.patch))


class LesionSamplingConfig(StageConfig):
    """Instance-balanced sampling.

    ``background_ratio`` is the number of background patches a lesion, ``hard`` the share of them
    placed on bright b1000 voxels, ``tries`` how often a place without lesion is looked for before
    the least affected one is taken (where patches are large, few are free of lesions).
    """

    background_ratio: float = Field(default=0.67, ge=0.0)
    hard: float = Field(default=0.5, ge=0.0, le=1.0)
    bright_quantile: float = Field(default=0.95, ge=BRIGHT_FROM, lt=1.0)
    tries: int = Field(default=10, ge=1)


class LesionSampler:
    """Every lesion exactly once an epoch, and newly drawn background patches.

    The epochs follow each other without a gap; a step takes the next ``batch_size`` patches, and
    of these rank ``r`` of ``n`` takes each ``n``-th from the ``r``-th on. So the ranks together
    see each lesion once, also where a batch reaches into the next epoch. A lesion's patch holds a
    random voxel of it at a random place: a lesion longer than the patch is covered over epochs.

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

    Raises
    ------
    TrainingError
        An exam has no lesion map, or none holds a lesion.

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
        if any(exam.lesions is None for exam in exams):
            raise TrainingError(
                "an exam without lesion map", remedy="Leave it out of lesion training"
            )
        self.lesions = [
            (exam, number) for exam, e in enumerate(exams) for number in range(len(e.index.lesions))
        ]
        """Exam, and place in the exam's list of lesions."""
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
        generator = np.random.default_rng([self.seed, 4, number])
        places = [self._lesion(generator, exam, lesion) for exam, lesion in self.lesions]
        places += [self._background(generator) for _ in range(self.epoch_length - len(places))]
        shuffled = [places[i] for i in generator.permutation(len(places))]
        self._epoch = (number, shuffled)
        return shuffled

    def draw(self, step: int, batch_size: int) -> list[PatchPlace]:
        """Places of the patches of one step over all ranks: epoch after epoch, none lost."""
        result = []
        for flat in range(step * batch_size, (step + 1) * batch_size):
            number, position = divmod(flat, self.epoch_length)
            result.append(self.epoch(number)[position])
        return result

    def _lesion(self, generator: np.random.Generator, exam: int, number: int) -> PatchPlace:
        index = self.exams[exam].index
        centre = _centre(int(generator.choice(index.lesion_voxels(number))), index.shape)
        start = _random_start(generator, centre, index.shape, patch=self.patch)
        return PatchPlace(exam, start, index.lesions[number].id)

    def _background(self, generator: np.random.Generator) -> PatchPlace:
        """A patch of any exam that holds no lesion, or the fewest lesion voxels of some tries."""
        exam = int(generator.integers(len(self.exams)))
        index = self.exams[exam].index
        hard = generator.random() < self.config.hard
        bright = index.bright(self.config.bright_quantile) if hard else None
        best: tuple[int, Shape] | None = None
        for _ in range(self.config.tries):
            if bright is not None and bright.size:
                place = int(bright[int(generator.integers(bright.size))])
            else:
                place = index.body.draw(generator)
            start = _random_start(
                generator, _centre(place, index.shape), index.shape, patch=self.patch
            )
            held = index.lesion_voxels_in(start, self.patch)
            if best is None or held < best[0]:
                best = (held, start)
            if held == 0:
                break
        return PatchPlace(exam, best[1] if best else (0, 0, 0))
