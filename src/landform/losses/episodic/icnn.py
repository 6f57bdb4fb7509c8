"""The ICNN score: from each point's nearest neighbours, how compact classes are and how far apart."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import Reduction, check_argument, check_choice, reduce
from landform.losses.episodic.points import (
    check_labels,
    check_points,
    check_together,
    distance,
    distances_between,
    take,
)

Scope = Literal["full", "support", "query"]
# Keeps a relative distance finite.
SMALL = 1e-7


def icnn_score(
    x: Float[Tensor, "*episodes n dim"],
    y: Int[Tensor, "*episodes n"],
    target: Float[Tensor, "*episodes m dim"] | None = None,
    target_y: Int[Tensor, "*episodes m"] | None = None,
    k: int = 4,
    search: int | None = None,
    exclude_self: bool | Literal["first"] | None = None,
) -> Float[Tensor, "*episodes"]:
    """How well classes keep to themselves among the nearest neighbours, in (0, 1]: 1 for tight classes far apart.

    With D_ij the distance sqrt(‖x_i − t_j‖² + 1e-6) of x_i from the j-th nearest target, and r_i that of the nearest
    of another class among the ``search`` nearest (infinite if there is none)::

        u_ij = D_ij / (r_i + 1e-7) / max(1, max_{j≤k} D_ij / (r_i + 1e-7))            j = 1 … k
        a_i  = mean of u_ij over neighbours of the own class      lambda_s = 1 − mean of a_i over points with some
        b_i  = mean of D_ij / max D over those of other classes   lambda_o = mean of b_i over points with some
        gamma = mean over i of the share of the own class among the k
        score = ((lambda_s + lambda_o)/2 + gamma) / 2

    max D is the greatest distance of a neighbour of another class. Without any point that has one, lambda_o = 1;
    without any that has one of its own, lambda_s = 1. gamma is a count, without gradient, and 1 if k + 2 ≥ m, when k is
    cut to m − 2. The released code's score: the text's third component, omega, is switched off there.

    Arguments:
        x, y: points (..., n, d) and their classes (..., n), any integers, or (n,) for all episodes.
        target, target_y: where neighbours are sought, the points themselves if None.
        k: neighbours that count, at least 1.
        search: among so many nearest r_i is sought, at least k; k + 1 if None. More than there are means all.
        exclude_self: True leaves the i-th target out for the i-th point (the default where there is no ``target``),
            False leaves none out, and ``"first"`` drops the nearest target, even of a point that is none of them, as
            the released code does.

    Returns: a scalar, or one for each episode.

    Raises:
        ValueError: fewer than 3 targets, k below 1, search below k, ``target`` without ``target_y``, exclude_self=True
            where points and targets differ in number, points that are not finite, shapes that do not fit.
        TypeError: points that are not floating point, or classes that are not integers.

    Source: arXiv 2305.09062; steps and constants as in its released code, but that means divide by counts alone.

    >>> x = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    >>> icnn_score(x, torch.tensor([0, 0, 0, 1, 1, 1]), k=2), icnn_score(x, torch.arange(6), k=2)
    (tensor(0.9963), tensor(0.4167))
    """
    check_argument("k", k, k >= 1, "at least 1")
    check_argument("search", search, search is None or search >= k, f"at least k={k}")
    x = check_points("x", x)
    y = check_labels("y", y, x)
    if (target is None) != (target_y is None):
        raise ValueError("target and target_y: must be given together")
    if target is None or target_y is None:
        target, target_y = x, y
        exclude_self = True if exclude_self is None else exclude_self
    else:
        target = check_points("target", target)
        x, target = check_together("x", x, "target", target)
        target_y = check_labels("target_y", target_y, target)
    m = target.shape[-2]
    if m < 3:
        raise ValueError(f"target of shape {tuple(target.shape)}: the score needs at least 3 targets")
    if exclude_self not in (None, True, False, "first"):
        raise ValueError(f"exclude_self={exclude_self!r}: must be True, False, 'first' or None")
    if exclude_self is True and x.shape != target.shape:
        raise ValueError(f"exclude_self=True: {x.shape[-2]} points and {m} targets must be as many")

    certain = k + 2 >= m
    k = min(k, m - 2)
    search = k + 1 if search is None else search
    apart = distances_between(x, target)
    if exclude_self is True:
        apart = apart.masked_fill(torch.eye(m, dtype=torch.bool, device=x.device), torch.inf)
    elif exclude_self == "first":
        apart = apart.scatter(-1, apart.argmin(-1, keepdim=True), torch.inf)
    nearest = apart.topk(k, largest=False).indices
    strangers = apart.masked_fill(y.unsqueeze(-1) == target_y.unsqueeze(-2), torch.inf).min(-1, keepdim=True)
    # It is among the ``search`` nearest if fewer are nearer; to sort so many would take longer.
    found = strangers.values.isfinite() & ((apart < strangers.values).sum(-1, keepdim=True) < search)
    # Only k distances a point and r_i count, so only theirs are computed with a gradient.
    picked = torch.cat([nearest, strangers.indices], -1)
    distances = distance(x.unsqueeze(-2), take(target, picked.flatten(-2)).unflatten(-2, picked.shape[-2:]))
    near, r = distances[..., :k], distances[..., k:]

    relative = torch.where(found, near / (r + SMALL), 0.0)
    relative = relative / relative.amax(-1, keepdim=True).clamp(min=1)
    same = target_y.gather(-1, nearest.flatten(-2)).view(nearest.shape) == y.unsqueeze(-1)
    other = ~same
    lambda_s = 1 - _mean_of_means(relative, same)
    farthest = torch.where(other, near, 0.0).amax((-2, -1), keepdim=True)
    mixed = other.any(-1).any(-1)
    lambda_o = torch.where(mixed, _mean_of_means(near / torch.where(farthest > 0, farthest, 1.0), other), 1.0)
    gamma = torch.ones_like(lambda_s) if certain else same.to(near).mean((-2, -1))
    return ((lambda_s + lambda_o) / 2 + gamma) / 2


def _mean_of_means(values: Float[Tensor, "*episodes n k"], mask: Tensor) -> Float[Tensor, "*episodes"]:
    """Each point's mean over its masked values, and the mean of these over the points that have some; 0 if none."""
    count = mask.sum(-1)
    means = torch.where(mask, values, 0.0).sum(-1) / count.clamp(min=1)
    return means.sum(-1) / (count > 0).sum(-1).clamp(min=1)


