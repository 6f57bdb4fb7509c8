"""ALDR-KL: the label-distributionally-robust loss with a temperature of its own for each training sample."""

from __future__ import annotations

import math
from typing import get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import Reduction, check_argument, check_choice, check_index, check_logits, reduce
from landform.losses.ldr import Normalization, normalized, soft_maximum
from landform.losses.multiclass_margin import margined_differences


class AdaptiveLDRKLLoss(nn.Module):
    """LDR-KL in which the temperature lambda_i of each sample is fitted too, by alternating maximisation::

        psi(f, y) = max over lambda, p of  sum_k p_k (delta_k + c_k) − lambda KL(p || uniform)
                                           − (kappa/(2 lambda_0)) (lambda − lambda_0)²,         kappa = alpha log K

    For a given p the best lambda is lambda_0 (1 − KL(p || uniform)/kappa), in [lambda_0 (1 − 1/alpha), lambda_0]: the
    surer a prediction, the smaller. In training mode each call takes ``inner_steps`` such steps from the lambda_i that
    it finds in its table, with p = softmax(f/lambda_i) mixed with 1e-5 a class, and stores the outcome. The loss is

        lambda_i log mean_k exp((delta_k + c_k)/lambda_i) − (kappa/(2 lambda_0)) (lambda_i − lambda_0)²

    through whose lambda_i no gradient flows. In ``eval()`` mode the table is used as it stands and left so.

    ``index`` are the samples' numbers in the whole training set, whatever the order of batches; see
    :class:`landform.data.IndexedDataset`. Under distributed training each process keeps a table of the samples that it
    has seen itself: a sample that moves to another process starts there from that process's last lambda_i.

    Arguments:
        num_samples: N, the size of the training set.
        lam0: lambda_0, positive; the largest lambda there can be. {0.1, 1, 10} is the authors' grid.
        alpha: more than 1.
        margin: c, at least zero.
        normalize: what is done to logits first, see :func:`landform.losses.ldr.normalized`.
        softplus: take the softplus of logits before they are normalised (the authors do so for CIFAR-100 alone); with
            ``"l1"`` this is ``"mean_softplus"``.
        inner_steps: how many steps of alternating maximisation a call takes; 1 is the released method. 10 to 20 come to
            a fixed point, a stationary point of the joint problem if ``include_margin``.
        include_margin: whether p sees the margins, p = softmax((f + c)/lambda), as the maximum demands; the released
            method leaves them out.
        reduction: ``"mean"`` over samples (default), ``"sum"``, or ``"none"`` for a value a sample.

    Attributes:
        lam: buffer (N,) of the lambda_i, in ``state_dict``.

    Shapes: logits (B, K) with K at least 2, target and index (B,) of integers.

    Raises:
        TypeError: logits are not floating point, target or index not integers.
        ValueError: an argument out of its range; shapes that do not fit, an empty or non-finite batch, a class or an
            index out of range.

    Source: arXiv 2112.14869, section 5; the order of operations is that of the released code.

    >>> loss = AdaptiveLDRKLLoss(num_samples=2, lam0=1.0)
    >>> _ = loss(torch.tensor([[5.0, 5.0, 5.0]]), torch.tensor([0]), torch.tensor([1]))  # knows nothing: stays
    >>> _ = loss(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([0]), torch.tensor([0]))
    >>> loss.lam
    tensor([0.6669, 1.0000])
    """

    lam: Tensor

    def __init__(
        self,
        num_samples: int,
        lam0: float,
        alpha: float = 2.0,
        margin: float = 0.1,
        normalize: Normalization | None = "l1",
        softplus: bool = False,
        inner_steps: int = 1,
        include_margin: bool = False,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_argument("num_samples", num_samples, num_samples >= 1, "at least 1")
        check_argument("lam0", lam0, 0 < lam0 < math.inf, "positive and finite")
        check_argument("alpha", alpha, 1 < alpha < math.inf, "finite and more than 1")
        check_argument("margin", margin, 0 <= margin < math.inf, "finite and at least zero")
        check_argument("inner_steps", inner_steps, inner_steps >= 1, "at least 1")
        check_choice("reduction", reduction, get_args(Reduction))
        if normalize is not None:
            check_choice("normalize", normalize, get_args(Normalization))
        self.lam0, self.alpha, self.margin = float(lam0), float(alpha), margin
        self.normalize: Normalization | None = normalize
        self.softplus, self.inner_steps, self.include_margin = softplus, inner_steps, include_margin
        self.reduction: Reduction = reduction
        self.register_buffer("lam", torch.full((num_samples,), self.lam0))

    def psi(
        self,
        logits: Float[Tensor, "*batch classes"],
        target: Int[Tensor, "*batch"],
        lam: Float[Tensor, "*batch"],
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The loss of each sample and, from its lambda_i before, the one after; over any leading dimensions, pure."""
        if self.softplus and self.normalize is None:
            logits = F.softplus(logits)
        else:
            logits = normalized(logits, "mean_softplus" if self.softplus else self.normalize)
        values = margined_differences(logits, target, self.margin)
        kappa = self.alpha * math.log(logits.shape[-1])
        if self.training:
            lam = self._adapted((values if self.include_margin else logits).detach(), lam, kappa)
        penalty = kappa / (2 * self.lam0) * (lam - self.lam0).square()
        return soft_maximum(values, lam) - penalty, lam

    def _adapted(self, scores: Tensor, lam: Tensor, kappa: float) -> Tensor:
        classes = scores.shape[-1]
        for _ in range(self.inner_steps):
            p = F.softmax(scores / lam.unsqueeze(-1), dim=-1) + 1e-5
            p = p / p.sum(-1, keepdim=True)
            divergence = (p * torch.log(classes * p)).sum(-1).clamp(min=0)  # below zero by rounding alone
            lam = self.lam0 - self.lam0 * divergence / kappa
        return lam

    def forward(
        self, logits: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"], index: Int[Tensor, " batch"]
    ) -> Tensor:
        logits, target = check_logits(logits, target)
        rows = check_index(index, len(self.lam), target).to(self.lam.device)
        values, lam = self.psi(logits, target, self.lam[rows].to(logits))
        if self.training:
            self.lam[rows] = lam.to(self.lam)
        return reduce(values, self.reduction)

    def extra_repr(self) -> str:
        return (
            f"num_samples={len(self.lam)}, lam0={self.lam0:g}, alpha={self.alpha:g}, margin={self.margin:g}, "
            f"normalize={self.normalize!r}, softplus={self.softplus}, inner_steps={self.inner_steps}, "
            f"include_margin={self.include_margin}"
        )
