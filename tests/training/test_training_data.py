from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osteosap.errors import OutputError, TrainingError
from osteosap.exam import Exam, write_exam
from osteosap.inference.prepare import InputConfig
from osteosap.training.cases import TrainingCase, find_cases
from osteosap.training.data import load_exams, prepare_exam
from osteosap.training.sampler import cut
from osteosap.training.store import DamagedPackError, StoredArray, open_pack, write_pack

CONFIG = InputConfig(spacing_mm=(8.0, 8.0, 8.0))
ARRAYS = ("images", "body", "skeleton", "lesions")


@pytest.fixture(scope="module")
def cases(tiny_exams: list[Path]) -> list[TrainingCase]:
    return [find_cases(folder)[0] for folder in tiny_exams]


def _files(store: Path) -> list[Path]:
    return sorted(store.iterdir())


def test_a_stored_exam_is_the_prepared_one_voxel_for_voxel(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    for again in (False, True):
        stored = load_exams(cases, CONFIG, needs="lesions", store=tmp_path)
        for case, exam in zip(cases, stored, strict=True):
            fresh = prepare_exam(case, CONFIG)
            for name in ARRAYS:
                array, expected = getattr(exam, name), getattr(fresh, name)
                assert isinstance(array, StoredArray), again
                assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
                assert np.array_equal(array, expected)
            assert exam.grid.same_as(fresh.grid, tolerance_mm=1e-9)
            assert exam.channels == fresh.channels == ("t1", "b1000")
            assert exam.checksum() == fresh.checksum()
    assert len(_files(tmp_path)) == 3


def test_the_stored_index_is_that_of_the_arrays(cases: list[TrainingCase], tmp_path: Path) -> None:
    for case, exam in zip(
        cases, load_exams(cases, CONFIG, needs="lesions", store=tmp_path), strict=True
    ):
        fresh = prepare_exam(case, CONFIG)
        body = np.flatnonzero(fresh.body)
        assert [exam.index.body[n] for n in range(len(exam.index.body))] == body.tolist()
        assert exam.index.lesions == fresh.index.lesions
        assert np.array_equal(exam.index.bright(0.95), fresh.index.bright(0.95))
        assert exam.index.classes.keys() == fresh.index.classes.keys() == set(range(10))
        for number, lesion in enumerate(exam.index.lesions):
            mask = np.asarray(fresh.lesions) == lesion.id
            places = np.sort(exam.index.lesion_voxels(number))
            assert places.tolist() == np.flatnonzero(mask).tolist()
            assert lesion.voxels == mask.sum()
            box = tuple(slice(a, b) for a, b in zip(lesion.start, lesion.stop, strict=True))
            assert mask[box].sum() == mask.sum()


def test_a_patch_of_a_stored_exam_is_that_of_the_arrays(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    (exam,) = load_exams(cases[:1], CONFIG, needs="lesions", store=tmp_path)
    fresh = prepare_exam(cases[0], CONFIG)
    rng = np.random.default_rng(3)
    for _ in range(30):
        i, j, k = rng.integers(-20, 50, 3).tolist()
        for name in ARRAYS:
            ours, theirs = getattr(exam, name), getattr(fresh, name)
            assert np.array_equal(
                cut(ours, (i, j, k), (16, 16, 16)), cut(theirs, (i, j, k), (16,) * 3)
            )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"damaged",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:900] + bytes([content[900] ^ 1]) + content[901:],
        lambda content: content[:-60] + bytes([content[-60] ^ 1]) + content[-59:],
    ],
    ids=["empty", "foreign", "half", "cut short", "one bit of the images", "one bit of the header"],
)
def test_a_damaged_exam_is_prepared_again_and_said_so(
    cases: list[TrainingCase],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    load_exams(cases[:1], CONFIG, needs="lesions", store=tmp_path)
    (path,) = _files(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING, logger="osteosap"):
        (exam,) = load_exams(cases[:1], CONFIG, needs="lesions", store=tmp_path)
    assert "is damaged" in caplog.text
    assert np.array_equal(exam.images, prepare_exam(cases[0], CONFIG).images)
    assert path.read_bytes() == whole


def test_other_settings_and_changed_files_are_other_entries(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    for spacing in (8.0, 12.0):
        config = InputConfig(spacing_mm=(spacing,) * 3)
        load_exams(cases[:1], config, needs="skeleton", store=tmp_path)
    assert len(_files(tmp_path)) == 2
    t1 = cases[0].images["t1"]
    stat = t1.stat()
    try:
        os.utime(t1, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
        load_exams(cases[:1], CONFIG, needs="skeleton", store=tmp_path)
    finally:
        os.utime(t1, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(_files(tmp_path)) == 3


def _prepare(cases: list[TrainingCase], store: Path, start: Any, results: Any) -> None:
    start.wait()
    results.put(
        [exam.checksum() for exam in load_exams(cases, CONFIG, needs="lesions", store=store)]
    )


@pytest.mark.slow
def test_processes_that_prepare_at_once_end_with_one_whole_file_an_exam(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=_prepare, args=(cases, tmp_path, start, results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    start.set()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert found[0] == found[1] == found[2] == [prepare_exam(c, CONFIG).checksum() for c in cases]
    assert [p.suffix for p in _files(tmp_path)] == [".exam"] * 3
    for path in _files(tmp_path):
        open_pack(path)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_exams(cases[:1], CONFIG, needs="lesions", store=tmp_path)
    before = _files(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device.*Free disk space"):
        load_exams(cases, CONFIG, needs="lesions", store=tmp_path)
    assert _files(tmp_path) == before
    open_pack(before[0])


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.exam-1-2.partial", tmp_path / ".b.exam-1-2.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    write_pack(tmp_path / "x.exam", {"a": np.arange(5)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [new.name, "x.exam"]


def test_a_pack_gives_back_arrays_of_any_kind(tmp_path: Path) -> None:
    arrays = {
        "empty": np.empty(0, np.int32),
        "table": np.arange(10, dtype=np.int64).reshape(2, 5),
        "mask": np.random.default_rng(0).random((70, 20, 40)) > 0.5,
        "big": np.full((1, 3, 3, 3), 2**30, np.int32),
    }
    write_pack(tmp_path / "x", arrays, {"note": [1, "two"]})
    pack = open_pack(tmp_path / "x")
    assert pack.header == {"note": [1, "two"]}
    assert list(pack) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(pack[name], array)
        assert np.array_equal(pickle.loads(pickle.dumps(pack[name])), array)
    assert pack["table"].astype(np.float32).dtype == np.float32
    with pytest.raises(FileNotFoundError):
        open_pack(tmp_path / "y")
    (tmp_path / "x").write_bytes(b"OSTEOPK1" * 4)
    with pytest.raises(DamagedPackError):
        open_pack(tmp_path / "x")


def test_threads_may_cut_the_same_exam_at_once(cases: list[TrainingCase], tmp_path: Path) -> None:
    (exam,) = load_exams(cases[:1], CONFIG, needs="lesions", store=tmp_path)
    whole = np.asarray(exam.images)
    starts = [tuple(np.random.default_rng(n).integers(-8, 30, 3).tolist()) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: cut(exam.images, start, (16, 16, 16)), starts))
    for start, patch in zip(starts, found, strict=True):
        assert np.array_equal(patch, cut(whole, start, (16, 16, 16)))


def test_a_store_that_vanishes_during_training_is_said(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    (exam,) = load_exams(cases[:1], CONFIG, needs="lesions", store=tmp_path)
    _files(tmp_path)[0].unlink()
    with pytest.raises(TrainingError, match="cannot be read any more"):
        cut(exam.images, (0, 0, 0), (8, 8, 8))


def test_opening_a_store_takes_little_time(cases: list[TrainingCase], tmp_path: Path) -> None:
    load_exams(cases, CONFIG, needs="lesions", store=tmp_path)
    started = time.perf_counter()
    for _ in range(10):
        load_exams(cases[:1], CONFIG, needs="lesions", store=tmp_path)
    assert time.perf_counter() - started < 1.0


def test_lesions_survive_the_preparation(cases: list[TrainingCase]) -> None:
    exam = prepare_exam(cases[0], InputConfig(spacing_mm=(12.0, 12.0, 12.0)))
    lesions = np.asarray(exam.lesions)
    assert set(np.unique(lesions)) == {0, 1, 2, 3}
    assert exam.images.dtype == np.float16
    assert np.asarray(exam.body)[lesions > 0].all()


def test_a_binary_lesion_map_is_split_into_its_lesions(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    from osteosap.exam import read_exam

    exam = read_exam(cases[0].images["t1"].parent)
    assert exam.lesions is not None
    binary = replace(exam.lesions, array=(exam.lesions.array > 0).astype(np.int32))
    write_exam(replace(exam, lesions=binary), tmp_path)
    ours = prepare_exam(find_cases(tmp_path)[0], CONFIG)
    theirs = prepare_exam(cases[0], CONFIG)
    assert [entry.voxels for entry in ours.index.lesions] == [
        entry.voxels for entry in theirs.index.lesions
    ]


def test_a_healthy_exam_needs_no_lesion_map(cases: list[TrainingCase], tmp_path: Path) -> None:
    bare = replace(cases[2], lesions=None)
    with pytest.raises(TrainingError, match=r"exam_2 has no lesions\.nii\.gz"):
        load_exams([bare], CONFIG, needs="lesions", store=tmp_path)
    (exam,) = load_exams([replace(bare, healthy=True)], CONFIG, needs="lesions", store=tmp_path)
    assert exam.lesions is not None
    assert not np.asarray(exam.lesions).any()
    assert exam.index.lesions == ()
    (images,) = load_exams([replace(bare, skeleton=None)], CONFIG, needs="images", store=tmp_path)
    assert images.lesions is images.skeleton is None


def test_exams_without_reference_and_empty_lists_are_refused(
    small_exam: Exam, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="no exams"):
        load_exams([], InputConfig(), needs="lesions", store=tmp_path)
    write_exam(Exam(small_exam.images), tmp_path / "x")
    with pytest.raises(TrainingError, match=r"no skeleton\.nii\.gz"):
        load_exams(find_cases(tmp_path), CONFIG, needs="skeleton", store=tmp_path)
    (case,) = find_cases(tmp_path)
    with pytest.raises(TrainingError, match="x has no b1000"):
        prepare_exam(replace(case, images={"t1": case.images["t1"]}), CONFIG)
    gone = replace(case, images={**case.images, "t1": tmp_path / "gone.nii.gz"})
    with pytest.raises(TrainingError, match="x: t1 cannot be read"):
        load_exams([gone], CONFIG, needs="images", store=tmp_path)
