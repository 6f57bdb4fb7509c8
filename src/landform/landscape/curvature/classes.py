"""Where outliers come from: the Gauss–Newton matrix in a part between classes and a part within them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.landscape.curvature.operators import CurvatureOperator, SymmetricOperator
from landform.landscape.curvature.products import pull_back


class LowRank(SymmetricOperator):
    """Fᵀ F for a ``factor`` F of few rows."""

    def __init__(self, factor: Float[Tensor, "r P"]) -> None:
        super().__init__(factor.shape[1], factor.dtype, factor.device)
        self.factor = factor

    def rows(self, vectors: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        return (vectors @ self.factor.T) @ self.factor

    def eigenvalues(self) -> Float[Tensor, " r"]:
        """Those that can differ from zero, descending: the eigenvalues of F Fᵀ."""
        return torch.linalg.eigvalsh(self.factor @ self.factor.T).flip(0)


class Difference(SymmetricOperator):
    """One operator less another."""

    def __init__(self, whole: SymmetricOperator, part: SymmetricOperator) -> None:
        super().__init__(whole.shape[0], whole.dtype, whole.device)
        self.whole, self.part = whole, part

    def rows(self, vectors: Float[Tensor, "k P"]) -> Float[Tensor, "k P"]:
        return self.whole.rows(vectors) - self.part.rows(vectors)


@dataclass(frozen=True)
class ClassStructure:
    """G = ``between`` + ``within``, both positive semi-definite."""

    between: LowRank
    within: Difference


def class_structure(
    model: nn.Module, batch: tuple[Tensor, Tensor], *, dtype: torch.dtype | None = None
) -> ClassStructure:
    """The Gauss–Newton matrix of the mean cross-entropy, split by the samples' classes.

        G = (1/n) Σ_i B_i B_iᵀ,   B_i = J_iᵀ A_i^{1/2} (P × K),   A_i = diag(p_i) − p_i p_iᵀ,
        between = Σ_c (n_c/n) B̄_c B̄_cᵀ,   within = (1/n) Σ_i (B_i − B̄_c(i)) (B_i − B̄_c(i))ᵀ

    with B̄_c the mean of B_i over the n_c samples of class c, and the symmetric square root of A_i. The rank of the
    between part is at most K (K − 1). The network is measured in eval mode.

    Arguments:
        model: a network that gives logits ``(n, K)``.
        batch: inputs, and targets ``(n,)`` of class numbers.
        dtype: compute in this precision; by default that of the parameters.

    Raises:
        ValueError: logits of another shape; whatever :class:`CurvatureOperator` refuses.
        FloatingPointError: weights or a product that are not finite.

    Source: arXiv 1706.04454 (the split); Papyan, arXiv 1901.08244 (its parts by class).

    >>> structure = class_structure(nn.Linear(3, 2), (torch.randn(8, 3), torch.arange(8) % 2))
    >>> structure.between.shape, structure.within.shape
    ((8, 8), (8, 8))
    """
    whole = CurvatureOperator(model, "ce", batch, kind="ggn", dtype=dtype)
    targets = batch[1].to(whole.device)
    w = whole.weights.clone().requires_grad_()
    logits = whole.outputs(w, batch[0])
    if logits.ndim != 2:
        raise ValueError(f"the model gives outputs of shape {tuple(logits.shape)}; class structure needs logits (n, K)")
    p = logits.detach().softmax(dim=1)
    eigenvalues, directions = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    eigenvalues[:, 0] = 0  # that of (1, …, 1), whose rounding a root would magnify
    roots = (directions * eigenvalues.clamp(min=0).sqrt()[:, None, :]) @ directions.mT
    cotangents = []
    for label in targets.unique():
        member = targets == label
        # √(n_c/n) B̄_c: a mean over the class, so 1/n_c, times the root of its share.
        weight = member.to(roots) / math.sqrt(int(member.sum()) * len(targets))
        cotangents.append(weight[None, :, None] * roots.permute(2, 0, 1))
    factor = pull_back(logits, w, torch.cat(cotangents))
    between = LowRank(factor)
    return ClassStructure(between, Difference(whole, between))
