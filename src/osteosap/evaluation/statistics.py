"""Summaries with bootstrap intervals, and tests between methods; every result carries its n."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from osteosap.errors import ConfigError

__all__ = ["Bootstrap", "PairTest", "Summary", "compare_paired", "compare_unpaired", "summarise"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made: percentiles of statistics of resampled patients."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def draws(self, n: int) -> npt.NDArray[np.int64]:
        """(resamples, n) indices of patients, with replacement; equal for equal n and seed."""
        generator = np.random.default_rng([self.seed, n])
        return generator.integers(0, n, size=(self.resamples, n))

    def interval(self, values: Sequence[float] | Values, *, n: int) -> tuple[float, float]:
        """Percentile interval of statistics of ``n`` resampled patients.

        Undefined ones are left out. NaN for a single patient: drawing the same one again and
        again tells nothing.
        """
        if n < 2:
            return math.nan, math.nan
        defined = np.asarray(values, dtype=np.float64)
        defined = defined[np.isfinite(defined)]
        if not defined.size:
            return math.nan, math.nan
        tail = 100 * (1 - self.confidence) / 2
        low, high = np.percentile(defined, [tail, 100 - tail])
        return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """Distribution of a measure; NaN where nothing defines it.

    Parameters
    ----------
    n, n_patients, n_undefined
        Values that count, patients that they come from, and values that are not defined.
    median, q25, q75, mean
        Of the defined values.
    ci_low, ci_high
        Bootstrap interval of the median, patients drawn with all their values; NaN for one patient.
    """

    n: int
    n_patients: int
    n_undefined: int
    median: float
    q25: float
    q75: float
    mean: float
    ci_low: float
    ci_high: float

    def to_mapping(self) -> dict[str, Any]:
        """All values by name."""
        return asdict(self)


def summarise(
    values: Sequence[float],
    *,
    patients: Sequence[Hashable] | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> Summary:
    """Median, quartiles, mean and a bootstrap interval of the median.

    Parameters
    ----------
    values
        One an exam or a lesion; NaN where undefined.
    patients
        Whose each value is; lesions of one patient are alike, so whole patients are drawn. None
        takes every value as a patient of its own.

    Raises
    ------
    ConfigError
        ``patients`` has another length.
    """
    array = np.asarray(values, dtype=np.float64)
    owners = list(range(len(array))) if patients is None else list(patients)
    if len(owners) != len(array):
        raise ConfigError(
            f"{len(array)} values of {len(owners)} patients", remedy="Name one patient a value"
        )
    kept = ~np.isnan(array)
    defined = array[kept]
    groups = _groups(defined, [o for o, k in zip(owners, kept.tolist(), strict=True) if k])
    n_undefined = int((~kept).sum())
    if not defined.size:
        nothing = [math.nan] * 6
        return Summary(0, 0, n_undefined, *nothing)
    low, high = bootstrap.interval(_resampled(groups, bootstrap, np.median), n=len(groups))
    q25, median, q75 = np.percentile(defined, [25, 50, 75])
    return Summary(
        n=len(defined),
        n_patients=len(groups),
        n_undefined=n_undefined,
        median=float(median),
        q25=float(q25),
        q75=float(q75),
        mean=float(defined.mean()),
        ci_low=low,
        ci_high=high,
    )


@dataclass(frozen=True)
class PairTest:
    """Difference between two methods.

    Parameters
    ----------
    test
        ``"wilcoxon"`` (paired, signed ranks) or ``"mann-whitney"`` (unpaired).
    n_a, n_b
        Values of each method; pairs for a paired test.
    n_zero
        Pairs without a difference (they are ranked and then dropped: Pratt's way).
    median_a, median_b
        Of the values tested.
    p, p_bonferroni
        Two-sided, alone and times the number of comparisons (at most 1).
    effect
        Rank-biserial correlation: 1 where b is larger in every pair, -1 where a is; pairs without
        a difference draw it towards 0.
    shapiro_p
        Of normality of the differences (paired), or the smaller of both methods' (unpaired).
    """

    test: str
    n_a: int
    n_b: int
    n_zero: int
    median_a: float
    median_b: float
    p: float
    p_bonferroni: float
    effect: float
    shapiro_p: float

    def to_mapping(self) -> dict[str, Any]:
        """All values by name."""
        return asdict(self)


def compare_paired(a: Sequence[float], b: Sequence[float], *, comparisons: int = 1) -> PairTest:
    """Wilcoxon signed-rank test of the same exams scored for two methods.

    Differences are taken to 12 decimals, so that 0.3 - 0.2 and 0.2 - 0.1 are a tie. Pairs in
    which one value is undefined are left out. With no pair, or no difference at all,
    nothing can be said against equality: p is NaN without pairs and 1 without differences.

    References
    ----------
    Wilcoxon 1945, doi 10.2307/3001968; Pratt 1959, doi 10.1080/01621459.1959.10501526; effect:
    Kerby 2014, doi 10.2466/11.IT.3.1.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ConfigError(
            f"{first.size} and {second.size} values for a paired test",
            remedy="Score the same exams for both methods",
        )
    kept = ~(np.isnan(first) | np.isnan(second))
    first, second = first[kept], second[kept]
    difference = np.round(second - first, 12)
    n_zero = int(np.count_nonzero(difference == 0))
    p, effect = math.nan, math.nan
    if difference.size:
        p, effect = 1.0, 0.0
        if n_zero < difference.size:
            p = float(stats.wilcoxon(difference, zero_method="pratt").pvalue)
            effect = _signed_rank_effect(difference)
    return PairTest(
        "wilcoxon", len(first), len(second), n_zero, _median(first), _median(second),
        p, _bonferroni(p, comparisons), effect, _shapiro(difference),
    )  # fmt: skip


def compare_unpaired(a: Sequence[float], b: Sequence[float], *, comparisons: int = 1) -> PairTest:
    """Mann-Whitney U test of the values of two methods, such as the Dice of detected lesions.

    Methods detect different lesions, so that lesion-level values are no pairs. The test takes
    lesions of one patient as independent, which they are not: read p with that in mind.

    References
    ----------
    Mann & Whitney 1947, doi 10.1214/aoms/1177730491.
    """
    first, second = (np.asarray(v, dtype=np.float64) for v in (a, b))
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    p, effect = math.nan, math.nan
    if first.size and second.size:
        found = stats.mannwhitneyu(second, first, alternative="two-sided")
        p = float(found.pvalue)
        effect = 2.0 * float(found.statistic) / (first.size * second.size) - 1.0
    normal = [v for v in (_shapiro(first), _shapiro(second)) if not math.isnan(v)]
    return PairTest(
        "mann-whitney", len(first), len(second), 0, _median(first), _median(second),
        p, _bonferroni(p, comparisons), effect, min(normal, default=math.nan),
    )  # fmt: skip


def _groups(values: Values, owners: Sequence[Hashable]) -> list[Values]:
    found: dict[Hashable, list[float]] = {}
    for owner, value in zip(owners, values.tolist(), strict=True):
        found.setdefault(owner, []).append(value)
    return [np.array(group) for group in found.values()]


def _resampled(
    groups: Sequence[Values], bootstrap: Bootstrap, statistic: Callable[..., Any]
) -> Values:
    draws = bootstrap.draws(len(groups))
    if all(len(group) == 1 for group in groups):
        return np.asarray(statistic(np.concatenate(groups)[draws], axis=1))
    return np.array([float(statistic(np.concatenate([groups[i] for i in row]))) for row in draws])


def _signed_rank_effect(difference: Values) -> float:
    """Signed ranks over all ranks, those of pairs without a difference too."""
    ranks = stats.rankdata(np.abs(difference))
    return float((ranks * np.sign(difference)).sum() / ranks.sum())


def _shapiro(values: Values) -> float:
    if values.size < 3 or np.ptp(values) == 0.0:
        return math.nan
    return float(stats.shapiro(values).pvalue)


def _bonferroni(p: float, comparisons: int) -> float:
    return p if math.isnan(p) else min(1.0, p * comparisons)


def _median(values: Values) -> float:
    return float(np.median(values)) if values.size else math.nan
