"""Turn volumes by small angles in three passes, each a shear along one axis.

A rotation is the product of three maps that change one coordinate each. Every pass is a linear
interpolation along lines; several volumes share its indices. On whole bodies this takes a fifth of
the time of a trilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Affine
from osteosap.simulate.shapes import Field

__all__ = ["turn"]

Row = npt.NDArray[np.float64]


def turn(fields: Sequence[Field], matrix: Affine, shape: tuple[int, int, int]) -> list[Field]:
    """Sample volumes at turned places; zero outside.

    Parameters
    ----------
    fields
        Volumes (I, J, K) of one shape.
    matrix
        4x4, index of the result to index of the volumes; turned by far less than 90 degrees.
    shape
        Shape of the results.
    """
    found = list(fields)
    for axis, row in zip((2, 1, 0), _rows(matrix), strict=True):
        size = list(found[0].shape)
        size[axis] = shape[axis]
        found = _shear(found, row, axis=axis, shape=(size[0], size[1], size[2]))
    return found


def _rows(matrix: Affine) -> tuple[Row, Row, Row]:
    """Rows of the maps along z, y and x whose product, applied in this order, is the matrix."""
    along_x, along_y = np.eye(4), np.eye(4)
    along_x[0] = matrix[0]
    along_y[1] = matrix[1] @ np.linalg.inv(along_x)
    return matrix[2] @ np.linalg.inv(along_y @ along_x), along_y[1], along_x[0]


def _shear(fields: list[Field], row: Row, *, axis: int, shape: tuple[int, int, int]) -> list[Field]:
    """Interpolate along one axis at ``row @ (i, j, k, 1)``, plane by plane."""
    out = [np.empty(shape, dtype=np.float32) for _ in fields]
    walk = 1 if axis == 0 else 0
    other = 3 - axis - walk
    n, width = fields[0].shape[axis], shape[other]
    t, o = np.arange(shape[axis]), np.arange(width)
    base = row[axis] * t[:, None] + row[other] * o + row[3]
    column, step = o, width  # lines stand in columns of a plane
    padded = np.zeros((n + 3, width), dtype=np.float32)
    if other < axis:  # lines lie in its rows
        base, column, step, padded = base.T, o[:, None] * (n + 3), 1, padded.T.copy()
    base, column = np.ascontiguousarray(base, np.float32), column.astype(np.int32)
    middle = padded[1 : n + 1] if other > axis else padded[:, 1 : n + 1]
    for index in range(shape[walk]):
        place = base + np.float32(row[walk] * index)
        np.clip(place, -1.0, n, out=place)
        below = np.floor(place)
        place -= below
        flat = below.astype(np.int32)
        flat += 1
        flat *= step
        flat += column
        where = tuple(index if d == walk else slice(None) for d in range(3))
        for source, target in zip(fields, out, strict=True):
            middle[...] = source[where]
            line = padded.reshape(-1)
            low, high = line.take(flat), line[step:].take(flat)
            high -= low
            high *= place
            np.add(high, low, out=target[where])
    return out
