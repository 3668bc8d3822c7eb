"""What a network sees of an exam: the one preparation that training and inference share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from osteosap.config import StageConfig
from osteosap.errors import OsteosapError, VolumeError
from osteosap.geometry import Grid, crop_grid, resample, to_ras
from osteosap.preprocess.body import body_mask
from osteosap.preprocess.normalise import scale_percentiles
from osteosap.preprocess.standardise import Standard, apply_standard
from osteosap.volume import Volume

__all__ = ["InputConfig", "PreparedImages", "prepare_images"]


class InputConfig(StageConfig):
    """How images are brought to the network: channels in order, spacing, scaling, margin.

    ``standard`` is a cohort's histogram standard, or the path of its file (as ``preprocess-cohort
    --fit-standard`` writes it); channels that it knows are brought to it before they are scaled.
    """

    channels: tuple[str, ...] = ("t1", "b1000")
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0)
    percentiles: tuple[float, float] = (1.0, 99.0)
    margin_mm: float = 12.0
    standard: Standard | None = None

    @field_validator("standard", mode="before")
    @classmethod
    def _read_standard(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        try:
            return Standard.from_json(Path(value).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, OsteosapError) as error:
            raise ValueError(f"the histogram standard {value} cannot be read ({error})") from error


@dataclass(frozen=True)
class PreparedImages:
    """The network's input.

    Parameters
    ----------
    array
        float32 (C, I, J, K) in [0, 1], RAS axes, cropped to the body.
    body
        bool (I, J, K).
    grid
        Where the voxels are.
    """

    array: npt.NDArray[np.float32]
    body: npt.NDArray[np.bool_]
    grid: Grid


def prepare_images(images: Volume, config: InputConfig) -> PreparedImages:
    """Turn to RAS, resample, find the body, crop to it, standardise, scale to [0, 1].

    Parameters
    ----------
    images
        Has at least the channels of ``config``, and ``t1``, on which the body is found.

    Raises
    ------
    VolumeError
        A channel is missing, or there is no body.
    """
    array, affine = to_ras(images.array, images.affine)
    turned = Volume(array, affine, images.channels)
    grid = turned.grid.with_spacing(config.spacing_mm)
    names = dict.fromkeys((*config.channels, "t1"))
    resampled = {name: resample(turned.channel(name), turned.grid, grid) for name in names}
    body = np.asarray(body_mask(resampled["t1"]), dtype=np.bool_)
    if not body.any():
        raise VolumeError(
            "no body found in the t1 image (all voxels look like air)",
            remedy="Check that t1 is a magnitude image of a person",
        )
    margin = np.ceil(config.margin_mm / np.asarray(config.spacing_mm)).astype(int)
    box = _bounding_box(body, margin)
    known = config.standard.channels if config.standard else {}
    for name in set(known) & set(config.channels):
        resampled[name] = apply_standard(resampled[name], body, known[name])
    low, high = config.percentiles
    scaled = [
        scale_percentiles(resampled[name], body, low=low, high=high)[box]
        for name in config.channels
    ]
    return PreparedImages(
        np.stack(scaled).astype(np.float32), np.ascontiguousarray(body[box]), crop_grid(grid, box)
    )


def _bounding_box(
    mask: npt.NDArray[np.bool_], margin: npt.NDArray[np.int_]
) -> tuple[slice, slice, slice]:
    slices = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        start = max(0, int(hit[0]) - int(margin[axis]))
        stop = min(mask.shape[axis], int(hit[-1]) + 1 + int(margin[axis]))
        slices.append(slice(start, stop))
    return slices[0], slices[1], slices[2]
