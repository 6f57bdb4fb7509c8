"""Few-shot accuracy over episodes, and how classes lie in a frozen embedding."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class EpisodeAccuracy(NamedTuple):
    """A mean over episodes, and half of its 95 % interval."""

    mean: float
    ci95: float


def episode_accuracy(
    logits: Float[Tensor, "episodes query way"], labels: Int[Tensor, "*episodes query"]
) -> EpisodeAccuracy:
    """The share of queries classified right, mean ± ci95 over episodes: ci95 = 1.96 std / sqrt(episodes).

    std is that of the episodes' accuracies with the divisor E, as few-shot results are published. Of equal logits the
    first class counts as the answer. ``labels`` are (episodes, query), or (query,) for all episodes.

    Raises:
        ValueError: shapes that do not fit, fewer than two episodes, or logits that are NaN.

    >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [3.0, 1.0]]])
    >>> episode_accuracy(logits, torch.tensor([0, 1]))
    EpisodeAccuracy(mean=0.75, ci95=0.346...)
    """
    if logits.ndim != 3 or not logits.numel() or labels.shape not in (logits.shape[:2], logits.shape[1:2]):
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}: must be (episodes, "
            "query, way), and (episodes, query) or (query,)"
        )
    if len(logits) < 2:
        raise ValueError("logits of one episode: an interval needs at least two")
    if logits.isnan().any():
        raise ValueError("logits contain NaN")
    each = (logits.argmax(-1) == labels).double().mean(1)
    return EpisodeAccuracy(float(each.mean()), 1.96 * float(each.std(correction=0)) / math.sqrt(len(each)))


def intra_inter_ratio(features: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]) -> float:
    """Distance to the nearest point of another class over the mean distance to points of the own, both averaged first::

        ratio = mean_i min_{y_j ≠ y_i} ‖x_i − x_j‖ / mean_i mean_{j ≠ i, y_j = y_i} ‖x_i − x_j‖

    Above 1 every point is, on average, nearer to its own class than to the nearest stranger; more is better. Points
    alone in their class do not count in the denominator. A rotation, shift or scaling of the space changes nothing.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, one class alone, no class of two points, or
            classes each of which is one single point in space.

    >>> intra_inter_ratio(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
    4.5
    """
    apart, same = _pairs(features, labels)
    own = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    if same.all() or not own.any():
        raise ValueError("labels: a ratio needs two classes, and one with two points")
    nearest = apart.masked_fill(same, math.inf).amin(1).mean()
    count = own.sum(1)
    intra = ((apart * own).sum(1) / count.clamp(min=1))[count > 0].mean()
    if not intra > 0:
        raise ValueError("features: the points of each class coincide, so that the ratio is infinite")
    return float(nearest / intra)


def nearest_neighbour_purity(features: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], k: int = 1) -> float:
    """The share of each point's k nearest neighbours that are of its class, averaged over the points.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, or k that is not in 1 … n − 1.

    >>> nearest_neighbour_purity(torch.tensor([[0.0], [1.0], [2.5], [6.0]]), torch.tensor([0, 0, 1, 1]))
    0.75
    """
    apart, same = _pairs(features, labels)
    if not 1 <= k < len(same):
        raise ValueError(f"k={k}: must be in 1..{len(same) - 1}, one less than there are points")
    nearest = apart.fill_diagonal_(math.inf).topk(k, largest=False).indices
    return float(same.gather(1, nearest).double().mean())


def _pairs(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of all pairs in float64, and whether they are of one class."""
    if features.ndim != 2 or len(features) < 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features of shape {tuple(features.shape)} and labels of shape {tuple(labels.shape)}: must be (n, d) with "
            "n at least 2, and (n,)"
        )
    if not features.isfinite().all():
        raise ValueError("features contain NaN or infinite values")
    wide = features.detach().double()
    return torch.cdist(wide, wide), labels.unsqueeze(1) == labels
