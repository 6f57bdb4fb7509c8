"""Runs that part: train together for a while, then go on with different orders of the data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from landform.landscape.connectivity.checks import check_choice, check_count
from landform.landscape.connectivity.states import State, check_states

OptimizerState = Literal["reset", "copy"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network in training. ``optimizer`` is whatever the training function keeps of its optimiser; None is a fresh
    one."""

    model: State
    optimizer: Any = None


class TrainFn(Protocol):
    """Trains several networks, each from its checkpoint, for the same ``steps`` of the whole run.

    Network i sees the data in the order ``orders[i]``: what batch a step gets must follow from the order and the number
    of the step alone, and so must the learning rate from the number of the step, so that parts of a run make the whole.
    The checkpoints given must be left as they are.
    """

    def __call__(
        self, starts: Sequence[Checkpoint], orders: Sequence[int], steps: range, /
    ) -> Sequence[Checkpoint]: ...


@dataclass(frozen=True, eq=False)
class Spawned:
    """The networks of a spawning experiment.

    ``trunk[k]`` is the common run at step k, where children parted from it. ``watched[k][step]`` are the children that
    parted at k, at each step that was to be watched and at the last.
    """

    trunk: Mapping[int, State]
    watched: Mapping[int, Mapping[int, tuple[State, ...]]]

    @property
    def children(self) -> dict[int, tuple[State, ...]]:
        """The children that parted at each step, at the end of training."""
        return {k: steps[max(steps)] for k, steps in self.watched.items()}


class SpawnExperiment:
    """How late must two runs part to end on the same side of the mountain?

    From one initialisation a trunk trains with data order 0. At each spawn step k ``n_children`` copies leave it, and
    train to the last step with the orders 1, 2, ...; children of different k share these orders. k = 0 is the
    classical pair of one initialisation and different noise.

    Arguments:
        train_fn: see :class:`TrainFn`. It is given all networks that are alive at once, so that it may train them as
            one stack.
        spawn_steps: the steps k.
        total_steps: T, of trunk and child together.
        n_children: of each k.
        optimizer_state: whether children start with a fresh optimiser, ``"reset"``, or with a ``"copy"`` of the
            trunk's, such as its momentum; all children of a k alike.
        watch: further steps at which to keep the children.

    Raises:
        ValueError: steps outside [0, T] (a spawn must leave a step to train), fewer than 1 child, or an unknown
            treatment of the optimiser.

    Source: arXiv 1912.05671 (instability analysis); arXiv 2406.16300.

    >>> def train(starts, orders, steps):  # "training" that notes the order of every step
    ...     return [
    ...         Checkpoint({"w": torch.cat([start.model["w"], torch.full((len(steps),), float(order))])})
    ...         for start, order in zip(starts, orders)
    ...     ]
    >>> import torch
    >>> spawned = SpawnExperiment(train, spawn_steps=[0, 2], total_steps=4).run({"w": torch.zeros(0)})
    >>> spawned.children[2]
    ({'w': tensor([0., 0., 1., 1.])}, {'w': tensor([0., 0., 2., 2.])})
    """

    def __init__(
        self,
        train_fn: TrainFn,
        spawn_steps: Iterable[int],
        total_steps: int,
        n_children: int = 2,
        *,
        optimizer_state: OptimizerState = "reset",
        watch: Iterable[int] = (),
    ) -> None:
        check_count("total_steps", total_steps, 1)
        check_count("n_children", n_children, 1)
        check_choice("optimizer_state", optimizer_state, get_args(OptimizerState))
        self.spawn_steps, self.watch = sorted(set(spawn_steps)), sorted(set(watch))
        if not self.spawn_steps:
            raise ValueError("spawn_steps is empty: no child would leave the trunk")
        for name, steps, last in (
            ("spawn_steps", self.spawn_steps, total_steps - 1),
            ("watch", self.watch, total_steps),
        ):
            for step in steps:
                check_count(name, step, 0)
                if step > last:
                    raise ValueError(f"{name}: {step} is beyond {last}, with total_steps={total_steps}")
        self.train_fn = train_fn
        self.total_steps = total_steps
        self.children = range(1, n_children + 1)
        self.optimizer_state = optimizer_state

    def run(self, init: State) -> Spawned:
        """Train trunk and children from the state dict ``init``.

        Raises:
            ValueError: an ``init`` that is not finite, or a training function that returns another number of networks.
        """
        check_states({"init": init})
        # The living by where they parted (None for the trunk) and their number, which is their order of the data.
        alive: dict[tuple[int | None, int], Checkpoint] = {(None, 0): Checkpoint(copy.deepcopy(dict(init)))}
        trunk: dict[int, State] = {}
        watched: dict[int, dict[int, tuple[State, ...]]] = {}
        marks = sorted({0, *self.spawn_steps, *self.watch, self.total_steps})
        for start, end in zip(marks, [*marks[1:], None], strict=True):
            for k in watched:
                if start in (*self.watch, self.total_steps):
                    watched[k][start] = tuple(alive[k, child].model for child in self.children)
            if end is None:
                break
            if start in self.spawn_steps:
                here = alive[None, 0]
                trunk[start], watched[start] = here.model, {}
                for child in self.children:
                    kept = here.optimizer if self.optimizer_state == "copy" else None
                    alive[start, child] = copy.deepcopy(Checkpoint(here.model, kept))
                if start == self.spawn_steps[-1]:
                    del alive[None, 0]
            orders = [order for _, order in alive]
            ends = self.train_fn(list(alive.values()), orders, range(start, end))
            if len(ends) != len(alive):
                raise ValueError(f"train_fn returned {len(ends)} networks of {len(alive)}")
            alive = dict(zip(alive, ends, strict=True))
        return Spawned(trunk, watched)
