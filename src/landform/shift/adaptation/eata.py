"""EATA: entropy minimisation on the samples that are sure and new, anchored where training left the model."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landform.shift.adaptation.adapter import EntropyMinimiser, check_batch, check_momentum, check_rates
from landform.shift.adaptation.entropy import softmax_entropy
from landform.shift.adaptation.normalization import use_batch_statistics
from landform.shift.adaptation.redundancy import RedundancyScreen


class EATA(EntropyMinimiser):
    """Minimises the weighted entropy of the samples with H < E_0 that are not redundant, with batch statistics::

        mean over the kept of exp(E_0 − H_i) H_i  +  beta sum_j F_j (theta_j − theta_j^0)²,    E_0 = high ln K

    The weights have no gradient. The second term, against forgetting, is there where ``fisher_batches`` are given:
    F_j is the mean over these clean batches of the squared gradient of the cross-entropy with the model's own answers.
    One forward pass over the whole batch gives predictions and loss; a batch of which nothing is kept makes no step.

    Arguments:
        model: any with normalisation layers; copied.
        lr, momentum: of SGD.
        high: E_0 as a fraction of ln K.
        margin: of :class:`~landform.shift.adaptation.redundancy.RedundancyScreen`; 0.05 is for 1,000 classes.
        fisher_batches: batches of inputs from before the shift.
        fisher_weight: beta; 2,000 is for ImageNet, the authors take 1 for CIFAR-10.

    Raises:
        ValueError: an argument out of range, a model without normalisation layers, or no fisher batch.

    Source: Niu et al., arXiv 2204.02610, equations 2 to 9.

    >>> eata = EATA(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    >>> eata.predict(torch.randn(16, 4)).shape
    torch.Size([16, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 2.5e-4,
        momentum: float = 0.9,
        high: float = 0.4,
        margin: float = 0.05,
        fisher_batches: Iterable[Tensor] | None = None,
        fisher_weight: float = 2000.0,
    ) -> None:
        check_rates(lr=lr, high=high, fisher_weight=fisher_weight)
        check_momentum(momentum)
        super().__init__(model)
        use_batch_statistics(self.model)
        self.high = high
        self.redundancy = RedundancyScreen(margin)
        self.fisher_weight = fisher_weight
        self.fisher = None if fisher_batches is None else self._fisher(fisher_batches)
        self.anchor = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.SGD(self.parameters, lr=lr, momentum=momentum)

    @torch.enable_grad()
    def _fisher(self, batches: Iterable[Tensor]) -> list[Tensor]:
        """F_j of each parameter."""
        total, count = [torch.zeros_like(p) for p in self.parameters], 0
        for batch in batches:
            check_batch(batch)
            logits = self.model(batch)
            gradients = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), self.parameters)
            total = [t + g.square() for t, g in zip(total, gradients, strict=True)]
            count += 1
        if not count:
            raise ValueError("fisher_batches: there are none")
        return [t / count for t in total]

    @torch.enable_grad()
    def predict(self, batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        check_batch(batch)
        logits = self.model(batch)
        entropy = softmax_entropy(logits)
        e_max = self.high * math.log(logits.shape[1])
        sure = (entropy < e_max).nonzero().squeeze(1)
        kept = sure[self.redundancy(logits[sure])]
        if len(kept):
            loss = (entropy[kept] * (e_max - entropy[kept].detach()).exp()).mean()
            if self.fisher is not None:
                each = zip(self.fisher, self.parameters, self.anchor, strict=True)
                moved = torch.stack([(f * (p - a).square()).sum() for f, p, a in each]).sum()
                loss = loss + self.fisher_weight * moved
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.count(batch, len(kept))
        return logits.detach()
