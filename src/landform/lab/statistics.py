"""Confidence intervals that a verdict rests on: Student's for means of paired differences, BCa for everything else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval. Without enough data for an interval its ends are NaN."""

    estimate: float
    low: float
    high: float


def student_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval for the mean of paired differences.

    mean ± t · s / √n, with s² = Σ(d − mean)² / (n − 1) and t the (1 + level)/2 quantile of Student's distribution with
    n − 1 degrees of freedom. Equal differences give s = 0: the interval is the point. A single one gives NaN ends.

    A run that diverged makes its difference ±∞. Such a difference stands for a penalty ±c larger than any value
    measured, and what is returned is the limit of the formula for c → ∞: the mean is infinite, and so is an end of the
    interval, on the side that the *rate* of divergence supports. With k of n differences at +∞ the interval is
    (−∞, ∞) unless k > t · √(k(n − k)/(n − 1)), when both of its ends are +∞. A NaN difference (both runs diverged)
    could be anything: mean NaN, interval (−∞, ∞).

    Arguments:
        differences: shape (n,), n ≥ 1.
        level: the coverage, between 0 and 1.

    Raises:
        ValueError: no differences, more than one dimension, or a level outside (0, 1).

    >>> student_interval([1.0, 2.0, 3.0])
    Interval(estimate=2.0, low=-0.48..., high=4.48...)
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not d.size:
        raise ValueError(f"differences must be a list of at least one number, not of shape {d.shape}")
    _check_level(level)
    if np.isnan(d).any():
        return Interval(np.nan, -np.inf, np.inf) if d.size > 1 else Interval(np.nan, np.nan, np.nan)
    if np.isinf(d).any():
        rate = student_interval(np.where(np.isinf(d), np.sign(d), 0.0), level)
        mean = np.sign(rate.estimate) * np.inf if rate.estimate else np.nan
        if d.size == 1:
            return Interval(float(mean), np.nan, np.nan)
        return Interval(float(mean), np.inf if rate.low > 0 else -np.inf, -np.inf if rate.high < 0 else np.inf)
    mean = float(d.mean())
    if d.size == 1:
        return Interval(mean, np.nan, np.nan)
    half = float(stats.t.ppf((1 + level) / 2, d.size - 1) * d.std(ddof=1) / np.sqrt(d.size))
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    sample: Sequence[ArrayLike],
    statistic: Callable[..., Any],
    *,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[Interval, str]:
    """Bias-corrected and accelerated bootstrap interval of a statistic of paired columns (Efron 1987).

    The rows are resampled together. Where BCa does not exist (every resample lies on one side of the estimate, as with
    a perfect correlation, or leaving one row out changes nothing) the plain percentile interval stands in for it, over
    the resamples for which the statistic is defined.

    Arguments:
        sample: columns of shape (n,), n ≥ 2, all of one length.
        statistic: ``statistic(*columns, axis=-1)``, vectorised over leading dimensions; NaN where undefined.
        level: the coverage, between 0 and 1.
        resamples, seed: how many resamples, and where their random numbers start.

    Returns:
        The interval, and the words that say how it was computed.

    Raises:
        ValueError: columns of different lengths, fewer than two rows, or a level outside (0, 1).
    """
    columns = [np.asarray(column, dtype=np.float64) for column in sample]
    shapes = {column.shape for column in columns}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or columns[0].size < 2:
        raise ValueError(f"sample must be columns of one length, at least 2, not of shapes {sorted(shapes)}")
    _check_level(level)
    estimate = float(statistic(*columns, axis=-1))
    if np.isnan(estimate):
        return Interval(np.nan, np.nan, np.nan), "undefined: a metric has one and the same value for all of them"
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            columns,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, 2_000_000 // columns[0].size),
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = (float(end) for end in result.confidence_interval)
    if np.isfinite([low, high]).all():
        return Interval(estimate, low, high), "BCa bootstrap interval"
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = (float(end) for end in np.nanquantile(result.bootstrap_distribution, tails))
    return Interval(estimate, low, high), "percentile bootstrap interval (BCa does not exist here)"


def spearman(x: Array, y: Array, axis: int = -1) -> Array:
    """Spearman's rank correlation along ``axis``: Pearson's correlation of the (mid-)ranks; NaN for a constant row."""
    ranks = [stats.rankdata(values, axis=axis) for values in (x, y)]
    a, b = (rank - rank.mean(axis=axis, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (a * b).sum(axis=axis) / np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    return np.asarray(np.clip(rho, -1.0, 1.0))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1")
