from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteosap.errors import ConfigError, TrainingError
from osteosap.geometry import Grid
from osteosap.training.data import TrainingExam
from osteosap.training.places import Runs
from osteosap.training.sampler import (
    LesionSampler,
    LesionSamplingConfig,
    PatchPlace,
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


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [4, 12, 5])
def test_ranks_together_see_every_lesion_exactly_once_an_epoch(
    world_size: int, batch_size: int
) -> None:
    sampler = _lesion_sampler(background_ratio=0.6)
    length = sampler.epoch_length
    assert length == 11  # no batch size divides it
    seen: list[tuple[int, PatchPlace]] = []
    for rank in range(world_size):
        for step in range(4 * length // batch_size + 1):
            own = list(enumerate(sampler.draw(step, batch_size)))[rank::world_size]
            seen += [(step * batch_size + position, place) for position, place in own]
    assert sorted(flat for flat, _ in seen) == list(range(len(seen)))  # none lost, none twice
    for epoch in range(4):
        lesions = Counter(
            (place.exam, place.lesion)
            for flat, place in seen
            if flat // length == epoch and place.lesion
        )
        assert lesions == Counter(
            [(0, number) for number in (1, 2, 3)] + [(2, number) for number in (1, 2, 3, 4)]
        )


def test_healthy_exams_give_background_as_often_as_others() -> None:
    sampler = _lesion_sampler(background_ratio=3.0)
    exams = Counter(p.exam for e in range(40) for p in sampler.epoch(e) if not p.lesion)
    total = sum(exams.values())
    assert total == 40 * 21
    assert all(abs(exams[number] / total - 1 / 3) < 0.07 for number in range(3))


@pytest.mark.parametrize("ratio", [0.0, 0.67, 1.0, 2.5])
def test_the_ratio_of_background_to_lesions_is_the_setting(ratio: float) -> None:
    sampler = _lesion_sampler(background_ratio=ratio)
    for epoch in range(2):
        counts = Counter(bool(place.lesion) for place in sampler.epoch(epoch))
        assert counts[True] == 7
        assert counts[False] == round(7 * ratio)


def test_a_lesion_longer_than_the_patch_is_covered_over_the_epochs() -> None:
    exam = _exam(0)
    lesions = np.asarray(exam.lesions)
    lesions[14:17, 9:12, 3:57] = 1  # 54 long, the patch 8
    sampler = LesionSampler([exam], PATCH, config=LesionSamplingConfig(background_ratio=0), seed=0)
    covered = np.zeros(SHAPE, bool)
    for epoch in range(150):
        (place,) = sampler.epoch(epoch)
        box = tuple(slice(max(0, s), s + 8) for s in place.start)
        assert lesions[box].any()
        covered[box] = True
    assert covered[lesions > 0].all()


def test_hard_background_lies_on_bright_voxels() -> None:
    exam = _exam(2)
    images = np.asarray(exam.images)
    images[1] = 0.1
    images[1, 24:28, 14:18, 45:55] = 1.0  # 160 of 36000 voxels
    config = LesionSamplingConfig(background_ratio=20.0, hard=1.0, bright_quantile=0.996)
    sampler = LesionSampler([exam], PATCH, config=config, seed=0)
    for place in sampler.epoch(0):
        if not place.lesion:
            assert (cut(exam.images, place.start, PATCH)[1] == 1.0).any()
    soft = LesionSampler([exam], PATCH, config=config.model_copy(update={"hard": 0.0}), seed=0)
    hit = [(cut(exam.images, p.start, PATCH)[1] == 1.0).any() for p in soft.epoch(0)]
    assert np.mean(hit) < 0.5


def test_where_no_place_is_free_of_lesions_the_least_affected_is_taken() -> None:
    exam = _exam(0)
    lesions = np.asarray(exam.lesions)
    lesions[:] = 1
    lesions[20:, :, 30:] = 0  # free, but never a whole patch's worth on all sides
    config = LesionSamplingConfig(background_ratio=40.0, tries=30, hard=0.0)
    patch = (12, 20, 32)
    sampler = LesionSampler([exam], patch, config=config, seed=0)
    held = [int((cut(lesions, p.start, patch) > 0).sum()) for p in sampler.epoch(0) if not p.lesion]
    anywhere = LesionSampler(
        [exam], patch, config=config.model_copy(update={"tries": 1}), seed=0
    ).epoch(0)
    free = [int((cut(lesions, p.start, patch) > 0).sum()) for p in anywhere if not p.lesion]
    assert np.mean(held) < 0.6 * np.mean(free)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(-12, 60)] * 3), st.integers(0, 3))
def test_the_index_counts_the_lesion_voxels_of_a_patch(
    start: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    exam = _exam(0)
    lesions = np.asarray(exam.lesions)
    for number in (3, 70000, 9):  # ids need not be consecutive
        i, j, k = (int(rng.integers(0, n - 5)) for n in SHAPE)
        lesions[i : i + 5, j : j + 3, k : k + 4] = number
    expected = int(np.count_nonzero(cut(lesions, start, (10, 9, 8))))
    assert exam.index.lesion_voxels_in(start, (10, 9, 8)) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=0, max_size=60))
def test_runs_hold_exactly_the_voxels_of_a_mask(values: list[bool]) -> None:
    mask = np.array(values, bool).reshape(1, 1, -1)
    runs = Runs(Runs.table_of(mask))
    assert [runs[n] for n in range(len(runs))] == np.flatnonzero(mask).tolist()
    if len(runs):
        generator = np.random.default_rng(0)
        drawn = {runs.draw(generator) for _ in range(1000)}
        assert drawn == set(np.flatnonzero(mask).tolist())


@pytest.mark.parametrize("quantile", [0.9, 0.95, 0.999])
def test_bright_voxels_are_those_of_the_body_from_a_quantile_on(quantile: float) -> None:
    exam = _exam(3)
    np.asarray(exam.body)[:5] = False
    outside = np.asarray(exam.body) & (np.asarray(exam.lesions) == 0)
    values = np.asarray(exam.images)[1]
    wanted = round((1 - quantile) * outside.sum())
    limit = np.sort(values[outside])[-wanted]
    expected = np.flatnonzero((values >= limit) & outside)
    assert exam.index.bright(quantile).tolist() == expected.tolist()


def test_bright_voxels_below_what_is_kept_are_refused() -> None:
    with pytest.raises(ConfigError, match="bright_quantile"):
        _exam(0).index.bright(0.5)
    with pytest.raises(ConfigError, match="bright_quantile"):
        LesionSamplingConfig.from_mapping({"bright_quantile": 0.5})


def test_an_exam_without_the_b1000_channel_has_no_bright_voxels_but_background() -> None:
    exam = replace(_exam(2), images=_exam(2).images[:1], channels=("t1",))
    config = LesionSamplingConfig(hard=1.0, background_ratio=1.0)
    sampler = LesionSampler([exam], PATCH, config=config, seed=0)
    assert exam.index.bright(0.95).size == 0
    assert len(sampler.epoch(0)) == 4


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
