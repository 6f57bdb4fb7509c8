"""Invariant risk minimisation."""

from __future__ import annotations

import torch
from torch import Tensor

from landform.losses.base import check_argument, own_class
from landform.shift.generalisation.base import DomainLoss, domain_risks


class IRM(DomainLoss):
    """The mean risk of the domains, and how far their common classifier is from the best of each:

        mean_e [ R_e + w g_e g'_e ],   g_e = dR_e(s f) / ds at s = 1

    where s scales the logits f, and g and g' are measured on every other sample of the domain, so that the product is
    an unbiased estimate of (dR_e/ds)². It can be negative. w is 1 in the first ``anneal`` calls in training mode and
    ``weight`` from then on; :attr:`active_weight` is the one in force. DomainBed makes a new optimiser when w jumps,
    since Adam's moments are of another size then: the caller does so where ``active_weight`` changes. A domain with
    one sample in the batch has no penalty.

    Arguments:
        weight: at least 0.
        anneal: at least 0.

    Raises:
        ValueError: an argument out of range; a batch as :class:`DomainLoss` refuses it.

    Source: arXiv 1907.02893, as in DomainBed (arXiv 2007.01434), whose defaults these are.

    >>> loss = IRM(anneal=0)
    >>> y, domain = torch.tensor([0, 0]), torch.tensor([0, 0])
    >>> loss(torch.zeros(2, 3), torch.zeros(2, 2), y, domain), loss.active_weight  # no scale betters equal logits
    (tensor(0.6931), 100.0)
    """

    calls: Tensor

    def __init__(self, weight: float = 100.0, anneal: int = 500) -> None:
        super().__init__()
        check_argument("weight", weight, 0 <= weight < float("inf"), "finite and at least 0")
        check_argument("anneal", anneal, anneal >= 0, "at least 0")
        self.weight, self.anneal = weight, anneal
        self.register_buffer("calls", torch.tensor(0))

    @property
    def active_weight(self) -> float:
        """w of the next call."""
        return self.weight if int(self.calls) >= self.anneal else 1.0

    def objective(self, features: Tensor, logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        # d/ds of a sample's cross-entropy at s f is Σ_k p_k f_k - f_y, so no second backward pass is needed.
        slopes = (logits.softmax(1) * logits).sum(1) - logits[own_class(targets, logits.shape[1])]
        order = domains.argsort(stable=True)
        _, place, count = domains.unique(return_inverse=True, return_counts=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        half = (rank - (count.cumsum(0) - count)[place]) % 2
        sums = slopes.new_zeros(2 * len(count)).index_add(0, 2 * place + half, slopes).view(-1, 2)
        sizes = torch.stack([(count + 1) // 2, (count // 2).clamp(min=1)], 1)
        penalty = (sums / sizes).prod(1)
        loss = (domain_risks(logits, targets, domains) + self.active_weight * penalty).mean()
        if self.training:
            self.calls += 1
        return loss

    def extra_repr(self) -> str:
        return f"weight={self.weight}, anneal={self.anneal}"
