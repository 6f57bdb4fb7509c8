"""Losses of the predicted probabilities p = softmax(f) that bound what a wrong label can do.

Where a loss depends on p_y alone it is computed from log p_y, so that neither a probability that rounds to 0 nor a
parameter near a limit (q → 0) loses digits or gradients.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from landform.losses.base import (
    ClassificationLoss,
    Reduction,
    check_argument,
    check_index,
    check_logits,
    of_class,
    own_class,
    reduce,
)


def log_likelihood(logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log p_y."""
    return of_class(F.log_softmax(logits, dim=-1), target)


class LikelihoodLoss(ClassificationLoss):
    """A loss of the label's probability p_y alone."""

    @abstractmethod
    def of_likelihood(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The loss of a sample whose label has the log-probability ``log_p``."""

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.of_likelihood(log_likelihood(logits, target))


class GCELoss(LikelihoodLoss):
    """Generalised cross-entropy: psi(f, y) = (1 − p_y^q)/q, cross-entropy for q → 0 and 1 − p_y for q = 1.

    Arguments:
        q: in (0, 1].
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Source: Zhang & Sabuncu, arXiv 1805.07836, equation 6.

    >>> loss = GCELoss(q=1.0)
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    def __init__(self, q: float = 0.7, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_argument("q", q, 0 < q <= 1, "in (0, 1]")
        self.q = q

    def of_likelihood(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return -torch.expm1(self.q * log_p) / self.q

    def extra_repr(self) -> str:
        return f"q={self.q:g}"


class TruncatedGCELoss(GCELoss):
    """Generalised cross-entropy on the samples that are still believed: w_i (1 − p_y^q)/q, with w_i in {0, 1}.

    All weights are 1 at first. :meth:`prune` sets those of a batch to 1[p_y > threshold]; the authors of arXiv
    2112.14869 make such a pass over the training set, without an update, every tenth epoch of the second half of a
    training. A mean is over all samples of the batch, those of weight 0 included.

    Arguments:
        num_samples: N, the size of the training set.
        q: in (0, 1].
        threshold: the probability, in [0, 1), that a believed label must exceed.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Attributes:
        weight: buffer (N,) of the weights, in ``state_dict``.

    Raises:
        ValueError, TypeError: as for any loss of classes; an index (B,) that is not of integers in 0 … N − 1.

    Source: Zhang & Sabuncu, arXiv 1805.07836, section 3.3.

    >>> loss = TruncatedGCELoss(num_samples=2)
    >>> logits, target, index = torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([0, 1])
    >>> loss.prune(logits, target, index); loss.weight
    tensor([1., 0.])
    """

    weight: Tensor

    def __init__(
        self, num_samples: int, q: float = 0.7, threshold: float = 0.5, *, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(q, reduction=reduction)
        check_argument("num_samples", num_samples, num_samples >= 1, "at least 1")
        check_argument("threshold", threshold, 0 <= threshold < 1, "in [0, 1)")
        self.threshold = threshold
        self.register_buffer("weight", torch.ones(num_samples))

    def forward(  # type: ignore[override]  # a table of samples needs to know which they are
        self, logits: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"], index: Int[Tensor, " batch"]
    ) -> Tensor:
        logits, target = check_logits(logits, target)
        index = check_index(index, len(self.weight), target)
        return reduce(self.weight[index].to(logits) * self.psi(logits, target), self.reduction)

    @torch.no_grad()
    def prune(
        self, logits: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"], index: Int[Tensor, " batch"]
    ) -> None:
        """Believe those samples of the batch whose label has more than the threshold's probability, and no others."""
        logits, target = check_logits(logits, target)
        index = check_index(index, len(self.weight), target)
        believed = log_likelihood(logits, target).exp() > self.threshold
        self.weight[index.to(self.weight.device)] = believed.to(self.weight)

    def extra_repr(self) -> str:
        return f"num_samples={len(self.weight)}, {super().extra_repr()}, threshold={self.threshold:g}"


class SCELoss(LikelihoodLoss):
    """Symmetric cross-entropy: psi(f, y) = (1 − b)(−log p_y) + b A (1 − p_y).

    The second term is the cross-entropy with label and prediction exchanged, log 0 being −A.

    Arguments:
        balance: b, in [0, 1].
        scale: A, positive.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Source: Wang et al., arXiv 1908.06112; in the one-parameter form of arXiv 2112.14869.

    >>> loss = SCELoss(balance=1.0)
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(3.)
    """

    def __init__(self, balance: float = 0.5, scale: float = 4.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_argument("balance", balance, 0 <= balance <= 1, "in [0, 1]")
        check_argument("scale", scale, 0 < scale < math.inf, "positive and finite")
        self.balance, self.scale = balance, scale

    def of_likelihood(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return -(1 - self.balance) * log_p - self.balance * self.scale * torch.expm1(log_p)

    def extra_repr(self) -> str:
        return f"balance={self.balance:g}, scale={self.scale:g}"


class RLLLoss(ClassificationLoss):
    """Robust log loss: psi(f, y) = −log(a + p_y) + (1/(K − 1)) sum over k != y of log(a + p_k).

    Arguments:
        a: positive; the larger, the nearer to a linear loss.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Source: as stated in arXiv 2112.14869's comparison of losses (the released code has another second term).

    >>> loss = RLLLoss(a=0.1)
    >>> loss(torch.tensor([[0.0, 50.0]]), torch.tensor([0]))  # log(1.1/0.1)
    tensor(2.3979)
    """

    def __init__(self, a: float = 1.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_argument("a", a, 0 < a < math.inf, "positive and finite")
        self.a = a

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        logs = torch.log(self.a + F.softmax(logits, dim=-1))
        own = of_class(logs, target)
        return (logs.sum(-1) - own) / (logits.shape[-1] - 1) - own

    def extra_repr(self) -> str:
        return f"a={self.a:g}"


class JSLoss(LikelihoodLoss):
    """Generalised Jensen-Shannon divergence between the label's distribution e_y and the prediction p::

        psi(f, y) = [pi_1 KL(e_y || M) + pi_2 KL(p || M)] / (−(1 − pi_1) log(1 − pi_1)),     M = pi_1 e_y + pi_2 p

    It lies between cross-entropy (pi_1 → 0) and the mean absolute error (pi_1 → 1). Since p_k/M_k = 1/pi_2 for k != y,
    it is a function of p_y.

    Arguments:
        weights: (pi_1, pi_2), both positive, with sum 1.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Source: Englesson & Azizpour, arXiv 2105.04522.

    >>> loss = JSLoss()
    >>> loss(torch.tensor([[-200.0, 0.0]]), torch.tensor([0]))  # the most it can be with equal weights
    tensor(2.)
    """

    def __init__(self, weights: tuple[float, float] = (0.5, 0.5), *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        holds = len(weights) == 2 and min(weights) > 0 and math.isclose(sum(weights), 1, abs_tol=1e-6)
        check_argument("weights", weights, holds, "two positive numbers with sum 1")
        self.weights = weights

    def of_likelihood(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        label, prediction = self.weights
        log_mixture = torch.log(label + prediction * log_p.exp())
        to_prediction = log_p.exp() * (log_p - log_mixture) + math.log(prediction) * torch.expm1(log_p)
        return (prediction * to_prediction - label * log_mixture) / ((label - 1) * math.log1p(-label))

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


class MAELoss(LikelihoodLoss):
    """Mean absolute error of the probabilities: psi(f, y) = sum_k |e_k − p_k| = 2 (1 − p_y).

    Symmetric, hence tolerant to uniform label noise, and slow to train with many classes. Source: Ghosh et al., arXiv
    1712.09482.

    >>> loss = MAELoss()
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.5000)
    """

    def of_likelihood(self, log_p: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return -2 * torch.expm1(log_p)


class MSELoss(ClassificationLoss):
    """Squared error of the probabilities, or Brier score: psi(f, y) = sum_k (e_k − p_k)².

    ``torch.nn.MSELoss`` is of the outputs as they are; here they are logits.

    >>> loss = MSELoss()
    >>> loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        p = F.softmax(logits, dim=-1)
        return (own_class(target, p.shape[-1]).to(p) - p).square().sum(-1)
