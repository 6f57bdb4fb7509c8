"""Label smoothing, in PyTorch's convention and in the one that open-set papers use."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from landform.losses.base import ClassificationLoss, Reduction, check_argument, check_choice

Convention = Literal["others", "uniform"]


def smoothed_cross_entropy(
    logits: Float[Tensor, "*batch classes"],
    targets: Int[Tensor, "*batch"],
    smoothing: float,
    convention: Convention = "others",
) -> Float[Tensor, "*batch"]:
    """The loss of each sample in :class:`LabelSmoothingCrossEntropy`: free of checks."""
    log_p = F.log_softmax(logits, dim=-1)
    own = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    classes = logits.shape[-1]
    if convention == "uniform":
        smoothing = smoothing * (classes - 1) / classes
    return -(1 - smoothing) * own - smoothing / (classes - 1) * (log_p.sum(-1) - own)


class LabelSmoothingCrossEntropy(ClassificationLoss):
    """Cross-entropy to a target that keeps some probability for the other classes::

        −Σ_k q_k log softmax(z)_k

        "others"    q_y = 1 − s,          q_k = s/(K − 1)   for k ≠ y
        "uniform"   q_y = 1 − s + s/K,    q_k = s/K

    "uniform" is that of ``torch.nn.CrossEntropyLoss(label_smoothing=s)``; "others" with s equals "uniform" with
    s K/(K − 1). At s = 0 both are the cross-entropy.

    Arguments:
        smoothing: s in [0, 1).
        convention: where the probability goes; "others" by default, as in the code of arXiv 2110.06207.
        reduction: ``"mean"`` over samples (default), ``"sum"``, or ``"none"`` for a value a sample.

    Raises:
        ValueError, TypeError: an argument out of range, or a batch that is empty, not finite or does not fit.

    Source: Szegedy et al., arXiv 1512.00567, section 7; arXiv 2110.06207 (code).

    >>> import torch
    >>> loss = LabelSmoothingCrossEntropy(0.3)
    >>> loss(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(0.8395)
    """

    def __init__(self, smoothing: float, convention: Convention = "others", *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_argument("smoothing", smoothing, 0 <= smoothing < 1, "in [0, 1)")
        check_choice("convention", convention, get_args(Convention))
        self.smoothing = float(smoothing)
        self.convention: Convention = convention

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return smoothed_cross_entropy(logits, target, self.smoothing, self.convention)

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing:g}, convention={self.convention!r}"
