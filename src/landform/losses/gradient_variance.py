"""How differently a classifier's last layer would learn from two sets of samples: variances of their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.losses.base import check_scores

Center = Literal["reference", "own"]


def last_layer_sample_grads(
    features: Float[Tensor, "batch d"], logits: Float[Tensor, "batch k"], targets: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch k d"], Float[Tensor, "batch k"]]:
    """The gradient of every sample's cross-entropy for the weight and the bias of the linear layer that gave it.

    With r_i = softmax(logits_i) - onehot(targets_i) and h_i = features_i they are r_i h_i^T and r_i. No backward pass
    is needed, and they can be differentiated through logits and features.

    Raises:
        TypeError: targets that are not integers.
        ValueError: shapes that do not fit, or targets that are no classes.

    Source: arXiv 2403.07329 (after Fishr, arXiv 2109.02934), which calls BackPACK for them.

    >>> weight, bias = last_layer_sample_grads(torch.ones(1, 3), torch.zeros(1, 2), torch.tensor([0]))
    >>> weight.tolist(), bias.tolist()
    ([[[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]]], [[-0.5, 0.5]])
    """
    if features.ndim != 2 or logits.ndim != 2 or not len(features) == len(logits) == len(targets):
        raise ValueError(
            f"features {tuple(features.shape)}, logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: must "
            "be (batch, d), (batch, k) and (batch,)"
        )
    residual = logits.softmax(1) - one_hot(targets, logits)
    return residual.unsqueeze(2) * features.unsqueeze(1), residual


def one_hot(targets: Int[Tensor, " batch"], logits: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
    """Rows of the identity."""
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"targets are {targets.dtype}; must be class numbers, integers")
    if targets.ndim != 1 or (len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[1]):
        raise ValueError(
            f"targets {tuple(targets.shape)}: must be a vector of class numbers, 0 to {logits.shape[1] - 1}"
        )
    return F.one_hot(targets.long(), logits.shape[1]).to(logits.dtype)


class GradientVarianceInconsistency(nn.Module):
    """How far per-sample gradients on new samples differ in variance from those on reference samples, and their size.

        v_j   = mean_i (G_ij - mean_i G_ij)^2               reference gradients G, j over all entries
        v~_j  = mean_i (G~_ij - c_j)^2                      new gradients G~
        I     = a mean_j (v_j - v~_j)^2 + b sum_q mean_i ||G~_i^q||^2 / dim q

    with (a, b) = ``weights``, q running over the parameters (weight, bias), and c_j the reference mean, as in the
    released code, or the new samples' own. Variances stand for the diagonal of the Hessian. The weights (1/4, 1) are
    the released code's, whose squared distances are to the mean of v and v~.

    Dividing by the number of entries makes I small for a large head: a weight of I in a loss means nothing without
    the head's size.

    Arguments:
        center: ``"reference"`` or ``"own"``, what c is.
        weights: of the variances' mismatch and of the gradients' size; 0 switches a term off.

    Shapes: both arguments are gradients as of :func:`last_layer_sample_grads`: tensors (batch, ...), one a parameter,
    of the same parameters on both sides; a single tensor is one parameter. The numbers of samples may differ.

    Raises:
        ValueError: an unknown center, weights that are negative, gradients that do not fit or are not finite.
        TypeError: gradients that are not floating point.

    Source: arXiv 2403.07329, section 4; constants and centring as in its code.

    >>> loss = GradientVarianceInconsistency()
    >>> clean, new = (torch.zeros(1, 1, 2), torch.zeros(1, 2)), (torch.ones(1, 1, 2), torch.ones(1, 2))
    >>> loss(clean, new)  # v = 0 and v~ = 1 everywhere; both norms are 2 over 2 entries
    tensor(2.2500)
    """

    def __init__(self, center: Center = "reference", weights: tuple[float, float] = (0.25, 1.0)) -> None:
        super().__init__()
        if center not in get_args(Center):
            raise ValueError(f"center={center!r}: must be 'reference' or 'own'")
        if len(weights) != 2 or not all(0 <= w < math.inf for w in weights):
            raise ValueError(f"weights={weights}: must be two numbers of zero or more")
        self.center = center
        self.weights = weights

    def forward(self, ref_grads: Tensor | Sequence[Tensor], new_grads: Tensor | Sequence[Tensor]) -> Float[Tensor, ""]:
        reference, new = _flat(ref_grads), _flat(new_grads)
        if not new or [g.shape[1] for g in reference] != [g.shape[1] for g in new]:
            raise ValueError(
                f"ref_grads of {[g.shape[1] for g in reference]} entries and new_grads of {[g.shape[1] for g in new]}: "
                "must be of the same parameters, at least one"
            )
        mismatch, size = self.weights
        total = new[0].new_zeros(())
        if mismatch:
            distances = [self._distance(g, h).square() for g, h in zip(reference, new, strict=True)]
            total = total + mismatch * torch.cat(distances).mean()
        if size:
            total = total + size * torch.stack([h.square().mean() for h in new]).sum()
        return total

    def extra_repr(self) -> str:
        return f"center={self.center!r}, weights={self.weights}"

    def _distance(self, reference: Float[Tensor, "n p"], new: Float[Tensor, "m p"]) -> Float[Tensor, " p"]:
        mean = reference.mean(0)
        center = mean if self.center == "reference" else new.mean(0)
        return (reference - mean).square().mean(0) - (new - center).square().mean(0)


def _flat(gradients: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """(batch, entries) of each parameter, in at least float32."""
    listed = [gradients] if isinstance(gradients, Tensor) else list(gradients)
    for gradient in listed:
        if gradient.ndim < 2 or not len(gradient):
            raise ValueError(
                f"gradients of shape {tuple(gradient.shape)}: must be (batch, ...), of at least one sample"
            )
    return [check_scores(gradient).flatten(1) for gradient in listed]
