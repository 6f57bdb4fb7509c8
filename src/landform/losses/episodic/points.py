"""Points of episodes: what they must be, and their distances."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.losses.base import check_integers, check_scores

EPS = 1e-6


def check_points(name: str, points: Tensor, least: int = 1) -> Float[Tensor, "*episodes n dim"]:
    """``points`` in at least float32, once they are found to be at least so many finite vectors an episode."""
    if points.ndim < 2 or points.shape[-2] < least:
        raise ValueError(f"{name} of shape {tuple(points.shape)}: must be (..., n, d) with n at least {least}")
    return check_scores(points)


def check_together(name: str, points: Tensor, other_name: str, others: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of points of the same episodes in one precision, once their shapes are found to fit."""
    if points.shape[:-2] != others.shape[:-2] or points.shape[-1] != others.shape[-1]:
        raise ValueError(
            f"{name} of shape {tuple(points.shape)} and {other_name} of shape {tuple(others.shape)}: must be of the "
            "same shape but for the number of points"
        )
    dtype = torch.promote_types(points.dtype, others.dtype)
    return points.to(dtype), others.to(dtype)


def check_labels(name: str, labels: Tensor, points: Tensor, classes: int | None = None) -> Int[Tensor, "*episodes n"]:
    """A class for each of ``points``, in int64: of each episode its own, or one vector (n,) for all.

    Any integers will do, unless there is a number of ``classes``: then 0 … classes − 1.
    """
    each, shared = points.shape[:-1], points.shape[-2:-1]
    if labels.shape not in (each, shared):
        raise ValueError(
            f"{name} of shape {tuple(labels.shape)}: must be {tuple(each)}, one for each point, or {tuple(shared)} "
            "for all episodes"
        )
    if classes is not None:
        check_integers(name, labels, classes)
    elif labels.is_floating_point() or labels.dtype == torch.bool or labels.is_complex():
        raise TypeError(f"{name} have dtype {labels.dtype}: they must be integers")
    return labels.long().expand(each)


def distance(
    a: Float[Tensor, "*batch dim"], b: Float[Tensor, "*batch dim"], eps: float = EPS
) -> Float[Tensor, "*batch"]:
    """sqrt(‖a − b‖² + eps), from the differences: smooth, and exact, where points coincide."""
    return ((a - b).square().sum(-1) + eps).sqrt()


@torch.no_grad()
def distances_between(
    points: Float[Tensor, "*episodes n dim"], others: Float[Tensor, "*episodes m dim"]
) -> Float[Tensor, "*episodes n m"]:
    """‖a − b‖ of all pairs, to choose among them: without gradient, and never with all differences in memory.

    By products, about the mean of the others so that little cancels. Distances below some 3e-4 of the points' spread
    are lost in float32.
    """
    centre = others.mean(-2, keepdim=True)
    return torch.cdist(points - centre, others - centre, compute_mode="use_mm_for_euclid_dist")


def take(
    points: Float[Tensor, "*episodes m dim"], index: Int[Tensor, "*episodes n"]
) -> Float[Tensor, "*episodes n dim"]:
    """The points at ``index`` of each episode."""
    m = points.shape[-2]
    start = m * torch.arange(points[..., 0, 0].numel(), device=points.device).view(*points.shape[:-2], 1)
    rows = points.reshape(-1, points.shape[-1]).index_select(0, (index + start).flatten())
    return rows.view(*index.shape, points.shape[-1])
