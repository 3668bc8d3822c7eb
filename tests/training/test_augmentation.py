from __future__ import annotations

import numpy as np
import pytest
import torch

from osteosap.errors import ConfigError
from osteosap.training.augmentation import AugmentationConfig, augment

OFF = AugmentationConfig(
    flip=(0.0, 0.0, 0.0),
    affine=0.0,
    intensity=0.0,
    gamma_probability=0.0,
    noise_probability=0.0,
    bias_probability=0.0,
    blur_probability=0.0,
)
ALL = AugmentationConfig(
    flip=(0.5, 0.5, 0.5),
    rotate90=1.0,
    affine=1.0,
    intensity=1.0,
    gamma_probability=1.0,
    noise_probability=1.0,
    bias_probability=1.0,
    blur_probability=1.0,
)


def _patch(shape: tuple[int, int, int] = (16, 12, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    reference = torch.zeros(1, *shape, dtype=torch.uint8)
    reference[0, 3:9, 2:7, 5:11] = 3
    images = torch.stack([reference[0].float(), 1 - reference[0].float() / 3])
    return images.clamp(0, 1), reference


def _run(config: AugmentationConfig, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(*_patch(), config=config, generator=np.random.default_rng(seed))


def test_nothing_asked_for_changes_nothing() -> None:
    images, reference = _patch()
    new_images, new_reference = _run(OFF)
    assert torch.equal(images, new_images)
    assert torch.equal(reference, new_reference)


def test_the_same_generator_gives_the_same_patch_and_another_does_not() -> None:
    first, second, other = _run(ALL, 1), _run(ALL, 1), _run(ALL, 2)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_shapes_types_and_range_stay() -> None:
    for seed in range(8):
        images, reference = _run(ALL, seed)
        assert images.shape == (2, 16, 12, 16)
        assert images.dtype == torch.float32
        assert reference.dtype == torch.uint8
        assert set(reference.unique().tolist()) <= {0, 3}
        assert images.min() >= 0
        assert images.max() <= 1


def test_images_and_reference_are_moved_alike() -> None:
    config = OFF.model_copy(update={"flip": (0.5, 0.5, 0.5), "rotate90": 0.5, "affine": 1.0})
    for seed in range(10):
        images, reference = _run(config, seed)
        inside = (images[0] > 0.5).float()
        bone = (reference[0] > 0).float()
        overlap = 2 * (inside * bone).sum() / (inside.sum() + bone.sum())
        assert overlap > 0.85


def test_an_affine_turn_is_rigid_in_patches_that_are_not_cubes() -> None:
    config = OFF.model_copy(update={"affine": 1.0, "affine_scale": 0.0, "affine_degrees": 20.0})
    reference = torch.zeros(1, 24, 48, 32, dtype=torch.uint8)
    reference[0, 8:16, 20:28, 12:20] = 1
    for seed in range(5):
        _, turned = augment(
            torch.zeros(2, 24, 48, 32),
            reference,
            config=config,
            generator=np.random.default_rng(seed),
        )
        assert abs(int(turned.sum()) / int(reference.sum()) - 1) < 0.15


def test_a_zoom_changes_the_volume_within_its_bound() -> None:
    config = OFF.model_copy(update={"affine": 1.0, "affine_scale": 0.2, "affine_degrees": 0.0})
    volumes = [int((_run(config, seed)[1] > 0).sum()) for seed in range(10)]
    before = int((_patch()[1] > 0).sum())
    assert len(set(volumes)) > 1
    assert all(0.4 < v / before < 2.2 for v in volumes)


def test_two_probabilities_scale_and_shift_apart_and_all_channels_alike() -> None:
    def changes(intensity: object, seed: int) -> tuple[list[float], list[float]]:
        """Factor and offset of each of two equal channels."""
        values = OFF.to_mapping() | {"intensity": intensity, "scale": 0.1, "shift": 0.1}
        images = torch.stack([torch.linspace(0.3, 0.7, 64).reshape(4, 4, 4)] * 2)
        changed, _ = augment(
            images,
            torch.zeros(1, 4, 4, 4, dtype=torch.uint8),
            config=AugmentationConfig.from_mapping(values),
            generator=np.random.default_rng(seed),
        )
        factors = (changed[:, -1, -1, -1] - changed[:, 0, 0, 0]) / 0.4
        offsets = changed[:, 0, 0, 0] - 0.3 * factors
        return (factors - 1.0).tolist(), offsets.tolist()

    seen = set()
    for seed in range(60):
        for found in changes([0.5, 0.5], seed):
            assert found[0] == found[1]
        scaled, shifted = (abs(found[0]) > 1e-4 for found in changes([0.5, 0.5], seed))
        seen.add((scaled, shifted))
        together = changes(0.5, seed)
        for channel in (0, 1):
            assert (abs(together[0][channel]) > 1e-6) == (abs(together[1][channel]) > 1e-6)
    assert len(seen) == 4
    for values, only in (([1.0, 0.0], 0), ([0.0, 1.0], 1)):
        found = changes(values, 1)
        assert abs(found[only][0]) > 1e-3
        assert abs(found[1 - only][0]) < 1e-5
    for wrong in (1.5, [0.1, 1.5], [0.1]):
        with pytest.raises(ConfigError, match="intensity"):
            AugmentationConfig.from_mapping({"intensity": wrong})
