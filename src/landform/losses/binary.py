"""Fixed losses of the margin for binary classification: logistic, hinge, exponential, focal and hinge with other tails.

A network gives one score f(x) a sample and predicts its sign. With labels y in {-1, +1} the margin is z = y f(x), and a
loss is a function phi(z). Every loss here is an ``nn.Module`` ``(scores, targets) -> scalar``; its ``phi`` alone, a
pure function of the margins, is what to use inside ``torch.func.vmap``, where values cannot be checked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from landform.losses.base import Reduction, check_argument, check_choice, check_scores, readable, reduce

TargetFormat = Literal["zero_one", "signed"]
Tail = Literal["inverse", "inverse_log", "log"]


def signed_margins(
    scores: Float[Tensor, "*batch"], targets: Shaped[Tensor, "*batch"], target_format: TargetFormat = "zero_one"
) -> Float[Tensor, "*batch"]:
    """The margins z = y f(x) of checked scores and targets, in the shape of the scores.

    Scores and targets have one shape, or one of them is (B,) and the other (B, 1). Margins are at least float32: half
    precision is widened, as autocast does for PyTorch's own losses.

    Arguments:
        target_format: ``"zero_one"`` for targets in {0, 1}, ``"signed"`` for targets in {-1, +1}.

    Raises:
        TypeError: scores are not floating point.
        ValueError: shapes do not match, the batch is empty, a score is not finite, or a target is outside the set.
    """
    check_choice("target_format", target_format, get_args(TargetFormat))
    scores = check_scores(scores)
    n = scores.numel()
    if scores.shape != targets.shape and {scores.shape, targets.shape} != {(n,), (n, 1)}:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} do not match scores of shape {tuple(scores.shape)}: "
            "give both one shape, or (B,) and (B, 1)"
        )
    low = 0 if target_format == "zero_one" else -1
    outside = (targets != low) & (targets != 1)
    if readable(targets) and outside.any():
        raise ValueError(
            f"targets contain {targets[outside][0].item()}: with target_format={target_format!r} "
            f"they must be in {{{low}, 1}}"
        )
    signs = torch.where(targets.reshape(scores.shape) == 1, 1.0, -1.0).to(scores)
    return signs * scores


class MarginLoss(nn.Module, ABC):
    """A loss of the margin: forward(f, t) is the reduced phi(y f), where y in {-1, +1} is given by the targets.

    Arguments:
        reduction: ``"mean"`` over samples (default), ``"sum"``, or ``"none"`` for a value a sample.
        target_format: ``"zero_one"`` (default) for targets in {0, 1}, ``"signed"`` for {-1, +1}.

    Raises:
        ValueError, TypeError: see :func:`signed_margins`.
    """

    def __init__(self, *, reduction: Reduction = "mean", target_format: TargetFormat = "zero_one") -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        check_choice("target_format", target_format, get_args(TargetFormat))
        self.reduction: Reduction = reduction
        self.target_format: TargetFormat = target_format

    @abstractmethod
    def phi(self, margins: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The loss of each margin: elementwise, free of checks, fit for ``torch.func.vmap``."""

    def forward(self, scores: Float[Tensor, "*batch"], targets: Shaped[Tensor, "*batch"]) -> Tensor:
        return reduce(self.phi(signed_margins(scores, targets, self.target_format)), self.reduction)


class LogisticLoss(MarginLoss):
    """phi(z) = log(1 + exp(-z)), which is binary cross-entropy with logits.

    >>> loss = LogisticLoss()
    >>> loss(torch.tensor([0.0, 0.0]), torch.tensor([0, 1]))
    tensor(0.6931)
    """

    def phi(self, margins: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return -F.logsigmoid(margins)


class HingeLoss(MarginLoss):
    """phi(z) = max(0, 1 - z), the loss of support vector machines.

    >>> loss = HingeLoss()
    >>> loss(torch.tensor([2.0, 0.5]), torch.tensor([1, 1]))
    tensor(0.2500)
    """

    def phi(self, margins: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return torch.maximum(1 - margins, torch.zeros_like(margins))


class ExponentialLoss(MarginLoss):
    """phi(z) = exp(-z), the loss of AdaBoost.

    Its gradient explodes on badly wrong samples: train with ``torch.nn.utils.clip_grad_norm_`` (EnsLoss's authors clip
    this loss, and only this one, at 10).

    >>> loss = ExponentialLoss()
    >>> loss(torch.tensor([0.0]), torch.tensor([1]))
    tensor(1.)
    """

    def phi(self, margins: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return torch.exp(-margins)


class BinaryFocalLoss(MarginLoss):
    """phi(z) = (1 - p)^gamma (-log p), where p = sigmoid(z) is the probability given to the right class.

    It turns the weight of easy samples down; gamma = 0 is the logistic loss. Without class weights. Source: Lin et al.,
    arXiv 1708.02002, equation 4.

    Arguments:
        gamma: the focusing exponent, at least zero (2 in that paper and in EnsLoss's comparison).

    >>> loss = BinaryFocalLoss()
    >>> loss(torch.tensor([0.0]), torch.tensor([1]))
    tensor(0.1733)
    """

    def __init__(
        self, gamma: float = 2.0, *, reduction: Reduction = "mean", target_format: TargetFormat = "zero_one"
    ) -> None:
        super().__init__(reduction=reduction, target_format=target_format)
        check_argument("gamma", gamma, 0 <= gamma < float("inf"), "finite and at least zero")
        self.gamma = gamma

    def phi(self, margins: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return -F.logsigmoid(margins) * torch.exp(self.gamma * F.logsigmoid(-margins))

    def extra_repr(self) -> str:
        return f"gamma={self.gamma:g}"


class TailedHingeLoss(MarginLoss):
    """The hinge 1 - z up to z = 1, continued beyond by a tail that keeps falling; value and slope meet at z = 1.

    Tails for z > 1, by ``kind``::

        "inverse"      1/z - 1                     bounded below by -1
        "inverse_log"  e / log(z + e - 1) - e      bounded below by -e
        "log"          -log z                      unbounded below: the slope falls only as 1/z, as EnsLoss's does

    Source: arXiv 2409.00908, the study of how the tail of a calibrated loss acts on training.

    >>> loss = TailedHingeLoss("inverse")
    >>> loss(torch.tensor([2.0, 0.0]), torch.tensor([1, 1]))
    tensor(0.2500)
    """

    def __init__(self, kind: Tail, *, reduction: Reduction = "mean", target_format: TargetFormat = "zero_one") -> None:
        super().__init__(reduction=reduction, target_format=target_format)
        check_choice("kind", kind, get_args(Tail))
        self.kind: Tail = kind

    def phi(self, margins: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        beyond = margins.clamp(min=1)  # so that the branch not taken is finite, and its gradient zero rather than NaN
        if self.kind == "inverse":
            tail = 1 / beyond - 1
        elif self.kind == "inverse_log":
            tail = torch.e / torch.log(beyond + (torch.e - 1)) - torch.e
        else:
            tail = -torch.log(beyond)
        return torch.where(margins <= 1, 1 - margins, tail)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"
