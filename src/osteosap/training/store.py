"""Prepared exams on disk: one compact file an exam, memory-mapped, cut without reading it whole.

A file holds named arrays as compressed Blosc2 frames one after the other, then a JSON header with
the place, size and CRC-32 of each frame, then the header's length and CRC-32. It is written aside
and moved into place, so it is there whole or not at all, and of several processes that write the
same one any may win. A damaged file is noticed when it is opened.

Why Blosc2 with LZ4, byte shuffle, chunks of 64 voxels and blocks of 16 x 16 x 32: CPU milliseconds
(median of 60 random places, files in the page cache) to cut a patch of both channels (float16) and
the lesions (int32), from a simulated exam at 2 mm with noise in every voxel (247 x 143 x 619):

===================================  =======  ==========  ==========  ===============
way                                  MB       96^3, ms    64^3, ms    96x64x96, ms
===================================  =======  ==========  ==========  ===============
plain ``numpy.memmap``               174.9    5.4         0.5         1.0
Blosc2 LZ4, shuffle (chosen)         85.7     2.4         0.9         1.7
Blosc2 LZ4, bit shuffle              77.6     4.1         1.4         2.7
Blosc2 Zstandard 1, shuffle          65.4     6.5         2.3         4.6
Blosc2 LZ4, blocks of 32             85.3     3.0         1.1         2.1
Blosc2 LZ4, blocks of 16             85.6     2.8         1.0         2.1
Blosc2 LZ4, chunks of 128            85.7     3.6         1.2         2.3
zarr 3 LZ4, chunks of 64             85.4     11.6        7.1         10.3
zarr 3 LZ4, chunks of 32             85.3     33.4        25.6        24.3
===================================  =======  ==========  ==========  ===============

A simulated exam of similar size without noise took 23 MB, and its index of places 1.3 MB more; that
pack opened in 12 ms with every byte checked.

``benchmarks/sampling.py`` compares the first two ways over whole epochs. Images stay exact float16.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from osteosap.errors import OutputError, TrainingError
from osteosap.geometry import Array

__all__ = ["DamagedPackError", "Pack", "StoredArray", "VoxelArray", "open_pack", "write_pack"]

_MAGIC = b"OSTEOPK1"
_TAIL = struct.Struct("<QI8s")
_CHUNK, _BLOCK = (64, 64, 64), (16, 16, 32)
_FORGOTTEN_AFTER_S = 24 * 3600.0


class VoxelArray(Protocol):
    """An array in memory or on disk; slices give NumPy arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    def __getitem__(self, key: Any, /) -> Any:
        """The values at a key of integers, slices and ``...``."""

    def __array__(self, dtype: Any = None, /) -> npt.NDArray[Any]:
        """All values."""

    def astype(self, dtype: Any, /) -> npt.NDArray[Any]:
        """All values in another type."""


class DamagedPackError(ValueError):
    """A file that is no whole pack; caught by :mod:`osteosap.training.data`."""


@dataclass(frozen=True)
class StoredArray:
    """An array inside a pack; slicing decompresses only the blocks that are needed.

    It holds no open file: it may be used by many threads and sent to other processes, and
    thousands of exams need no file handles. Opening costs 0.1 ms a slice.

    Parameters
    ----------
    path, offset
        Where its frame lies.
    shape, dtype
        Of the array.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> Any:
        """Values at a key of integers, slices and ``...``."""
        import blosc2

        try:
            frame = blosc2.open(
                str(self.path),
                mode="r",
                offset=self.offset,
                mmap_mode="r",
                dparams={"nthreads": 1},
            )
            return frame[key]
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"the prepared exam {self.path} cannot be read any more ({error})",
                remedy="Do not remove or change the store during training; start again",
            ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All values, decompressed."""
        values: npt.NDArray[Any] = np.asarray(self[...])
        return values if dtype is None else values.astype(dtype, copy=False)

    def astype(self, dtype: Any) -> npt.NDArray[Any]:
        """All values, decompressed, in another type."""
        return np.asarray(self[...]).astype(dtype, copy=False)


