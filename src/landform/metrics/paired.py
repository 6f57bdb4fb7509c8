"""How many data sets one method wins: the tally "better / no difference / worse" of paired t-tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Tally(NamedTuple):
    """On how many data sets a method is significantly better than another, indistinguishable, significantly worse."""

    better: int
    none: int
    worse: int


def paired_tally(scores: ArrayLike, baseline: ArrayLike, *, alpha: float = 0.05) -> Tally:
    """Count the data sets by a paired one-sided t-test over trials, each way, at level ``alpha``.

    For a data set with differences d of n trials, t = mean(d) / (s / √n) with n - 1 degrees of freedom: better where
    P(T > t) < alpha, worse where P(T < t) < alpha. Where all differences are equal they decide by their sign alone.
    The tests are one a data set, uncorrected: with no true difference, about 2 alpha of them still count.

    Arguments:
        scores, baseline: (data sets, trials), more is better; a trial's two values are paired.
        alpha: between 0 and 0.5.

    Raises:
        ValueError: shapes that differ or are not two-dimensional, fewer than two trials, values that are not finite,
            or alpha out of range.

    Source: the way of reporting of arXiv 2409.00908, tables 1 and 2.

    >>> paired_tally([[0.9, 0.92, 0.91], [0.8, 0.7, 0.9]], [[0.8, 0.83, 0.8], [0.7, 0.8, 0.9]])
    Tally(better=1, none=1, worse=0)
    """
    ours, theirs = np.asarray(scores, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.ndim != 2 or ours.shape != theirs.shape:
        raise ValueError(f"scores {ours.shape} and baseline {theirs.shape} must both be (data sets, trials)")
    if ours.shape[1] < 2:
        raise ValueError(f"scores have {ours.shape[1]} trials: a t-test needs at least two")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("scores or baseline contain NaN or infinite values")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha={alpha}: must lie between 0 and 0.5")
    difference = ours - theirs
    n = difference.shape[1]
    mean, spread = difference.mean(axis=1), difference.std(axis=1, ddof=1)
    # All differences equal up to the rounding of the subtraction: no spread at all.
    spread[np.ptp(difference, axis=1) <= 4 * np.finfo(np.float64).eps * np.abs(ours).max(axis=1)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((mean == 0) & (spread == 0), 0.0, mean / (spread / np.sqrt(n)))
    better = int((stats.t.sf(t, n - 1) < alpha).sum())
    worse = int((stats.t.cdf(t, n - 1) < alpha).sum())
    return Tally(better, len(ours) - better - worse, worse)
