from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from osteosap.errors import TrainingError
from osteosap.exam import Exam, write_exam
from osteosap.inference.prepare import InputConfig
from osteosap.training.data import load_exams, prepare_exam


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
    damages = (b"damaged", b"", next(cache.iterdir()).read_bytes()[:500])
    for path, content in zip(sorted(cache.iterdir()), damages, strict=True):
        path.write_bytes(content)
    repaired = load_exams(tiny_exams, config, needs="lesions", cache=cache)
    for a, b in zip(first, repaired, strict=True):
        assert np.array_equal(a.images, b.images)


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
