"""Random changes of patches: geometry for images and reference alike, intensity for images."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field, field_validator
from torch.nn import functional

from osteosap.config import StageConfig

__all__ = ["AugmentationConfig", "augment"]

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class AugmentationConfig(StageConfig):
    """Probabilities and strengths.

    ``flip`` holds one probability an axis (R, A, S); left-right is always sensible since left and
    right bones share a class. Rotations by 90 degrees are done only in planes where the patch is
    square. ``affine_degrees`` and ``affine_scale`` bound a random turn about each axis and a
    random zoom. ``noise_sd`` and ``shift`` are in units of the [0, 1] range, ``bias`` is the
    largest relative change of a smooth field, ``gamma`` the largest |log2| exponent.

    ``intensity`` is the probability that a channel is scaled and shifted, by numbers of its own.
    Two probabilities are those of a scale and of a shift, drawn apart as in the paper; they change
    all channels of a patch alike, as MONAI's transforms do. Channels are clipped to [0, 1] at the
    end.
    """

    flip: tuple[float, float, float] = (0.5, 0.0, 0.0)
    rotate90: Probability = 0.0
    affine: Probability = 0.3
    affine_degrees: float = 8.0
    affine_scale: float = 0.15
    intensity: float | tuple[float, float] = 0.5
    scale: float = 0.2
    shift: float = 0.1
    gamma_probability: Probability = 0.3
    gamma: float = 0.6
    noise_probability: Probability = 0.3
    noise_sd: float = 0.05
    bias_probability: Probability = 0.3
    bias: float = 0.3
    blur_probability: Probability = 0.1
    blur_factor: float = Field(default=2.0, ge=1.0)

    @field_validator("intensity")
    @classmethod
    def _are_probabilities(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        if not all(0.0 <= p <= 1.0 for p in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{value}, expected one or two probabilities (0 to 1)")
        return value


def augment(
    images: torch.Tensor,
    reference: torch.Tensor,
    *,
    config: AugmentationConfig,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change one patch at random.

    Parameters
    ----------
    images
        float32 (C, I, J, K) in [0, 1].
    reference
        uint8 (1, I, J, K) class ids.
    config
        What may happen.
    generator
        Decides; equal generators give equal patches.

    Returns
    -------
    images, reference
        Same shapes and types.
    """
    images, reference = _geometry(images, reference, config=config, generator=generator)
    if isinstance(config.intensity, tuple):
        images = _scale_and_shift(images, *config.intensity, config=config, generator=generator)
    changed = [_intensity(channel, config, generator) for channel in images]
    return torch.stack(changed), reference


def _geometry(
    images: torch.Tensor,
    reference: torch.Tensor,
    *,
    config: AugmentationConfig,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    axes = [a + 1 for a, p in enumerate(config.flip) if generator.random() < p]
    if axes:
        images, reference = images.flip(axes), reference.flip(axes)
    if generator.random() < config.rotate90:
        planes = [p for p in ((1, 2), (1, 3), (2, 3)) if images.shape[p[0]] == images.shape[p[1]]]
        if planes:
            plane = planes[int(generator.integers(len(planes)))]
            turns = int(generator.integers(1, 4))
            images = torch.rot90(images, turns, plane)
            reference = torch.rot90(reference, turns, plane)
    if generator.random() < config.affine:
        images, reference = _affine(images, reference, config=config, generator=generator)
    return images.contiguous(), reference.contiguous()


def _affine(
    images: torch.Tensor,
    reference: torch.Tensor,
    *,
    config: AugmentationConfig,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    angles = np.deg2rad(generator.uniform(-1, 1, 3) * config.affine_degrees)
    zoom = np.exp(generator.uniform(-1, 1, 3) * config.affine_scale)
    matrix = np.diag(zoom)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        turn = np.eye(3)
        turn[[a, b], [a, b]] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    # grid_sample counts axes from the last one and in units of half the patch
    half = np.array(images.shape[1:], dtype=np.float64)
    matrix = (matrix * half[None, :] / half[:, None])[::-1, ::-1]
    theta = torch.from_numpy(np.concatenate([matrix, np.zeros((3, 1))], axis=1)).float()[None]
    grid = functional.affine_grid(theta, [1, 1, *images.shape[1:]], align_corners=False)
    moved = functional.grid_sample(images[None], grid, align_corners=False)[0]
    classes = functional.grid_sample(
        reference[None].float(), grid, mode="nearest", align_corners=False
    )[0]
    return moved, classes.to(reference.dtype)


def _scale_and_shift(
    images: torch.Tensor,
    scale: float,
    shift: float,
    *,
    config: AugmentationConfig,
    generator: np.random.Generator,
) -> torch.Tensor:
    """Each with its probability, alike for all channels."""
    if generator.random() < scale:
        images = images * float(1.0 + generator.uniform(-config.scale, config.scale))
    if generator.random() < shift:
        images = images + float(generator.uniform(-config.shift, config.shift))
    return images


def _intensity(
    channel: torch.Tensor, config: AugmentationConfig, generator: np.random.Generator
) -> torch.Tensor:
    if generator.random() < config.blur_probability:
        channel = _blur(channel, float(generator.uniform(1.0, config.blur_factor)))
    if generator.random() < config.gamma_probability:
        exponent = float(2.0 ** generator.uniform(-config.gamma, config.gamma))
        channel = channel.clamp(0.0, 1.0).pow(exponent)
    if generator.random() < config.bias_probability:
        channel = channel * _smooth_field(channel, config.bias, generator)
    if not isinstance(config.intensity, tuple) and generator.random() < config.intensity:
        scale = float(1.0 + generator.uniform(-config.scale, config.scale))
        channel = channel * scale + float(generator.uniform(-config.shift, config.shift))
    if generator.random() < config.noise_probability:
        sd = float(generator.uniform(0.0, config.noise_sd))
        noise = generator.standard_normal(tuple(channel.shape), dtype=np.float32)
        channel = channel + sd * torch.from_numpy(noise)
    return channel.clamp(0.0, 1.0)


def _blur(channel: torch.Tensor, factor: float) -> torch.Tensor:
    """Lose resolution: sample down and up again."""
    small = [max(2, round(side / factor)) for side in channel.shape]
    low = functional.interpolate(channel[None, None], size=small, mode="trilinear")
    return functional.interpolate(low, size=list(channel.shape), mode="trilinear")[0, 0]


def _smooth_field(
    channel: torch.Tensor, strength: float, generator: np.random.Generator
) -> torch.Tensor:
    """Smooth positive field around 1, from a 3x3x3 lattice."""
    lattice = generator.uniform(1.0 - strength, 1.0 + strength, (3, 3, 3)).astype(np.float32)
    field = functional.interpolate(
        torch.from_numpy(lattice)[None, None],
        size=list(channel.shape),
        mode="trilinear",
        align_corners=True,
    )
    return field[0, 0]
