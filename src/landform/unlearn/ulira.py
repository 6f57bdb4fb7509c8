"""U-LiRA: can an attacker tell an unlearned model from one that never saw the point?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ulira(oracle: Float[Tensor, "oracles m"], unlearned: Float[Tensor, "models m"]) -> Float[Tensor, " m"]:
    """The accuracy of a likelihood-ratio attack on each point: 0.5 where unlearning is perfect, 1 where it shows.

    The attacker knows the point's margins in shadow models that unlearned it and in ones that were never trained on it,
    fits a Gaussian to each set, and says of a held-out model which of the two its margin is likelier from. Every model
    of both sets is held out in turn, from the fit of its own set; the accuracy is the mean of the two sets' hit rates,
    and a tie is half a hit.

    Source: Hayes et al., arXiv 2403.01218, as arXiv 2410.23232 uses it. The released code holds out the unlearned
    models alone and gives their hit rate, which an attacker who always says "unlearned" would bring to 1.

    Arguments:
        oracle: (N, m) margins of models trained without the points, N at least 2.
        unlearned: (N', m) margins of unlearned models, N' at least 2.

    Returns:
        (m,) in float64.

    Raises:
        ValueError: sets that are not (N, m) with N at least 2, of different numbers of points, or not finite.

    >>> far = torch.tensor([[0.0], [0.1], [0.2]])
    >>> ulira(far, far + 5)
    tensor([1.], dtype=torch.float64)
    """
    for name, margins in (("oracle", oracle), ("unlearned", unlearned)):
        if margins.ndim != 2 or len(margins) < 2 or margins.shape[1] == 0:
            raise ValueError(
                f"{name}: has shape {tuple(margins.shape)}, must be (models, points) with 2 models or more"
            )
        if not bool(margins.isfinite().all()):
            raise ValueError(f"{name}: {int((~margins.isfinite()).sum())} margins are not finite")
    if oracle.shape[1] != unlearned.shape[1]:
        raise ValueError(f"oracle and unlearned: {oracle.shape[1]} points but {unlearned.shape[1]}")
    oracle, unlearned = oracle.double(), unlearned.double()
    return (_hits(unlearned, oracle) + _hits(oracle, unlearned)) / 2


def _hits(own: Tensor, other: Tensor) -> Tensor:
    """(m,): how often a value of ``own`` is likelier under the others of its set than under the other set."""
    n = len(own)
    mean = (own.sum(0) - own) / (n - 1)
    # The variance of the others: deviations from the mean of all, less the value's own.
    deviation = own - own.mean(0)
    variance = (deviation.square().sum(0) - deviation.square() * n / (n - 1)) / (n - 1)
    ratio = _log_density(own, mean, variance) - _log_density(own, other.mean(0), other.var(0, correction=0))
    return ((ratio > 0).double() + (ratio == 0).double() / 2).mean(0)


def _log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    variance = variance.clamp(min=torch.finfo(x.dtype).tiny)  # of a set of equal values
    return -0.5 * ((x - mean).square() / variance + variance.log())
