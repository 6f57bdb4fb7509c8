"""The schedules that are chosen by habit: each a shape on progress, and a scheduler with that shape over a budget.

Every scheduler also takes ``eta_min_ratio``, ``warmup``, ``warmup_start`` and ``grid`` (see :func:`lr_factor`), so that
a comparison can give all of them the same floor, warm-up and grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from torch.optim import Optimizer

from landform.optim.schedules.base import (
    Factors,
    Progress,
    Schedule,
    ShapedSchedule,
    Steps,
    WarmupStart,
    check_count,
    check_positive,
    check_ratio,
    on_progress,
)

Descent = Literal["cosine", "linear"]


def constant_factor(progress: Progress) -> Progress:
    """1 for all s."""
    return on_progress(lambda xp, s: xp.ones_like(s), progress)


def cosine_factor(progress: Progress) -> Progress:
    """(1 + cos(pi s))/2 (Loshchilov & Hutter, arXiv 1608.03983, without restarts)."""
    return on_progress(lambda xp, s: (1 + xp.cos(math.pi * s)) / 2, progress)


def linear_factor(progress: Progress) -> Progress:
    """1 − s ("budgeted training", Li et al., arXiv 1905.04753)."""
    return on_progress(lambda xp, s: 1 - s, progress)


def rex_factor(progress: Progress) -> Progress:
    """(1 − s)/(1/2 + (1 − s)/2) (REX, Chen et al., arXiv 2107.04197)."""
    return on_progress(lambda xp, s: (1 - s) / (0.5 + 0.5 * (1 - s)), progress)


def polynomial_factor(progress: Progress, power: float = 2.0) -> Progress:
    """(1 − s)^power, with power > 0."""
    check_positive("power", power)
    return on_progress(lambda xp, s: (1 - s) ** power, progress)


def exponential_factor(progress: Progress, rate: float = 5.0) -> Progress:
    """exp(−rate s): the rate falls by exp(−rate) in all; rate > 0."""
    check_positive("rate", rate)
    return on_progress(lambda xp, s: xp.exp(-rate * s), progress)


def step_factor(progress: Progress, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> Progress:
    """gamma^k once k ``milestones`` (fractions of the budget) are reached; gamma in (0, 1]."""
    check_milestones(milestones, gamma)
    # 0·s makes the count a float64 of s's own kind: NumPy would add booleans, and torch would give a float32 power.
    return on_progress(lambda xp, s: gamma ** sum(((s >= m) + 0 * s for m in milestones), 0 * s), progress)


def one_cycle_factor(
    progress: Progress, up: float = 0.3, initial: float = 0.04, descent: Descent = "cosine"
) -> Progress:
    """Rise linearly from ``initial`` to 1 over the first ``up`` of the budget, then fall to 0.

    Smith & Topin (arXiv 1708.07120) rise over 30–45 %. The fall is a half cosine or a straight line; ``initial`` = 1/25
    is PyTorch's ``OneCycleLR``.
    """
    check_one_cycle(up, initial, descent)

    def formula(xp: Any, s: Any) -> Any:
        fallen = ((s - up) / (1 - up)).clip(0, 1)
        falling = (1 + xp.cos(math.pi * fallen)) / 2 if descent == "cosine" else 1 - fallen
        return xp.where(s < up, initial + (1 - initial) * s / up, falling)

    return on_progress(formula, progress)


def cyclic_triangular_factor(progress: Progress, cycles: int = 2) -> Progress:
    """``cycles`` equal triangles, each from 0 up to 1 and down to 0 (Smith, arXiv 1506.01186, "triangular").

    Give the schedule an ``eta_min_ratio``, or its first update does nothing.
    """
    check_count("cycles", cycles, 1)
    return on_progress(lambda xp, s: 1 - abs(2 * (cycles * s % 1.0) - 1), progress)


class Constant(ShapedSchedule):
    """The base rate throughout (after any warm-up).

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> Constant(optimizer, total=4, warmup=2).values()
    array([0.5, 1. , 1. , 1. ])
    """

    def shape(self, progress: Progress) -> Progress:
        return constant_factor(progress)


class Cosine(ShapedSchedule):
    """Half a cosine from the base rate to the floor; see :func:`cosine_factor`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> Cosine(optimizer, total=4).values().round(3)
    array([1.   , 0.854, 0.5  , 0.146])
    """

    def shape(self, progress: Progress) -> Progress:
        return cosine_factor(progress)


class Linear(ShapedSchedule):
    """A straight line from the base rate to the floor; see :func:`linear_factor`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> Linear(optimizer, total=4).values()
    array([1.  , 0.75, 0.5 , 0.25])
    """

    def shape(self, progress: Progress) -> Progress:
        return linear_factor(progress)


class REX(ShapedSchedule):
    """Holds the rate longer than linear, then falls faster; see :func:`rex_factor`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> REX(optimizer, total=4).values().round(3)
    array([1.   , 0.857, 0.667, 0.4  ])
    """

    def shape(self, progress: Progress) -> Progress:
        return rex_factor(progress)


class Polynomial(ShapedSchedule):
    """A power of the remaining budget; see :func:`polynomial_factor`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> Polynomial(optimizer, total=4, power=2).values()
    array([1.    , 0.5625, 0.25  , 0.0625])
    """

    def __init__(self, optimizer: Optimizer, total: int, power: float = 2.0, **options: Any) -> None:
        check_positive("power", power)
        self.power = float(power)
        super().__init__(optimizer, total, **options)

    def shape(self, progress: Progress) -> Progress:
        return polynomial_factor(progress, self.power)


class Exponential(ShapedSchedule):
    """gamma^t at the t-th update after the warm-up, with gamma in (0, 1).

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> Exponential(optimizer, total=4, gamma=0.5).values()
    array([1.   , 0.5  , 0.25 , 0.125])
    """

    def __init__(self, optimizer: Optimizer, total: int, gamma: float, **options: Any) -> None:
        if not 0 < gamma < 1:
            raise ValueError(f"gamma={gamma}: must lie in (0, 1)")
        self.gamma = float(gamma)
        super().__init__(optimizer, total, **options)

    def shape(self, progress: Progress) -> Progress:
        return exponential_factor(progress, -math.log(self.gamma) * (self.total - self.warmup))


class InverseSqrt(Schedule):
    """min(1, sqrt(timescale/t)) with t the update, warm-up included, and no less than ``eta_min_ratio``.

    It needs no budget to be chosen: ``total`` only says for how long the plan is laid out. With ``timescale`` =
    ``warmup`` it is the Transformer's own; 10,000 is T5's.

    Raises:
        ValueError, TypeError: an argument out of its range, by name.

    Source: Vaswani et al., arXiv 1706.03762, section 5.3; Raffel et al., arXiv 1910.10683.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> InverseSqrt(optimizer, total=9, warmup=1, timescale=2).values().round(3)
    array([1.   , 1.   , 1.   , 0.816, 0.707, 0.632, 0.577, 0.535, 0.5  ])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        *,
        timescale: float = 10_000.0,
        eta_min_ratio: float = 0.0,
        warmup: int = 0,
        warmup_start: WarmupStart = "first_step",
        last_epoch: int = -1,
    ) -> None:
        check_positive("timescale", timescale)
        check_ratio("eta_min_ratio", eta_min_ratio)
        self.timescale = float(timescale)
        self.eta_min_ratio = float(eta_min_ratio)
        super().__init__(optimizer, total, warmup, warmup_start, last_epoch)

    def plan(self, t: Steps) -> Factors:
        factor = np.sqrt(self.timescale / np.maximum(t + self.warmup, self.timescale))
        return np.maximum(factor, self.eta_min_ratio)


