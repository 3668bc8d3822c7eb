"""Batches of views: patches from anywhere in the body, each seen twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from osteosap.config import StageConfig
from osteosap.training.augmentation import AugmentationConfig, augment
from osteosap.training.data import TrainingExam
from osteosap.training.objectives import Batch
from osteosap.training.patches import PatchStream
from osteosap.training.sampler import PatchPlace, Shape, cut
from osteosap.training.views import ViewsConfig, make_views

__all__ = ["BodySampler", "BodySamplingConfig", "ViewStream"]

_PLACES, _VIEWS = 3, 4
"""Keep the random numbers of places and views apart from each other. NumPy takes ``[a, b]`` and
``[a, b, 0]`` for the same seed, so that the words differ also where the lengths do. Others use the
same words, but none in the same run for the same generator: 1 the skeleton's and 4 the lesions'
sampler, 2 augmentation, 3 the seeds of torch."""


class BodySamplingConfig(StageConfig):
    """``jitter`` moves a patch off its voxel by at most this share of a side."""

    jitter: float = Field(default=0.25, ge=0.0, le=0.5)


class BodySampler:
    """Patches around voxels of the body, every exam equally often; needs no reference.

    Parameters
    ----------
    exams
        Any.
    patch
        Size in voxels.
    config
        Placement.
    seed
        Of the whole run; a step's patches depend on it and the step alone.
    """

    def __init__(
        self,
        exams: Sequence[TrainingExam],
        patch: Shape,
        *,
        config: BodySamplingConfig,
        seed: int,
    ) -> None:
        self.exams = exams
        self.patch = patch
        self.config = config
        self.seed = seed

    def draw(self, step: int, batch_size: int) -> list[PatchPlace]:
        """Places of the patches of one step."""
        generator = np.random.default_rng([self.seed, _PLACES, step])
        return [self._one(generator) for _ in range(batch_size)]

    def _one(self, generator: np.random.Generator) -> PatchPlace:
        number = int(generator.integers(len(self.exams)))
        exam = self.exams[number]
        shape = exam.grid.shape
        centre = np.unravel_index(exam.index.body.draw(generator), shape)
        start = []
        for c, n, side in zip(centre, shape, self.patch, strict=True):
            moved = int(c) + round(float(generator.uniform(-1, 1)) * self.config.jitter * side)
            first, last = min(0, n - side), max(0, n - side)
            start.append(min(max(first, moved - side // 2), last))
        return PatchPlace(number, (start[0], start[1], start[2]))


class ViewStream(PatchStream):
    """Cuts patches and makes two views of each.

    A batch is float32 (B, 2, C, I, J, K) changed views, the same without changed blocks, and
    int64 (B, 2) quarter turns.

    Parameters
    ----------
    exams
        Any.
    sampler
        Says where patches lie.
    augmentation
        Random changes before the views are made.
    views
        How views differ.
    seed
        Of the run; with the step and the place in the batch it fixes all random numbers.
    """

    def __init__(
        self,
        exams: Sequence[TrainingExam],
        sampler: BodySampler,
        *,
        augmentation: AugmentationConfig,
        views: ViewsConfig,
        seed: int,
    ) -> None:
        super().__init__(
            exams,
            sampler,
            reference="images",
            patch=sampler.patch,
            augmentation=augmentation,
            seed=seed,
        )
        self.views = views

    def describe(self) -> dict[str, Any]:
        """What fixes the views, as plain JSON types (a resumed run must agree)."""
        return super().describe() | {"views": self.views.to_mapping()}

    def _build(self, step: int, places: list[tuple[int, PatchPlace]]) -> Batch:
        made = [self._views(step, position, place) for position, place in places]
        return tuple(torch.stack(tensors) for tensors in zip(*made, strict=True))

    def _views(self, step: int, position: int, place: PatchPlace) -> Batch:
        patch = cut(self.exams[place.exam].images, place.start, self.patch)
        images = torch.from_numpy(np.ascontiguousarray(patch)).float()
        generator = np.random.default_rng([self.seed, _VIEWS, step, position])
        images, _ = augment(images, images[:1], config=self.augmentation, generator=generator)
        views = make_views(images, config=self.views, generator=generator)
        return views.changed, views.whole, views.turns
