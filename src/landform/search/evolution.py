"""Architecture search by proposal and evaluation, with a training-free score that picks among the proposals.

Three searches that the NAS-Bench-201 benchmark compares (arXiv 2001.00326, appendix): random search, regularised
evolution and REINFORCE. Each proposes one architecture at a time and pays for evaluating it; with a
:func:`proposal_filter` it draws k proposals and pays only for the one with the best score, which makes them G-Random,
G-REA and G-REINFORCE of GradSign (arXiv 2110.08616, section 5).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from landform.search.cells import EDGES, OPERATIONS, Cell201, mutate

A = TypeVar("A")
H = TypeVar("H", bound=Hashable)
Evaluate = Callable[[A], float]
ProposalFilter = Callable[[Callable[[], A]], A]


class Proposes(Protocol[A]):
    """What a search needs from a space: an architecture at random, and a random small change of one."""

    def draw(self, rng: np.random.Generator, /) -> A: ...

    def mutate(self, architecture: A, rng: np.random.Generator, /) -> A: ...


@dataclass(frozen=True)
class SearchSpace(Generic[A]):
    """Architectures that are built from independent decisions.

    Arguments:
        choices: how many alternatives each decision has.
        build: the architecture of one integer a decision.
        change: another architecture, a small random change away.
    """

    choices: tuple[int, ...]
    build: Callable[[Sequence[int]], A]
    change: Callable[[A, np.random.Generator], A]

    def draw(self, rng: np.random.Generator) -> A:
        """An architecture with every decision drawn uniformly."""
        return self.build(rng.integers(self.choices).tolist())

    def mutate(self, architecture: A, rng: np.random.Generator) -> A:
        """A random small change of ``architecture``."""
        return self.change(architecture, rng)


NAS_BENCH_201 = SearchSpace((len(OPERATIONS),) * len(EDGES), Cell201, mutate)
"""All 15,625 cells; a mutation edits one operation."""


class ArchitecturePool(Generic[H]):
    """A finite set of measured architectures as a search space.

    ``draw`` is uniform. ``mutate`` moves to one of the architectures that differ from the given one in the fewest
    decisions, uniformly; in a pool that holds a whole space this edits one decision.

    Arguments:
        architectures: at least two, all different.
        decisions: one row an architecture: what it decided in each respect, as numbers or text.
    """

    def __init__(self, architectures: Sequence[H], decisions: Sequence[Sequence[int | str]]) -> None:
        self.architectures = tuple(architectures)
        self._row = {architecture: row for row, architecture in enumerate(self.architectures)}
        self._decisions = np.asarray(decisions)
        self._neighbours: dict[int, NDArray[np.intp]] = {}
        if len(self._row) < max(2, len(self.architectures)):
            raise ValueError(f"architectures: a pool needs at least two and no repeats, got {len(self.architectures)}")
        if self._decisions.ndim != 2 or len(self._decisions) != len(self._row):
            raise ValueError(f"decisions: one row an architecture, not shape {self._decisions.shape}")

    def draw(self, rng: np.random.Generator) -> H:
        """One of the architectures, uniformly."""
        return self.architectures[int(rng.integers(len(self.architectures)))]

    def mutate(self, architecture: H, rng: np.random.Generator) -> H:
        """One of the nearest other architectures, uniformly."""
        row = self._row[architecture]
        if row not in self._neighbours:
            distance = (self._decisions != self._decisions[row]).sum(1)
            distance[row] = distance.max() + 1
            self._neighbours[row] = np.flatnonzero(distance == distance.min())
        near = self._neighbours[row]
        return self.architectures[int(near[rng.integers(len(near))])]


@dataclass(frozen=True)
class SearchResult(Generic[A]):
    """Every architecture that a search paid for, in order, with the value it saw and what it had spent by then."""

    architectures: tuple[A, ...]
    values: NDArray[np.float64]
    spent: NDArray[np.float64]

    @property
    def best(self) -> A:
        """The architecture with the largest value seen: the search's answer."""
        return self.architectures[int(self.values.argmax())]


