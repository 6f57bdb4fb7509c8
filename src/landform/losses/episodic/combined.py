"""Sums of losses on one episode's embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.losses.base import Reduction, check_argument, check_choice, reduce
from landform.losses.episodic.icnn import ICNNLoss
from landform.losses.episodic.points import check_points, check_together
from landform.losses.episodic.proto_triplet import ProtoTripletLoss
from landform.losses.episodic.prototypes import Metric, PrototypicalLoss, prototypes

TERMS = ("ce", "proto_triplet", "icnn", "icnn_support", "icnn_query", "icnn_prototypes")


class EpisodicLoss(nn.Module):
    """A weighted sum of losses on an episode's embeddings, divided by the number of terms::

        loss = (sum over terms of w_t L_t) / (number of terms)

    ===================  ==========================================================================
    ``ce``               :class:`PrototypicalLoss`, the cross-entropy on distances from prototypes
    ``proto_triplet``    :class:`ProtoTripletLoss`
    ``icnn``             :class:`ICNNLoss` of support and query together
    ``icnn_support``     of the support alone
    ``icnn_query``       of the queries among the support
    ``icnn_prototypes``  of the queries among the prototypes
    ===================  ==========================================================================

    Dividing makes each term's gradient the smaller the more terms there are; Adam does not notice, SGD does.

    Arguments:
        terms: pairs of a name and a finite weight.
        average: False leaves out the division.
        margin: of the Proto-Triplet loss.
        k: of the ICNN losses.
        metric, scale: of the cross-entropy's logits; scale is 1/τ.
        reduction: ``"mean"`` over episodes (default), ``"sum"``, or ``"none"`` for a value an episode.

    Shapes: support (..., N·K, d) and query (..., N·Q, d), each class by class as an ``EpisodeSampler`` orders them.
    Half precision is widened to float32.

    Raises:
        ValueError, TypeError: no terms, an unknown or repeated name, an argument out of range; numbers of points that
            are no multiples of ``n_way``; points as the terms refuse them.

    Source: arXiv 2305.09062 and its released code, which ignores misspelt terms but counts them.

    >>> loss = EpisodicLoss([("ce", 1.0), ("proto_triplet", 1.0)])
    >>> loss(torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [1.4]]), n_way=2)
    tensor(0.4344)
    """

    def __init__(
        self,
        terms: Sequence[tuple[str, float]] = (("ce", 1.0), ("proto_triplet", 1.0), ("icnn", 1.0)),
        average: bool = True,
        *,
        margin: float = 0.5,
        k: int = 4,
        metric: Metric = "sqeuclidean",
        scale: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError(f"terms: need at least one of {', '.join(TERMS)}")
        for name, weight in terms:
            check_choice("term", name, TERMS)
            check_argument(f"weight of {name}", weight, math.isfinite(weight), "finite")
        if len({name for name, _ in terms}) < len(terms):
            raise ValueError(f"terms={list(terms)}: each may be there once")
        check_choice("reduction", reduction, get_args(Reduction))
        self.terms = tuple((name, float(weight)) for name, weight in terms)
        self.average = average
        self.reduction: Reduction = reduction
        self.ce = PrototypicalLoss(metric, scale, reduction="none")
        self.proto_triplet = ProtoTripletLoss(margin, reduction="none")
        self.icnn = ICNNLoss(k, reduction="none")
        self.icnn_support = ICNNLoss(k, "support", reduction="none")
        self.icnn_query = ICNNLoss(k, "query", reduction="none")

    def forward(
        self,
        support: Float[Tensor, "*episodes support dim"],
        query: Float[Tensor, "*episodes query dim"],
        n_way: int,
    ) -> Tensor:
        support, query = check_points("support", support), check_points("query", query)
        support, query = check_together("support", support, "query", query)
        check_argument("n_way", n_way, n_way >= 2, "at least 2")
        counts = support.shape[-2], query.shape[-2]
        if counts[0] % n_way or counts[1] % n_way:
            raise ValueError(f"support and query of {counts[0]} and {counts[1]} points: must be multiples of {n_way=}")
        classes = torch.arange(n_way, device=support.device)
        labels = torch.cat([classes.repeat_interleave(count // n_way) for count in counts])
        means = prototypes(support, n_way, counts[0] // n_way)

        def value(name: str) -> Float[Tensor, "*episodes"]:
            if name == "ce":
                return self.ce(query, labels[counts[0] :], means).mean(-1)
            if name == "proto_triplet":
                return self.proto_triplet(query, labels[counts[0] :], means).mean(-1)
            if name == "icnn_prototypes":
                by_class = torch.cat([classes, labels[counts[0] :]])
                return self.icnn_query(torch.cat([means, query], -2), by_class, n_way)
            loss: ICNNLoss = getattr(self, name)
            return loss(torch.cat([support, query], -2), labels, counts[0])

        total = torch.stack([weight * value(name) for name, weight in self.terms]).sum(0)
        return reduce(total / len(self.terms) if self.average else total, self.reduction)

    def extra_repr(self) -> str:
        return f"terms={list(self.terms)}, average={self.average}"
