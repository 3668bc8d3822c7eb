"""Two changed views of a patch for self-supervision: turned, cut out, swapped.

Tang et al. 2022, doi 10.1109/CVPR52688.2022.02007: rotation by a multiple of 90 degrees in one
plane, blocks that are cut out or whose content is swapped. Which block is swapped with which is
ours: two blocks of one patch, where Tang et al. take the other from another patch of the batch;
so a view depends on its patch and its random numbers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator

from osteosap.config import StageConfig

__all__ = ["Views", "ViewsConfig", "make_views"]

Block = tuple[slice, slice, slice]

DUST = 0.005
"""Share of the voxels below which no further block is looked for."""


class ViewsConfig(StageConfig):
    """How views differ from their patch.

    ``rotation_plane`` holds the two axes (0 = R, 1 = A, 2 = S) in which views are turned; the
    patch must be square in it. Blocks change at most ``max_cover`` of the voxels, each side of a
    block is between ``min_side`` and ``max_side`` of the patch's; ``swapped`` is the share of
    blocks that trade places rather than being filled with noise. ``tries`` blocks are drawn; those
    that do not fit any more are left out.
    """

    rotation_plane: tuple[int, int] = (0, 1)
    max_cover: float = Field(default=0.3, ge=0.0, lt=1.0)
    min_side: float = Field(default=0.05, gt=0.0, le=1.0)
    max_side: float = Field(default=0.25, gt=0.0, le=1.0)
    swapped: float = Field(default=0.5, ge=0.0, le=1.0)
    tries: int = Field(default=200, ge=1)

    @model_validator(mode="after")
    def _blocks_have_a_size(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError(f"min_side {self.min_side} is above max_side {self.max_side}")
        return self

    @model_validator(mode="after")
    def _a_plane_has_two_axes(self) -> Self:
        first, second = self.rotation_plane
        if first == second or not {first, second} <= {0, 1, 2}:
            raise ValueError(f"rotation_plane {self.rotation_plane}, expected two of 0, 1, 2")
        return self


@dataclass(frozen=True)
class Views:
    """Two views of a patch.

    Parameters
    ----------
    changed
        float32 (2, C, I, J, K): turned, with changed blocks; what the network sees.
    whole
        float32 (2, C, I, J, K): turned only; what it is to reconstruct.
    turns
        int64 (2,): quarter turns, 0 to 3; what it is to tell.
    """

    changed: torch.Tensor
    whole: torch.Tensor
    turns: torch.Tensor


def make_views(
    images: torch.Tensor, *, config: ViewsConfig, generator: np.random.Generator
) -> Views:
    """Two views of one patch.

    Parameters
    ----------
    images
        float32 (C, I, J, K) in [0, 1]; square in the plane of rotation.
    config
        What may happen.
    generator
        Decides; equal generators give equal views.
    """
    plane = (config.rotation_plane[0] + 1, config.rotation_plane[1] + 1)
    changed, whole, turns = [], [], []
    for _ in range(2):
        quarter = int(generator.integers(4))
        turned = torch.rot90(images, quarter, plane).contiguous()
        changed.append(_change_blocks(turned, config, generator))
        whole.append(turned)
        turns.append(quarter)
    return Views(torch.stack(changed), torch.stack(whole), torch.tensor(turns))


def _change_blocks(
    images: torch.Tensor, config: ViewsConfig, generator: np.random.Generator
) -> torch.Tensor:
    """Cut out or swap blocks until a random share of the voxels is changed; none twice."""
    changed = images.clone()
    shape = tuple(images.shape[1:])
    taken = np.zeros(shape, dtype=np.bool_)
    left = int(generator.uniform(0.0, config.max_cover) * taken.size)
    for _ in range(config.tries):
        if left < DUST * taken.size:
            break
        sides = [_side(n, config, generator) for n in shape]
        size = int(np.prod(sides))
        swap = generator.random() < config.swapped
        blocks = [_block(shape, sides, generator) for _ in range(2 if swap else 1)]
        if size * len(blocks) > left or not _are_free(taken, blocks):
            continue
        if swap:
            first, second = ((slice(None), *block) for block in blocks)
            changed[first], changed[second] = images[second], images[first]
        else:
            noise = generator.random((images.shape[0], *sides), dtype=np.float32)
            changed[(slice(None), *blocks[0])] = torch.from_numpy(noise)
        for block in blocks:
            taken[block] = True
        left -= size * len(blocks)
    return changed


def _side(n: int, config: ViewsConfig, generator: np.random.Generator) -> int:
    longest = max(1, int(n * config.max_side))
    shortest = min(longest, max(1, int(n * config.min_side)))
    return int(generator.integers(shortest, longest + 1))


def _block(shape: tuple[int, ...], sides: list[int], generator: np.random.Generator) -> Block:
    starts = [int(generator.integers(n - side + 1)) for n, side in zip(shape, sides, strict=True)]
    i, j, k = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return i, j, k


def _are_free(taken: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], blocks: list[Block]) -> bool:
    """Whether no voxel of the blocks is taken, nor shared by two of them."""
    if any(taken[block].any() for block in blocks):
        return False
    if len(blocks) == 1:
        return True
    return any(
        a.stop <= b.start or b.stop <= a.start for a, b in zip(blocks[0], blocks[1], strict=True)
    )
