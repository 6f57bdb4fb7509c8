"""Scores of how likely a sample's class is a known one, from its logits: higher is more likely known."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def max_logit_score(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """max_k z_k ("MLS"): unlike the softmax it keeps the length of the features, which is shorter on unknown classes.

    Raises:
        TypeError: logits that are not floating point.
        ValueError: logits without an axis of classes.

    Source: arXiv 2110.06207, section 5.

    >>> max_logit_score(torch.tensor([[2.0, 1.0], [5.0, 4.0]]))
    tensor([2., 5.])
    """
    return _checked(logits).amax(-1)


def max_softmax_score(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """max_k softmax(z)_k ("MSP"), the classical baseline. Raises as :func:`max_logit_score`.

    Source: Hendrycks & Gimpel, arXiv 1610.02136.

    >>> max_softmax_score(torch.tensor([[0.0, 0.0], [0.0, 9.0]]))
    tensor([0.5000, 0.9999])
    """
    return _checked(logits).softmax(-1).amax(-1)


def energy_score(logits: Float[Tensor, "*batch classes"], temperature: float = 1.0) -> Float[Tensor, "*batch"]:
    """T log Σ_k exp(z_k/T), the negative free energy; the maximum logit as T → 0.

    Raises:
        TypeError, ValueError: as :func:`max_logit_score`; a temperature that is not positive and finite.

    Source: Liu et al., arXiv 2010.03759, equation 4.

    >>> energy_score(torch.tensor([[0.0, 0.0]]))
    tensor([0.6931])
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature}: must be positive and finite")
    return temperature * torch.logsumexp(_checked(logits) / temperature, dim=-1)


def entropy_score(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """Σ_k p_k log p_k with p = softmax(z): the negative entropy, 0 when certain and −log K when knowing nothing.

    Raises as :func:`max_logit_score`.

    >>> entropy_score(torch.tensor([[0.0, 0.0]]))
    tensor([-0.6931])
    """
    log_p = _checked(logits).log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1)


def _checked(logits: Tensor) -> Tensor:
    if not logits.is_floating_point():
        raise TypeError(f"logits have dtype {logits.dtype}: they must be floating point")
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"logits of shape {tuple(logits.shape)}: the last axis must hold at least one class")
    return logits