class Pack(Mapping[str, StoredArray]):
    """The arrays of one file, by name, and what was written beside them.

    Parameters
    ----------
    header
        As given to :func:`write_pack`.
    arrays
        By name.
    """

    def __init__(self, header: dict[str, Any], arrays: dict[str, StoredArray]) -> None:
        self.header = header
        self._arrays = arrays

    def __getitem__(self, name: str) -> StoredArray:
        """The array of a name."""
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        """Names in the order in which they were written."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Number of arrays."""
        return len(self._arrays)

    def below(self, prefix: str) -> Pack:
        """The arrays whose names begin with a prefix, named without it."""
        names = [name for name in self._arrays if name.startswith(prefix)]
        return Pack(self.header, {n.removeprefix(prefix): self._arrays[n] for n in names})


def write_pack(path: Path, arrays: Mapping[str, Array], header: dict[str, Any]) -> None:
    """Write arrays and a header as one file, whole or not at all.

    Parameters
    ----------
    path
        Replaced if it exists.
    arrays
        By name; the last three axes of arrays with three or more are cut into chunks.
    header
        Plain JSON types.

    Raises
    ------
    OutputError
        The disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}-{os.getpid()}-{time.monotonic_ns()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_forgotten(path.parent)
        with partial.open("wb") as file:
            file.write(_MAGIC)
            table = {}
            for name, array in arrays.items():
                frame = _compress(array)
                table[name] = {
                    "offset": file.tell(),
                    "bytes": len(frame),
                    "crc32": zlib.crc32(frame),
                    "shape": list(array.shape),
                    "dtype": array.dtype.str,
                }
                file.write(frame)
            text = json.dumps({"arrays": table, "header": header}, allow_nan=False).encode()
            file.write(text + _TAIL.pack(len(text), zlib.crc32(text), _MAGIC))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write a prepared exam into {path.parent} ({error.strerror or error})",
            remedy="Free disk space, or name a store on a larger disk; finished exams are kept",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def open_pack(path: Path, *, verify: bool = True) -> Pack:
    """Open a file of :func:`write_pack`; its arrays stay on disk.

    Parameters
    ----------
    path
        Must exist.
    verify
        Compare every byte with its checksum (about 4 GB/s once the file is in memory), not only
        the header.

    Raises
    ------
    DamagedPackError
        The file is cut short, changed, or something else.
    OSError
        It cannot be read.
    """
    content: Any = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else b""
    tail = bytes(content[-_TAIL.size :])
    if len(tail) < _TAIL.size or bytes(content[: len(_MAGIC)]) != _MAGIC:
        raise DamagedPackError("it is empty or no prepared exam")
    length, crc, magic = _TAIL.unpack(tail)
    start = len(content) - _TAIL.size - length
    if magic != _MAGIC or start < len(_MAGIC):
        raise DamagedPackError("its end is missing")
    text = bytes(content[start : start + length])
    if zlib.crc32(text) != crc:
        raise DamagedPackError("its header is damaged")
    values = json.loads(text)
    arrays = {}
    for name, entry in values["arrays"].items():
        first, last = entry["offset"], entry["offset"] + entry["bytes"]
        if last > start or (verify and zlib.crc32(content[first:last]) != entry["crc32"]):
            raise DamagedPackError(f"'{name}' is damaged")
        shape = tuple(entry["shape"])
        arrays[name] = StoredArray(path, first, shape, np.dtype(entry["dtype"]))
    return Pack(values["header"], arrays)


def _compress(array: Array) -> bytes:
    import blosc2

    sides: dict[str, Any] = {}
    if array.ndim >= 3 and array.size:
        lead = (1,) * (array.ndim - 3)
        for name, side in (("chunks", _CHUNK), ("blocks", _BLOCK)):
            fits = zip((*lead, *side), array.shape, strict=True)
            sides[name] = tuple(min(a, b) for a, b in fits)
    read_once = array.ndim < 3
    parameters = {
        "codec": blosc2.Codec.ZSTD if read_once else blosc2.Codec.LZ4,
        "clevel": 5,
        "filters": [blosc2.Filter.SHUFFLE],
        "nthreads": 1,
    }
    frame = blosc2.asarray(np.ascontiguousarray(array), cparams=parameters, **sides)
    return bytes(frame.to_cframe())


def _remove_forgotten(folder: Path) -> None:
    """Remove what killed processes left half-written a day or longer ago."""
    for left in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _FORGOTTEN_AFTER_S:
                left.unlink()
