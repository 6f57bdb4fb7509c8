"""Distances between sets of points, each set a distribution with equal weights. Everything is computed in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

Points = Tensor | ArrayLike
Matrix = NDArray[np.float64]

GAMMAS = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005)
MOST_ITERATIONS = 10_000_000


@dataclass(frozen=True)
class TransportPlan:
    """The pairs (``rows[k]``, ``columns[k]``) that an optimal plan moves mass between, and how much: ``mass[k]``.

    Every row sends 1/n in all and every column receives 1/m. ``cost`` is the plan's mean of distance to the power p.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    mass: Matrix
    cost: float


def transport_plan(a: Points, b: Points, p: Literal[1, 2] = 2) -> TransportPlan:
    """An exact optimal plan between two sets, with equal weights and the cost ‖a_i − b_j‖^p.

    Sets of one size are matched one to one (linear assignment, O(n³)); others need POT's network simplex.

    Raises:
        ValueError: sets that are not (n, d) and (m, d), empty or not finite, or another p.
        ImportError: sets of different sizes, and POT (the extra ``transport``) is not installed.
    """
    if p not in (1, 2):
        raise ValueError(f"p={p!r}: must be 1 or 2")
    first, second = _pair(a, b)
    n, m = len(first), len(second)
    costs = cdist(first, second, "euclidean" if p == 1 else "sqeuclidean")
    if n == m:
        rows, columns = linear_sum_assignment(costs)
        mass = np.full(n, 1 / n)
    else:
        plan = _pot().emd(np.full(n, 1 / n), np.full(m, 1 / m), costs, numItermax=MOST_ITERATIONS)
        rows, columns = np.nonzero(plan)
        mass = plan[rows, columns]
    return TransportPlan(rows, columns, mass, float(costs[rows, columns] @ mass))


def wasserstein_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], p: Literal[1, 2] = 1) -> float:
    """The exact Wasserstein distance between two sets of points with equal weights, in the points' own unit.

        W_p = (min over plans π of Σ_ij π_ij ‖a_i − b_j‖^p)^(1/p)

    Raises:
        ValueError, ImportError: as :func:`transport_plan`.

    >>> import torch
    >>> a = torch.tensor([[0.0], [1.0]])
    >>> wasserstein_distance(a, a.flip(0) + 3, p=2)
    3.0
    """
    cost = transport_plan(a, b, p).cost
    return math.sqrt(cost) if p == 2 else cost


def rbf_mmd2(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], gammas: Sequence[float] = GAMMAS) -> float:
    """The squared maximum mean discrepancy of Gaussian kernels, averaged over their widths (Bunne et al., CellOT).

        MMD²_γ = mean_ij k(a_i, a_j) + mean_ij k(b_i, b_j) − 2 mean_ij k(a_i, b_j),   k(x, y) = exp(−γ ‖x − y‖²)

    Means are over all pairs, a point with itself among them: the biased form, which is never negative.

    Raises:
        ValueError: sets that are not (n, d) and (m, d), empty or not finite; no γ, or one that is not positive.

    >>> import torch
    >>> rbf_mmd2(torch.zeros(1, 1), torch.ones(1, 1), gammas=(1.0,))  # 2 − 2/e
    1.26424...
    """
    if not len(gammas) or not all(0 < gamma < math.inf for gamma in gammas):
        raise ValueError(f"gammas={gammas!r}: must be at least one positive number, all finite")
    first, second = _pair(a, b)
    within, across, other = (cdist(x, y, "sqeuclidean") for x, y in ((first, first), (first, second), (second, second)))
    values = [np.exp(-g * within).mean() + np.exp(-g * other).mean() - 2 * np.exp(-g * across).mean() for g in gammas]
    return max(float(np.mean(values)), 0.0)  # rounding alone can leave it below zero


def feature_correlation_r(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Whether features go together in one set as in the other: 1 where they do exactly.

    Pearson's r between the correlation coefficients of all d (d − 1)/2 pairs of features in ``a`` and those in ``b``.
    (The released code of meta flow matching calls it r2; it is not squared.) Pairs with a feature that is constant in
    either set have no coefficient and are left out; NaN where fewer than two are left or all are the same.

    Raises:
        ValueError: sets that are not (n, d) and (m, d), empty or not finite; fewer than 3 features or 2 points.
    """
    first, second = _pair(a, b)
    features = first.shape[1]
    if features < 3 or min(len(first), len(second)) < 2:
        raise ValueError(f"a {first.shape}, b {second.shape}: correlations need at least 2 points and 3 features")
    upper = np.triu_indices(features, k=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = np.stack([np.asarray(np.corrcoef(x, rowvar=False))[upper] for x in (first, second)])
        pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
        return float(np.asarray(np.corrcoef(pairs))[0, 1]) if pairs.shape[1] > 1 else math.nan


def _pair(a: Points, b: Points) -> tuple[Matrix, Matrix]:
    """Both sets as float64 matrices, once they are known to be fit."""
    found = []
    for name, points in (("a", a), ("b", b)):
        values = points.detach().cpu().numpy() if isinstance(points, Tensor) else points
        matrix = np.asarray(values, dtype=np.float64)
        if matrix.ndim != 2 or not matrix.size:
            raise ValueError(f"{name} has shape {matrix.shape}: must be (points, features), at least one of each")
        if not np.isfinite(matrix).all():
            raise ValueError(f"{name} holds values that are not finite")
        found.append(matrix)
    first, second = found
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"a has {first.shape[1]} features, but b {second.shape[1]}")
    return first, second


def _pot() -> Any:
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "optimal transport between sets of different sizes needs POT; install it with: "
            "pip install 'landform[transport]'"
        ) from error
    return ot
