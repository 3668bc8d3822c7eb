"""Settings of the evaluation; each has one default and is written with every result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteosap.config import StageConfig
from osteosap.evaluation.froc import FrocMode
from osteosap.evaluation.statistics import Bootstrap

__all__ = ["EvaluateConfig"]

_THRESHOLDS = (
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5,
    0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99,
)  # fmt: skip


class EvaluateConfig(StageConfig):
    """Settings of the evaluation; printed with every result."""

    connectivity: Literal[6, 18, 26] = 26
    """Neighbourhood of the connected components, on both sides."""
    min_iou: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Least intersection over union for a pair of lesions to touch; 0 is any voxel."""
    min_volume_ml: float = Field(default=1.0, gt=0.0)
    """Volume from which on a lesion counts in the second, 'large lesions' set of numbers."""
    nsd_tolerance_mm: float = Field(default=2.0, ge=0.0)
    """Tolerance of the normalised surface Dice."""
    empty_exam: Literal["undefined", "perfect"] = "undefined"
    """An exam without lesions on either side: its scores are left out and counted, or 1."""
    resample_reference: bool = False
    """Bring a reference on another grid onto the prediction's grid (by share of each voxel)."""
    threshold: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Makes masks from probability maps; None takes the masks that are there."""
    froc_mode: FrocMode = "rethreshold"
    """Components anew at every threshold, or those of the lowest one by their peak."""
    froc_thresholds: tuple[float, ...] = _THRESHOLDS
    """Probability thresholds of the free-response curve."""
    froc_limit: float = Field(default=15.0, gt=0.0)
    """False positives per exam up to which the area is taken, all lesions."""
    froc_limit_large: float = Field(default=4.0, gt=0.0)
    """The same for lesions from ``min_volume_ml`` on."""
    froc_rates: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
    """False positives per exam at which the sensitivity is read."""
    volumes_ml: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    """Smallest volumes of the curves of sensitivity and false positives over volume."""
    region_distance_mm: float = Field(default=5.0, ge=0.0)
    """A lesion belongs to the nearest bone up to this distance, else it is unassigned."""
    log_floor_ml: float = Field(default=0.1, gt=0.0)
    """Smaller burdens count as this one on the logarithmic scale."""
    resamples: int = Field(default=1000, ge=1)
    """Bootstrap resamples of patients."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    """Of all intervals."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap."""

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(self.resamples, self.confidence, self.seed)
