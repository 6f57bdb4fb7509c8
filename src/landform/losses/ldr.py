"""Label-distributionally-robust losses: the worst case over distributions of the label near the uniform one.

The given label may be wrong, so take the distribution p over classes that hurts most, and penalise how far it is from
knowing nothing. With delta_k = f_k − f_y and margins c_k (c for k != y, 0 for k = y),

    psi(f, y) = max over p of  sum_k p_k (delta_k + c_k) − lambda R(p)

Source: Zhu, Ying & Yang, arXiv 2112.14869 (ICML 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from landform.losses.base import (
    ClassificationLoss,
    Reduction,
    check_argument,
    check_choice,
    check_scores,
)
from landform.losses.multiclass_margin import margined_differences

Divergence = Literal["kl", "euclidean"]
Normalization = Literal["mean_softplus", "l1"]


def soft_maximum(
    values: Float[Tensor, "*batch classes"], lam: float | Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """lambda log((1/K) sum_k exp(v_k/lambda)): the maximum for lambda = 0, and the mean for lambda = infinity.

    Exact to rounding for every lambda: neither does a small one overflow, nor a large one cancel. ``lam`` is a number,
    or a positive and finite tensor of one a row.
    """
    if not isinstance(lam, Tensor):
        limits = torch.finfo(values.dtype)
        if lam < limits.tiny:
            return values.amax(-1)
        if lam > limits.max:
            return values.mean(-1)
    each = lam.unsqueeze(-1) if isinstance(lam, Tensor) else lam
    top = values.detach().amax(-1, keepdim=True)
    return top.squeeze(-1) + lam * torch.log1p(torch.expm1((values - top) / each).mean(-1))


def normalized(logits: Float[Tensor, "*batch classes"], how: Normalization | None) -> Float[Tensor, "*batch classes"]:
    """Logits brought to the scale that margins and temperatures are meant for; gradients flow through::

    "mean_softplus"   g_k / mean_k g_k, with g = softplus(f)
    "l1"              f_k / (mean_k |f_k| + 1e-8)
    None              f_k
    """
    if how == "l1":
        return logits / (logits.abs().mean(-1, keepdim=True) + 1e-8)
    if how == "mean_softplus":
        # By the logarithm of softplus, which is f itself far below zero, where softplus rounds to nothing.
        low = -30.0
        logs = torch.where(logits > low, F.softplus(logits.clamp(min=low)).log(), logits)
        return logits.shape[-1] * F.softmax(logs, dim=-1)
    return logits


def general_ldr(
    delta_plus_c: Float[Tensor, "*batch classes"], lam: float, divergence: Divergence, cap: float | None = None
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch classes"]]:
    """The worst case over label distributions, and the distribution that attains it::

        psi = max over p in the simplex, p_k <= cap, of  sum_k p_k v_k − lambda R(p),    v = delta + c

    For lambda = 0 this is a linear programme: the maximum of v, and with ``cap`` = 1/k the mean of its k largest (a
    top-k hinge). For lambda = infinity p is uniform. Between them p_k = min(cap, exp((v_k − mu)/lambda)), or for the
    Euclidean divergence 1/K + (v_k − mu)/lambda between 0 and the cap; the normaliser mu is bisected, and p then made
    exact on the classes that no bound holds.

    Arguments:
        delta_plus_c: v.
        lam: lambda, from 0 to infinity.
        divergence: ``"kl"`` for R(p) = sum_k p_k log(K p_k), ``"euclidean"`` for (1/2) sum_k (p_k − 1/K)².
        cap: the most that one class may have, at least 1/K; none if None.

    Returns: values (\\*batch), whose gradient with respect to v is p, and p, through which no gradient flows.

    Raises:
        TypeError: v is not floating point.
        ValueError: v without classes, empty or not finite; an argument out of its range.

    >>> value, p = general_ldr(torch.tensor([3.0, 1.0, 0.0, -2.0]), 0.0, "kl", cap=1 / 2)
    >>> value, p
    (tensor(2.), tensor([0.5000, 0.5000, 0.0000, 0.0000]))
    """
    check_choice("divergence", divergence, get_args(Divergence))
    check_argument("lam", lam, lam >= 0, "at least zero")
    if delta_plus_c.ndim == 0:
        raise ValueError("delta_plus_c is a scalar: its last dimension must be the classes")
    v = check_scores(delta_plus_c)
    classes = v.shape[-1]
    if cap is not None:
        check_argument("cap", cap, cap * classes >= 1 - 1e-12, f"at least 1/K = 1/{classes}")
    p = _worst_case(v.detach().double(), lam, divergence, min(1.0, cap or 1.0)).to(v.dtype)
    if divergence == "kl" and (cap is None or cap >= 1):
        return soft_maximum(v, lam), p
    excess = (torch.special.xlogy(p, classes * p) if divergence == "kl" else (p - 1 / classes).square() / 2).sum(-1)
    return (p * v).sum(-1) - (lam * excess if 0 < lam < math.inf else 0), p


@torch.no_grad()
def _worst_case(
    v: Float[Tensor, "*batch classes"], lam: float, divergence: Divergence, cap: float
) -> Float[Tensor, "*batch classes"]:
    """The maximising distribution, in float64."""
    classes = v.shape[-1]
    if lam > torch.finfo(v.dtype).max:
        return torch.full_like(v, 1 / classes)
    if lam < torch.finfo(v.dtype).tiny:  # fill up class after class
        rank = torch.arange(classes, device=v.device, dtype=v.dtype)
        filled = (1 - cap * rank).clamp(0, cap).expand_as(v)
        return torch.zeros_like(v).scatter(-1, v.argsort(dim=-1, descending=True, stable=True), filled)
    if divergence == "kl":
        if cap == 1:
            return F.softmax(v / lam, dim=-1)
        log_cap = math.log(cap)

        def share(mu: Tensor) -> Tensor:
            return ((v - mu) / lam).clamp(max=log_cap).exp()

        low = v.amin(-1, keepdim=True) - lam * log_cap  # there all have the cap
        p = share(_normaliser(share, low, lam * (v / lam).logsumexp(-1, keepdim=True)))
        bound = p >= cap * (1 - 1e-14)
        free = p.masked_fill(bound, 0.0)
        mass = 1 - (p - free).sum(-1, keepdim=True)
        return (free * (mass / free.sum(-1, keepdim=True).clamp(min=1e-300))).masked_fill(bound, cap)

    def clipped(mu: Tensor) -> Tensor:
        return (1 / classes + (v - mu) / lam).clamp(0, cap)

    low = v.amin(-1, keepdim=True) - lam * (cap - 1 / classes)
    p = clipped(_normaliser(clipped, low, v.amax(-1, keepdim=True) + lam / classes))
    inside = (p > 0) & (p < cap)
    missing = (1 - p.sum(-1, keepdim=True)) / inside.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(inside, p + missing, p)


def _normaliser(share: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The mu in [low, high] with shares that sum to 1; their sum falls with mu."""
    for _ in range(64):  # halves any range to the spacing of float64
        middle = (low + high) / 2
        more = share(middle).sum(-1, keepdim=True) > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (low + high) / 2


