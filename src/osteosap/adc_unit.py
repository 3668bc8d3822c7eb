"""The unit of an ADC map, told from its values: the only place where it is guessed.

Readers (:mod:`osteosap.dicom`, :mod:`osteosap.ingest`) convert to um2/s; everything after them
trusts that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from osteosap.errors import VolumeError

__all__ = ["TO_UM2_PER_S", "AdcUnit", "detect_adc_unit"]

AdcUnit = Literal["um2/s", "1e-3 mm2/s", "mm2/s"]

TO_UM2_PER_S: dict[AdcUnit, float] = {"um2/s": 1.0, "1e-3 mm2/s": 1e3, "mm2/s": 1e6}
"""Factor from each unit to um2/s (1e-6 mm2/s)."""

_PLAUSIBLE_UM2_PER_S = (300.0, 10_000.0)
"""Where the 90th percentile of positive voxels lies: fat alone is below, free water is 3000."""


def detect_adc_unit(stations: Sequence[npt.NDArray[Any]]) -> tuple[AdcUnit, float]:
    """Tell the unit of an ADC map, one for all its stations.

    The 90th percentile of the positive voxels decides. The median will not do: where fat or the
    air around the patient fills half of the voxels, it says nothing about tissue.

    Parameters
    ----------
    stations
        Arrays of any shape, in one unit.

    Returns
    -------
    unit, typical
        The unit, and the percentile in it.

    Raises
    ------
    VolumeError
        No positive voxel, or a percentile that fits no unit.
    """
    positive = np.concatenate([a[a > 0].ravel() for a in stations]) if stations else np.empty(0)
    typical = float(np.percentile(positive, 90)) if positive.size else 0.0
    low, high = _PLAUSIBLE_UM2_PER_S
    for unit, factor in TO_UM2_PER_S.items():
        if low <= typical * factor <= high:
            return unit, typical
    raise VolumeError(
        f"the 90th percentile of the ADC map is {typical:.4g}, which fits no unit (expected "
        f"{low:g}-{high:g} in um2/s, a thousandth of that in 1e-3 mm2/s or a millionth in mm2/s)",
        remedy="Check the map and its rescale slope, or set ingest.nifti_adc_unit",
    )