@dataclass
class _Purse(Generic[A]):
    """Pays for evaluations until the budget is used up."""

    evaluate: Evaluate[A]
    budget: float
    cost: Callable[[A], float] | None
    bought: list[tuple[A, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.budget > 0 or not math.isfinite(self.budget):
            raise ValueError(f"budget={self.budget}: must be positive and finite")

    def buy(self, architecture: A) -> float | None:
        """The value of ``architecture``, or None (and nothing is recorded) when it is more than is left."""
        price = 1.0 if self.cost is None else self.cost(architecture)
        if not price > 0:
            raise ValueError(f"cost({architecture})={price}: an evaluation must cost something")
        spent = price + (self.bought[-1][2] if self.bought else 0.0)
        if spent > self.budget:
            return None
        value = self.evaluate(architecture)
        if not math.isfinite(value):
            raise ValueError(f"evaluate({architecture})={value}: must be finite")
        self.bought.append((architecture, value, spent))
        return value

    def result(self) -> SearchResult[A]:
        if not self.bought:
            raise ValueError(f"budget={self.budget}: not enough for a single evaluation")
        architectures, values, spent = zip(*self.bought, strict=True)
        return SearchResult(architectures, np.array(values), np.array(spent))


def _first(propose: Callable[[], A]) -> A:
    return propose()


def proposal_filter(score_fn: Callable[[A], float], k: int = 10) -> ProposalFilter[A]:
    """The hook that turns a search into its score-assisted form: draw k proposals, keep the one that scores highest.

    A score of NaN (a proxy that is undefined for an architecture) loses to any number.

    >>> rng = np.random.default_rng(0)
    >>> best_of_five = proposal_filter(lambda cell: cell.ops.count(3), k=5)
    >>> result = random_search(NAS_BENCH_201, lambda cell: 0.0, budget=2, rng=rng, proposal_filter=best_of_five)
    >>> len(result.architectures)
    2
    """
    if k < 1:
        raise ValueError(f"k={k}: at least one proposal is needed")

    def worth(architecture: A) -> float:
        score = score_fn(architecture)
        return -math.inf if math.isnan(score) else score

    return lambda propose: max((propose() for _ in range(k)), key=worth)


def random_search(
    space: Proposes[A],
    evaluate: Evaluate[A],
    *,
    budget: float,
    rng: np.random.Generator,
    cost: Callable[[A], float] | None = None,
    proposal_filter: ProposalFilter[A] | None = None,
) -> SearchResult[A]:
    """Evaluate architectures drawn at random until the budget is spent.

    Arguments:
        space: what may be proposed, such as :data:`NAS_BENCH_201`.
        evaluate: the value of an architecture, more is better; with a table, ``table.lookup(metric)``.
        budget: number of evaluations, or simulated seconds when ``cost`` says what one evaluation takes.
        rng: the source of every draw.
        cost: the price of evaluating an architecture; one each by default.
        proposal_filter: picks the architecture to evaluate among several proposals, see :func:`proposal_filter`.

    Raises:
        ValueError: a budget that pays for nothing, a cost that is not positive, a value that is not finite.
    """
    choose = proposal_filter or _first
    purse = _Purse(evaluate, budget, cost)
    while purse.buy(choose(lambda: space.draw(rng))) is not None:
        pass
    return purse.result()


def regularised_evolution(
    space: Proposes[A],
    evaluate: Evaluate[A],
    *,
    budget: float,
    rng: np.random.Generator,
    population: int = 10,
    sample: int = 3,
    cost: Callable[[A], float] | None = None,
    proposal_filter: ProposalFilter[A] | None = None,
) -> SearchResult[A]:
    """Aging evolution (arXiv 1802.01548, algorithm 1): tournaments choose parents, and the oldest dies.

    The first ``population`` architectures are random. Then, each cycle: ``sample`` of the living are drawn with
    replacement, the best of them is mutated, and the child takes the place of the oldest. Arguments and errors as
    :func:`random_search`; ``proposal_filter`` picks among mutations of the same parent (the first generation is
    unfiltered).
    """
    for name, number in (("population", population), ("sample", sample)):
        if number < 1:
            raise ValueError(f"{name}={number}: must be at least 1")
    choose = proposal_filter or _first
    purse = _Purse(evaluate, budget, cost)
    living: deque[tuple[float, A]] = deque(maxlen=population)
    while True:
        if len(living) < population:
            child = space.draw(rng)
        else:
            tournament = [living[i] for i in rng.integers(population, size=sample)]
            _, parent = max(tournament, key=lambda member: member[0])
            child = choose(lambda parent=parent: space.mutate(parent, rng))  # type: ignore[misc]
        value = purse.buy(child)
        if value is None:
            return purse.result()
        living.append((value, child))


def reinforce_search(
    space: SearchSpace[A],
    evaluate: Evaluate[A],
    *,
    budget: float,
    rng: np.random.Generator,
    lr: float = 1e-3,
    momentum: float = 0.9,
    cost: Callable[[A], float] | None = None,
    proposal_filter: ProposalFilter[A] | None = None,
) -> SearchResult[A]:
    """Policy-gradient search: independent softmax policies over the decisions, moved towards what was rewarded.

    Each step samples decisions a from the policy π and takes an Adam step on −log π(a) (R − b), where R is the value
    seen and b the bias-corrected moving average of the values with ``momentum``, this one included. With a
    ``proposal_filter``, R is the value of the best-scoring one among k mutations of the sampled architecture, while
    log π stays that of the sampled decisions, as in the authors' code. Arguments and errors as :func:`random_search`.
    """
    if not lr > 0:
        raise ValueError(f"lr={lr}: must be positive")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: must be in [0, 1)")
    purse = _Purse(evaluate, budget, cost)
    logits = [torch.tensor(1e-3 * rng.standard_normal(n), requires_grad=True) for n in space.choices]
    optimizer = torch.optim.Adam(logits, lr)
    total = weight = 0.0
    while True:
        log_policy = [torch.log_softmax(decision, 0) for decision in logits]
        actions = [int(rng.choice(len(p), p=np.exp(p.detach().numpy()))) for p in log_policy]
        architecture = space.build(actions)
        if proposal_filter is not None:
            architecture = proposal_filter(lambda origin=architecture: space.mutate(origin, rng))  # type: ignore[misc]
        reward = purse.buy(architecture)
        if reward is None:
            return purse.result()
        total = momentum * total + (1 - momentum) * reward
        weight = momentum * weight + (1 - momentum)
        log_probability = torch.stack([p[a] for p, a in zip(log_policy, actions, strict=True)]).sum()
        loss = -log_probability * (reward - total / weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
