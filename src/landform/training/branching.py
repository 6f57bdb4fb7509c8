"""Runs that branch: one training that is stopped, copied and gone on with along several schedules, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landform.optim.schedules import Schedule

Result = TypeVar("Result")


class Stateful(Protocol):
    """What can be copied and put back: modules, optimizers, schedules, many data loaders."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Resumable(Protocol):
    """A training that can be stopped after any update, copied and gone on with.

    :class:`ClosureRun` makes one of any training by closures; :class:`landform.training.language.LanguageRun` is one.
    """

    schedule: LRScheduler | None

    @property
    def updates(self) -> int:
        """How many updates were made."""
        ...

    def train(self, until: int) -> Any:
        """Go on until so many updates are made in all."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the rest of the training depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], *, schedule: bool = True) -> None:
        """Go on from ``state``; with ``schedule=False`` at this run's own rates rather than those of the state."""
        ...


class ClosureRun:
    """Any training by closures as a run that can be saved, resumed to the bit, and branched.

    Update k minimises ``loss(model, batches(k))``: ``optimizer.step(closure)``, then ``schedule.step()``. All gradients
    that an optimizer asks for within an update are of the same batch.

    Arguments:
        model: trained in place.
        loss: ``loss(model, batch)``, a scalar.
        batches: gives the batch of update k = 0, 1, …: the data's cursor is the number of updates. Where the batches
            come from something with a state (a generator of random numbers, a loader), put that into ``also``.
        optimizer: of the model's parameters.
        schedule: stepped after every update.
        also: whatever else an update changes, by name: torch.Generators, or objects with ``state_dict`` and
            ``load_state_dict``. The model, optimizer, schedule and the global random numbers are seen to.

    Raises:
        TypeError: something in ``also`` that cannot be copied and put back.
        ValueError: a schedule of another optimizer.

    >>> model, inputs = nn.Linear(2, 1), torch.randn(8, 4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> run = ClosureRun(model, lambda m, x: m(x).square().mean(), lambda k: inputs[k], optimizer)
    >>> run.train(3)
    >>> state = run.state_dict()
    >>> run.train(8), run.load_state_dict(state), run.updates
    (None, None, 3)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor],
        batches: Callable[[int], Any],
        optimizer: Optimizer,
        schedule: LRScheduler | None = None,
        *,
        also: Mapping[str, Stateful | torch.Generator] | None = None,
    ) -> None:
        also = dict(also or {})
        for name, value in also.items():
            if not isinstance(value, torch.Generator) and not hasattr(value, "load_state_dict"):
                kind = type(value).__name__
                raise TypeError(f"also[{name!r}]: must be a torch.Generator or have load_state_dict, unlike a {kind}")
        if schedule is not None and schedule.optimizer is not optimizer:
            raise ValueError("schedule: is of another optimizer")
        self.model = model
        self.loss = loss
        self.batches = batches
        self.optimizer = optimizer
        self.schedule = schedule
        self.also = also
        self._updates = 0

    @property
    def updates(self) -> int:
        """How many updates were made."""
        return self._updates

    def train(self, until: int) -> None:
        """Go on until so many updates are made in all.

        Raises:
            ValueError: ``until`` lies behind.
        """
        if until < self._updates:
            raise ValueError(f"until={until}: {self._updates} updates are made already")
        while self._updates < until:
            batch = self.batches(self._updates)

            def closure(batch: Any = batch) -> Tensor:
                self.optimizer.zero_grad()
                loss = self.loss(self.model, batch)
                loss.backward()
                return loss

            self.optimizer.step(closure)  # type: ignore[arg-type]  # torch wants a float, and takes a tensor
            if self.schedule is not None:
                self.schedule.step()
            self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the rest of the run depends on, which ``torch.save`` can write if what is in ``also``
        can be."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "updates": self._updates,
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            "also": {
                name: value.get_state() if isinstance(value, torch.Generator) else value.state_dict()
                for name, value in self.also.items()
            },
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any], *, schedule: bool = True) -> None:
        """Go on from where ``state`` was taken.

        Arguments:
            state: of a run with the same model, optimizer and things in ``also``.
            schedule: False branches off: this run keeps its schedule, and the rates that it has set.

        Raises:
            ValueError: a state with other things in ``also``, or with a schedule where this run has none (or reverse).
        """
        if state["also"].keys() != self.also.keys():
            raise ValueError(f"state: also has {sorted(state['also'])}, but this run's has {sorted(self.also)}")
        if schedule and (state["schedule"] is None) != (self.schedule is None):
            raise ValueError(f"state: is of a run with{'out' if self.schedule else ''} a schedule, unlike this one")
        state = copy.deepcopy(dict(state))
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if not schedule:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        elif self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self._updates = state["updates"]
        torch.set_rng_state(state["random"])
        if state["random_gpu"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_gpu"])
        for name, value in self.also.items():
            if isinstance(value, torch.Generator):
                value.set_state(state["also"][name])
            else:
                value.load_state_dict(state["also"][name])


@dataclass(frozen=True)
class Branched(Generic[Result]):
    """What a plan gave: the measurements by number of updates, in increasing order, and the updates executed in all."""

    results: dict[int, Result]
    cost: int


class BranchingTrainer(Generic[Result]):
    """Executes a schedule with all of its branches, and measures the model that is finished at each budget.

    The main run goes along the schedule. Where a branch leaves it, everything is copied: model, optimizer, random
    numbers, the data's cursor. Each branch then starts from such a copy and follows its own rates to its budget, on
    the data that the main run had there. What comes out is, to the bit, what separate runs from the beginning would
    give. In the end the run is where its main run ended.

    Arguments:
        run: at update 0, with the plan as its schedule: :class:`~landform.optim.schedules.WarmupStableDecay` with
            earlier budgets, :class:`~landform.optim.schedules.CosineOracle`, :class:`~landform.optim.schedules.WSDS`
            or any other :class:`~landform.optim.schedules.Schedule`.
        measure: called when a budget's model is finished.
        at: further numbers of updates of the main run to measure after, such as where a decay begins.

    Raises:
        TypeError: the run has no schedule of landform's.
        ValueError: the run is not at its beginning, or ``at`` lies outside the plan.

    >>> from landform.optim import WarmupStableDecay
    >>> model, inputs = nn.Linear(2, 1), torch.randn(8, 4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> plan = WarmupStableDecay(optimizer, 8, decay=0.5, earlier=[4])
    >>> run = ClosureRun(model, lambda m, x: m(x).square().mean(), lambda k: inputs[k], optimizer, plan)
    >>> done = BranchingTrainer(run, measure=lambda: float(model.weight.detach().norm())).train()
    >>> list(done.results), done.cost
    ([4, 8], 10)
    """

    def __init__(self, run: Resumable, measure: Callable[[], Result], *, at: Collection[int] = ()) -> None:
        if not isinstance(run.schedule, Schedule):
            raise TypeError(
                f"run.schedule is {type(run.schedule).__name__}; must be a landform.optim.schedules.Schedule"
            )
        if run.updates:
            raise ValueError(f"run: has made {run.updates} updates; a plan starts at the beginning")
        for stop in at:
            if not 0 <= stop <= run.schedule.total:
                raise ValueError(f"at={list(at)}: must lie in the plan, 0 to {run.schedule.total} updates")
            if stop in run.schedule.branch_points():
                raise ValueError(f"at={list(at)}: a side run of its own is measured after {stop} updates")
        self.run = run
        self.plan = run.schedule
        self.measure = measure
        self.at = frozenset(at)

    def train(self) -> Branched[Result]:
        """Execute the plan."""
        run, plan = self.run, self.plan
        points = plan.branch_points()
        own = {budget for budget in plan.checkpoints() if budget not in points} | self.at
        results, snapshots = {}, {}
        for stop in sorted({*points.values(), *own}):
            run.train(stop)
            if stop in points.values():
                snapshots[stop] = run.state_dict()
            if stop in own:
                results[stop] = self.measure()
        cost, end = run.updates, run.state_dict()
        for budget, start in points.items():
            run.schedule = plan.branch(budget)
            run.load_state_dict(snapshots[start], schedule=False)
            run.train(budget)
            results[budget] = self.measure()
            cost += budget - start
        run.schedule = plan
        run.load_state_dict(end)
        return Branched(dict(sorted(results.items())), cost)
