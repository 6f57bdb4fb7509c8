"""Accuracy by group, and of the group that fares worst."""

from __future__ import annotations

from typing import TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor


class GroupAccuracy(TypedDict):
    """``average`` over the samples, ``worst`` of the groups that have any, ``per_group`` with NaN for the others."""

    average: float
    worst: float
    per_group: Float[Tensor, " groups"]


def group_accuracy(
    pred: Int[Tensor, " samples"], target: Int[Tensor, " samples"], group: Int[Tensor, " samples"]
) -> GroupAccuracy:
    """How often predicted classes are right: over all samples, in each group 0 … G - 1, and in the worst.

    The average is over samples, not over groups. An empty group has NaN, and is not the worst.

    Raises:
        TypeError: an argument that is not integers.
        ValueError: arguments of different shapes or empty, or a group below 0.

    Source: arXiv 2202.06523 and WILDS (arXiv 2012.07421).

    >>> found = group_accuracy(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 0, 2]))
    >>> found["average"], found["worst"], found["per_group"].tolist()
    (0.75, 0.0, [1.0, nan, 0.0])
    """
    for name, values in (("pred", pred), ("target", target), ("group", group)):
        if values.is_floating_point() or values.dtype == torch.bool:
            raise TypeError(f"{name} has dtype {values.dtype}: must be integers")
        if values.ndim != 1 or values.shape != pred.shape or not len(values):
            raise ValueError(f"{name} has shape {tuple(values.shape)}: must be (samples,), at least one, as pred has")
    if group.min() < 0:
        raise ValueError(f"group holds {int(group.min())}: groups are numbered from 0")
    right = (pred == target).double()
    count = group.bincount()
    per_group = group.bincount(weights=right, minlength=len(count)) / count
    return {
        "average": float(right.mean()),
        "worst": float(per_group[count > 0].min()),
        "per_group": per_group,
    }
