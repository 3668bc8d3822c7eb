"""Places of an exam's body, bones, lesions and bright voxels: what samplers draw centres from.

Made once when an exam is prepared and kept with it, so that no sampler passes over whole volumes.
A place is a flat voxel index in C order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from osteosap.errors import ConfigError
from osteosap.geometry import Array
from osteosap.training.store import VoxelArray

__all__ = ["BRIGHT_FROM", "ExamIndex", "LesionPlace", "Runs", "build_parts", "lesion_places"]

BRIGHT_FROM = 0.9
"""Quantile of b1000 in the body from which on voxels are kept as bright."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LesionPlace:
    """One lesion: its id in the map, its box (first voxel, voxel after the last), its voxels."""

    id: int
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    voxels: int


class Runs:
    """A set of places as runs of neighbours along the last axis: small, and drawn from exactly.

    Parameters
    ----------
    table
        int (2, n): first place and length of each run, in order.
    """

    def __init__(self, table: Array) -> None:
        self._starts = table[0].astype(np.int64)
        self._ends = np.cumsum(table[1], dtype=np.int64)

    @staticmethod
    def table_of(mask: npt.NDArray[np.bool_]) -> Array:
        """The (2, n) table of a mask; int32 where the places fit."""
        flat = np.zeros(mask.size + 2, dtype=np.int8)
        flat[1:-1] = mask.ravel()
        steps = np.diff(flat)
        starts = np.flatnonzero(steps == 1)
        lengths = np.flatnonzero(steps == -1) - starts
        return np.stack([starts, lengths]).astype(place_type(mask.size))

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def __getitem__(self, number: int) -> int:
        """The place of a number from 0 to ``len - 1``, in rising order."""
        run = int(np.searchsorted(self._ends, number, side="right"))
        before = int(self._ends[run - 1]) if run else 0
        return int(self._starts[run]) + number - before

    def draw(self, generator: np.random.Generator) -> int:
        """One of the places, each equally likely."""
        return self[int(generator.integers(len(self)))]


class ExamIndex:
    """Where things are in one exam.

    Parameters
    ----------
    parts
        As :func:`build_parts` makes them; a store's parts are read when they are asked for.
    lesions
        One an instance, by rising id.
    shape
        Of the exam.
    """

    def __init__(
        self,
        parts: Mapping[str, VoxelArray],
        lesions: tuple[LesionPlace, ...],
        shape: tuple[int, int, int],
    ) -> None:
        self.lesions = lesions
        self.shape = shape
        self._parts = parts
        self._bright: dict[float, Places] = {}

    @cached_property
    def body(self) -> Runs:
        """All voxels of the body."""
        return Runs(np.asarray(self._parts["body"]))

    @cached_property
    def classes(self) -> dict[int, Runs]:
        """Voxels of each class of the skeleton map that occurs; 0 is the body outside bone."""
        names = (name for name in self._parts if name.startswith("class_"))
        return {
            int(name.removeprefix("class_")): Runs(np.asarray(self._parts[name])) for name in names
        }

    @cached_property
    def _voxels(self) -> list[Places]:
        ends = np.cumsum([lesion.voxels for lesion in self.lesions])
        return np.split(np.asarray(self._parts["lesions"]).astype(np.int64), ends[:-1])

    def lesion_voxels(self, number: int) -> Places:
        """Places of the lesion ``self.lesions[number]``."""
        return self._voxels[number]

    def bright(self, quantile: float) -> Places:
        """Voxels of the body, outside lesions, among the brightest on b1000.

        Parameters
        ----------
        quantile
            From here on a voxel is bright; at least ``BRIGHT_FROM``. Voxels as bright as the
            last one taken are all taken.

        Raises
        ------
        ConfigError
            The quantile is below what is kept.
        """
        if quantile < BRIGHT_FROM:
            raise ConfigError(
                f"bright_quantile is {quantile}, the prepared exams hold voxels from "
                f"{BRIGHT_FROM} on",
                remedy=f"Use a value from {BRIGHT_FROM} to 1",
            )
        if quantile not in self._bright:
            places = np.asarray(self._parts["bright"])
            values = np.asarray(self._parts["bright_values"])
            outside = int(self._parts["bright_of"][0])
            wanted = min(values.size, max(1, round((1.0 - quantile) * outside)))
            if wanted:
                limit = np.partition(values, values.size - wanted)[values.size - wanted]
                places = places[values >= limit]
            self._bright[quantile] = places.astype(np.int64)
        return self._bright[quantile]

    def lesion_voxels_in(self, start: tuple[int, int, int], patch: tuple[int, int, int]) -> int:
        """How many lesion voxels a patch holds."""
        low = np.asarray(start)
        high = low + np.asarray(patch)
        near = ((self._boxes[1] > low) & (self._boxes[0] < high)).all(axis=1)
        count = 0
        for number in np.flatnonzero(near).tolist():
            axes = np.stack(np.unravel_index(self.lesion_voxels(number), self.shape), axis=1)
            count += int(np.count_nonzero(((axes >= low) & (axes < high)).all(axis=1)))
        return count

    @cached_property
    def _boxes(self) -> npt.NDArray[np.int64]:
        """(2, n, 3): first voxel, and voxel after the last."""
        corners = [
            [lesion.start for lesion in self.lesions],
            [lesion.stop for lesion in self.lesions],
        ]
        return np.asarray(corners, dtype=np.int64).reshape(2, len(self.lesions), 3)


