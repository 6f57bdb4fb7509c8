"""Flows between populations: what they share, and the one that knows the single point alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landform.data.populations import PointPopulations
from landform.flows.integrate import integrate
from landform.flows.matching import FlowMatchingLoss, take
from landform.training import batches, fit

Velocity = Callable[..., Tensor]
Fields = Callable[[Int64[Tensor, " batch"]], tuple[Velocity, Tensor | None]]
"""For a step's environments, the field to learn and what it is told of each of them."""


class Budget(TypedDict, total=False):
    """How :meth:`PopulationFlow.fit` trains.

    steps: updates; 1000 by default.
    batch_size: environments a step; 10.
    points: points of each environment that a step's loss is taken at, drawn anew; all of them where it is not given
        (of populations of different sizes, as many as the smallest has).
    learning_rate: of Adam; 1e-4.
    schedule: makes the learning-rate schedule of an optimiser; none by default.
    generator: draws environments and points (PyTorch's global one by default). The loss has one of its own.
    """

    steps: int
    batch_size: int
    points: int | None
    learning_rate: float
    schedule: Callable[[Optimizer], LRScheduler] | None
    generator: torch.Generator | None


class PopulationFlow(nn.Module):
    """A velocity field that is told something of each environment; what that is, subclasses say.

    Arguments:
        velocity: ``velocity(t, x, cond)``, such as :class:`VelocityField`; without ``cond`` where it is told nothing.
            A treatment follows whatever else it is told.
        loss: how it is trained; :class:`FlowMatchingLoss` as it comes when None.
    """

    def __init__(self, velocity: nn.Module, loss: FlowMatchingLoss | None = None) -> None:
        super().__init__()
        self.velocity = velocity
        self.loss = FlowMatchingLoss() if loss is None else loss

    def _train(
        self,
        environments: PointPopulations,
        fields: Fields,
        *,
        steps: int = 1000,
        batch_size: int = 10,
        points: int | None = None,
        learning_rate: float = 1e-4,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " steps"]:
        numbers = torch.arange(len(environments))
        thinned = Thinning(environments, points, self.loss.coupling == "paired", generator)

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            index = batch[0].to(environments.x0.device)
            velocity, told = fields(index)
            told = joined(told, None if environments.treatment is None else environments.treatment[index])
            x0, x1 = thinned(index)
            return self.loss(velocity, x0, x1) if told is None else self.loss(velocity, x0, x1, cond=told)

        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        return fit(
            self,
            loss,
            batches(numbers, numbers, min(batch_size, len(numbers)), generator),
            optimizer,
            steps=steps,
            schedule=None if schedule is None else schedule(optimizer),
        )

    @torch.no_grad()
    def _carry(self, x0: Tensor, told: Tensor | None, treatment: Tensor | None, **solver: Any) -> Tensor:
        start = torch.randn_like(x0) if self.loss.base == "gaussian" else x0
        return integrate(self.velocity, start, joined(told, treatment), **solver)


class FlowMatching(PopulationFlow):
    """FM: one velocity field v_t(x) for all populations, told nothing but the treatment, where there is one.

    >>> from landform.flows import VelocityField
    >>> model = FlowMatching(VelocityField(dim=2, width=16))
    >>> losses = model.fit(PointPopulations(torch.randn(4, 30, 2), torch.randn(4, 30, 2)), steps=3)
    >>> model.transport(torch.randn(4, 30, 2), steps=2).shape
    torch.Size([4, 30, 2])
    """

    def fit(self, environments: PointPopulations, **budget: Unpack[Budget]) -> Float[Tensor, " steps"]:
        """Train on pairs of populations, as :class:`Budget` says; gives each step's loss."""
        return self._train(environments, lambda index: (self.velocity, None), **budget)

    def transport(
        self, x0: Float[Tensor, "*batch n d"], *, treatment: Tensor | None = None, **solver: Any
    ) -> Float[Tensor, "*batch n d"]:
        """Where the field carries populations; ``solver`` is what :func:`integrate` takes."""
        return self._carry(x0, None, treatment, **solver)


class Thinning:
    """Draws the points of each population that a step's loss is taken at."""

    def __init__(
        self, environments: PointPopulations, points: int | None, paired: bool, generator: torch.Generator | None
    ) -> None:
        self.x0, self.x1 = environments.x0, environments.x1
        self.generator, self.paired = generator, paired
        n, m = self.x0.shape[1], self.x1.shape[1]
        there = [
            torch.ones(x.shape[:2]) if mask is None else mask.float().cpu()
            for x, mask in ((self.x0, environments.mask0), (self.x1, environments.mask1))
        ]
        if paired:
            if n != m:
                raise ValueError(f"coupling='paired': populations have {n} and {m} points; they must be as many")
            there = [there[0] * there[1]]
        self.there = there
        self.least = [int(weights.sum(1).min()) for weights in there]
        if min(self.least) < 1:
            raise ValueError("coupling='paired': an environment has no position at which mask0 and mask1 are both true")
        if points is not None and points < 1:
            raise ValueError(f"points={points}: must be at least 1")
        masked = environments.mask0 is not None or environments.mask1 is not None
        self.points = min(self.least) if points is None and masked else points

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x0, x1 = self.x0[index], self.x1[index]
        if self.points is None:
            return x0, x1
        rows = [
            torch.multinomial(weights[index.cpu()], self.points, self.points > least, generator=self.generator)
            for weights, least in zip(self.there, self.least, strict=True)
        ]
        return take(x0, rows[0].to(x0.device)), take(x1, rows[-1].to(x1.device))


def joined(told: Tensor | None, treatment: Tensor | None) -> Tensor | None:
    """A condition, and after it the treatment."""
    parts = [part for part in (told, treatment) if part is not None]
    return torch.cat(parts, dim=-1) if parts else None
