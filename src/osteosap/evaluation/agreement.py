"""Agreement of two measurements of the same thing: tumour burden of reference and prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from osteosap.errors import ConfigError

__all__ = ["BlandAltman", "Icc", "bland_altman", "icc_2_1", "log_volumes"]


@dataclass(frozen=True)
class Icc:
    """Intraclass correlation ICC(2,1) with its confidence interval; NaN where undefined."""

    n: int
    value: float
    ci_low: float
    ci_high: float

    def to_mapping(self) -> dict[str, float]:
        """All values by name."""
        return asdict(self)


@dataclass(frozen=True)
class BlandAltman:
    """Prediction minus reference: mean and limits of agreement (mean -/+ 1.96 SD)."""

    n: int
    mean: float
    sd: float
    lower: float
    upper: float

    def to_mapping(self) -> dict[str, float]:
        """All values by name."""
        return asdict(self)


def icc_2_1(
    reference: Sequence[float], prediction: Sequence[float], *, confidence: float = 0.95
) -> Icc:
    """ICC(2,1): two-way random effects, absolute agreement, single measure.

    Parameters
    ----------
    reference, prediction
        One value a subject, same order; at least two subjects.
    confidence
        Of the interval (McGraw & Wong's, from the F distribution).

    Returns
    -------
    icc
        NaN with fewer than two subjects, or where nothing varies at all. Can be negative.

    References
    ----------
    Shrout & Fleiss 1979, doi 10.1037/0033-2909.86.2.420; McGraw & Wong 1996,
    doi 10.1037/1082-989X.1.1.30.
    """
    table = _pairs(reference, prediction)
    n, k = table.shape
    if n < 2:
        return Icc(n, math.nan, math.nan, math.nan)
    mean = table.mean()
    rows = k * float(((table.mean(axis=1) - mean) ** 2).sum()) / (n - 1)
    columns = n * float(((table.mean(axis=0) - mean) ** 2).sum()) / (k - 1)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + mean
    error = float((residual**2).sum()) / ((n - 1) * (k - 1))
    whole = rows + (k - 1) * error + k * (columns - error) / n
    if whole <= 0.0:
        return Icc(n, math.nan, math.nan, math.nan)
    value = (rows - error) / whole
    low, high = _interval(value, (rows, columns, error), n, confidence)
    return Icc(n, value, low, high)


def bland_altman(reference: Sequence[float], prediction: Sequence[float]) -> BlandAltman:
    """Mean difference and limits of agreement; NaN with too few pairs.

    References
    ----------
    Bland & Altman 1986, doi 10.1016/S0140-6736(86)90837-8.
    """
    table = _pairs(reference, prediction)
    difference = table[:, 1] - table[:, 0]
    n = len(difference)
    mean = float(difference.mean()) if n else math.nan
    sd = float(difference.std(ddof=1)) if n > 1 else math.nan
    return BlandAltman(n, mean, sd, mean - 1.96 * sd, mean + 1.96 * sd)


def log_volumes(volumes_ml: Sequence[float], *, floor_ml: float) -> npt.NDArray[np.float64]:
    """log10 of volumes in mL; smaller ones, and none at all, are taken as ``floor_ml``.

    Burdens are heavy-tailed: on the plain scale one or two patients decide an ICC.
    """
    if floor_ml <= 0.0:
        raise ConfigError(f"a smallest volume of {floor_ml} mL", remedy="Use more than 0")
    return np.log10(np.maximum(np.asarray(volumes_ml, dtype=np.float64), floor_ml))


def _pairs(reference: Sequence[float], prediction: Sequence[float]) -> npt.NDArray[np.float64]:
    if len(reference) != len(prediction):
        raise ConfigError(
            f"{len(reference)} reference and {len(prediction)} predicted values",
            remedy="Give one of each for every subject",
        )
    table = np.column_stack([reference, prediction]).astype(np.float64).reshape(-1, 2)
    if not np.isfinite(table).all():
        raise ConfigError("a value is not finite", remedy="Leave that subject out, and say so")
    return table


def _interval(
    value: float, squares: tuple[float, float, float], n: int, confidence: float
) -> tuple[float, float]:
    rows, columns, error = squares
    k = 2
    if error <= 0.0 or value >= 1.0:  # perfect agreement up to a shift: no spread to judge by
        return (value, value) if columns <= 1e-12 * max(rows, 1e-300) else (math.nan, math.nan)
    ratio = columns / error
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    spread_of_both = (a * ratio) ** 2 / (k - 1) + b**2 / ((n - 1) * (k - 1))
    if spread_of_both == 0.0:
        return math.nan, math.nan
    freedom = (a * ratio + b) ** 2 / spread_of_both
    tail = 1 - (1 - confidence) / 2
    upper = stats.f.ppf(tail, n - 1, freedom)
    lower = stats.f.ppf(tail, freedom, n - 1)
    spread = k * columns + (k * n - k - n) * error
    low = n * (rows - upper * error) / (upper * spread + n * rows)
    high = n * (lower * rows - error) / (spread + n * lower * rows)
    return float(low), float(high)
