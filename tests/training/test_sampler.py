from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import TrainingError
from osteosap.geometry import Grid
from osteosap.training.data import TrainingExam
from osteosap.training.sampler import (
    LesionSampler,
    LesionSamplingConfig,
    SkeletonSampler,
    SkeletonSamplingConfig,
    cut,
)

SHAPE = (30, 20, 60)
PATCH = (8, 8, 8)


def _exam(n_lesions: int, seed: int = 0) -> TrainingExam:
    rng = np.random.default_rng(seed)
    skeleton = np.zeros(SHAPE, np.uint8)
    skeleton[2:28, 2:18, 2:30] = 4  # a large bone and a tiny one
    skeleton[15, 10, 50] = 9
    lesions = np.zeros(SHAPE, np.int32)
    for number in range(1, n_lesions + 1):
        lesions[5, 5, 6 * number] = number
    return TrainingExam(
        rng.random((2, *SHAPE)).astype(np.float16),
        np.ones(SHAPE, bool),
        skeleton,
        lesions,
        Grid(SHAPE, np.eye(4)),
    )


def _lesion_sampler(seed: int = 1, **settings_: float) -> LesionSampler:
    config = LesionSamplingConfig.from_mapping(dict(settings_))
    return LesionSampler([_exam(3), _exam(0), _exam(4)], PATCH, config=config, seed=seed)


def test_every_lesion_is_seen_exactly_once_an_epoch_and_lies_in_its_patch() -> None:
    sampler = _lesion_sampler(background_ratio=1.0)
    for epoch in range(3):
        places = sampler.epoch(epoch)
        assert len(places) == sampler.epoch_length == 14
        seen = Counter((p.exam, p.lesion) for p in places if p.lesion)
        assert set(seen) == {(0, 1), (0, 2), (0, 3), (2, 1), (2, 2), (2, 3), (2, 4)}
        assert set(seen.values()) == {1}
        for place in places:
            if place.lesion:
                held = cut(sampler.exams[place.exam].lesions, place.start, PATCH)
                assert place.lesion in held


def test_background_patches_are_new_in_each_epoch_and_hold_no_lesion() -> None:
    sampler = _lesion_sampler(background_ratio=1.0, tries=50)
    starts = []
    for epoch in range(2):
        background = [p for p in sampler.epoch(epoch) if not p.lesion]
        assert len(background) == 7
        assert not any(cut(sampler.exams[p.exam].lesions, p.start, PATCH).any() for p in background)
        starts.append({(p.exam, p.start) for p in background})
    assert starts[0] != starts[1]


def test_steps_walk_through_the_epochs_and_lose_nothing() -> None:
    sampler = _lesion_sampler(background_ratio=0.5)
    length = sampler.epoch_length
    drawn = [p for step in range(length) for p in sampler.draw(step, 3)]
    expected = [p for epoch in range(3) for p in sampler.epoch(epoch)]
    assert drawn == expected


def test_the_same_seed_and_step_give_the_same_patches_in_any_order() -> None:
    one, two, other = _lesion_sampler(1), _lesion_sampler(1), _lesion_sampler(2)
    forward = [one.draw(step, 2) for step in range(12)]
    backward = [two.draw(step, 2) for step in reversed(range(12))][::-1]
    assert forward == backward
    assert forward != [other.draw(step, 2) for step in range(12)]


def test_lesions_lie_anywhere_in_their_patch() -> None:
    exam = _exam(1)
    sampler = LesionSampler([exam], PATCH, config=LesionSamplingConfig(), seed=0)
    offsets = {6 - p.start[2] for e in range(60) for p in sampler.epoch(e) if p.lesion}
    assert len(offsets) >= 5


def test_training_without_a_lesion_is_refused() -> None:
    with pytest.raises(TrainingError, match="no lesion in any of 2"):
        LesionSampler([_exam(0), _exam(0)], PATCH, config=LesionSamplingConfig(), seed=0)


def test_a_bone_of_one_voxel_is_drawn_as_often_as_a_large_one() -> None:
    sampler = SkeletonSampler(
        [_exam(0)], PATCH, config=SkeletonSamplingConfig(foreground=1.0), seed=5
    )
    tiny = 0
    for step in range(200):
        (place,) = sampler.draw(step, 1)
        tiny += all(s <= c < s + 8 for s, c in zip(place.start, (15, 10, 50), strict=True))
    assert 70 < tiny < 130


def test_skeleton_patches_depend_on_seed_and_step_alone() -> None:
    def places(seed: int) -> list[object]:
        sampler = SkeletonSampler(
            [_exam(0), _exam(0, seed=1)], PATCH, config=SkeletonSamplingConfig(), seed=seed
        )
        return [sampler.draw(step, 2) for step in (3, 1, 2)]

    assert places(0) == places(0)
    assert places(0) != places(1)


def test_maps_without_bone_are_refused() -> None:
    exam = _exam(0)
    assert exam.skeleton is not None
    exam.skeleton[:] = 0
    with pytest.raises(TrainingError, match="no bone"):
        SkeletonSampler([exam], PATCH, config=SkeletonSamplingConfig(), seed=0)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(-12, 12)] * 3))
def test_a_cut_over_the_border_is_padded_with_zeros(start: tuple[int, int, int]) -> None:
    array = np.arange(1, 2 * 5 * 6 * 7 + 1).reshape(2, 5, 6, 7)
    patch = cut(array, start, (4, 4, 4))
    padded = np.pad(array, [(0, 0)] + [(16, 16)] * 3)
    i, j, k = (s + 16 for s in start)
    assert np.array_equal(patch, padded[:, i : i + 4, j : j + 4, k : k + 4])


def test_patches_larger_than_the_exam_hold_all_of_it() -> None:
    sampler = SkeletonSampler([_exam(0)], (40, 24, 64), config=SkeletonSamplingConfig(), seed=0)
    for step in range(20):
        (place,) = sampler.draw(step, 1)
        whole = cut(np.ones(SHAPE, np.uint8), place.start, (40, 24, 64))
        assert whole.sum() == np.prod(SHAPE)
