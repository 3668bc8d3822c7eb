"""The bias field of one station as it was found, and an image without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from osteosap.geometry import Grid
from osteosap.volume import Volume

__all__ = ["MOST_LOST", "BiasField", "correct_bias"]

Floats = npt.NDArray[np.float32]

MOST_LOST = float(np.log(2.0))
"""Logarithm of the largest gain by which a loss is made up for."""


@dataclass(frozen=True)
class BiasField:
    """Bias field of one station.

    Parameters
    ----------
    log_field
        float32 (I, J, K), natural logarithm of the field; its mean over the tissue is 0.
    grid
        Its coarse grid, along the axes of the station.
    reason
        Why the field is flat; empty if one was found.
    level
        Median of the logarithm of the tissue's signal once the field is off; NaN if not found.
    compared
        Voxels of the coarse grid at which it was fitted to what another station shows.
    loss_factor
        What the shape of a loss was multiplied by, 0 or more; NaN if it was not looked for.
    log_left
        float32 (I, J, K), natural logarithm of the share of the signal that the loss leaves, from
        ``-MOST_LOST`` to 0; None if it was not looked for.
    """

    log_field: Floats
    grid: Grid
    reason: str = ""
    level: float = float("nan")
    compared: int = 0
    loss_factor: float = float("nan")
    log_left: Floats | None = None

    def on(self, grid: Grid) -> Floats:
        """The multiplicative field, float32, on another grid; outside its own the edge holds."""
        return self._on(grid, self.log_field)

    def with_loss_on(self, grid: Grid) -> Floats:
        """The field times the share of the signal that is left, as :meth:`on`."""
        whole = self.log_field if self.log_left is None else self.log_field + self.log_left
        return self._on(grid, whole)

    def _on(self, grid: Grid, log_values: Floats) -> Floats:
        matrix = np.linalg.inv(self.grid.affine) @ grid.affine
        linear = matrix[:3, :3]
        diagonal = bool(np.abs(linear - np.diag(np.diag(linear))).max() < 1e-9)
        values = ndimage.affine_transform(
            log_values,
            np.diag(linear) if diagonal else linear,
            offset=matrix[:3, 3],
            output_shape=grid.shape,
            order=1,
            mode="nearest",
        )
        return np.asarray(np.exp(values), np.float32)


def correct_bias(volume: Volume, field: BiasField) -> Volume:
    """All channels of a volume divided by a field, float32, and with what was lost besides.

    The same volume if the field is flat.
    """
    if field.reason:
        return volume
    array = np.divide(volume.array, field.with_loss_on(volume.grid), dtype=np.float32)
    return Volume(array, volume.affine, volume.channels)
