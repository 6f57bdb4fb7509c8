"""Cosine annealing with warm restarts behind a linear warm-up, stepped once an epoch."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landform.optim.schedules.base import check_count


class CosineWarmRestartsWithWarmup(LRScheduler):
    """Half cosines of ``period`` epochs, again and again, the first of them entered by a straight line::

        c_i = η_min + ½ (η − η_min)(1 + cos(π (i mod T)/T))
        η_e = η_min + (e/W)(c_W − η_min)   for e ≤ W,      η_e = c_{e−1}   for e > W

    η is the optimizer's own rate, of each parameter group. As in the published code, whose scheduler is told the epoch
    that has finished, the cosine lags by one epoch behind the warm-up: c_W is used twice, and a restart comes one epoch
    late. Without a warm-up c_0 is used twice.

    Step it once after each epoch. It has no end, and its state holds plain numbers alone.

    Arguments:
        period: T; with R restarts in E epochs, E/(R + 1).
        warmup: W, less than T (10 in the paper).
        eta_min: the lowest rate, an absolute one (a thousandth of the base rate in the paper).

    Raises:
        TypeError, ValueError: counts that are no integers or out of range, or an ``eta_min`` that is negative or above
            a group's rate.

    Source: arXiv 2110.06207 (code); Loshchilov & Hutter, arXiv 1608.03983.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> schedule = CosineWarmRestartsWithWarmup(optimizer, period=4, warmup=2, eta_min=0.0)
    >>> rates = []
    >>> for _ in range(7):
    ...     rates.append(round(schedule.get_last_lr()[0], 3))
    ...     optimizer.step(); schedule.step()
    >>> rates
    [0.0, 0.025, 0.05, 0.05, 0.015, 0.1, 0.085]
    """

    def __init__(self, optimizer: Optimizer, period: int, warmup: int, eta_min: float, last_epoch: int = -1) -> None:
        check_count("period", period, 1)
        check_count("warmup", warmup, 0)
        if warmup >= period:
            raise ValueError(f"warmup={warmup}: must be less than period={period}")
        rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if not 0 <= eta_min <= min(rates):
            raise ValueError(
                f"eta_min={eta_min}: must lie between 0 and the lowest rate of the optimizer, {min(rates)}"
            )
        self.period, self.warmup, self.eta_min = int(period), int(warmup), float(eta_min)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        return [self._rate(self.last_epoch, float(base)) for base in self.base_lrs]

    def _rate(self, epoch: int, base: float) -> float:
        if epoch <= self.warmup:
            risen = epoch / self.warmup if self.warmup else 1.0
            return self.eta_min + risen * (self._cosine(self.warmup, base) - self.eta_min)
        return self._cosine(epoch - 1, base)

    def _cosine(self, index: int, base: float) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * (index % self.period) / self.period)) / 2
