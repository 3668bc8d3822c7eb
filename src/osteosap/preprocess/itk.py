"""Between arrays in RAS and SimpleITK images, whose physical space is taken as RAS mm.

SimpleITK assumes LPS in what it writes, but none of its filters asks; nothing here is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Grid

__all__ = ["from_sitk", "one_thread", "to_sitk"]

Numbers = npt.NDArray[Any]


def one_thread() -> None:
    """Let ITK compute in one thread from here on, so that the same images give the same numbers.

    A registration's own ``SetNumberOfThreads`` does not reach its metric, whose sums over several
    threads differ in the seventh digit from run to run; a search that follows them can then end
    elsewhere. Stations are worked on side by side instead.
    """
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def to_sitk(array: Numbers, grid: Grid) -> Any:
    """A SimpleITK image of an array (I, J, K) on a grid with axes at right angles."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing([float(s) for s in grid.spacing_mm])
    image.SetOrigin([float(o) for o in grid.affine[:3, 3]])
    direction = grid.affine[:3, :3] / grid.spacing_mm
    image.SetDirection([float(v) for v in direction.ravel()])
    return image


def from_sitk(image: Any) -> Numbers:
    """The voxels of a scalar SimpleITK image as an array (I, J, K)."""
    import SimpleITK as sitk  # noqa: N813

    return np.ascontiguousarray(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0))
