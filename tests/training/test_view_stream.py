from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from osteosap.inference.prepare import InputConfig
from osteosap.training.augmentation import AugmentationConfig
from osteosap.training.cases import find_cases
from osteosap.training.data import TrainingExam, load_exams
from osteosap.training.pretrain_self_supervised import VIEWS_ONLY
from osteosap.training.sampler import cut
from osteosap.training.view_stream import BodySampler, BodySamplingConfig, ViewStream
from osteosap.training.views import ViewsConfig

PATCH = (16, 12, 16)


@pytest.fixture(scope="module")
def exams(tiny_exams: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[TrainingExam]:
    config = InputConfig(spacing_mm=(8.0, 8.0, 8.0))
    store = tmp_path_factory.mktemp("store")
    return load_exams(find_cases(tiny_exams[0].parent), config, needs="images", store=store)


def stream(exams: list[TrainingExam], seed: int = 5, **more: object) -> ViewStream:
    values = {"augmentation": VIEWS_ONLY, "views": ViewsConfig(rotation_plane=(0, 2))} | more
    sampler = BodySampler(exams, PATCH, config=BodySamplingConfig(), seed=seed)
    return ViewStream(exams, sampler, seed=seed, **values)  # type: ignore[arg-type]


def test_patches_lie_in_every_exam_and_hold_body(exams: list[TrainingExam]) -> None:
    sampler = BodySampler(exams, PATCH, config=BodySamplingConfig(), seed=1)
    places = [place for step in range(30) for place in sampler.draw(step, 4)]
    assert {place.exam for place in places} == {0, 1, 2}
    shares = [cut(exams[p.exam].body, p.start, PATCH).mean() for p in places]
    assert min(shares) > 0.0
    assert len({p.start for p in places}) > 60
    assert sampler.draw(7, 4) == sampler.draw(7, 4)
    assert sampler.draw(7, 4) != sampler.draw(8, 4)


def test_a_patch_larger_than_the_exam_still_holds_it(exams: list[TrainingExam]) -> None:
    large = (64, 64, 64)
    sampler = BodySampler(exams, large, config=BodySamplingConfig(), seed=1)
    for place in sampler.draw(0, 3):
        inside = cut(exams[place.exam].body, place.start, large)
        assert inside.sum() > 0.6 * np.asarray(exams[place.exam].body).sum()


def test_views_are_of_the_patch_that_was_drawn(exams: list[TrainingExam]) -> None:
    views = stream(exams)
    changed, whole, turns = views.batch(3, 2)
    assert changed.shape == whole.shape == (2, 2, 2, *PATCH)
    assert (turns.shape, turns.dtype) == ((2, 2), torch.int64)
    for position, (_, place) in enumerate(views.places(3, batch_size=2)):
        patch = cut(exams[place.exam].images, place.start, PATCH).astype(np.float32)
        for view in range(2):
            back = torch.rot90(whole[position, view], -int(turns[position, view]), (1, 3))
            assert np.array_equal(back.numpy(), patch)


def test_views_depend_on_seed_and_step_alone_on_any_number_of_processes(
    exams: list[TrainingExam],
) -> None:
    alone = list(stream(exams).batches(0, 3, batch_size=4, workers=0))
    threads = list(stream(exams).batches(0, 3, batch_size=4, workers=2))
    parts = [
        list(stream(exams).batches(0, 3, batch_size=4, workers=0, rank=rank, world_size=2))
        for rank in range(2)
    ]
    for step in range(3):
        for number in range(3):
            whole = alone[step][number]
            assert torch.equal(whole, threads[step][number])
            assert torch.equal(whole[0::2], parts[0][step][number])
            assert torch.equal(whole[1::2], parts[1][step][number])
    other = next(iter(stream(exams, seed=6).batches(0, 1, batch_size=4, workers=0)))
    assert not torch.equal(other[0], alone[0][0])


def test_a_resumed_run_must_agree_with_the_settings_of_the_views(
    exams: list[TrainingExam],
) -> None:
    usual = stream(exams).describe()
    assert (
        stream(exams, views=ViewsConfig(rotation_plane=(0, 2), max_cover=0.2)).describe() != usual
    )
    assert stream(exams, augmentation=AugmentationConfig()).describe() != usual
    assert stream(exams).describe() == usual
