"""Training with features whose moments are alike in all domains."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from landform.losses.base import check_argument
from landform.shift.alignment import coral_penalty
from landform.shift.generalisation.base import DomainLoss, domain_risks


class CORAL(DomainLoss):
    """The mean risk of the domains, and ``gamma`` times the mean of :func:`coral_penalty` over their pairs.

    A domain with fewer than two samples in the batch has no moments and is in no pair.

    Arguments:
        gamma: at least 0.

    Raises:
        ValueError: an argument out of range; a batch as :class:`DomainLoss` refuses it.

    Source: arXiv 1607.01719, as in DomainBed (arXiv 2007.01434), whose gamma this is.

    >>> h = torch.tensor([[0.0], [2.0], [3.0], [5.0]])
    >>> y, domain = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    >>> CORAL()(h, torch.zeros(4, 2), y, domain)  # ln 2, and a distance of the means of 3
    tensor(9.6931)
    """

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        check_argument("gamma", gamma, 0 <= gamma < float("inf"), "finite and at least 0")
        self.gamma = gamma

    def objective(self, features: Tensor, logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        risk = domain_risks(logits, targets, domains).mean()
        parts = [features[domains == number] for number in domains.unique()]
        pairs = list(combinations([part for part in parts if len(part) > 1], 2))
        if not pairs:
            return risk
        return risk + self.gamma * torch.stack([coral_penalty(a, b) for a, b in pairs]).mean()

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"
