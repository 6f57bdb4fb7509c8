"""Forget sets that are not random: points at the end of a principal direction of influence."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

Tail = Literal["top", "bottom", "both"]


def principal_forget_set(
    beta_train_train: Float[Tensor, "n n"], component: int = 0, size: int = 10, tail: Tail = "top"
) -> Int[Tensor, " size"]:
    """The training points that lie furthest out along a principal component of their datamodels.

    A point is represented by its own datamodel, the effects β_·(x_j) of all training points on it: column j. The n
    representations are centred, and projected on their principal component. Such a set holds points that matter to one
    another, so that forgetting it changes predictions more than forgetting a random set of the same size does.

    Source: arXiv 2410.23232, section 5 (its forget sets 4 to 9 on CIFAR-10).

    Arguments:
        beta_train_train: (n, n), the effect of training point i (rows) on the output at training point j (columns).
        component: 0 for the first. Its sign is chosen so that the largest projection in absolute value is positive.
        size: how many points, at most n.
        tail: the largest projections, the smallest, or ``"both"``: half of the points (rounded up) from the top.

    Returns:
        (size,) numbers of points, the furthest out first; with ``"both"`` the top ones come first.

    Raises:
        ValueError: a matrix that is not square or not finite, or component, size or tail out of range.

    >>> principal_forget_set(torch.diag(torch.tensor([1.0, 9.0, 1.0, 1.0])), size=1)
    tensor([1])
    """
    n = len(beta_train_train)
    if beta_train_train.shape != (n, n) or n < 2:
        raise ValueError(f"beta_train_train: has shape {tuple(beta_train_train.shape)}, must be square, 2 or more")
    if not bool(beta_train_train.isfinite().all()):
        raise ValueError("beta_train_train: holds values that are not finite")
    if not 0 <= component < n - 1:
        raise ValueError(f"component={component}: must be from 0 to {n - 2}")
    if not 1 <= size <= n:
        raise ValueError(f"size={size}: must be from 1 to the {n} points")
    if tail not in get_args(Tail):
        raise ValueError(f"tail={tail!r}: must be one of {', '.join(map(repr, get_args(Tail)))}")
    points = beta_train_train.double().T
    left, values, _ = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    projection = left[:, component] * values[component]
    if projection[projection.abs().argmax()] < 0:
        projection = -projection
    order = projection.argsort(descending=True, stable=True)
    if tail == "top":
        return order[:size]
    if tail == "bottom":
        return order.flip(0)[:size]
    return torch.cat([order[: size - size // 2], order.flip(0)[: size // 2]])
