"""Schedules that give a finished model at each of several budgets: warmup-stable-decay, its simplification WSD-S that
goes on from decayed checkpoints, and the cosine schedules that they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from torch.optim import Optimizer

from landform.optim.schedules.base import Schedule, WarmupStart, check_count
from landform.optim.schedules.segments import Compat, DecayShape, Segment, Segments, check_decay

DecayOf = Literal["budget", "cycle"]


class Branching(Segments):
    """A main run in pieces, from which side runs branch off that end at smaller budgets."""

    def __init__(
        self,
        optimizer: Optimizer,
        main: Sequence[Segment],
        sides: dict[int, tuple[int, list[Segment]]],
        warmup_start: WarmupStart | None,
        compat: Compat | None,
        last_epoch: int,
    ) -> None:
        self.sides = sides
        super().__init__(
            optimizer, main, warmup_start=start_of(warmup_start, compat), compat=compat, last_epoch=last_epoch
        )

    def checkpoints(self) -> list[int]:
        """The budgets: main and side runs end there."""
        return [*self.sides, self.total]

    def cost(self) -> int:
        """The updates of the main run and, from where they leave it, of its side runs."""
        return self.total + sum(budget - start for budget, (start, _) in self.sides.items())

    def branch_points(self) -> dict[int, int]:
        return {budget: start for budget, (start, _) in self.sides.items()}

    def branch(self, budget: int) -> Schedule:
        if budget not in self.sides:
            return super().branch(budget)
        start, segments = self.sides[budget]
        # Set to where it leaves the main run: PyTorch counts one update on when it makes a scheduler.
        return Segments(
            self.optimizer, segments, warmup_start=self.warmup_start, compat=self.compat, last_epoch=start - 1
        )


class WarmupStableDecay(Branching):
    """WSD: linear warm-up, a constant rate, and a decay over the last ``decay`` of the budget.

        eta_t = base · (t + 1)/W            t < W
              = base                        t < T − n,   n = decay · T rounded down
              = base · g((t − T + n)/n)     t < T

    with g of :func:`~landform.optim.schedules.segments.decay_factor`. A decay that would begin within the warm-up
    begins at its end. With ``earlier`` budgets T_1 < … < T_{K−1} below ``total`` = T_K, a side run leaves the constant
    stretch at (1 − decay) T_k for each, decays and is done; the cost is (1 − decay) T_K + decay Σ_k T_k updates. A
    :class:`~landform.training.branching.BranchingTrainer` runs them.

    Arguments:
        optimizer: the optimizer whose rates are set.
        total: T, the budget in updates, warm-up included.
        warmup: W.
        decay: the fraction of the budget that decays, in (0, 1].
        shape, min_ratio: of the decay, see :func:`~landform.optim.schedules.segments.decay_factor`.
        earlier: smaller budgets, increasing, served by side runs.
        warmup_start: whether the first update has rate 0 ("zero") or one W-th of the base rate ("first_step", which
            is the default unless ``compat`` asks for the other).
        compat: "levanter" gives that library's rates: warm-up from zero, and the inverse decay's second rate twice.

    Raises:
        ValueError, TypeError: an argument out of its range, by name; a decay shorter than one update.

    Source: arXiv 2404.06395 (the schedule), arXiv 2410.05192 (the inverse shape and the reason for it).

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> WarmupStableDecay(optimizer, total=10, warmup=2, decay=0.3, shape="linear").values()
    array([0.5, 1. , 1. , 1. , 1. , 1. , 1. , 1. , 0.7, 0.4])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        warmup: int = 0,
        decay: float = 0.1,
        shape: DecayShape = "inverse",
        min_ratio: float = 0.1,
        *,
        earlier: Sequence[int] = (),
        warmup_start: WarmupStart | None = None,
        compat: Compat | None = None,
        last_epoch: int = -1,
    ) -> None:
        check_count("total", total, 1)
        budgets = check_budgets("earlier budgets and total", [*earlier, total], warmup)
        check_decay(shape, min_ratio)
        runs = {
            budget: cycle(0, budget, warmup, decay_length(decay, budget), shape, min_ratio, floor=0.0)
            for budget in budgets
        }
        main = runs.pop(budgets[-1])
        sides = {budget: (pieces[-1][0], pieces) for budget, pieces in runs.items()}
        super().__init__(optimizer, main, sides, warmup_start, compat, last_epoch)


