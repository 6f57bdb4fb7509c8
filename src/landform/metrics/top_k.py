"""Top-k accuracy: how often the right class is among the k that score highest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top_k_accuracy(
    logits: Float[Tensor, "*models samples classes"],
    target: Int[Tensor, " samples"],
    ks: Sequence[int] = (1,),
    *,
    balanced: bool = False,
) -> Float[Tensor, "*models ks"]:
    """The share of samples whose class is among the k of highest score, for each k of ``ks``.

    Of equal scores the class of lower number counts as the higher, as in ``argmax``.

    Arguments:
        logits: scores (N, K), or (M, N, K) of M models on the same samples.
        target: class numbers (N,).
        ks: each in 1 … K.
        balanced: the mean over the classes that occur of the share among their own samples.

    Returns: float64 shares in [0, 1], one for each k.

    Raises:
        TypeError: logits are not floating point, or target not integers.
        ValueError: shapes that do not fit, no samples, a NaN, a class or a k out of range.

    >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    >>> target = torch.tensor([0, 0, 1, 1])
    >>> top_k_accuracy(logits, target, ks=(1, 2)).tolist()
    [0.5, 1.0]
    """
    if logits.ndim < 2 or target.shape != logits.shape[-2:-1] or target.numel() == 0:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and target of shape {tuple(target.shape)}: "
            "must be (..., N, K) and (N,), with at least one sample"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits have dtype {logits.dtype}: they must be floating point")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target has dtype {target.dtype}: it must be integer class numbers")
    classes = logits.shape[-1]
    if not all(1 <= k <= classes for k in ks):
        raise ValueError(f"ks={tuple(ks)}: each must be in 1..{classes}")
    if logits.isnan().any():
        raise ValueError("logits contain NaN")
    if target.min() < 0 or target.max() >= classes:
        raise ValueError(f"target holds {int(target.min())} to {int(target.max())}: must be in 0..{classes - 1}")
    own = target.long().expand(logits.shape[:-1]).unsqueeze(-1)
    score = logits.gather(-1, own)
    earlier = torch.arange(classes, device=logits.device) < own
    rank = ((logits > score) | ((logits == score) & earlier)).sum(-1)
    right = (rank.unsqueeze(-1) < torch.tensor(ks, device=logits.device)).double()
    if not balanced:
        return right.mean(-2)
    members = torch.bincount(target.long(), minlength=classes)
    weight = 1 / members[target.long()].double()
    return (right * weight.unsqueeze(-1)).sum(-2) / (members > 0).sum()
