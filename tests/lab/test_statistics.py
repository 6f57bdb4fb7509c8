"""The intervals against SciPy's own tests, closed forms, and their coverage over simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from landform.claims import decide
from landform.lab.statistics import bootstrap_interval, spearman, student_interval

inf = math.inf
numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
samples = arrays(np.float64, st.integers(2, 20), elements=numbers)


def binomial_range(share: float, trials: int) -> tuple[float, float]:
    """Where the share of a fair binomial falls but once in ten thousand times on each side."""
    return stats.binom.ppf(1e-4, trials, share) / trials, stats.binom.ppf(1 - 1e-4, trials, share) / trials


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_student_is_that_of_the_paired_t_test(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(2, 3, n), rng.normal(1, 1, n)
    found = student_interval(a - b, level)
    reference = stats.ttest_rel(a, b).confidence_interval(level)
    assert found.estimate == pytest.approx(np.mean(a - b), rel=1e-12)
    assert found[1:] == pytest.approx((reference.low, reference.high), rel=1e-10)


def test_student_of_the_textbook_sample() -> None:
    """d = 1 … 5: mean 3, s² = 2.5, t(0.975, 4) = 2.776445, so half a width of 1.963243."""
    assert student_interval([1, 2, 3, 4, 5]) == pytest.approx((3, 1.036757, 4.963243), abs=1e-6)


def test_equal_differences_make_a_point_and_one_makes_no_interval() -> None:
    assert student_interval([0.25] * 4) == (0.25, 0.25, 0.25)
    assert student_interval([0.25]) == pytest.approx((0.25, math.nan, math.nan), nan_ok=True)


@pytest.mark.parametrize(
    ("n", "diverged", "low"),
    # For n = 10, t = 2.262: k > t √(k(10 − k)/9) first holds for k = 4 (3.69; 3.46 for k = 3).
    [(10, 1, -inf), (10, 3, -inf), (10, 4, inf), (10, 10, inf), (5, 3, -inf), (5, 4, inf), (5, 5, inf), (2, 1, -inf)],
)
def test_diverged_pairs_are_the_limit_of_ever_larger_penalties(n: int, diverged: int, low: float) -> None:
    finite = np.linspace(-1, 1, n)
    with_infinities, with_penalties = finite.copy(), finite.copy()
    with_infinities[:diverged], with_penalties[:diverged] = inf, 1e12
    found, limit = student_interval(with_infinities), student_interval(with_penalties)
    assert found == (inf, low, inf)
    assert math.copysign(1, limit.low) == math.copysign(1, low)
    assert abs(limit.low) > 1e10
    assert student_interval(-with_infinities) == (-inf, -inf, -low)


def test_divergence_on_both_sides_or_in_both_runs_of_a_pair_decides_nothing() -> None:
    assert student_interval([inf, -inf, 1, 2]) == pytest.approx((math.nan, -inf, inf), nan_ok=True)
    assert student_interval([math.nan, 1, 2, 3]) == pytest.approx((math.nan, -inf, inf), nan_ok=True)
    assert student_interval([inf]) == pytest.approx((inf, math.nan, math.nan), nan_ok=True)
    assert student_interval([math.nan]) == pytest.approx((math.nan,) * 3, nan_ok=True)


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], 3.0])
def test_student_refuses_what_is_no_list_of_numbers(bad: object) -> None:
    with pytest.raises(ValueError, match="differences"):
        student_interval(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_levels_lie_between_zero_and_one(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        student_interval([1, 2], level)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([[1, 2, 3]], np.mean, level=level)


@given(samples, st.floats(0.01, 100), numbers)
def test_student_moves_with_shifts_and_scales(sample: np.ndarray, scale: float, shift: float) -> None:
    one, other = student_interval(sample), student_interval(scale * sample + shift)
    tolerance = 1e-9 * (1 + abs(shift) + scale * np.abs(sample).max())
    assert other == pytest.approx([scale * end + shift for end in one], abs=tolerance)


@given(samples)
def test_student_of_the_mirrored_sample_is_the_mirrored_interval(sample: np.ndarray) -> None:
    one, other = student_interval(sample), student_interval(-sample)
    assert (one.estimate, one.low, one.high) == pytest.approx((-other.estimate, -other.high, -other.low))
    assert one.low <= one.estimate <= one.high


@pytest.mark.parametrize("n", [3, 5, 10])
def test_two_thousand_null_studies_give_false_support_in_one_of_forty(n: int) -> None:
    rng = np.random.default_rng(20 + n)
    verdicts = [decide(*student_interval(d)[1:], 0.0) for d in rng.normal(size=(2000, n))]
    low, high = binomial_range(0.025, 2000)
    assert low <= verdicts.count("supported") / 2000 <= high
    assert low <= verdicts.count("contradicted") / 2000 <= high


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_power_is_that_of_the_noncentral_t_distribution(shift: float) -> None:
    n = 8
    rng = np.random.default_rng(7)
    verdicts = [decide(*student_interval(d)[1:], 0.0) for d in rng.normal(shift, 1, size=(1000, n))]
    power = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift * math.sqrt(n))
    low, high = binomial_range(power, 1000)
    assert low <= verdicts.count("supported") / 1000 <= high


def mean(column: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(column, axis=axis)


def test_bca_is_scipys_on_the_same_random_numbers() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=25)
    y = x + rng.normal(size=25)

    def one_correlation(a: np.ndarray, b: np.ndarray) -> float:
        return float(stats.spearmanr(a, b).statistic)

    interval, how = bootstrap_interval([x, y], spearman, resamples=499, seed=5)
    reference = stats.bootstrap(
        (x, y),
        one_correlation,
        paired=True,
        vectorized=False,
        n_resamples=499,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert interval.estimate == pytest.approx(one_correlation(x, y), rel=1e-12)
    assert interval[1:] == pytest.approx((reference.low, reference.high), rel=1e-10)
    assert how == "BCa bootstrap interval"


def test_bca_of_a_mean_is_near_its_closed_form_for_skewed_data() -> None:
    """To second order the ends are mean + σ (z + a (2 z² + 1)) / √n with a = skewness / (6 √n): for this sample 21 %
    of the half width away from the symmetric interval."""
    sample = stats.expon.ppf((np.arange(50) + 0.5) / 50)
    interval, _ = bootstrap_interval([sample], mean)
    error = sample.std() / math.sqrt(50)
    a = stats.skew(sample) / (6 * math.sqrt(50))
    ends = [sample.mean() + error * (z + a * (2 * z**2 + 1)) for z in (-1.96, 1.96)]
    assert interval[1:] == pytest.approx(ends, abs=0.06 * 1.96 * error)


def test_where_bca_does_not_exist_the_percentile_interval_stands_in_and_says_so() -> None:
    ranks = np.arange(8.0)
    interval, how = bootstrap_interval([ranks, ranks**3], spearman)
    assert interval == pytest.approx((1, 1, 1))
    assert "percentile" in how


def test_a_constant_column_has_no_correlation() -> None:
    interval, how = bootstrap_interval([np.ones(6), np.arange(6.0)], spearman)
    assert np.isnan(interval).all()
    assert "undefined" in how


def test_bootstrap_covers_a_rank_correlation() -> None:
    """Of 200 samples from a normal pair with ρ = 0.6, whose Spearman correlation is (6/π) asin(0.3) = 0.582."""
    rng = np.random.default_rng(11)
    truth = 6 / math.pi * math.asin(0.3)
    covered = 0
    for _ in range(200):
        x = rng.normal(size=40)
        y = 0.6 * x + 0.8 * rng.normal(size=40)
        (_, low, high), _ = bootstrap_interval([x, y], spearman, resamples=399)
        covered += low <= truth <= high
    # BCa is second-order accurate: for n = 40 it covers a little less than 95 %.
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_is_the_same_each_time() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    assert bootstrap_interval([x, y], spearman, resamples=99) == bootstrap_interval([x, y], spearman, resamples=99)


@pytest.mark.parametrize("columns", [[[1.0]], [[1, 2], [1, 2, 3]], [[[1.0, 2.0]]]])
def test_bootstrap_refuses_columns_that_are_no_pairs(columns: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="columns"):
        bootstrap_interval(columns, mean)


@given(arrays(np.float64, st.tuples(st.just(2), st.integers(2, 30)), elements=st.integers(0, 5).map(float)))
def test_spearman_is_scipys_with_ties(pair: np.ndarray) -> None:
    x, y = pair
    if np.ptp(x) and np.ptp(y):
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert np.isnan(spearman(x, y))


def test_spearman_is_vectorised_over_leading_dimensions() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 3, 4, 9))
    assert spearman(x, y).shape == (3, 4)
    assert spearman(x, y)[2, 1] == pytest.approx(spearman(x[2, 1], y[2, 1]))
