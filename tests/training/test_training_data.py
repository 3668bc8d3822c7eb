from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from osteosap.errors import TrainingError
from osteosap.exam import Exam, write_exam
from osteosap.geometry import Grid, make_affine
from osteosap.inference.prepare import InputConfig
from osteosap.training.data import load_exams, prepare_exam, resample_classes, resample_lesions

FINE = Grid((40, 40, 40), make_affine((2.0,) * 3, (0.0, 0.0, 0.0)))
COARSE = FINE.with_spacing((4.0, 4.0, 4.0))


def _ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    distance = sum((a - c) ** 2 for a, c in zip(np.indices(FINE.shape), centre, strict=True))
    return np.asarray(distance <= radius**2)


def test_no_lesion_vanishes_and_volumes_are_kept_at_half_the_resolution() -> None:
    lesions = np.zeros(FINE.shape, np.int32)
    lesions[_ball((10, 10, 10), 5.0)] = 1
    lesions[30, 30, 30] = 2  # an eighth of a coarse voxel
    lesions[_ball((10.5, 30.5, 10.5), 2.0)] = 7
    coarse = resample_lesions(lesions, FINE, COARSE)
    assert set(np.unique(coarse)) == {0, 1, 2, 7}
    for number in (1, 7):
        before = (lesions == number).sum() * FINE.voxel_volume_ml
        after = (coarse == number).sum() * COARSE.voxel_volume_ml
        assert after == pytest.approx(before, abs=COARSE.voxel_volume_ml)
    assert (coarse == 2).sum() == 1
    assert coarse[15, 15, 15] == 2


def test_lesions_stay_in_place_when_resampled() -> None:
    lesions = np.zeros(FINE.shape, np.int32)
    lesions[_ball((21, 14, 25), 6.0)] = 1
    coarse = resample_lesions(lesions, FINE, COARSE)
    before = FINE.affine[:3, :3] @ np.argwhere(lesions).mean(axis=0) + FINE.affine[:3, 3]
    after = COARSE.affine[:3, :3] @ np.argwhere(coarse).mean(axis=0) + COARSE.affine[:3, 3]
    assert np.abs(before - after).max() < 1.0


def test_a_lesion_outside_the_target_is_left_out() -> None:
    lesions = np.zeros(FINE.shape, np.int32)
    lesions[35:38, 35:38, 35:38] = 1
    corner = Grid((4, 4, 4), COARSE.affine)
    assert not resample_lesions(lesions, FINE, corner).any()


def test_a_voxel_takes_the_class_that_fills_most_of_it() -> None:
    classes = np.zeros(FINE.shape, np.uint8)
    classes[:, :, :20] = 3
    classes[:, :, 20:30] = 4
    coarse = resample_classes(classes, FINE, COARSE)
    assert (coarse[1:-1, 1:-1, 1:10] == 3).all()
    assert (coarse[1:-1, 1:-1, 10:15] == 4).all()
    assert (coarse[1:-1, 1:-1, 15:] == 0).all()
    assert np.array_equal(resample_classes(classes, FINE, FINE), classes)


def test_prepared_exams_come_back_from_the_cache_unchanged(
    tiny_exams: list[Path], tmp_path: Path
) -> None:
    config = InputConfig(spacing_mm=(8.0, 8.0, 8.0))
    cache = tmp_path / "cache"
    first = load_exams(tiny_exams, config, needs="lesions", cache=cache)
    assert len(list(cache.iterdir())) == 3
    again = load_exams(tiny_exams, config, needs="lesions", cache=cache)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.lesions, b.lesions)
        assert a.grid.same_as(b.grid)
    for path in cache.iterdir():
        path.write_bytes(b"damaged")
    repaired = load_exams(tiny_exams, config, needs="lesions", cache=cache)
    assert np.array_equal(repaired[0].images, first[0].images)


def test_another_spacing_is_another_cache_entry(tiny_exams: list[Path], tmp_path: Path) -> None:
    for spacing in (8.0, 12.0):
        config = InputConfig(spacing_mm=(spacing,) * 3)
        load_exams(tiny_exams[:1], config, needs="skeleton", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_lesions_survive_the_preparation(tiny_exams: list[Path]) -> None:
    exam = prepare_exam(tiny_exams[0], InputConfig(spacing_mm=(12.0, 12.0, 12.0)))
    assert exam.lesions is not None
    assert set(np.unique(exam.lesions)) == {0, 1, 2, 3}
    assert exam.images.dtype == np.float16
    assert exam.body[exam.lesions > 0].all()


def test_exams_without_reference_and_empty_lists_are_refused(
    small_exam: Exam, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="no exams"):
        load_exams([], InputConfig(), needs="lesions")
    write_exam(Exam(small_exam.images), tmp_path)
    config = InputConfig(spacing_mm=(4.0, 4.0, 5.0))
    with pytest.raises(TrainingError, match=r"no skeleton\.nii\.gz"):
        load_exams([tmp_path], config, needs="skeleton")