class CosineOracle(Branching):
    """A cosine run of its own for every budget: what schedules that need not know the budget are held against.

    Each run warms up over W updates and falls along half a cosine to ``min_ratio`` of the base rate over the rest. They
    share nothing but the initial state; the cost is Σ_k T_k updates.

    Arguments:
        optimizer: the optimizer whose rates are set.
        budgets: T_1 < … < T_K in updates, warm-up included.
        warmup, min_ratio, warmup_start, compat: see :class:`WarmupStableDecay`.

    Raises:
        ValueError, TypeError: an argument out of its range, by name.

    Source: arXiv 2410.05192, the oracle of its comparison.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> CosineOracle(optimizer, [2, 4], min_ratio=0.2).cost()
    6
    """

    def __init__(
        self,
        optimizer: Optimizer,
        budgets: Sequence[int],
        warmup: int = 0,
        min_ratio: float = 0.1,
        *,
        warmup_start: WarmupStart | None = None,
        compat: Compat | None = None,
        last_epoch: int = -1,
    ) -> None:
        check_decay("cosine", min_ratio)
        budgets = check_budgets("budgets", budgets, warmup)
        runs = {budget: cycle(0, budget, warmup, budget, "cosine", min_ratio, floor=0.0) for budget in budgets}
        main = runs.pop(budgets[-1])
        sides = {budget: (0, pieces) for budget, pieces in runs.items()}
        super().__init__(optimizer, main, sides, warmup_start, compat, last_epoch)


class Cyclic(Segments):
    """One run of cycles, each of which ends in a finished model and hands it to the next, optimizer state and all."""

    def __init__(
        self,
        optimizer: Optimizer,
        cycles: Sequence[Sequence[Segment]],
        warmup_start: WarmupStart | None,
        compat: Compat | None,
        last_epoch: int,
    ) -> None:
        self.budgets = [pieces[-1][1] for pieces in cycles]
        pieces = [piece for each in cycles for piece in each]
        start = start_of(warmup_start, compat)
        super().__init__(optimizer, pieces, warmup_start=start, compat=compat, last_epoch=last_epoch)

    def checkpoints(self) -> list[int]:
        """The budgets, where the cycles end."""
        return list(self.budgets)


