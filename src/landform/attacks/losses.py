"""Losses that attacks climb: functions of logits and labels that give one number a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, " batch"]
Values = Float[Tensor, " batch"]
AttackLoss = Callable[[Logits, Labels], Values]
LossName = Literal["ce", "dlr", "margin"]


def cross_entropy_loss(logits: Logits, y: Labels) -> Values:
    """Cross-entropy of each sample, −log softmax(z)_y. Where softmax saturates in float32 its gradient is exactly 0."""
    return F.cross_entropy(logits, y, reduction="none")


def margin_loss(logits: Logits, y: Labels) -> Values:
    """How far the best wrong class is ahead: max_{j≠y} z_j − z_y; positive where the model is wrong."""
    return best_other(logits, y) - _at(logits, y)


def dlr_loss(logits: Logits, y: Labels) -> Values:
    """Difference of logits ratio: −(z_y − max_{j≠y} z_j) / (z_(1) − z_(3) + 1e-12), with z_(k) the k-th largest logit.

    Invariant to z → a z + b with a > 0, so models cannot hide behind the scale of their logits (Croce and Hein, arXiv
    2003.01690, eq. 6).

    Raises:
        ValueError: fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"loss='dlr': needs at least 3 classes, not {logits.shape[1]}")
    top = logits.topk(3, dim=1).values
    return margin_loss(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr_loss(logits: Logits, y: Labels, target: Labels) -> Values:
    """DLR towards a class: −(z_y − z_t) / (z_(1) − (z_(3) + z_(4)) / 2 + 1e-12) (arXiv 2003.01690, eq. 7).

    Raises:
        ValueError: fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(f"targeted DLR needs at least 4 classes, not {logits.shape[1]}")
    top = logits.topk(4, dim=1).values
    return (_at(logits, target) - _at(logits, y)) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def best_other(logits: Logits, y: Labels) -> Values:
    """The largest logit but that of class y."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    return logits.masked_fill(classes == y[:, None], -torch.inf).max(dim=1).values


LOSSES: dict[str, AttackLoss] = {"ce": cross_entropy_loss, "dlr": dlr_loss, "margin": margin_loss}


def named_loss(loss: LossName | AttackLoss, targeted: bool) -> AttackLoss:
    """The loss of a name, or what is one already.

    Raises:
        ValueError: an unknown name, or DLR towards a class, which needs the true class too.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: must be one of {', '.join(LOSSES)}, or a function (logits, y) → (batch,)")
    if loss == "dlr" and targeted:
        raise ValueError("loss='dlr', targeted=True: pass lambda z, t: -targeted_dlr_loss(z, y, t), with the true y")
    return LOSSES[loss]


def _at(logits: Logits, y: Labels) -> Values:
    return logits.gather(1, y[:, None]).squeeze(1)
