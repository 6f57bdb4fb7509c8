"""How well scores order things: rank correlations with bootstrap intervals, and what is left of them given a size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Interval = tuple[float, float]


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of scores with targets, over the pairs whose score is a number.

    Arguments:
        spearman: Spearman's ρ, the correlation of the ranks (ties share their mean rank).
        kendall_tau_b: Kendall's τ-b, (concordant − discordant) / √((pairs untied in scores)(pairs untied in targets)).
        top_recall: share of the ``top`` best targets that are also among the ``top`` best scores; None unless asked.
        n_nan: how many pairs were dropped because the score is NaN.
        spearman_interval, kendall_interval: 95 % percentile intervals over resamples of the pairs; None unless asked.

    A correlation is NaN where it is undefined: all scores, or all targets, are equal.
    """

    spearman: float
    kendall_tau_b: float
    top_recall: float | None
    n_nan: int
    spearman_interval: Interval | None = None
    kendall_interval: Interval | None = None


def rank_agreement(
    scores: ArrayLike,
    targets: ArrayLike,
    top: int | None = None,
    *,
    resamples: int = 0,
    seed: int = 0,
) -> RankAgreement:
    """How well ``scores`` rank ``targets``, such as training-free scores of architectures against their accuracies.

    NaN scores are dropped and counted, infinite ones take part as the extreme they are. The sign is kept: a score that
    ranks backwards has a negative correlation. In ``top_recall``, ties are broken by position.

    Arguments:
        scores: (n,), more is predicted better.
        targets: (n,), more is better; finite.
        top: how many of the best to recall, at most the number of pairs left.
        resamples: bootstrap resamples of the pairs for the intervals; 0 for none. Resamples without an order (all
            scores or targets equal) are left out.
        seed: of the resampling.

    Raises:
        ValueError: shapes that differ or are not one-dimensional, a target that is not finite, fewer than two pairs
            with a score, ``top`` or ``resamples`` out of range.

    >>> agreement = rank_agreement([1.0, 2.0, 3.0, float("nan")], [0.1, 0.3, 0.2, 0.9], top=1)
    >>> agreement.spearman, agreement.top_recall, agreement.n_nan
    (0.5, 0.0, 1)
    """
    x, y = _paired(scores=scores, targets=targets)
    keep = ~np.isnan(x)
    x, y, n_nan = x[keep], y[keep], int((~keep).sum())
    if len(x) < 2:
        raise ValueError(f"scores: {len(x)} of {len(keep)} are numbers, a ranking needs at least 2")
    if top is not None and not 1 <= top <= len(x):
        raise ValueError(f"top={top}: must be from 1 to the {len(x)} pairs with a score")
    if resamples < 0:
        raise ValueError(f"resamples={resamples}: must be zero or more")
    recall = None
    if top is not None:
        best_scores, best_targets = (np.argsort(-v, kind="stable")[:top] for v in (x, y))
        recall = len(np.intersect1d(best_scores, best_targets)) / top
    spearman_interval = kendall_interval = None
    if resamples:
        chosen = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
        spearman_interval = _percentiles(_spearman_rows(x[chosen], y[chosen]))
        kendall_interval = _percentiles(np.array([_kendall(x[rows], y[rows]) for rows in chosen]))
    return RankAgreement(
        spearman=float(_spearman_rows(x[None], y[None])[0]),
        kendall_tau_b=_kendall(x, y),
        top_recall=recall,
        n_nan=n_nan,
        spearman_interval=spearman_interval,
        kendall_interval=kendall_interval,
    )


def partial_spearman(scores: ArrayLike, targets: ArrayLike, given: ArrayLike) -> float:
    """Spearman correlation of ``scores`` and ``targets`` with the ranks of ``given`` held fixed.

    (ρ_st − ρ_sg ρ_tg) / √((1 − ρ_sg²)(1 − ρ_tg²)): what a score knows beyond, say, the number of parameters. NaN
    scores are dropped. NaN where it is undefined: an input is constant, or has the same order as ``given``.

    Raises:
        ValueError: as :func:`rank_agreement`; ``given`` must be finite.
    """
    s, t, g = _paired(scores=scores, targets=targets, given=given)
    keep = ~np.isnan(s)
    s, t, g = s[keep], t[keep], g[keep]
    if len(s) < 3:
        raise ValueError(f"scores: {len(s)} of {len(keep)} are numbers, a partial correlation needs at least 3")
    st, sg, tg = _spearman_rows(np.stack([s, s, t]), np.stack([t, g, g])).tolist()
    free = (1 - sg**2) * (1 - tg**2)
    return (st - sg * tg) / math.sqrt(free) if free > 1e-12 else math.nan


def _paired(**named: ArrayLike) -> list[NDArray[np.float64]]:
    """The arguments as float64 vectors of one length; only ``scores`` may hold what is not finite."""
    vectors = {name: np.asarray(value, dtype=np.float64) for name, value in named.items()}
    shape = vectors["scores"].shape
    for name, vector in vectors.items():
        if vector.ndim != 1 or vector.shape != shape:
            raise ValueError(f"{name}: shape {vector.shape}, must be one-dimensional and as long as scores {shape}")
        if name != "scores" and not np.isfinite(vector).all():
            raise ValueError(f"{name}: {int((~np.isfinite(vector)).sum())} of {len(vector)} values are not finite")
    return list(vectors.values())


def _spearman_rows(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's ρ of each row; NaN where a row is constant."""
    ranks = [stats.rankdata(v, axis=1) - (v.shape[1] + 1) / 2 for v in (x, y)]
    covariance, var_x, var_y = (ranks[0] * ranks[1]).sum(1), (ranks[0] ** 2).sum(1), (ranks[1] ** 2).sum(1)
    spread = np.sqrt(var_x * var_y)
    return np.divide(covariance, spread, out=np.full(len(x), math.nan), where=spread > 0)


def _kendall(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    # The ranks stand in for the values: infinite scores are then ordinary.
    return float(stats.kendalltau(stats.rankdata(x), stats.rankdata(y), method="asymptotic").statistic)


def _percentiles(values: NDArray[np.float64]) -> Interval | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
