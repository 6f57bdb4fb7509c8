"""How closely the ability to flag unknown classes follows closed-set accuracy, over models."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class ClosedOpenCorrelation(NamedTuple):
    """Pearson's r over ``n`` models, with the ends of its interval."""

    r: float
    low: float
    high: float
    n: int


def closed_open_correlation(accuracy: ArrayLike, auroc: ArrayLike, level: float = 0.95) -> ClosedOpenCorrelation:
    """Pearson's correlation of closed-set accuracy and open-set AUROC over models, with Fisher's interval.

        r = Σ (a − ā)(b − b̄) / √(Σ (a − ā)² Σ (b − b̄)²),    tanh(artanh r ± z/√(n − 3))

    The interval takes the models as independent draws; models that share a class split are not quite that. Where one of
    the two is constant r does not exist and is NaN.

    Arguments:
        accuracy, auroc: (n,), n ≥ 4.
        level: the coverage, in (0, 1).

    Raises:
        ValueError: shapes that differ, fewer than four models, values that are not finite, or a level out of range.

    Source: arXiv 2110.06207, section 3.

    >>> closed_open_correlation([0.2, 0.4, 0.6, 0.8, 0.9], [0.5, 0.6, 0.65, 0.8, 0.78]).n
    5
    """
    a, b = np.asarray(accuracy, dtype=np.float64), np.asarray(auroc, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 4:
        raise ValueError(f"accuracy {a.shape} and auroc {b.shape} must both be (models,), of at least 4 models")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("accuracy or auroc contain NaN or infinite values")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie in (0, 1)")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return ClosedOpenCorrelation(np.nan, np.nan, np.nan, len(a))
    result = stats.pearsonr(a, b)
    low, high = result.confidence_interval(level)
    return ClosedOpenCorrelation(float(result.statistic), float(low), float(high), len(a))