class ICNNLoss(nn.Module):
    """−log of the :func:`icnn_score` of an episode: classes are pulled together and pushed apart where they mix.

    ``scope`` says which points enter: ``"full"``, support and query together, with r_i sought among all of them;
    ``"support"``, the support alone; ``"query"``, where the neighbours of queries are sought in the support (or among
    prototypes that stand in its place).

    Arguments:
        k: neighbours that count.
        scope: as above.
        drop_nearest: drop each query's nearest neighbour in scope ``"query"``, as the released code does, though no
            query is among the support.
        reduction: ``"mean"`` over episodes (default), ``"sum"``, or ``"none"`` for a value an episode.

    Shapes: features (..., n, d) and labels (..., n), any integers, or (n,) for all episodes. For scopes other than
    ``"full"``, ``n_support`` says how many of the items, the first ones, are support. Half precision is widened to
    float32.

    Raises:
        ValueError, TypeError: an argument out of range; features or labels as :func:`icnn_score` refuses them;
            ``n_support`` that is missing or leaves no query.

    Source: arXiv 2305.09062. Its code seeks r_i among K + Q neighbours in scope ``"full"``, which is the same: there
    are but K + Q − 1 others of a class.

    >>> loss = ICNNLoss(k=2)
    >>> x = torch.tensor([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    >>> loss(x, torch.tensor([0, 0, 0, 1, 1, 1])), loss(x, torch.tensor([0, 1, 0, 1, 0, 1]))
    (tensor(0.0038), tensor(0.8755))
    """

    def __init__(
        self, k: int = 4, scope: Scope = "full", *, drop_nearest: bool = False, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        check_argument("k", k, k >= 1, "at least 1")
        check_choice("scope", scope, get_args(Scope))
        check_choice("reduction", reduction, get_args(Reduction))
        if drop_nearest and scope != "query":
            raise ValueError(f"drop_nearest=True: it is an option of scope 'query', not of {scope!r}")
        self.k = k
        self.scope: Scope = scope
        self.drop_nearest = drop_nearest
        self.reduction: Reduction = reduction

    def forward(
        self,
        features: Float[Tensor, "*episodes n dim"],
        labels: Int[Tensor, "*episodes n"],
        n_support: int | None = None,
    ) -> Tensor:
        features = check_points("features", features)
        labels = check_labels("labels", labels, features)
        n = features.shape[-2]
        if self.scope == "full":
            return reduce(-icnn_score(features, labels, k=self.k, search=max(self.k, n)).log(), self.reduction)
        if n_support is None or not 0 < n_support < n:
            raise ValueError(f"n_support={n_support}: scope {self.scope!r} needs it, and it must be in 1..{n - 1}")
        support, query = features.split([n_support, n - n_support], -2)
        of_support, of_query = labels.split([n_support, n - n_support], -1)
        if self.scope == "support":
            score = icnn_score(support, of_support, k=self.k)
        else:
            drop: bool | Literal["first"] = "first" if self.drop_nearest else False
            score = icnn_score(query, of_query, support, of_support, k=self.k, exclude_self=drop)
        return reduce(-score.log(), self.reduction)

    def extra_repr(self) -> str:
        return f"k={self.k}, scope={self.scope!r}" + (", drop_nearest=True" if self.drop_nearest else "")
