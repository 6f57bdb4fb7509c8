"""The Proto-Triplet loss: a triplet margin with prototypes as the positive and as the hardest negative."""

from __future__ import annotations

import math
from typing import get_args

from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import Reduction, check_argument, check_choice, own_class, reduce
from landform.losses.episodic.points import (
    EPS,
    check_labels,
    check_points,
    check_together,
    distance,
    distances_between,
    take,
)


class ProtoTripletLoss(nn.Module):
    """How much nearer than ``margin`` the best other prototype is, compared with the query's own::

        dist(a, b) = sqrt(‖a − b‖² + eps)
        d+ = dist(g, c_y),    d− = min over n ≠ y of dist(g, c_n)
        loss = max(0, d+ − d− + m)

    It is zero where every query is nearer to its own prototype than to any other by at least m, whatever more the
    distances do; a cross-entropy on them never is. Gradients flow to the queries and, through the prototypes, to the
    support. Embeddings are not normalised, so m is in their unit.

    Arguments:
        margin: m, at least zero.
        eps: keeps distances smooth where points coincide; positive.
        reduction: ``"mean"`` over the queries of all episodes (default), ``"sum"``, or ``"none"`` for a value a query.

    Shapes: query (..., M, d), their classes (..., M) in 0 … N − 1, or (M,) for all episodes, prototypes (..., N, d).
    Half precision is widened to float32.

    Raises:
        ValueError, TypeError: an argument out of range; points that are empty, not finite or of other shapes; labels
            that are no class numbers; fewer than two prototypes.

    Source: arXiv 2305.09062; distance and constants as in its released code.

    >>> import torch
    >>> loss = ProtoTripletLoss(margin=0.5)
    >>> query, prototypes = torch.tensor([[0.0], [1.4]]), torch.tensor([[0.0], [3.0]])
    >>> loss(query, torch.tensor([0, 1]), prototypes)  # 0, and 1.6 − 1.4 + 0.5
    tensor(0.3500)
    """

    def __init__(self, margin: float = 0.5, eps: float = EPS, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_argument("margin", margin, 0 <= margin < math.inf, "at least zero and finite")
        check_argument("eps", eps, 0 < eps < math.inf, "positive and finite")
        check_choice("reduction", reduction, get_args(Reduction))
        self.margin = margin
        self.eps = eps
        self.reduction: Reduction = reduction

    def forward(
        self,
        query: Float[Tensor, "*episodes query dim"],
        labels: Int[Tensor, "*episodes query"],
        prototypes: Float[Tensor, "*episodes way dim"],
    ) -> Tensor:
        query, prototypes = check_points("query", query), check_points("prototypes", prototypes, least=2)
        query, prototypes = check_together("query", query, "prototypes", prototypes)
        ways = prototypes.shape[-2]
        labels = check_labels("labels", labels, query, ways)
        others = distances_between(query, prototypes).masked_fill(own_class(labels, ways), math.inf)
        positive = distance(query, take(prototypes, labels), self.eps)
        negative = distance(query, take(prototypes, others.argmin(-1)), self.eps)
        return reduce((positive - negative + self.margin).clamp(min=0), self.reduction)

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}, eps={self.eps:g}"
