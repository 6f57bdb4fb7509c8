"""FedLD's margin control: cross-entropy, and a penalty on confident predictions."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from landform.losses.base import check_choice, check_logits

On = Literal["probs", "logits"]
PenaltyReduction = Literal["batch", "sample"]


def margin_penalty(
    logits: Float[Tensor, "*sets batch classes"],
    mask: Bool[Tensor, "*sets batch"] | None = None,
    *,
    on: On = "probs",
    reduction: PenaltyReduction = "batch",
) -> Float[Tensor, "*sets"]:
    """log(1 + ‖S‖²) of one or of many batches, S being their softmax; free of checks, fit for ``torch.func.vmap``.

    See :class:`MarginControlLoss`. Samples outside ``mask`` do not count.
    """
    outputs = logits.softmax(-1) if on == "probs" else logits
    squared = outputs.square().sum(-1)
    if mask is not None:
        squared = torch.where(mask, squared, 0.0)
    if reduction == "batch":
        return torch.log1p(squared.sum(-1))
    logs = torch.log1p(squared)  # zero where the mask is
    return logs.mean(-1) if mask is None else logs.sum(-1) / mask.sum(-1).clamp(min=1)


class MarginControlLoss(nn.Module):
    """Cross-entropy plus lam · log(1 + ‖S‖²), which keeps predictions from becoming certain.

        L = mean_b CE(z_b, y_b) + lam · log(1 + Σ_{b,c} S_bc²),   S = softmax of each row of z

    ‖S‖² runs over the whole batch: B/K for uniform predictions, B for certain ones. Its gradient,
    lam · 2/(1 + ‖S‖²) · S_bc (S_bc − Σ_j S_bj²), is on the scale of a mean over samples. Two things depend on the
    batch's size: the penalty, and so its value on a short last batch. ``reduction="sample"`` takes
    mean_b log(1 + ‖S_b‖²) instead, which does not. Source: FedLD, arXiv 2408.12300; its text writes ‖f(x)‖², its code
    takes probabilities, the default here.

    Arguments:
        lam: the penalty's weight, at least 0.
        on: ``"probs"``, or ``"logits"`` to take z itself for S.
        reduction: ``"batch"`` or ``"sample"``, see above.

    Shapes: logits (B, K) and class numbers (B,) to a scalar.

    Raises:
        TypeError: logits that are not floating point, or targets that are not integers.
        ValueError: lam negative, an unknown name, an empty batch, other shapes, fewer than two classes, values that are
            not finite, or targets outside 0 … K − 1.

    >>> loss = MarginControlLoss(0.1)
    >>> loss(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))  # log 2 + 0.1 log 3
    tensor(0.8030)
    """

    def __init__(self, lam: float = 0.1, on: On = "probs", reduction: PenaltyReduction = "batch") -> None:
        super().__init__()
        if not 0 <= lam < float("inf"):
            raise ValueError(f"lam={lam}: must be finite and at least 0")
        check_choice("on", on, get_args(On))
        check_choice("reduction", reduction, get_args(PenaltyReduction))
        self.lam = lam
        self.on: On = on
        self.reduction: PenaltyReduction = reduction

    def forward(self, logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        logits, targets = check_logits(logits, targets)
        penalty = margin_penalty(logits, on=self.on, reduction=self.reduction)
        return F.cross_entropy(logits, targets) + self.lam * penalty

    def extra_repr(self) -> str:
        return f"lam={self.lam:g}, on={self.on!r}, reduction={self.reduction!r}"
