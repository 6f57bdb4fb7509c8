"""Multi-class hinges: losses of how far each class's score is above that of the label."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.losses.base import ClassificationLoss, Reduction, check_argument, of_class, own_class


def margined_differences(
    logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"], margin: float
) -> Float[Tensor, "*batch classes"]:
    """f_k − f_y + c for k != y, and 0 for k = y: by how much each class violates the margin c. Pure, fit for ``vmap``.

    >>> margined_differences(torch.tensor([[2.0, 1.0, 4.0]]), torch.tensor([0]), margin=0.5)
    tensor([[ 0.0000, -0.5000,  2.5000]])
    """
    differences = logits - of_class(logits, target).unsqueeze(-1)
    return torch.where(own_class(target, logits.shape[-1]), differences, differences + margin)


class _MarginClassificationLoss(ClassificationLoss):
    def __init__(self, margin: float = 1.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_argument("margin", margin, 0 <= margin < float("inf"), "finite and at least zero")
        self.margin = margin

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}"


class CrammerSingerLoss(_MarginClassificationLoss):
    """psi(f, y) = max_k (c 1[k != y] + f_k − f_y): the worst violation of the margin, zero when there is none.

    Arguments:
        margin: c, at least zero.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Source: Crammer & Singer, Journal of Machine Learning Research 2 (2001); as a baseline, arXiv 2112.14869.

    >>> loss = CrammerSingerLoss()
    >>> loss(torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([0]))
    tensor(0.5000)
    """

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return margined_differences(logits, target, self.margin).amax(-1)


class WestonWatkinsLoss(_MarginClassificationLoss):
    """psi(f, y) = (1/K) sum_k max(0, c 1[k != y] + f_k − f_y): all violations of the margin, averaged over K classes.

    Arguments:
        margin: c, at least zero.
        reduction: see :class:`~landform.losses.base.ClassificationLoss`.

    Source: Weston & Watkins, ESANN 1999, there a sum over classes; the mean is that of arXiv 2112.14869's comparison.

    >>> loss = WestonWatkinsLoss()
    >>> loss(torch.tensor([[2.0, 1.5, 1.5, 0.0]]), torch.tensor([0]))
    tensor(0.2500)
    """

    def psi(self, logits: Float[Tensor, "*batch classes"], target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return torch.relu(margined_differences(logits, target, self.margin)).mean(-1)
