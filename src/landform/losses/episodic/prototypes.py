"""Prototypical networks: a class is the mean of its support, and the nearest mean classifies."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import Reduction, check_argument, check_choice, products, reduce
from landform.losses.episodic.points import check_labels, check_points, check_together

Metric = Literal["sqeuclidean", "cosine"]


def prototypes(
    support: Float[Tensor, "*episodes support dim"], n_way: int, n_shot: int
) -> Float[Tensor, "*episodes way dim"]:
    """The mean of each class's support: c_n = mean_k g(x_nk).

    ``support`` is (..., N·K, d), class by class; the result (..., N, d), for any number of episodes.

    Raises:
        ValueError: sizes below 1, or support that is not finite or not N·K vectors an episode.
        TypeError: support that is not floating point.

    Source: Snell et al., arXiv 1703.05175, equation 1.

    >>> import torch
    >>> prototypes(torch.tensor([[1.0], [3.0], [5.0], [5.0]]), n_way=2, n_shot=2).tolist()
    [[2.0], [5.0]]
    """
    check_argument("n_way", n_way, n_way >= 1, "at least 1")
    check_argument("n_shot", n_shot, n_shot >= 1, "at least 1")
    support = check_points("support", support)
    if support.shape[-2] != n_way * n_shot:
        raise ValueError(
            f"support of shape {tuple(support.shape)}: must be (..., {n_way * n_shot}, d), n_way={n_way} times "
            f"n_shot={n_shot}"
        )
    return support.unflatten(-2, (n_way, n_shot)).mean(-2)


def prototype_logits(
    query: Float[Tensor, "*episodes query dim"],
    prototypes: Float[Tensor, "*episodes way dim"],
    metric: Metric = "sqeuclidean",
    scale: float = 1.0,
) -> Float[Tensor, "*episodes query way"]:
    """Class scores of queries: −scale ‖g − c_n‖² (``"sqeuclidean"``), or scale cos(g, c_n) (``"cosine"``).

    ``scale`` is 1/τ, one over the soft-max's temperature. Squared distances of many features saturate the soft-max at
    scale 1; cosines need one of about 10.

    Raises:
        ValueError: shapes that do not fit, points that are not finite, an unknown metric, a scale that is not positive.
        TypeError: points that are not floating point.

    >>> import torch
    >>> prototype_logits(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])).tolist()
    [[-0.0, -5.0]]
    """
    check_choice("metric", metric, get_args(Metric))
    check_argument("scale", scale, 0 < scale < math.inf, "positive and finite")
    query, prototypes = check_points("query", query), check_points("prototypes", prototypes)
    query, prototypes = check_together("query", query, "prototypes", prototypes)
    if metric == "cosine":
        return scale * products(F.normalize(query, dim=-1), F.normalize(prototypes, dim=-1))
    # As squares and products, about the prototypes' mean so that little cancels: the differences of all queries and
    # prototypes of many episodes would take the memory of a layer.
    centre = prototypes.mean(-2, keepdim=True)
    query, prototypes = query - centre, prototypes - centre
    squares = query.square().sum(-1, keepdim=True) + prototypes.square().sum(-1).unsqueeze(-2)
    return -scale * (squares - 2 * products(query, prototypes)).clamp(min=0)


def episode_logits(
    features: Float[Tensor, "*episodes items dim"],
    n_way: int,
    n_shot: int,
    metric: Metric = "sqeuclidean",
    scale: float = 1.0,
) -> Float[Tensor, "*episodes query way"]:
    """:func:`prototype_logits` of the query of episodes, whose items come as an ``EpisodeSampler`` orders them.

    Raises:
        ValueError, TypeError: as :func:`prototypes` and :func:`prototype_logits`; fewer than N·K + 1 items an episode.

    >>> import torch
    >>> episode_logits(torch.randn(100, 5 * (1 + 3), 16), n_way=5, n_shot=1).shape  # 100 episodes
    torch.Size([100, 15, 5])
    """
    support, query = features[..., : n_way * n_shot, :], features[..., n_way * n_shot :, :]
    return prototype_logits(query, prototypes(support, n_way, n_shot), metric, scale)


class PrototypicalLoss(nn.Module):
    """Cross-entropy of queries on their distances from the prototypes, the loss of prototypical networks::

        loss = −log softmax_n(−‖g − c_n‖² scale)_y

    Arguments:
        metric, scale: of :func:`prototype_logits`.
        reduction: ``"mean"`` over the queries of all episodes (default), ``"sum"``, or ``"none"`` for a value a query.

    Shapes: query (..., M, d), their classes (..., M) in 0 … N − 1, or (M,) for all episodes, prototypes (..., N, d).
    Half precision is widened to float32.

    Raises:
        ValueError, TypeError: an argument out of range; points that are empty, not finite or of other shapes; labels
            that are no class numbers; fewer than two prototypes.

    Source: Snell et al., arXiv 1703.05175, equation 2.

    >>> import torch
    >>> loss = PrototypicalLoss()
    >>> query, prototypes = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [3.0]])
    >>> loss(query, torch.tensor([0, 1]), prototypes)  # log(1 + exp(−9))
    tensor(0.0001)
    """

    def __init__(self, metric: Metric = "sqeuclidean", scale: float = 1.0, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("metric", metric, get_args(Metric))
        check_argument("scale", scale, 0 < scale < math.inf, "positive and finite")
        check_choice("reduction", reduction, get_args(Reduction))
        self.metric: Metric = metric
        self.scale = scale
        self.reduction: Reduction = reduction

    def forward(
        self,
        query: Float[Tensor, "*episodes query dim"],
        labels: Int[Tensor, "*episodes query"],
        prototypes: Float[Tensor, "*episodes way dim"],
    ) -> Tensor:
        check_points("prototypes", prototypes, least=2)
        labels = check_labels("labels", labels, check_points("query", query), prototypes.shape[-2])
        logits = prototype_logits(query, prototypes, self.metric, self.scale)
        values = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        return reduce(values.view(labels.shape), self.reduction)

    def extra_repr(self) -> str:
        return f"metric={self.metric!r}, scale={self.scale:g}"
