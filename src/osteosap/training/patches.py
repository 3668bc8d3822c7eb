"""Batches of augmented patches, each a pure function of the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from osteosap.errors import TrainingError
from osteosap.training.augmentation import AugmentationConfig, augment
from osteosap.training.data import TrainingExam
from osteosap.training.objectives import Batch
from osteosap.training.sampler import PatchPlace, Sampler, Shape, cut

__all__ = ["Batch", "PatchStream", "Stream"]

Numbered = list[tuple[int, PatchPlace]]


class Stream(Protocol):
    """Gives the batches of a run."""

    def describe(self) -> dict[str, Any]:
        """What fixes the batches, as plain JSON types (a resumed run must agree)."""
        ...

    def batches(
        self,
        first: int,
        last: int,
        *,
        batch_size: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Part of this process in the batches of steps ``first`` to ``last`` (exclusive)."""
        ...


class PatchStream:
    """Cuts and augments what a sampler draws.

    Parameters
    ----------
    exams
        In memory or in a store: arrays that can be sliced.
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

    def places(self, step: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> Numbered:
        """Patches of this process in a step, each with its position in the whole batch.

        The batch is drawn whole on every process and divided, so that no patch is lost or seen
        twice, however many processes there are.
        """
        drawn = list(enumerate(self.sampler.draw(step, batch_size)))
        return drawn[rank::world_size]

    def batch(self, step: int, batch_size: int) -> Batch:
        """Images float32 (B, C, I, J, K) and reference uint8 (B, 1, I, J, K) of one step."""
        return self._build(step, self.places(step, batch_size=batch_size))

    def batches(
        self,
        first: int,
        last: int,
        *,
        batch_size: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[Batch]:
        """Batches of steps ``first`` to ``last`` (exclusive), in order.

        Parameters
        ----------
        first, last
            Steps.
        batch_size
            Patches of a step over all processes.
        workers
            Threads that prepare batches ahead; 0 prepares each when it is asked for.
        rank, world_size
            Which of how many processes this is: it gets patches ``rank``, ``rank + world_size``,
            ... of each step. A patch is the same on whichever process it is made.
        """

        def places(step: int) -> Numbered:
            return self.places(step, batch_size=batch_size, rank=rank, world_size=world_size)

        if workers == 0:
            for step in range(first, last):
                yield self._build(step, places(step))
            return
        queue: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            for step in range(first, last):
                queue.append(pool.submit(self._build, step, places(step)))
                if len(queue) > 2 * workers:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _build(self, step: int, places: Numbered) -> Batch:
        made = [self._patch(step, position, place) for position, place in places]
        return torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made])

    def _patch(
        self, step: int, position: int, place: PatchPlace
    ) -> tuple[torch.Tensor, torch.Tensor]:
        exam = self.exams[place.exam]
        images = cut(exam.images, place.start, self.patch)
        return augment(
            torch.from_numpy(np.ascontiguousarray(images)).float(),
            torch.from_numpy(self._classes(exam, place))[None],
            config=self.augmentation,
            generator=np.random.default_rng([self.seed, 2, step, position]),
        )

    def _classes(self, exam: TrainingExam, place: PatchPlace) -> Any:
        array = exam.skeleton if self.reference == "skeleton" else exam.lesions
        if array is None:
            raise TrainingError(
                f"an exam without {self.reference} map", remedy="Leave it out of training"
            )
        classes = cut(array, place.start, self.patch)
        if self.reference == "lesions":
            classes = classes > 0
        return classes.astype(np.uint8)