class WSDS(Cyclic):
    """WSD-S: one run that decays before every budget and goes on from the decayed model at the full rate.

    Cycle k covers updates T_{k−1}, …, T_k − 1 (T_0 = 0): the base rate, then a decay over the cycle's end; update T_k
    has the base rate again, at once. The optimizer's state is carried over, never reset. The cost is T_K updates.

    Arguments:
        optimizer: the optimizer whose rates are set.
        budgets: T_1 < … < T_K, the numbers of updates after which a finished model is wanted.
        warmup: updates of linear warm-up at the beginning.
        decay: the fraction, in (0, 1], that decays: of the budget T_k, or of the cycle T_k − T_{k−1} as ``decay_of``
            says, rounded down. A decay that would begin within a warm-up begins at its end.
        shape, min_ratio: of the decay, see :func:`~landform.optim.schedules.segments.decay_factor`.
        rewarmup: updates of linear warm-up from the floor at the beginning of later cycles; 0 in the method.
        decay_intervals: the decays' own (start, end) in place of ``decay`` and ``decay_of``, ends being the budgets.
        warmup_start, compat: see :class:`WarmupStableDecay`.

    Raises:
        ValueError, TypeError: an argument out of its range, by name; decays that overlap (a fraction of the budget may
            exceed the whole cycle) or are shorter than one update.

    Source: arXiv 2410.05192.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> WSDS(optimizer, [4, 8], decay=0.25, shape="linear").values()
    array([1.  , 1.  , 1.  , 1.  , 1.  , 1.  , 1.  , 0.55])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        budgets: Sequence[int],
        warmup: int = 0,
        decay: float = 0.1,
        decay_of: DecayOf = "budget",
        shape: DecayShape = "inverse",
        min_ratio: float = 0.1,
        rewarmup: int = 0,
        *,
        decay_intervals: Sequence[tuple[int, int]] | None = None,
        warmup_start: WarmupStart | None = None,
        compat: Compat | None = None,
        last_epoch: int = -1,
    ) -> None:
        budgets = check_budgets("budgets", budgets, warmup, rewarmup)
        check_decay(shape, min_ratio)
        if decay_of not in get_args(DecayOf):
            raise ValueError(f"decay_of={decay_of!r}: must be one of {get_args(DecayOf)}")
        starts = [0, *budgets[:-1]]
        if decay_intervals is not None:
            lengths = check_intervals(decay_intervals, budgets)
        else:
            wholes = [end - (start if decay_of == "cycle" else 0) for start, end in zip(starts, budgets, strict=True)]
            lengths = [decay_length(decay, whole) for whole in wholes]
        for start, end, length in zip(starts, budgets, lengths, strict=True):
            if length > end - start:
                raise ValueError(
                    f"decay: the decay over updates {end - length} to {end} overlaps the cycle before, which ends at "
                    f"{start}; take a smaller decay={decay}, or decay_of='cycle'"
                )
        cycles = [
            cycle(
                start, end, rewarmup if start else warmup, length, shape, min_ratio, floor=min_ratio if start else 0.0
            )
            for start, end, length in zip(starts, budgets, lengths, strict=True)
        ]
        super().__init__(optimizer, cycles, warmup_start, compat, last_epoch)


class CyclicCosine(Cyclic):
    """One run of cosine cycles, from the base rate to the floor over each [T_{k−1}, T_k); its cost is T_K updates.

    Later cycles begin with ``rewarmup`` updates of linear warm-up from the floor to the base rate; with 0 of them this
    is cosine annealing with warm restarts at the given updates.

    Arguments:
        optimizer: the optimizer whose rates are set.
        budgets: T_1 < … < T_K, the numbers of updates after which a finished model is wanted.
        warmup, rewarmup: updates of linear warm-up in the first and in every later cycle, within its length.
        min_ratio: the floor, as a ratio to the base rate.
        warmup_start, compat: see :class:`WarmupStableDecay`.

    Raises:
        ValueError, TypeError: an argument out of its range, by name.

    Source: arXiv 1608.03983 (restarts), arXiv 2410.05192 (as a baseline).

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> CyclicCosine(optimizer, [2, 6], rewarmup=2, min_ratio=0.2).values()
    array([1. , 0.6, 0.6, 1. , 1. , 0.6])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        budgets: Sequence[int],
        warmup: int = 0,
        rewarmup: int = 0,
        min_ratio: float = 0.1,
        *,
        warmup_start: WarmupStart | None = None,
        compat: Compat | None = None,
        last_epoch: int = -1,
    ) -> None:
        budgets = check_budgets("budgets", budgets, warmup, rewarmup)
        check_decay("cosine", min_ratio)
        cycles = [
            cycle(
                start, end, rewarmup if start else warmup, end, "cosine", min_ratio, floor=min_ratio if start else 0.0
            )
            for start, end in zip([0, *budgets[:-1]], budgets, strict=True)
        ]
        super().__init__(optimizer, cycles, warmup_start, compat, last_epoch)