class StepDecay(ShapedSchedule):
    """Falls by ``gamma`` at each of ``milestones``, fractions of the budget; see :func:`step_factor`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> StepDecay(optimizer, total=4).values().round(3)
    array([1.  , 1.  , 0.1 , 0.01])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        milestones: Sequence[float] = (0.5, 0.75),
        gamma: float = 0.1,
        **options: Any,
    ) -> None:
        check_milestones(milestones, gamma)
        self.milestones = tuple(float(m) for m in milestones)
        self.gamma = float(gamma)
        super().__init__(optimizer, total, **options)

    def shape(self, progress: Progress) -> Progress:
        return step_factor(progress, self.milestones, self.gamma)


class OneCycle(ShapedSchedule):
    """Up, then down to the floor, within the budget; see :func:`one_cycle_factor`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> OneCycle(optimizer, total=4, up=0.5, descent="linear").values()
    array([0.04, 0.52, 1.  , 0.5 ])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        up: float = 0.3,
        initial: float = 0.04,
        descent: Descent = "cosine",
        **options: Any,
    ) -> None:
        check_one_cycle(up, initial, descent)
        self.up, self.initial = float(up), float(initial)
        self.descent: Descent = descent
        super().__init__(optimizer, total, **options)

    def shape(self, progress: Progress) -> Progress:
        return one_cycle_factor(progress, self.up, self.initial, self.descent)


class CyclicTriangular(ShapedSchedule):
    """``cycles`` triangles between the floor and the base rate; see :func:`cyclic_triangular_factor`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> CyclicTriangular(optimizer, total=8, cycles=2, eta_min_ratio=0.1).values()
    array([0.1 , 0.55, 1.  , 0.55, 0.1 , 0.55, 1.  , 0.55])
    """

    def __init__(self, optimizer: Optimizer, total: int, cycles: int = 2, **options: Any) -> None:
        check_count("cycles", cycles, 1)
        self.cycles = int(cycles)
        super().__init__(optimizer, total, **options)

    def shape(self, progress: Progress) -> Progress:
        return cyclic_triangular_factor(progress, self.cycles)


def check_milestones(milestones: Sequence[float], gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma={gamma}: must lie in (0, 1]")
    if not all(0 < m < 1 for m in milestones):
        raise ValueError(f"milestones={tuple(milestones)}: fractions of the budget, each in (0, 1)")


def check_one_cycle(up: float, initial: float, descent: str) -> None:
    if not 0 < up < 1:
        raise ValueError(f"up={up}: must lie in (0, 1)")
    check_ratio("initial", initial)
    if descent not in get_args(Descent):
        raise ValueError(f"descent={descent!r}: must be one of {get_args(Descent)}")
