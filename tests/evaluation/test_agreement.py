"""Intraclass correlation and Bland-Altman against published numbers and pingouin."""

import math
import warnings

import numpy as np
import pytest

from osteosap.errors import ConfigError
from osteosap.evaluation.agreement import bland_altman, icc_2_1, log_volumes


def _pingouin(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pingouin = pytest.importorskip("pingouin")
        import pandas

        n = len(a)
        table = pandas.DataFrame(
            {"subject": [*range(n), *range(n)], "rater": ["a"] * n + ["b"] * n, "value": [*a, *b]}
        )
        found = pingouin.intraclass_corr(table, targets="subject", raters="rater", ratings="value")
    row = found[found["Type"].isin(["ICC2", "ICC(A,1)"])].iloc[0]
    interval = row["CI95"] if "CI95" in row else row["CI95%"]
    return float(row["ICC"]), float(interval[0]), float(interval[1])


def test_random_burdens_equal_pingouin() -> None:
    rng = np.random.default_rng(5)
    worst, worst_interval = 0.0, 0.0
    for n in (5, 12, 33):
        for noise, shift in ((0.1, 0.0), (1.0, 2.0), (5.0, -1.0)):
            a = rng.lognormal(1.0, 1.2, n)
            b = a + rng.normal(shift, noise, n)
            ours = icc_2_1(a.tolist(), b.tolist())
            value, low, high = _pingouin(a, b)
            worst = max(worst, abs(ours.value - value))
            worst_interval = max(worst_interval, abs(ours.ci_low - low), abs(ours.ci_high - high))
    print(f"largest difference from pingouin: {worst:.1e}; of the interval {worst_interval:.1e}")
    assert worst < 1e-6
    assert worst_interval < 0.0051  # pingouin rounds its interval to two digits


def test_two_raters_of_shrout_and_fleiss_by_hand() -> None:
    # subjects 1..3, rated (1, 2), (3, 4), (5, 6): means 1.5, 3.5, 5.5; grand mean 3.5
    # MSR = 2 x (4 + 0 + 4) / 2 = 8; MSC = 3 x (0.25 + 0.25) / 1 = 1.5; MSE = 0
    # ICC(2,1) = (8 - 0) / (8 + 0 + 2 x 1.5 / 3) = 8 / 9
    assert icc_2_1([1, 3, 5], [2, 4, 6]).value == pytest.approx(8 / 9)


def test_opposite_values_give_a_negative_correlation() -> None:
    assert icc_2_1([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]).value < 0.0


def test_perfect_agreement_is_one_and_no_spread_is_undefined() -> None:
    perfect = icc_2_1([1.0, 2.0, 5.0], [1.0, 2.0, 5.0])
    assert (perfect.value, perfect.ci_low, perfect.ci_high) == (1.0, 1.0, 1.0)
    assert math.isnan(icc_2_1([0.0, 0.0], [0.0, 0.0]).value)
    assert math.isnan(icc_2_1([1.0], [1.0]).value)


def test_bland_altman_of_a_known_difference() -> None:
    found = bland_altman([10.0, 20.0, 30.0], [11.0, 23.0, 35.0])  # differences 1, 3, 5
    assert (found.n, found.mean, found.sd) == (3, 3.0, 2.0)
    assert (found.lower, found.upper) == (pytest.approx(-0.92), pytest.approx(6.92))
    assert math.isnan(bland_altman([], []).mean)


def test_log_volumes_stop_at_the_floor() -> None:
    assert log_volumes([0.0, 0.1, 10.0], floor_ml=0.1).tolist() == pytest.approx([-1.0, -1.0, 1.0])
    with pytest.raises(ConfigError):
        log_volumes([1.0], floor_ml=0.0)


def test_unequal_or_undefined_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 reference and 1"):
        icc_2_1([1.0, 2.0], [1.0])
    with pytest.raises(ConfigError, match="not finite"):
        bland_altman([1.0, math.nan], [1.0, 2.0])