def charged_budgets(budgets: Sequence[int], decay: float = 0.1) -> list[int]:
    """The budgets T'_1 < … < T'_K that WSD can afford when every update is charged, those of its branches too.

        T'_k + Σ_{j<k} (decay · T'_j, rounded down) = T_k

    When T_k updates have been made in all, ``WarmupStableDecay(total=T'_K, earlier=[T'_1, …])`` has its k-th finished
    model: the fair comparison with a schedule that makes one single run.

    Raises:
        ValueError, TypeError: budgets that are not increasing whole numbers, or too close to pay for the branches.

    >>> charged_budgets([750, 1500, 3000])
    [750, 1425, 2783]
    """
    spent, afforded = 0, []
    for budget in check_budgets("budgets", budgets, 0):
        afforded.append(budget - spent)
        spent += decay_length(decay, max(afforded[-1], 1))
    try:
        return check_budgets("budgets", afforded, 0)
    except ValueError:
        raise ValueError(f"budgets={list(budgets)}: too close to pay for branches of decay={decay}") from None


def sum_of_lr(schedule: Schedule) -> float:
    """Σ_t eta_t of the first parameter group over the budget: how far gradient descent comes along a straight river.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> round(sum_of_lr(WarmupStableDecay(optimizer, total=10, warmup=2, decay=0.3, shape="linear")), 12)
    0.86
    """
    return float(schedule.base_lrs[0]) * float(schedule.values().sum())


def cycle(
    start: int, end: int, rise: int, decay: int, shape: DecayShape, min_ratio: float, floor: float
) -> list[Segment]:
    """Up from ``floor`` over ``rise`` updates, constant, and down over the last ``decay`` (or what is left of them)."""
    top = start + rise
    fall = max(end - decay, top)
    pieces: list[Segment] = []
    if rise:
        pieces.append((start, top, "warmup", floor, 1.0))
    if fall > top:
        pieces.append((top, fall, "constant", 1.0, 1.0))
    return [*pieces, (fall, end, shape, 1.0, min_ratio)]


def decay_length(decay: float, whole: int) -> int:
    """The updates that decay: ``decay`` · ``whole`` rounded down, past the rounding error of decimal fractions."""
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay}: must lie in (0, 1], a fraction")
    length = int(np.floor(decay * whole + 1e-9))
    if length < 1:
        raise ValueError(f"decay={decay}: is less than one update of {whole}")
    return length


def start_of(warmup_start: WarmupStart | None, compat: Compat | None) -> WarmupStart:
    if warmup_start is not None:
        return warmup_start
    return "zero" if compat == "levanter" else "first_step"


def check_budgets(name: str, budgets: Sequence[int], warmup: int, rewarmup: int = 0) -> list[int]:
    """Refuse budgets that are not increasing, or a warm-up that leaves nothing of a cycle."""
    if not budgets:
        raise ValueError(f"{name}={list(budgets)}: at least one is needed")
    for budget in budgets:
        check_count(name, budget, 1)
    lengths = np.diff([0, *budgets])
    if (lengths < 1).any():
        raise ValueError(f"{name}={list(budgets)}: must increase")
    check_count("warmup", warmup, 0)
    check_count("rewarmup", rewarmup, 0)
    if warmup >= budgets[0]:
        raise ValueError(f"warmup={warmup}: must be less than the first budget, {budgets[0]}")
    if len(budgets) > 1 and rewarmup >= lengths[1:].min():
        raise ValueError(
            f"rewarmup={rewarmup}: must be less than every cycle; the shortest later one has {lengths[1:].min()}"
        )
    return [int(budget) for budget in budgets]


def check_intervals(intervals: Sequence[tuple[int, int]], budgets: list[int]) -> list[int]:
    """The lengths of the decays given by their starts and ends."""
    for start, end in intervals:
        check_count("a decay interval's start", start, 0)
        if end <= start:
            raise ValueError(f"decay_intervals: ({start}, {end}) must end after it starts")
    if [end for _, end in intervals] != budgets:
        raise ValueError(f"decay_intervals={list(intervals)}: must end at the budgets, {budgets}")
    for (_, end), (start, _) in pairwise(intervals):
        if start < end:
            raise ValueError(
                f"decay_intervals={list(intervals)}: must not overlap, but one begins at {start} before {end}"
            )
    return [int(end - start) for start, end in intervals]
