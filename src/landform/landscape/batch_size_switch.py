"""From large batches to small ones: are the two solutions in one basin?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from landform.landscape.connectivity.checks import check_count
from landform.landscape.connectivity.states import State, check_states


class TrainFn(Protocol):
    """Trains a network on from a state dict with batches of ``batch_size``, for the given ``steps`` of the whole run.

    It must return a state dict and leave the one given as it is. What batch a step gets should follow from the batch
    size and the number of the step alone, as the steps of a part come in several calls.
    """

    def __call__(self, state: State, batch_size: int, steps: range, /) -> State: ...


@dataclass(frozen=True, eq=False)
class BatchSizeSwitch:
    """The ends of both parts as state dicts, and what was measured on the way.

    ``values[name][i]`` was measured after ``steps[i]`` updates, counted over both parts.
    """

    large: State
    small: State
    steps: tuple[int, ...]
    values: Mapping[str, Float[Tensor, " records"]]


class BatchSizeSwitchExperiment:
    """Train with large batches, then go on from their end with small ones, all else being the same.

    After the switch, loss and accuracy look like those of another basin. Whether it is one shows on the straight line
    between the two ends: see :func:`landform.landscape.interpolation_curve` and :func:`landform.landscape.barrier`.

    Arguments:
        train_fn: see :class:`TrainFn`.
        lb, sb: the large batch size and the small one.
        steps: updates of each part: a number, or one for each.
        every: how many updates lie between two measurements.

    Raises:
        ValueError: batch sizes that are not 1 ≤ sb < lb, fewer than one step, or ``every`` below 1.

    Source: arXiv 1706.04454 (batches of 1,000 and 32, measured every 100 steps, 250 times in each part).

    >>> def train(state, batch_size, steps):  # "training" that moves by one over the batch size
    ...     return {"w": state["w"] + len(steps) / batch_size}
    >>> switch = BatchSizeSwitchExperiment(train, lb=10, sb=1, steps=20, every=10)
    >>> found = switch.run({"w": torch.zeros(1)}, measure=lambda state: {"w": float(state["w"])})
    >>> found.steps, found.values["w"].tolist()
    ((0, 10, 20, 30, 40), [0.0, 1.0, 2.0, 12.0, 22.0])
    """

    def __init__(
        self,
        train_fn: TrainFn,
        lb: int = 1000,
        sb: int = 32,
        steps: int | tuple[int, int] = 25_000,
        *,
        every: int = 100,
    ) -> None:
        check_count("sb", sb, 1)
        if not lb > sb:
            raise ValueError(f"lb={lb}, sb={sb}: the large batch must be larger than the small one")
        self.steps = (steps, steps) if isinstance(steps, int) else steps
        for count in self.steps:
            check_count("steps", count, 1)
        check_count("every", every, 1)
        self.train_fn, self.lb, self.sb, self.every = train_fn, lb, sb, every

    def run(self, init: State, measure: Callable[[State], Mapping[str, float]] | None = None) -> BatchSizeSwitch:
        """Train from the state dict ``init``. ``measure`` gives named values of a state dict.

        Raises:
            ValueError: an ``init``, or a state that training gives, without weights or with some that are not finite.
        """
        check_states({"init": init})
        state: State = copy.deepcopy(dict(init))
        done, at, found = 0, [0], [measure(state) if measure else {}]
        ends = []
        for batch_size, count in zip((self.lb, self.sb), self.steps, strict=True):
            stop = done + count
            while done < stop:
                following = min(done + self.every, stop)
                state = self.train_fn(state, batch_size, range(done, following))
                check_states({f"the state after {following} steps": state})
                done = following
                at.append(done)
                found.append(measure(state) if measure else {})
            ends.append(copy.deepcopy(dict(state)))
        values = {name: torch.tensor([row[name] for row in found], dtype=torch.float64) for name in found[0]}
        large, small = ends
        return BatchSizeSwitch(large, small, tuple(at), values)
