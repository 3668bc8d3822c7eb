from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from osteosap.anatomy import N_CLASSES, REGIONS
from osteosap.errors import CheckpointError, VolumeError
from osteosap.geometry import Grid, make_affine
from osteosap.inference.predict import (
    SegmentConfig,
    _class_map,
    _drop_specks,
    find_weights,
    segment_exam,
)
from osteosap.inference.prepare import InputConfig, prepare_images
from osteosap.models.checkpoint import Checkpoint, CheckpointMetadata, save_checkpoint
from osteosap.models.networks import NetworkSpec, build_network, named_weights
from osteosap.volume import Volume


def _images(spacing: float = 6.0, flip: bool = False) -> Volume:
    rng = np.random.default_rng(1)
    shape = (28, 20, 30)
    i, j, _ = np.indices(shape)
    inside = ((i - 14) / 10) ** 2 + ((j - 10) / 7) ** 2 < 1
    t1 = np.where(inside, 300.0, 3.0) + rng.random(shape)
    b1000 = np.where(inside, 60.0 + i, 1.0) + rng.random(shape)
    affine = make_affine((spacing,) * 3, (-80.0, -60.0, 0.0))
    array = np.stack([t1, b1000]).astype(np.float32)
    if flip:  # the same voxels at the same places, stored right to left
        array = array[:, ::-1]
        affine = affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
        affine[:3, 3] = [-80.0 + spacing * 27, -60.0, 0.0]
    return Volume(array, affine, ("t1", "b1000"))


def _weights(folder: Path) -> SegmentConfig:
    paths = {}
    for task, n in (("skeleton", N_CLASSES), ("lesions", 2)):
        spec = NetworkSpec(filters=(4, 4, 4), n_classes=n)
        names = ["background", *(r.name for r in REGIONS)] if n > 2 else ["background", "lesion"]
        metadata = CheckpointMetadata.from_mapping(
            {
                "task": task,
                "classes": names,
                "spacing_mm": (8, 8, 8),
                "patch": (16, 16, 16),
                "threshold": None if n > 2 else 0.4,
                "training_data": "simulated",
            }
        )
        torch.manual_seed(0)
        paths[task] = folder / f"{task}.safetensors"
        save_checkpoint(Checkpoint(spec, metadata, named_weights(build_network(spec))), paths[task])
    return SegmentConfig(
        skeleton_weights=paths["skeleton"],
        lesion_weights=paths["lesions"],
        device="cpu",
        precision="float32",
    )


def test_results_lie_on_the_grid_of_the_images_and_the_record_is_json(tmp_path: Path) -> None:
    images = _images()
    config = _weights(tmp_path)
    said: list[tuple[str, float]] = []
    result = segment_exam(images, config=config, progress=lambda w, f: said.append((w, f)))
    assert result.skeleton.grid.same_as(images.grid)
    assert result.lesion_probability.grid.same_as(images.grid)
    assert result.skeleton.array.dtype == np.uint8
    assert result.lesion_probability.array.dtype == np.float32
    assert 0 <= result.lesion_probability.array.min() <= result.lesion_probability.array.max() <= 1
    assert {w for w, _ in said} == {"segment skeleton", "segment lesions"}
    record = json.loads(json.dumps(result.record))
    assert record["lesion_threshold"] == 0.4
    assert len(record["skeleton"]["sha256"]) == 64
    assert record["lesions"]["training_data"] == "simulated"


def test_images_stored_right_to_left_give_the_same_result(tmp_path: Path) -> None:
    config = _weights(tmp_path)
    straight = segment_exam(_images(), config=config)
    turned = segment_exam(_images(flip=True), config=config)
    np.testing.assert_allclose(
        turned.lesion_probability.array[0, ::-1], straight.lesion_probability.array[0], atol=1e-3
    )


def test_exchanged_and_missing_weights_are_refused(tmp_path: Path) -> None:
    config = _weights(tmp_path)
    swapped = config.model_copy(update={"skeleton_weights": config.lesion_weights})
    with pytest.raises(CheckpointError, match="expected 'skeleton'"):
        segment_exam(_images(), config=swapped)
    absent = config.model_copy(update={"lesion_weights": tmp_path / "absent.safetensors"})
    with pytest.raises(CheckpointError, match="no weight file"):
        segment_exam(_images(), config=absent)
    assert find_weights("lesions").name == "lesions.safetensors"


def test_preparation_crops_to_the_body_and_scales_to_one() -> None:
    images = _images()
    prepared = prepare_images(images, InputConfig(spacing_mm=(6.0, 6.0, 6.0), margin_mm=6.0))
    assert prepared.array.shape == (2, *prepared.body.shape)
    assert prepared.grid.shape == prepared.body.shape
    assert prepared.body.shape[0] < 28
    assert (prepared.array.min(), prepared.array.max()) == (0.0, 1.0)
    # the crop knows where it is: its world positions point to the same voxels of the original
    offset = np.linalg.inv(images.affine) @ prepared.grid.affine[:, 3]
    start = np.round(offset[:3]).astype(int)
    np.testing.assert_allclose(offset[:3], start, atol=1e-9)
    i, j, k = start
    t1 = images.array[0, i : i + prepared.body.shape[0], j : j + prepared.body.shape[1], k:]
    assert np.corrcoef(t1.ravel(), prepared.array[0].ravel())[0, 1] > 0.98


def test_an_exam_without_its_channel_is_refused() -> None:
    only_t1 = Volume(_images().array[:1], _images().affine, ("t1",))
    with pytest.raises(VolumeError, match="b1000"):
        prepare_images(only_t1, InputConfig())


def test_the_class_map_is_the_argmax_also_on_a_finer_grid() -> None:
    source = Grid((8, 8, 8), make_affine((4.0,) * 3, (0.0, 0.0, 0.0)))
    probabilities = np.zeros((3, 8, 8, 8), np.float32)
    probabilities[1, :4] = 1.0
    probabilities[2, 4:6] = 1.0
    probabilities[0, 6:] = 1.0
    same = _class_map(probabilities, source, source)
    assert np.array_equal(same, probabilities.argmax(axis=0))
    fine = _class_map(probabilities, source, source.with_spacing((2.0, 2.0, 2.0)))
    assert fine.shape == (16, 16, 16)
    inner = fine[1:-1, 1:-1, 1:-1]  # beyond the outermost centres nothing is known
    assert (inner[:7] == 1).all()
    assert (inner[7:11] == 2).all()
    assert (inner[11:] == 0).all()


def test_specks_of_bone_are_dropped_and_bones_stay() -> None:
    grid = Grid((10, 10, 10), make_affine((10.0,) * 3, (0.0, 0.0, 0.0)))
    classes = np.zeros((10, 10, 10), np.uint8)
    classes[1:3, 1:3, 1:3] = 4
    classes[8, 8, 8] = 5
    cleaned = _drop_specks(classes, grid, 2.0)
    assert (cleaned == 4).sum() == 8
    assert not (cleaned == 5).any()
    assert np.array_equal(_drop_specks(classes, grid, 0.0), classes)
