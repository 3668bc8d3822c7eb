"""Whether a lesion probability means what it says: predicted against observed shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.geometry import Array

__all__ = ["BINS", "Calibration", "calibrate", "pool_calibration"]

BINS = 10
"""Bins of equal width from 0 to 1."""


@dataclass(frozen=True)
class Calibration:
    """Voxels by predicted probability.

    Parameters
    ----------
    voxels
        (``BINS``,) voxels with a probability in each bin.
    predicted, lesion
        (``BINS``,) sum of their probabilities, and how many of them are lesion.
    """

    voxels: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.float64]
    lesion: npt.NDArray[np.float64]

    @property
    def expected_error(self) -> float:
        """Expected calibration error over all bins but the lowest; NaN without such voxels.

        Nearly all voxels of a body are background with a probability near 0; with them every
        method would look perfect.

        References
        ----------
        Naeini et al. 2015, doi 10.1609/aaai.v29i1.9602.
        """
        n = self.voxels[1:].sum()
        if not n:
            return math.nan
        return float(np.abs(self.predicted[1:] - self.lesion[1:]).sum() / n)

    def to_mapping(self) -> dict[str, Any]:
        """Bins with their mean probability and observed share; NaN where empty."""
        with np.errstate(invalid="ignore", divide="ignore"):
            predicted, observed = self.predicted / self.voxels, self.lesion / self.voxels
        return {
            "expected_error_above_0.1": self.expected_error,
            "bins": [
                {"n_voxels": int(n), "predicted": float(p), "observed": float(o)}
                for n, p, o in zip(self.voxels, predicted, observed, strict=True)
            ],
        }


def calibrate(
    reference: Array, probability: Array, *, inside: npt.NDArray[np.bool_] | None = None
) -> Calibration:
    """Count the voxels of one exam, (I, J, K) each, by probability; only those ``inside``."""
    if inside is not None:
        reference, probability = reference[inside], probability[inside]
    values = np.clip(np.asarray(probability, dtype=np.float64).ravel(), 0.0, 1.0)
    place = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    lesion = (reference.ravel() != 0).astype(np.float64)
    return Calibration(
        np.bincount(place, minlength=BINS).astype(np.float64),
        np.bincount(place, weights=values, minlength=BINS).astype(np.float64),
        np.bincount(place, weights=lesion, minlength=BINS).astype(np.float64),
    )


def pool_calibration(exams: Sequence[Calibration]) -> Calibration:
    """Add up the voxels of exams."""
    return Calibration(
        np.sum([e.voxels for e in exams], axis=0),
        np.sum([e.predicted for e in exams], axis=0),
        np.sum([e.lesion for e in exams], axis=0),
    )
