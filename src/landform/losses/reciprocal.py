"""Adversarial reciprocal points: each class is what lies far from a point that stands for everything else."""

from __future__ import annotations

import math
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import (
    Reduction,
    check_argument,
    check_choice,
    check_integers,
    check_scores,
    products,
    reduce,
)
from landform.losses.smoothing import smoothed_cross_entropy


class ReciprocalPointLoss(nn.Module):
    """The ARPL loss of features f (B, d), with a reciprocal point P_k for each class and a radius r, all learned::

        z_k  = ‖f − P_k‖²/d − f · P_k
        loss = CE(z/T, y) + w max(0, 1 − (r − ‖f − P_y‖²/d))

    A class's logit grows with the distance from its reciprocal point; the margin term keeps features of all classes
    within reach of the points, so that the room beyond is left to the unknown. r starts at 0, where the term is active.
    Half precision is widened to float32. The parameters belong into the optimizer, beside the network's.

    Arguments:
        num_classes, dim: K and d.
        margin_weight: w.
        temperature: T of the cross-entropy; :meth:`logits` are without it.
        smoothing: label smoothing of the cross-entropy, in the convention "others" (see
            :class:`LabelSmoothingCrossEntropy`).
        reduction: ``"mean"`` over samples (default), ``"sum"``, or ``"none"`` for a value a sample.

    Raises:
        ValueError, TypeError: an argument out of range; features that are empty, not finite or not (B, d); targets
            that are not (B,) class numbers.

    Source: Chen et al., arXiv 2103.00953, section 3; the constants of the code of arXiv 2110.06207.

    >>> loss = ReciprocalPointLoss(num_classes=3, dim=8)
    >>> features = torch.zeros(5, 8)
    >>> loss(features, torch.zeros(5, dtype=torch.long)).shape, loss.logits(features).shape
    (torch.Size([]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        margin_weight: float = 0.1,
        temperature: float = 1.0,
        *,
        smoothing: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_argument("num_classes", num_classes, num_classes >= 2, "at least 2")
        check_argument("dim", dim, dim >= 1, "at least 1")
        check_argument("margin_weight", margin_weight, 0 <= margin_weight < math.inf, "finite and at least zero")
        check_argument("temperature", temperature, 0 < temperature < math.inf, "positive and finite")
        check_argument("smoothing", smoothing, 0 <= smoothing < 1, "in [0, 1)")
        check_choice("reduction", reduction, get_args(Reduction))
        self.margin_weight, self.temperature, self.smoothing = margin_weight, temperature, smoothing
        self.reduction: Reduction = reduction
        self.points = nn.Parameter(0.1 * torch.randn(num_classes, dim))
        self.radius = nn.Parameter(torch.zeros(()))

    def distances(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """‖f − P_k‖²/d, what :func:`confusing_sample_entropy` takes."""
        features, points = self._checked(features)
        # As squares and a product: (B, K, d) differences would take the memory of a layer.
        squares = features.square().sum(1, keepdim=True) + points.square().sum(1)
        return (squares - 2 * products(features, points)) / points.shape[1]

    def logits(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """z_k: class scores, the largest of which is the open-set score."""
        return self.distances(features) - products(*self._checked(features))

    def forward(self, features: Float[Tensor, "batch dim"], targets: Int[Tensor, " batch"]) -> Tensor:
        logits = self.logits(features)
        if targets.shape != features.shape[:1]:
            raise ValueError(f"targets of shape {tuple(targets.shape)}: must be ({len(features)},), one a feature")
        check_integers("targets", targets, len(self.points))
        targets = targets.long()
        features, points = self._checked(features)
        own = (features - points[targets]).square().mean(1)
        margin = (1 - (self.radius.to(own) - own)).clamp(min=0)
        entropy = smoothed_cross_entropy(logits / self.temperature, targets, self.smoothing)
        return reduce(entropy + self.margin_weight * margin, self.reduction)

    def _checked(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features and points in one precision of at least float32."""
        if features.ndim != 2 or features.shape[1] != self.points.shape[1]:
            raise ValueError(f"features of shape {tuple(features.shape)}: must be (B, {self.points.shape[1]})")
        features = check_scores(features)
        dtype = torch.promote_types(features.dtype, self.points.dtype)
        return features.to(dtype), self.points.to(dtype)

    def extra_repr(self) -> str:
        return (
            f"{len(self.points)}, {self.points.shape[1]}, margin_weight={self.margin_weight:g}, "
            f"temperature={self.temperature:g}, smoothing={self.smoothing:g}"
        )


def confusing_sample_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """exp(mean_i Σ_k p_ik log p_ik) with p = softmax(z): 1 for certain predictions, 1/K for knowing nothing.

    Minimised on generated samples by their generator and by the classifier, it makes them confusing ones: of no class.
    For reciprocal points, z are the ``distances``.

    Raises:
        TypeError: logits that are not floating point.
        ValueError: logits that are empty, not finite, or not (B, K).

    Source: Chen et al., arXiv 2103.00953, section 4; the form of the code of arXiv 2110.06207.

    >>> confusing_sample_entropy(torch.zeros(3, 4))
    tensor(0.2500)
    """
    if logits.ndim != 2:
        raise ValueError(f"logits of shape {tuple(logits.shape)}: must be (B, K)")
    log_p = check_scores(logits).log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1).mean().exp()
