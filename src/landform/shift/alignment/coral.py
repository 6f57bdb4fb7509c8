"""Correlation alignment: the first two moments of two samples of features, held against each other."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from landform.losses.base import check_scores


def coral_penalty(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """mean_j (mean_a - mean_b)_j² + mean_jk (Cov_a - Cov_b)_jk², with unbiased covariances.

    Raises:
        TypeError: features that are not floating point.
        ValueError: shapes that do not fit, fewer than two samples on a side, or values that are not finite.

    Source: Deep CORAL (arXiv 1607.01719), with the term of the means that DomainBed and WILDS add.

    >>> import torch
    >>> coral_penalty(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))  # moved by 3
    tensor(9.)
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"a {tuple(a.shape)} and b {tuple(b.shape)}: must be (n, d) and (m, d), two rows or more")
    a, b = check_scores(a), check_scores(b)
    mean_a, mean_b = a.mean(0), b.mean(0)
    spread_a, spread_b = a - mean_a, b - mean_b
    difference = spread_a.T @ spread_a / (len(a) - 1) - spread_b.T @ spread_b / (len(b) - 1)
    return (mean_a - mean_b).square().mean() + difference.square().mean()