class LDRKLLoss(ClassificationLoss):
    """The label-distributionally-robust loss with the Kullback-Leibler divergence from uniform::

        psi(f, y) = lambda log( (1/K) sum_k exp((delta_k + c_k)/lambda) )

    The worst case is p_k proportional to exp((f_k + c_k)/lambda). lambda = 0 is the hinge of Crammer and Singer; lambda
    = 1 without margin is cross-entropy less log K; lambda = infinity is linear in f and symmetric, which is what makes
    a loss tolerant to label noise, while any finite lambda is consistent for every top-k.

    Arguments:
        lam: lambda, from 0 to infinity. The margin and this are meant for normalised logits; {0.1, 1, 10} is the
            authors' grid.
        margin: c, at least zero.
        normalize: what is done to logits first, see :func:`normalized`: ``"mean_softplus"`` (the released code's
            choice), ``"l1"``, or None. Normalised, the loss does not see the scale of f: use f for ranking, not
            softmax(f) as probabilities.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Source: arXiv 2112.14869, section 3; the order of operations is that of the released code.

    >>> loss = LDRKLLoss(lam=1.0, margin=0.0, normalize=None)
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.)
    """

    def __init__(
        self,
        lam: float = 1.0,
        margin: float = 0.1,
        normalize: Normalization | None = "mean_softplus",
        *,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_argument("lam", lam, lam >= 0, "at least zero")
        check_argument("margin", margin, 0 <= margin < math.inf, "finite and at least zero")
        if normalize is not None:
            check_choice("normalize", normalize, get_args(Normalization))
        self.lam, self.margin = float(lam), margin
        self.normalize: Normalization | None = normalize

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        values = margined_differences(normalized(logits, self.normalize), target, self.margin)
        return soft_maximum(values, self.lam)

    def extra_repr(self) -> str:
        return f"lam={self.lam:g}, margin={self.margin:g}, normalize={self.normalize!r}"
