"""Summaries and tests against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from osteosap.errors import ConfigError
from osteosap.evaluation.statistics import Bootstrap, compare_paired, compare_unpaired, summarise


def test_the_interval_of_the_median_is_that_of_scipy() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(5.0, 2.0, 60)
    ours = summarise(values.tolist(), bootstrap=Bootstrap(resamples=4000, seed=1))
    theirs = stats.bootstrap(
        (values,), np.median, n_resamples=4000, method="percentile", axis=-1,
        rng=np.random.default_rng([1, 60]),  # scipy draws the same patients from this state
    ).confidence_interval  # fmt: skip
    worst = max(abs(ours.ci_low - theirs.low), abs(ours.ci_high - theirs.high))
    print(f"largest difference of bootstrap intervals from scipy's: {worst:.1e} (same draws)")
    assert worst < 1e-12
    narrow = summarise(values.tolist(), bootstrap=Bootstrap(4000, confidence=0.9, seed=1))
    assert narrow.ci_high - narrow.ci_low < 0.95 * (ours.ci_high - ours.ci_low)
    assert ours.median == pytest.approx(np.median(values))
    assert (ours.q25, ours.q75) == tuple(
        pytest.approx(v) for v in np.quantile(values, [0.25, 0.75])
    )


def test_lesions_of_one_patient_are_drawn_together() -> None:
    # two patients with 50 equal lesions each: alone, the interval would shrink to nothing
    values, owners = [0.2] * 50 + [0.8] * 50, ["a"] * 50 + ["b"] * 50
    by_patient = summarise(values, patients=owners)
    assert (by_patient.n, by_patient.n_patients) == (100, 2)
    assert (by_patient.ci_low, by_patient.ci_high) == (0.2, 0.8)
    rng = np.random.default_rng(7)
    spread = rng.normal(size=40).repeat(10)
    together = summarise(spread.tolist(), patients=np.arange(40).repeat(10).tolist())
    apart = summarise(spread.tolist())
    assert together.ci_high - together.ci_low > 1.5 * (apart.ci_high - apart.ci_low)


def test_equal_seeds_give_equal_intervals() -> None:
    values = np.random.default_rng(8).normal(size=21).tolist()
    assert summarise(values) == summarise(values)
    other = summarise(values, bootstrap=Bootstrap(seed=1))
    assert other.median == summarise(values).median


def test_undefined_values_are_left_out_and_counted() -> None:
    found = summarise([1.0, math.nan, 3.0])
    assert (found.n, found.n_undefined, found.median) == (2, 1, 2.0)
    nothing = summarise([math.nan])
    assert (nothing.n, nothing.n_undefined) == (0, 1)
    assert math.isnan(nothing.median)
    assert summarise([]).n == 0
    with pytest.raises(ConfigError, match="patients"):
        summarise([1.0], patients=["a", "b"])


def test_the_paired_test_equals_scipy_and_counts_pairs() -> None:
    rng = np.random.default_rng(9)
    a = rng.normal(size=33)
    b = a + rng.normal(0.3, 0.5, 33)
    b[:4] = a[:4]
    found = compare_paired([*a, 1.0], [*b, math.nan], comparisons=3)
    expected = stats.wilcoxon(b - a, zero_method="pratt")
    worst = abs(found.p - expected.pvalue)
    print(f"largest difference of Wilcoxon's p from scipy's: {worst:.1e}")
    assert worst < 1e-12
    assert found.p_bonferroni == pytest.approx(min(1.0, 3 * expected.pvalue))
    assert (found.n_a, found.n_b, found.n_zero) == (33, 33, 4)
    assert found.shapiro_p == pytest.approx(stats.shapiro(b - a).pvalue)
    assert 0.0 < found.effect < 1.0


def test_the_effect_is_one_where_the_second_method_is_always_better() -> None:
    assert compare_paired([1, 2, 3, 4], [2, 4, 6, 8]).effect == 1.0
    assert compare_paired([2, 4, 6, 8], [1, 2, 3, 4]).effect == -1.0
    # differences 1, -2, 3: ranks 1, 2, 3: (1 - 2 + 3) / 6
    assert compare_paired([0, 0, 0], [1, -2, 3]).effect == pytest.approx(1 / 3)
    assert compare_unpaired([1, 2, 3], [4, 5, 6]).effect == 1.0


def test_pairs_without_a_difference_draw_the_effect_towards_zero() -> None:
    # differences 0, 0, 1, 2: ranks 1.5, 1.5, 3, 4: (3 + 4) / 10; b is not larger in every pair
    found = compare_paired([5, 5, 0, 0], [5, 5, 1, 2])
    assert (found.effect, found.n_zero) == (pytest.approx(0.7), 2)


def test_rounding_noise_is_not_ranked() -> None:
    # 0.3 - 0.2 is not 0.2 - 0.1 in binary: tenths must be tested as the whole numbers they are
    rng = np.random.default_rng(14)
    worst = 0.0
    for _ in range(20):
        a, b = rng.integers(0, 10, (2, 15))
        whole, tenths = compare_paired(a, b), compare_paired(a / 10, b / 10)
        worst = max(worst, abs(whole.p - tenths.p), abs(whole.effect - tenths.effect))
        assert whole.n_zero == tenths.n_zero
    print(f"largest difference between tests of tenths and of whole numbers: {worst:.1e}")
    assert worst < 1e-12


def test_no_difference_at_all_is_p_one_and_no_pair_is_undefined() -> None:
    same = compare_paired([1.0, 2.0], [1.0, 2.0])
    assert (same.p, same.effect) == (1.0, 0.0)
    assert math.isnan(compare_paired([math.nan], [1.0]).p)
    assert math.isnan(compare_unpaired([], [1.0]).p)
    with pytest.raises(ConfigError, match="paired"):
        compare_paired([1.0], [1.0, 2.0])


def test_the_unpaired_test_equals_scipy_with_unequal_numbers() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=20), rng.normal(0.4, 1.0, 31)
    found = compare_unpaired(a.tolist(), b.tolist(), comparisons=3)
    expected = stats.mannwhitneyu(a, b)
    worst = abs(found.p - expected.pvalue)
    print(f"largest difference of Mann-Whitney's p from scipy's: {worst:.1e}")
    assert worst < 1e-12
    assert (found.n_a, found.n_b) == (20, 31)
    larger = sum(int(y > x) - int(y < x) for x in a for y in b) / (20 * 31)
    assert found.effect == pytest.approx(larger)
