"""The batch-hard triplet loss on single items, which knows no prototypes."""

from __future__ import annotations

import math
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import Reduction, check_argument, check_choice, reduce
from landform.losses.episodic.points import check_labels, check_points, distance, distances_between, take


class BatchHardTripletLoss(nn.Module):
    """Each item's farthest of its own class against the nearest of another, by a margin::

        loss_i = max(0, max_p dist(g_i, g_p) − min_n dist(g_i, g_n) + m),    y_p = y_i, y_n ≠ y_i

    with dist(a, b) = sqrt(‖a − b‖² + 1e-6). An item that has no other of its class, or none of another, adds 0.

    Arguments:
        margin: m, at least zero, in the unit of the embeddings.
        reduction: ``"mean"`` over the items of all episodes (default), ``"sum"``, or ``"none"`` for a value an item.

    Shapes: features (..., n, d), labels (..., n), any integers, or (n,) for all episodes. Half precision is widened to
    float32.

    Raises:
        ValueError, TypeError: an argument out of range; features that are fewer than two, not finite or not (..., n,
            d); labels that do not fit or are not integers.

    Source: Hermans et al., arXiv 1703.07737, equation 5.

    >>> loss = BatchHardTripletLoss(margin=0.5)
    >>> loss(torch.tensor([[0.0], [1.0], [1.2]]), torch.tensor([0, 0, 1]))  # 1 − 1.2 + 0.5, 1 − 0.2 + 0.5, nothing
    tensor(0.5333)
    """

    def __init__(self, margin: float = 0.5, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_argument("margin", margin, 0 <= margin < math.inf, "at least zero and finite")
        check_choice("reduction", reduction, get_args(Reduction))
        self.margin = margin
        self.reduction: Reduction = reduction

    def forward(self, features: Float[Tensor, "*episodes n dim"], labels: Int[Tensor, "*episodes n"]) -> Tensor:
        features = check_points("features", features, least=2)
        labels = check_labels("labels", labels, features)
        apart = distances_between(features, features)
        same = labels.unsqueeze(-1) == labels.unsqueeze(-2)
        own = same & ~torch.eye(features.shape[-2], dtype=torch.bool, device=features.device)
        positive = apart.masked_fill(~own, -math.inf).argmax(-1)
        negative = apart.masked_fill(same, math.inf).argmin(-1)
        gap = distance(features, take(features, positive)) - distance(features, take(features, negative))
        there = own.any(-1) & ~same.all(-1)
        return reduce(torch.where(there, (gap + self.margin).clamp(min=0), 0.0), self.reduction)

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}"
