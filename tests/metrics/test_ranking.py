"""Rank agreement against SciPy, by brute force over pairs, and what a bootstrap and a partial correlation must do."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from landform.metrics import partial_spearman, rank_agreement


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, x + rng.normal(size=n)


def test_correlations_are_those_of_scipy_with_ties():
    x, y = noisy(80)
    x, y = x.round(1), y.round(1)
    found = rank_agreement(x, y)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.kendall_tau_b == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert found.top_recall is None
    assert found.spearman_interval is None
    assert found.n_nan == 0


def test_kendall_counts_pairs():
    x, y = [1, 2, 2, 3, 5.0], [1, 3, 2, 2, 9.0]
    pairs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(zip(x, y, strict=True), 2)]
    agreement = sum(s * t for s, t in pairs)
    untied = math.sqrt(sum(s != 0 for s, _ in pairs) * sum(t != 0 for _, t in pairs))
    assert rank_agreement(x, y).kendall_tau_b == pytest.approx(agreement / untied, abs=1e-12)


def test_the_sign_is_kept_and_only_order_matters():
    x, y = noisy(30)
    assert rank_agreement(-x, x).spearman == pytest.approx(-1)
    assert rank_agreement(-x, x).kendall_tau_b == pytest.approx(-1)
    assert rank_agreement(np.exp(x), y).spearman == pytest.approx(rank_agreement(x, y).spearman)


def test_nan_scores_are_dropped_and_infinite_ones_are_extreme():
    x, y = noisy(20)
    with_nan = np.append(x, [math.nan, math.nan])
    targets = np.append(y, [100.0, -100.0])
    found = rank_agreement(with_nan, targets)
    assert found.n_nan == 2
    assert found.spearman == rank_agreement(x, y).spearman
    lowest = np.append(x, x.min() - 1)
    infinite = np.append(x, -math.inf)
    assert rank_agreement(infinite, np.append(y, 0.0)) == rank_agreement(lowest, np.append(y, 0.0))


def test_top_recall_counts_shared_leaders():
    scores, targets = [5, 4, 3, 2, 1.0], [1, 5, 4, 2, 3.0]
    assert rank_agreement(scores, targets, top=1).top_recall == 0
    assert rank_agreement(scores, targets, top=2).top_recall == 0.5
    assert rank_agreement(scores, targets, top=3).top_recall == pytest.approx(2 / 3)
    assert rank_agreement(scores, targets, top=5).top_recall == 1


def test_what_has_no_order_has_no_correlation():
    found = rank_agreement(np.ones(6), np.arange(6), resamples=20)
    assert math.isnan(found.spearman)
    assert math.isnan(found.kendall_tau_b)
    assert found.spearman_interval is None


def test_bootstrap_intervals_cover_the_truth_about_as_often_as_they_say():
    # Bivariate normal with correlation 1/√2: Spearman's ρ is (6/π) asin(r/2), Kendall's τ (2/π) asin r.
    r = 1 / math.sqrt(2)
    truth = {"spearman": 6 / math.pi * math.asin(r / 2), "kendall": 2 / math.pi * math.asin(r)}
    covered = dict.fromkeys(truth, 0)
    for seed in range(50):
        found = rank_agreement(*noisy(60, seed), resamples=100, seed=seed)
        for name, value in truth.items():
            low, high = getattr(found, f"{name}_interval")
            covered[name] += low <= value <= high
    assert all(count >= 42 for count in covered.values())  # P(fewer than 42 of 50 at 95 %) < 0.1 %


def test_the_bootstrap_resamples_pairs_and_repeats_with_its_seed():
    x, y = noisy(25)
    found = rank_agreement(x, y, resamples=50, seed=3)
    assert found == rank_agreement(x, y, resamples=50, seed=3)
    assert found.spearman_interval != rank_agreement(x, y, resamples=50, seed=4).spearman_interval
    rows = np.random.default_rng(3).integers(25, size=(50, 25))
    by_hand = [stats.spearmanr(x[i], y[i]).statistic for i in rows]
    assert found.spearman_interval == pytest.approx(np.quantile(by_hand, (0.025, 0.975)), abs=1e-12)
    by_hand = [stats.kendalltau(x[i], y[i]).statistic for i in rows]
    assert found.kendall_interval == pytest.approx(np.quantile(by_hand, (0.025, 0.975)), abs=1e-12)


def test_partial_spearman_is_the_correlation_of_rank_residuals():
    rng = np.random.default_rng(0)
    size, score, target = rng.normal(size=(3, 70))
    score, target = score + size, target + 2 * size + 0.5 * score
    ranks = [stats.rankdata(v) for v in (score, target, size)]
    residual = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    expected = np.corrcoef(*residual)[0, 1]
    assert partial_spearman(score, target, size) == pytest.approx(expected, abs=1e-12)


def test_a_score_that_only_knows_size_has_no_partial_correlation():
    rng = np.random.default_rng(0)
    size = rng.normal(size=20_000)
    score, target = size + rng.normal(size=20_000), size + rng.normal(size=20_000)
    assert rank_agreement(score, target).spearman > 0.4
    assert abs(partial_spearman(score, target, size)) < 0.03
    assert math.isnan(partial_spearman(size**3, target, size))
    with_nan = np.append(score, math.nan)
    assert partial_spearman(with_nan, np.append(target, 9), np.append(size, 9)) == partial_spearman(score, target, size)


@pytest.mark.parametrize(
    ("scores", "targets", "options", "match"),
    [
        ([1.0, 2.0], [1.0], {}, "targets: shape"),
        ([[1.0], [2.0]], [[1.0], [2.0]], {}, "one-dimensional"),
        ([1.0, 2.0], [1.0, math.nan], {}, "targets: 1 of 2"),
        ([1.0, math.nan], [1.0, 2.0], {}, "scores: 1 of 2"),
        ([], [], {}, "scores: 0 of 0"),
        ([1.0, 2.0], [1.0, 2.0], {"top": 3}, "top=3"),
        ([1.0, 2.0], [1.0, 2.0], {"top": 0}, "top=0"),
        ([1.0, 2.0], [1.0, 2.0], {"resamples": -1}, "resamples=-1"),
    ],
)
def test_bad_input_is_refused_by_name(scores, targets, options, match):
    with pytest.raises(ValueError, match=match):
        rank_agreement(scores, targets, **options)


def test_partial_spearman_refuses_bad_input():
    with pytest.raises(ValueError, match="given"):
        partial_spearman([1, 2, 3], [1, 2, 3], [1, 2, math.inf])
    with pytest.raises(ValueError, match="at least 3"):
        partial_spearman([1, 2, math.nan], [1, 2, 3], [1, 2, 3])
