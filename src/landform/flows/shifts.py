"""What a learned flow must beat: populations moved by their mean alone. (The identity is x0 itself.)"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def mean_shift(
    x0: Float[Tensor, "*batch n d"], training_targets: Float[Tensor, "*points d"]
) -> Float[Tensor, "*batch n d"]:
    """Each population moved as a whole so that its mean is that of all training targets.

    x0 − mean(x0) + mean of ``training_targets`` over all their points and populations.
    """
    _check(x0, training_targets)
    return x0 - x0.mean(-2, keepdim=True) + training_targets.flatten(0, -2).mean(0)


def ideal_shift(x0: Float[Tensor, "*batch n d"], x1: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch n d"]:
    """Each population moved as a whole onto the mean of its own target: an oracle, for what a shift can do at best."""
    _check(x0, x1)
    return x0 - x0.mean(-2, keepdim=True) + x1.mean(-2, keepdim=True)


def _check(x0: Tensor, targets: Tensor) -> None:
    if x0.ndim < 2 or targets.ndim < 2 or x0.shape[-1] != targets.shape[-1] or not targets.numel():
        raise ValueError(f"x0 {tuple(x0.shape)} and targets {tuple(targets.shape)}: must be (…, points, d) of one d")
