"""SAR: entropy minimisation towards flat minima on the samples that are sure, with a reset on collapse."""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.optim.sharpness import SAM
from landform.shift.adaptation.adapter import EntropyMinimiser, check_batch, check_momentum, check_rates
from landform.shift.adaptation.entropy import softmax_entropy
from landform.shift.adaptation.normalization import use_batch_statistics

MEMORY = 0.9
"""Of the moving average of the loss."""


class SAR(EntropyMinimiser):
    """Minimises, at the worst weights a distance rho away, the mean entropy of the samples with H < E_0 = high ln K.

    The first pass takes the samples whose entropy is below E_0 and goes uphill; of these the second takes those whose
    entropy is below it there too, and its gradient makes the step. When the moving average of the second loss (0.9 of
    it stays each time) falls below ``reset_below`` nats, where a model gives one answer to everything, the parameters,
    their momentum and the average begin anew. A batch without sure samples makes no step.

    Arguments:
        model: any with normalisation layers; copied. BatchNorm uses batch statistics. The authors advise models with
            GroupNorm or LayerNorm, and leave out the last stage's parameters, which this does not.
        lr, momentum: of SGD.
        high: E_0 as a fraction of ln K.
        rho: see above.
        reset_below: see above; 0 for never.

    Raises:
        ValueError: an argument out of range, or a model without normalisation layers.

    Source: Niu et al., arXiv 2302.12400, section 4.

    >>> sar = SAR(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)))
    >>> sar.predict(torch.randn(16, 4)).shape
    torch.Size([16, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 2.5e-4,
        momentum: float = 0.9,
        high: float = 0.4,
        rho: float = 0.05,
        reset_below: float = 0.2,
    ) -> None:
        check_rates(lr=lr, high=high)
        check_momentum(momentum)
        if not 0 <= reset_below < math.inf:
            raise ValueError(f"reset_below={reset_below}: must be at least zero and finite")
        super().__init__(model)
        use_batch_statistics(self.model)
        self.high = high
        self.reset_below = reset_below
        self.optimizer = SAM(self.parameters, torch.optim.SGD, rho=rho, lr=lr, momentum=momentum)
        self.average: float | None = None
        """The moving average of the loss, None before the first."""
        self.resets = 0
        self._start = [p.detach().clone() for p in self.parameters], copy.deepcopy(self.optimizer.state_dict())

    @torch.enable_grad()
    def predict(self, batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        check_batch(batch)
        logits = self.model(batch)
        entropy = softmax_entropy(logits)
        e_max = self.high * math.log(logits.shape[1])
        sure = (entropy < e_max).nonzero().squeeze(1)
        if len(sure):
            self.optimizer.zero_grad()
            entropy[sure].mean().backward()
            self.optimizer.first_step(zero_grad=True)
            there = softmax_entropy(self.model(batch))[sure]
            still = there[there.detach() < e_max]
            if len(still):
                loss = still.mean()
                loss.backward()
                old = float(loss.detach()) if self.average is None else self.average
                self.average = MEMORY * old + (1 - MEMORY) * float(loss.detach())
            # Where nothing is sure uphill there is no gradient, and the weights only return.
            self.optimizer.second_step(zero_grad=True)
            if self.average is not None and self.average < self.reset_below:
                self._reset()
        self.count(batch, len(sure))
        return logits.detach()

    @torch.no_grad()
    def _reset(self) -> None:
        weights, state = self._start
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)
        self.optimizer.load_state_dict(copy.deepcopy(state))
        self.average = None
        self.resets += 1
