"""Batches of augmented patches, each a pure function of the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from osteosap.errors import TrainingError
from osteosap.training.augmentation import AugmentationConfig, augment
from osteosap.training.data import TrainingExam
from osteosap.training.sampler import PatchPlace, Sampler, Shape, cut

__all__ = ["Batch", "PatchStream"]

Batch = tuple[torch.Tensor, torch.Tensor]


class PatchStream:
    """Cuts and augments what a sampler draws.

    Parameters
    ----------
    exams
        In memory.
    sampler
        Says where patches lie.
    reference
        ``"skeleton"`` (class ids) or ``"lesions"`` (any instance becomes class 1).
    patch
        Size in voxels.
    augmentation
        Random changes.
    seed
        Of the run; with the step and the place in the batch it fixes all random numbers.
    """

    def __init__(
        self,
        exams: Sequence[TrainingExam],
        sampler: Sampler,
        *,
        reference: str,
        patch: Shape,
        augmentation: AugmentationConfig,
        seed: int,
    ) -> None:
        self.exams = exams
        self.sampler = sampler
        self.reference = reference
        self.patch = patch
        self.augmentation = augmentation
        self.seed = seed

    def describe(self) -> dict[str, Any]:
        """What fixes the patches, as plain JSON types (a resumed run must agree)."""
        return {
            "reference": self.reference,
            "patch": list(self.patch),
            "seed": self.seed,
            "augmentation": self.augmentation.to_mapping(),
            "sampling": self.sampler.config.to_mapping(),
            "exams": [exam.checksum() for exam in self.exams],
        }

    def batch(self, step: int, batch_size: int) -> Batch:
        """Images float32 (B, C, I, J, K) and reference uint8 (B, 1, I, J, K) of one step."""
        return self._build(step, self.sampler.draw(step, batch_size))

    def batches(self, first: int, last: int, *, batch_size: int, workers: int) -> Iterator[Batch]:
        """Batches of steps ``first`` to ``last`` (exclusive), in order.

        ``workers`` threads prepare batches ahead; 0 prepares each when it is asked for.
        """
        if workers == 0:
            for step in range(first, last):
                yield self.batch(step, batch_size)
            return
        queue: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            for step in range(first, last):
                queue.append(pool.submit(self._build, step, self.sampler.draw(step, batch_size)))
                if len(queue) > 2 * workers:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _build(self, step: int, places: list[PatchPlace]) -> Batch:
        images, references = [], []
        for position, place in enumerate(places):
            exam = self.exams[place.exam]
            array: npt.NDArray[Any] | None
            array = exam.skeleton if self.reference == "skeleton" else exam.lesions
            if array is None:
                raise TrainingError(
                    f"an exam without {self.reference} map", remedy="Leave it out of training"
                )
            classes = cut(array, place.start, self.patch)
            if self.reference == "lesions":
                classes = classes > 0
            image, reference = augment(
                torch.from_numpy(cut(exam.images, place.start, self.patch).astype(np.float32)),
                torch.from_numpy(classes.astype(np.uint8))[None],
                config=self.augmentation,
                generator=np.random.default_rng([self.seed, 2, step, position]),
            )
            images.append(image)
            references.append(reference)
        return torch.stack(images), torch.stack(references)
