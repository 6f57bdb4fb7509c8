"""Plain training on all domains together."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from landform.shift.generalisation.base import DomainLoss


class ERM(DomainLoss):
    """Empirical risk minimisation: the mean cross-entropy over all samples of all domains.

    >>> import torch
    >>> ERM()(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0, 1]))
    tensor(1.3863)
    """

    def objective(self, features: Tensor, logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)
