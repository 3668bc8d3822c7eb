"""Volume: an array with its place in space and its named channels; NIfTI in and out."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from osteosap.errors import GeometryError, InputError, OutputError, VolumeError
from osteosap.geometry import Affine, Array, Grid, resample, to_ras

__all__ = ["SIMULATED", "Volume", "read_description", "read_nifti", "stack", "write_nifti"]

SIMULATED = "simulated"
"""Word in the free text of a NIfTI header that marks a simulated image."""


@dataclass(frozen=True)
class Volume:
    """Voxels (C, I, J, K) in RAS+ space.

    Parameters
    ----------
    array
        Shape (C, I, J, K).
    affine
        4x4, voxel index to RAS mm.
    channels
        One name a channel, for example ``("t1", "b1000")``; channels are named, never positional.
    """

    array: Array
    affine: Affine
    channels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.array.ndim != 4:
            raise VolumeError(
                f"a volume has 4 axes (C, I, J, K), this array has shape {self.array.shape}",
                remedy="Add the channel axis or split the series",
            )
        if len(self.channels) != self.array.shape[0] or len(set(self.channels)) != len(
            self.channels
        ):
            raise VolumeError(
                f"{self.array.shape[0]} channels need as many different names, got {self.channels}",
                remedy="Name every channel once",
            )
        object.__setattr__(self, "affine", self.grid.affine)

    @classmethod
    def single(cls, array: Array, affine: Affine, name: str) -> Volume:
        """Volume of one channel from a 3D array."""
        return cls(array[None], affine, (name,))

    @property
    def grid(self) -> Grid:
        """The lattice of the voxels."""
        i, j, k = self.array.shape[1:]
        return Grid((i, j, k), self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm."""
        return self.grid.spacing_mm

    def channel(self, name: str) -> Array:
        """The 3D array (I, J, K) of one named channel."""
        if name not in self.channels:
            raise VolumeError(
                f"no channel '{name}' among {', '.join(self.channels)}",
                remedy=f"Provide an image for '{name}'",
            )
        return np.asarray(self.array[self.channels.index(name)])

    def resampled(self, target: Grid, *, order: int = 1, fill: float = 0.0) -> Volume:
        """All channels on another grid."""
        arrays = [resample(c, self.grid, target, order=order, fill=fill) for c in self.array]
        return Volume(np.stack(arrays), target.affine, self.channels)


def stack(volumes: list[Volume]) -> Volume:
    """Join the channels of volumes that share one grid."""
    first = volumes[0]
    for other in volumes[1:]:
        first.grid.require_same(other.grid, what=f"{first.channels} and {other.channels}")
    channels = tuple(name for v in volumes for name in v.channels)
    return Volume(np.concatenate([v.array for v in volumes]), first.affine, channels)


def read_nifti(path: Path, *, channel: str, finite: bool = True, contiguous: bool = True) -> Volume:
    """Read one 3D NIfTI file as a single-channel volume, axes turned to RAS.

    The voxels are copied to C order, which takes twice as long as reading a mask; without
    ``contiguous`` they stay in the order of the file, for callers that look at a few of them.

    Raises
    ------
    InputError
        The file is missing, truncated or no NIfTI image.
    GeometryError
        It is not three-dimensional.
    VolumeError
        It holds NaN or infinite values and ``finite`` is set.
    """
    if not path.is_file():
        raise InputError(f"no file {path}", remedy="Check the path")
    try:
        image = nib.load(path)
        data = np.asarray(image.dataobj)
        affine = np.asarray(image.affine, dtype=np.float64)
    except Exception as error:  # nibabel and zlib raise many kinds for broken files
        raise InputError(
            f"{path} cannot be read as NIfTI ({type(error).__name__})",
            remedy="Check that the file is complete and try to open it in a viewer",
        ) from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise GeometryError(
            f"{path} has {data.ndim} axes {data.shape}, expected 3",
            remedy="Split it into one file per channel",
        )
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    if data.dtype.byteorder == ">":
        data = data.astype(data.dtype.newbyteorder("="))
    if finite and np.issubdtype(data.dtype, np.floating) and not np.isfinite(data).all():
        bad = int((~np.isfinite(data)).sum())
        raise VolumeError(
            f"{path} holds {bad} values that are NaN or infinite, expected none",
            remedy="Find the step that made them; replace them only if they lie outside the body",
        )
    array, affine = to_ras(data, affine, contiguous=contiguous)
    return Volume.single(array, affine, channel)


def read_description(path: Path) -> str:
    """The free text of a NIfTI header; empty where there is none or it cannot be read."""
    try:
        header = nib.load(path).header
    except Exception:  # nibabel and zlib raise many kinds for broken files
        return ""
    return bytes(header["descrip"]).decode("utf-8", "ignore") if "descrip" in header else ""


def write_nifti(volume: Volume, path: Path, *, simulated: bool = False) -> None:
    """Write a single-channel volume as NIfTI (mm, RAS), whole or not at all.

    ``simulated`` is said in the header's free text, so that a copy of the file alone still says so.
    """
    if len(volume.channels) != 1:
        raise VolumeError(
            f"one file holds one channel, got {volume.channels}", remedy="Write channels apart"
        )
    array = volume.array[0]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype in (np.float16, np.float64):
        array = array.astype(np.float32)
    image = nib.Nifti1Image(array, volume.affine)
    image.header.set_xyzt_units("mm")
    note = f" {SIMULATED}" if simulated else ""
    image.header["descrip"] = f"osteosap {volume.channels[0]}{note}".encode()[:79]
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OutputError(
            f"cannot write {path} ({error.strerror or error})",
            remedy="Free disk space or choose another output folder",
        ) from error
