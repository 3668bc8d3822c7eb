"""Small pictures of an exam before and after preprocessing, for the quality report."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.errors import InputError
from osteosap.geometry import Grid, crop_grid
from osteosap.manifest import write_bytes
from osteosap.preprocess.stations import StationLayout
from osteosap.preprocess.stitch import blend, place_station
from osteosap.volume import Volume

__all__ = ["Planes", "read_snapshots", "write_snapshots"]

Floats = npt.NDArray[np.float32]

FINEST_MM = 2.0
"""Pictures are no finer than this."""


class Planes:
    """The coronal and the sagittal plane through the middle of a body.

    Parameters
    ----------
    grid
        Grid of the exam, axes nearest to R, A, S.
    body
        bool on ``grid``.
    """

    def __init__(self, grid: Grid, body: npt.NDArray[np.bool_]) -> None:
        self._grid = grid
        self.middle = {"cor": (1, _middle(body, 1)), "sag": (0, _middle(body, 0))}

    def of(self, array: npt.NDArray[Any], name: str) -> dict[str, Floats]:
        """Both planes of an array on the grid: ``name_cor`` (I, K), ``name_sag`` (J, K)."""
        return {
            f"{name}_{plane}": self._thinned(np.take(array, index, axis=axis), axis)
            for plane, (axis, index) in self.middle.items()
        }

    def through(
        self, volumes: Sequence[Volume], layout: StationLayout, name: str
    ) -> dict[str, Floats]:
        """Both planes through stations where the scanner put them, feathered and nothing else."""
        pictures = {}
        for plane, (axis, index) in self.middle.items():
            box = [slice(0, n) for n in self._grid.shape]
            box[axis] = slice(index, index + 1)
            part = crop_grid(self._grid, tuple(box))
            placed = [
                place_station(volume, part, axis=along)
                for volume, along in zip(volumes, layout.axes, strict=True)
            ]
            picture = blend(placed, part.shape)
            pictures[f"{name}_{plane}"] = self._thinned(np.take(picture, 0, axis=axis), axis)
        return pictures

    @property
    def spacing_mm(self) -> dict[str, Floats]:
        """Pixel of each plane in mm."""
        return {
            f"spacing_mm_{plane}": np.asarray(
                [s * f for s, f in zip(self._kept(axis), self._factors(axis), strict=True)],
                np.float32,
            )
            for plane, (axis, _) in self.middle.items()
        }

    def edges_mm(self, layout: StationLayout, grids: Sequence[Grid]) -> Floats:
        """Lower and upper face of every station along the last axis, (N, 2) in mm from the foot."""
        foot = self._grid.affine[2, 3] - self._grid.spacing_mm[2] / 2
        spans = []
        for index in layout.order:
            n, affine = grids[index].shape, grids[index].affine
            ends = np.array(np.meshgrid(*[(-0.5, m - 0.5) for m in n])).reshape(3, -1)
            heights = (affine[:3, :3] @ ends + affine[:3, 3:])[2]
            spans.append((heights.min() - foot, heights.max() - foot))
        return np.asarray(spans, np.float32)

    def _kept(self, axis: int) -> list[float]:
        return [s for n, s in enumerate(self._grid.spacing_mm) if n != axis]

    def _factors(self, axis: int) -> list[int]:
        return [max(1, int(FINEST_MM / s + 1e-6)) for s in self._kept(axis)]

    def _thinned(self, picture: npt.NDArray[Any], axis: int) -> Floats:
        first, second = self._factors(axis)
        return np.ascontiguousarray(picture[::first, ::second], np.float32)


def write_snapshots(pictures: dict[str, Floats], path: Path) -> None:
    """Write pictures as NPZ, byte for byte the same for the same pictures."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(pictures):
            content = io.BytesIO()
            np.save(content, pictures[name], allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content.getvalue())
    write_bytes(path, stream.getvalue())


def read_snapshots(path: Path) -> dict[str, Floats]:
    """Read what :func:`write_snapshots` wrote.

    Raises
    ------
    InputError
        The file is absent or broken.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read as pictures", remedy="Run again with --force"
        ) from error


def _middle(body: npt.NDArray[np.bool_], axis: int) -> int:
    """Index of the plane through the middle of the body."""
    counts = body.sum(axis=tuple(a for a in range(3) if a != axis)).astype(np.float64)
    if not counts.any():
        return int(body.shape[axis]) // 2
    return int(np.count_nonzero(np.cumsum(counts) < counts.sum() / 2))
