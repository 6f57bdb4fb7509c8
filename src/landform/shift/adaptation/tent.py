"""Tent: entropy minimisation on every batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.shift.adaptation.adapter import EntropyMinimiser, check_batch, check_momentum, check_rates
from landform.shift.adaptation.entropy import softmax_entropy
from landform.shift.adaptation.normalization import use_batch_statistics


class Tent(EntropyMinimiser):
    """Minimises the mean entropy of each batch, with batch statistics, in the parameters of normalisation layers.

    One forward pass gives the predictions and, by its gradient, the step after them.

    Arguments:
        model: any with normalisation layers; copied.
        lr, momentum: of SGD. The defaults are those for ResNets on ImageNet-C in batches of 64.

    Raises:
        ValueError: a rate out of range, or a model without normalisation layers.

    Source: Wang et al., arXiv 2006.10726.

    >>> tent = Tent(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    >>> tent.predict(torch.randn(16, 4)).shape, tent.ledger.fraction_uploaded
    (torch.Size([16, 3]), 1.0)
    """

    def __init__(self, model: nn.Module, *, lr: float = 2.5e-4, momentum: float = 0.9) -> None:
        check_rates(lr=lr)
        check_momentum(momentum)
        super().__init__(model)
        use_batch_statistics(self.model)
        self.optimizer = torch.optim.SGD(self.parameters, lr=lr, momentum=momentum)

    @torch.enable_grad()
    def predict(self, batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        check_batch(batch)
        logits = self.model(batch)
        loss = softmax_entropy(logits).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.count(batch, len(batch))
        return logits.detach()
