"""Distributionally robust optimisation over domains."""

from __future__ import annotations

import torch
from torch import Tensor

from landform.losses.base import check_argument
from landform.shift.generalisation.base import DomainLoss, domain_risks


class GroupDRO(DomainLoss):
    """The risks of the domains, weighted by q, which moves to those of higher risk:

        q_e ← q_e exp(eta R_e) / Σ,   loss = Σ_e q_e R_e

    q starts uniform. Each call in training mode updates it, before the loss is weighed. Domains that are not in the
    batch keep their part of q against the others and add nothing.

    Arguments:
        domains: how many there are.
        eta: step size of q, at least 0.

    Raises:
        ValueError: an argument out of range; a batch as :class:`DomainLoss` refuses it.

    Source: arXiv 1911.08731, algorithm 1, as in DomainBed (arXiv 2007.01434), whose eta this is.

    >>> loss = GroupDRO(2, eta=1.0)
    >>> logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    >>> value = loss(torch.zeros(2, 3), logits, torch.tensor([0, 0]), torch.tensor([0, 1]))
    >>> loss.q
    tensor([0.6666, 0.3334])
    """

    q: Tensor

    def __init__(self, domains: int, eta: float = 0.01) -> None:
        super().__init__()
        check_argument("domains", domains, domains >= 1, "at least 1")
        check_argument("eta", eta, 0 <= eta < float("inf"), "finite and at least 0")
        self.most_domains, self.eta = domains, eta
        self.register_buffer("q", torch.full((domains,), 1 / domains))

    def objective(self, features: Tensor, logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        risks = domain_risks(logits, targets, domains)
        present = domains.unique()
        if self.training:
            q = self.q.index_put((present,), self.q[present] * (self.eta * risks.detach()).exp().to(self.q))
            self.q = q / q.sum()
        return (self.q[present].to(risks) * risks).sum()

    def extra_repr(self) -> str:
        return f"domains={self.most_domains}, eta={self.eta}"
