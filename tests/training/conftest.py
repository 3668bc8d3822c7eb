"""Tiny made-up exams for training tests: an elliptic body, boxes of bone, bright lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from osteosap.exam import Exam, write_exam
from osteosap.geometry import make_affine
from osteosap.volume import Volume


def tiny_exam(seed: int, n_lesions: int = 3) -> Exam:
    """40 x 24 x 60 voxels of 8 mm, nine bones along the axis, lesions in them."""
    rng = np.random.default_rng(seed)
    shape = (40, 24, 60)
    i, j, k = np.indices(shape)
    body = ((i - 20) / 14) ** 2 + ((j - 12) / 8) ** 2 < 1
    t1 = np.where(body, 200.0, 4.0)
    b1000 = np.where(body, 50.0, 2.0)
    skeleton = np.zeros(shape, np.uint8)
    lesions = np.zeros(shape, np.int32)
    for number in range(1, 10):
        bone = (abs(i - 20) < 5) & (abs(j - 12) < 4) & (abs(k - 6 * number) < 3)
        skeleton[bone] = number
        t1[bone] = 400.0
    for number in range(1, n_lesions + 1):
        place = (20, 12, 18 * number)
        lesion = (i - place[0]) ** 2 + (j - place[1]) ** 2 + (k - place[2]) ** 2 < 5
        lesions[lesion] = number
        t1[lesion] = 100.0
        b1000[lesion] = 300.0
    images = np.stack([t1, b1000]) + rng.random((2, *shape))
    affine = make_affine((8.0,) * 3, (-160.0, -96.0, 0.0))
    return Exam(
        Volume(images.astype(np.float32), affine, ("t1", "b1000")),
        Volume.single(skeleton, affine, "skeleton"),
        Volume.single(lesions, affine, "lesions"),
    )


@pytest.fixture(scope="session")
def tiny_exams(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three exam folders; the last is healthy."""
    root = tmp_path_factory.mktemp("tiny_exams")
    folders = [root / f"exam_{seed}" for seed in range(3)]
    for seed, folder in enumerate(folders):
        write_exam(tiny_exam(seed, n_lesions=0 if seed == 2 else 3), folder)
    return folders
