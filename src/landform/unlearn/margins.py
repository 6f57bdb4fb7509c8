"""The margin by which a classifier prefers the right class."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.losses.base import check_integers, of_class, own_class


def classification_margin(
    logits: Float[Tensor, "*models n classes"], y: Int[Tensor, " n"]
) -> Float[Tensor, "*models n"]:
    """The log-odds of the right class, for one model's logits or for those of many.

        m = f_y − log Σ_{k ≠ y} exp f_k = log(p_y / (1 − p_y))

    Computed without forming p, so that it is right for probabilities next to 0 or 1. Two classes: f_y − f_other.
    Source: arXiv 2410.23232, section 3; Park et al., arXiv 2303.14186 (TRAK), section 3.3.

    Arguments:
        logits: (…, n, K), with K at least 2.
        y: the right classes, the same for all models.

    Raises:
        ValueError: fewer than two classes, shapes that do not fit, or a class out of range.
        TypeError: logits that are not floating point, or classes that are not integers.

    >>> classification_margin(torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1]))
    tensor([ 3.0000, -0.5000])
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits are {logits.dtype}; they must be floating point")
    if logits.ndim < 2 or logits.shape[-1] < 2 or y.shape != logits.shape[-2:-1]:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} and y of shape {tuple(y.shape)}: must be (…, n, K) with K at least "
            "2, and (n,)"
        )
    check_integers("y", y, logits.shape[-1])
    return margin(logits, y.expand(logits.shape[:-1]))


def margin(logits: Float[Tensor, "*batch classes"], y: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The same, free of checks, for one class number a row: fit for ``torch.func.vmap`` and per-sample gradients."""
    others = logits.masked_fill(own_class(y, logits.shape[-1]), -torch.inf)
    return of_class(logits, y.long()) - others.logsumexp(-1)
