"""Active-passive losses: normalised cross-entropy, which raises the label's score, with one that lowers the others'.

    psi(f, y) = alpha NCE + beta P,    NCE = log p_y / sum_k log p_k

Both terms tolerate label noise; alone the first underfits. P here depends on the label's probability p_y alone. Source:
Ma et al., arXiv 2006.13554; the constants are those of arXiv 2112.14869, which takes (alpha, beta) = (a, 10 − a) with a
in {0.1, 5, 9.9}.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from landform.losses.base import ClassificationLoss, Reduction, check_argument, of_class


class ActivePassiveLoss(ClassificationLoss):
    """alpha NCE + beta P, with P given by a subclass.

    Arguments:
        alpha, beta: the weights, at least zero.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.
    """

    def __init__(self, alpha: float = 5.0, beta: float = 5.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        for name, value in {"alpha": alpha, "beta": beta}.items():
            check_argument(name, value, 0 <= value < math.inf, "finite and at least zero")
        self.alpha, self.beta = alpha, beta

    @abstractmethod
    def passive(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """P of a sample whose label has the log-probability ``log_p``."""

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        logs = F.log_softmax(logits, dim=-1)
        own = of_class(logs, target)
        return self.alpha * own / logs.sum(-1) + self.beta * self.passive(own)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}"


class NCEandRCELoss(ActivePassiveLoss):
    """Normalised and reverse cross-entropy: P = −sum_k p_k log max(e_k, 1e-4) = −log(1e-4) (1 − p_y).

    >>> loss = NCEandRCELoss(alpha=1.0, beta=0.0)
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.2500)
    """

    def passive(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return math.log(1e-4) * torch.expm1(log_p)


class NCEandAULLoss(ActivePassiveLoss):
    """Normalised cross-entropy and asymmetric unhinged loss: P = ((a − p_y)^q − (a − 1)^q)/q.

    Arguments:
        alpha, beta: the weights, at least zero.
        a: more than 1.
        q: positive.

    Source: Zhou et al., arXiv 2106.03110 (AUL).

    >>> loss = NCEandAULLoss(alpha=0.0, beta=1.0, a=2.0, q=1.0)
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    def __init__(
        self, alpha: float = 5.0, beta: float = 5.0, a: float = 6.0, q: float = 1.5, *, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(alpha, beta, reduction=reduction)
        check_argument("a", a, 1 < a < math.inf, "finite and more than 1")
        check_argument("q", q, 0 < q < math.inf, "positive and finite")
        self.a, self.q = a, q

    def passive(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return ((self.a - log_p.exp()) ** self.q - (self.a - 1) ** self.q) / self.q

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, a={self.a:g}, q={self.q:g}"


class NCEandAGCELoss(ActivePassiveLoss):
    """Normalised cross-entropy and asymmetric generalised cross-entropy: P = ((a + 1)^q − (a + p_y)^q)/q.

    Arguments:
        alpha, beta: the weights, at least zero.
        a, q: positive.

    Source: Zhou et al., arXiv 2106.03110 (AGCE).

    >>> loss = NCEandAGCELoss(alpha=0.0, beta=1.0, a=2.0, q=1.0)
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    def __init__(
        self, alpha: float = 5.0, beta: float = 5.0, a: float = 3.0, q: float = 1.5, *, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(alpha, beta, reduction=reduction)
        for name, value in {"a": a, "q": q}.items():
            check_argument(name, value, 0 < value < math.inf, "positive and finite")
        self.a, self.q = a, q

    def passive(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return ((self.a + 1) ** self.q - (self.a + log_p.exp()) ** self.q) / self.q

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, a={self.a:g}, q={self.q:g}"