def place_type(n_voxels: int) -> type[np.signedinteger]:
    """int32 where all places of so many voxels fit."""
    return np.int32 if n_voxels < 2**31 else np.int64


def build_parts(
    body: npt.NDArray[np.bool_],
    skeleton: Array | None,
    lesions: Array | None,
    bright: Array | None,
) -> tuple[dict[str, Array], tuple[LesionPlace, ...]]:
    """The tables of an index, from whole arrays.

    Parameters
    ----------
    body, skeleton, lesions
        (I, J, K) masks and maps; a map may be absent.
    bright
        The b1000 image (I, J, K) in [0, 1], or None.

    Returns
    -------
    parts
        ``body`` and ``class_N`` as run tables, ``lesions`` as places in the lesions' order,
        ``bright`` as places and ``bright_values`` beside them; ``bright_of`` is the number of
        voxels of which these are the brightest.
    lesions
        One an instance, by rising id.
    """
    parts: dict[str, Array] = {"body": Runs.table_of(body)}
    if skeleton is not None:
        for number in np.unique(skeleton).tolist():
            mask = skeleton == number
            table = Runs.table_of(mask if number else mask & body)
            if table.shape[1]:
                parts[f"class_{number}"] = table
    records, parts["lesions"] = lesion_places(lesions)
    outside = body if lesions is None else body & (lesions == 0)
    parts["bright"], parts["bright_values"] = _brightest(bright, outside)
    parts["bright_of"] = np.array([np.count_nonzero(outside)], dtype=np.int64)
    return parts, records


def lesion_places(lesions: Array | None) -> tuple[tuple[LesionPlace, ...], Array]:
    """The lesions of an instance map, and their places one lesion after the other."""
    if lesions is None:
        return (), np.empty(0, dtype=np.int32)
    hits = np.flatnonzero(lesions)
    ids = lesions.ravel()[hits]
    order = np.argsort(ids, kind="stable")
    numbers, counts = np.unique(ids, return_counts=True)
    places = hits[order]
    if not counts.size:
        return (), places.astype(np.int32)
    first = np.cumsum(counts) - counts
    axes = np.stack(np.unravel_index(places, lesions.shape))
    starts = np.minimum.reduceat(axes, first, axis=1).T.tolist()
    stops = (np.maximum.reduceat(axes, first, axis=1).T + 1).tolist()
    records = tuple(
        LesionPlace(int(number), tuple(start), tuple(stop), int(count))
        for number, start, stop, count in zip(numbers, starts, stops, counts, strict=True)
    )
    return records, places.astype(place_type(lesions.size))


def _brightest(image: Array | None, mask: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Places and float16 values of the mask's voxels from a high quantile on."""
    places = np.empty(0, dtype=np.int32) if image is None else np.flatnonzero(mask)
    if image is None or not places.size:
        return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float16)
    values = image.ravel()[places].astype(np.float16)
    wanted = max(1, round((1.0 - BRIGHT_FROM) * values.size))
    limit = np.partition(values, values.size - wanted)[values.size - wanted]
    kept = values >= limit
    return places[kept].astype(place_type(mask.size)), values[kept]
