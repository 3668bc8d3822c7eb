"""From a lesion probability to lesion candidates (instances)."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from osteosap.config import StageConfig
from osteosap.errors import ConfigError, VolumeError
from osteosap.geometry import Array

__all__ = ["CandidateConfig", "extract_lesions"]


class CandidateConfig(StageConfig):
    """What counts as a lesion.

    ``threshold`` None means the value tuned with the weights (their metadata); a caller resolves
    it with :meth:`with_threshold`. ``min_volume_ml`` drops specks.
    """

    threshold: float | None = Field(default=None, gt=0.0, lt=1.0)
    min_volume_ml: float = Field(default=0.0, ge=0.0)

    def with_threshold(self, tuned: float) -> CandidateConfig:
        """Fill in the tuned threshold unless one is set."""
        if self.threshold is not None:
            return self
        return CandidateConfig(threshold=tuned, min_volume_ml=self.min_volume_ml)


def extract_lesions(
    probability: Array, voxel_volume_ml: float, *, config: CandidateConfig
) -> npt.NDArray[np.int32]:
    """Connected components (26-neighbourhood) of voxels at or above a threshold.

    Parameters
    ----------
    probability
        (I, J, K) in [0, 1].
    voxel_volume_ml
        Volume of a voxel.
    config
        Needs a threshold.

    Returns
    -------
    lesions
        int32 (I, J, K); 0 = none, instances numbered from 1 by decreasing peak probability
        (equal peaks: by decreasing volume). Nothing above the threshold gives all zeros.

    Raises
    ------
    ConfigError
        The threshold is not resolved.
    VolumeError
        The probability is no 3D map in [0, 1].
    """
    if config.threshold is None:
        raise ConfigError(
            "no threshold for lesion candidates",
            remedy="Set one, or take the one tuned with the weights",
        )
    values = cast("npt.NDArray[np.float32]", probability)
    if values.ndim != 3 or not np.isfinite(values).all():
        raise VolumeError(
            f"a lesion probability of shape {values.shape}, expected three axes of finite values",
            remedy="Pass the map of one exam",
        )
    if values.size and (values.min() < -1e-4 or values.max() > 1 + 1e-4):
        raise VolumeError(
            f"a lesion probability between {values.min():.3g} and {values.max():.3g}, "
            "expected 0 to 1",
            remedy="Pass probabilities, not logits",
        )
    components, count = ndimage.label(values >= config.threshold, structure=np.ones((3, 3, 3)))
    if count == 0:
        return np.zeros(values.shape, dtype=np.int32)
    voxels = np.bincount(components.ravel(), minlength=count + 1)[1:]
    peaks = np.asarray(ndimage.maximum(values, components, np.arange(1, count + 1)))
    kept = np.flatnonzero(voxels * voxel_volume_ml >= config.min_volume_ml - 1e-9)
    order = kept[np.lexsort((-voxels[kept], -peaks[kept]))]
    new_ids = np.zeros(count + 1, dtype=np.int32)
    new_ids[order + 1] = np.arange(1, order.size + 1, dtype=np.int32)
    return np.asarray(new_ids[components], dtype=np.int32)
