"""Apparent diffusion coefficient: fit, computed b-value images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from osteosap.errors import VolumeError

__all__ = ["MAX_ADC_UM2_PER_S", "compute_b", "fit_adc", "grey_step"]

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_SAMPLE = 200_000
_DISCRETE = 0.05
"""An image of steps has at most this share of its voxels as distinct values ..."""
_FEWEST = 16
"""... and at least so many of them."""

MAX_ADC_UM2_PER_S = 4000.0
"""Above free water at body temperature (about 3000 um2/s); fitted values are clipped here."""


def fit_adc(
    signals: Numbers,
    b_values: Sequence[float],
    *,
    mask: Numbers | None = None,
    weighting: str = "none",
    noise_floor: float = 0.0,
) -> tuple[Floats, Floats]:
    """Mono-exponential fit ``S = S0 exp(-b ADC)`` in every voxel, log-linear, in closed form.

    Parameters
    ----------
    signals
        Shape (B, I, J, K), not negative, one image per b-value.
    b_values
        s/mm2, at least two different ones.
    mask
        Shape (I, J, K); voxels outside get ADC 0 and S0 0.
    weighting
        ``"none"``: ordinary least squares on the log-signal. ``"signal"``:
        weights S^2, the inverse variance of the log-signal at constant noise.
    noise_floor
        Signals below it are raised to it; a voxel whose lowest b-value does not exceed it is
        noise and gets ADC 0.

    Returns
    -------
    adc, s0
        float32, shape (I, J, K): um2/s, clipped to [0, 4000]; signal at b = 0.

    Raises
    ------
    VolumeError
        Fewer than two different b-values, or shapes that do not fit.

    References
    ----------
    Stejskal & Tanner 1965, doi 10.1063/1.1695690; weights: Veraart et al. 2013,
    doi 10.1016/j.neuroimage.2013.05.028
    """
    b = np.asarray(b_values, dtype=np.float64)
    _check_fit(signals, b, mask)
    inside = np.ones(signals.shape[1:], bool) if mask is None else mask.astype(bool, copy=False)
    lowest = int(b.argmin())
    inside = inside & (signals[lowest] > noise_floor)
    picked = signals[:, inside].astype(np.float64)
    top = float(picked.max()) if picked.size else 0.0
    floor = max(noise_floor, 1e-6 * top, float(np.finfo(np.float32).tiny))
    np.maximum(picked, floor, out=picked)
    weights: Numbers = picked**2 if weighting == "signal" else np.ones_like(b)[:, None]
    logs = np.log(picked, out=picked)
    total = weights.sum(axis=0)
    mean_b = (weights * b[:, None]).sum(axis=0) / total
    mean_log = (weights * logs).sum(axis=0) / total
    centred = b[:, None] - mean_b
    slope = (weights * centred * (logs - mean_log)).sum(axis=0) / (weights * centred**2).sum(axis=0)
    rate = np.clip(-slope, 0.0, MAX_ADC_UM2_PER_S * 1e-6)  # mm2/s
    adc = np.zeros(inside.shape, np.float32)
    s0 = np.zeros(inside.shape, np.float32)
    adc[inside] = rate * 1e6
    s0[inside] = np.exp(mean_log + rate * mean_b)  # best intercept for the clipped slope
    return adc, s0


def grey_step(array: Numbers) -> float:
    """Step of the grey levels that an image was stored in; 0 where its values are continuous.

    Scanners cut off what lies below a grey level, so that the signal is on average half a step
    above what is stored. At high b, where a signal has some ten levels, that shows in the ADC: in
    the one real study at hand our fit lies 3.5 % above the scanner's own map, and 2.3 % with half a
    step added (``benchmarks/adc_real_pelvis.py``).
    """
    sample = array.ravel()[:: max(1, array.size // _SAMPLE)].astype(np.float64)
    values = np.unique(sample)
    if not _FEWEST <= values.size <= _DISCRETE * sample.size:
        return 0.0
    steps = np.diff(values)
    step = float(steps.min())
    return step if np.abs(steps / step - np.rint(steps / step)).max() < 0.1 else 0.0


def compute_b(adc: Numbers, s0: Numbers, b_value: float) -> Floats:
    """Image of a b-value that follows from a fit.

    Parameters
    ----------
    adc, s0
        Same shape; um2/s and signal at b = 0.
    b_value
        s/mm2.

    Returns
    -------
    image
        float32, same shape; 0 where ``s0`` is 0.
    """
    factor = np.exp(adc.astype(np.float32, copy=False) * np.float32(-b_value * 1e-6))
    return np.asarray(s0 * factor, dtype=np.float32)


def _check_fit(signals: Numbers, b: npt.NDArray[np.float64], mask: Numbers | None) -> None:
    if signals.ndim != 4 or signals.shape[0] != b.size:
        raise VolumeError(
            f"signals of shape {signals.shape} for {b.size} b-values, expected (B, I, J, K)",
            remedy="Give one image per b-value",
        )
    if np.unique(b).size < 2:
        listed = ", ".join(f"{v:g}" for v in np.unique(b)) or "none"
        raise VolumeError(
            f"ADC needs at least two different b-values, got {listed}",
            remedy="Add the DWI images of a second b-value, or give the scanner's ADC map",
        )
    if mask is not None and mask.shape != signals.shape[1:]:
        raise VolumeError(
            f"the mask has shape {mask.shape}, the signals {signals.shape[1:]}",
            remedy="Bring the mask to the grid of the signals",
        )
