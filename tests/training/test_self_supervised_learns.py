"""Self-supervision learns: its losses fall, and views of exams it never saw are understood."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from osteosap.exam import Exam, write_exam
from osteosap.geometry import make_affine
from osteosap.training.cases import TrainingCase, find_cases
from osteosap.training.pretrain_self_supervised import (
    PretrainSelfSupervisedConfig,
    pretrain_self_supervised,
)
from osteosap.volume import Volume

CONFIG = {
    "network": {"filters": [4, 8, 16]},
    "input": {"spacing_mm": [8.0, 8.0, 8.0]},
    "patch": [16, 16, 16],
    "views": {"rotation_plane": [0, 2]},
    "losses": {"embedding": 16},
    "learning_rate": 4e-3,
    "validation_patches": 24,
    "loop": {
        "steps": 40,
        "batch_size": 6,
        "warmup_steps": 5,
        "validate_every": 1000,
        "log_every": 1,
        "device": "cpu",
        "precision": "float32",
        "tensorboard": False,
    },
}


def exam_with_a_head_and_a_foot(seed: int) -> Exam:
    """Brighter from foot to head, with random blobs: turned by any quarter it looks different."""
    rng = np.random.default_rng(seed)
    shape = (32, 24, 64)
    i, j, k = np.indices(shape)
    body = ((i - 16) / 12) ** 2 + ((j - 12) / 9) ** 2 < 1
    images = np.stack([np.where(body, 60.0 + 5.0 * k, 3.0), np.where(body, 400.0 - 4.0 * k, 3.0)])
    for _ in range(30):
        centre, radius = rng.uniform((6, 5, 2), (26, 19, 62)), rng.uniform(1.5, 4.0)
        blob = sum((a - c) ** 2 for a, c in zip((i, j, k), centre, strict=True)) < radius**2
        images[:, blob & body] += rng.uniform(-60.0, 60.0, (2, 1))
    images = np.maximum(images + rng.normal(0.0, 3.0, images.shape), 0.0)
    affine = make_affine((8.0,) * 3, (-128.0, -96.0, 0.0))
    return Exam(Volume(images.astype(np.float32), affine, ("t1", "b1000")))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    root = tmp_path_factory.mktemp("people")
    for seed in range(6):
        write_exam(exam_with_a_head_and_a_foot(seed), root / f"exam_{seed}")
    return find_cases(root)


@pytest.mark.slow
def test_the_three_losses_fall_and_held_out_turns_are_told(
    cases: list[TrainingCase], tmp_path: Path
) -> None:
    config = PretrainSelfSupervisedConfig.from_mapping(CONFIG)
    pretrain_self_supervised(config, cases[:4], cases[4:], out=tmp_path)
    rows = list(csv.DictReader((tmp_path / "training.csv").read_text().splitlines()))
    for name in ("reconstruction", "rotation", "contrast"):
        values = [float(row[name]) for row in rows]
        assert np.mean(values[-10:]) < 0.9 * np.mean(values[:5]), name
    scores = csv.DictReader((tmp_path / "validation.csv").read_text().splitlines())
    held_out = {row["metric"]: float(row["value"]) for row in scores}
    assert held_out["rotation_accuracy"] > 0.5  # chance is 0.25
