"""A source of text whose entropy is known exactly: a Markov chain."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from landform.data.split import check_count

# The stationary distribution is found by iterating until it changes by no more than this in all.
SETTLED = 1e-14
MOST_ITERATIONS = 100_000


@dataclass(frozen=True, eq=False, repr=False)
class MarkovSource:
    """Tokens of which each depends on the ``order`` before it, and on nothing else.

    Arguments:
        transitions: P(next | context), one axis for each token of the context from the oldest to the newest and the
            next token last: ``order + 1`` axes of ``vocab`` entries. Every row sums to 1.

    Attributes:
        stationary: the distribution of contexts in a long text, of ``order`` axes.
        entropy: H = −Σ_context π(context) Σ_next P(next | context) ln P(next | context), the entropy rate in nats per
            token. No predictor that sees the past has a smaller expected loss, and the exact one has this.

    Raises:
        ValueError: rows that are not distributions, axes of unequal lengths, or a chain that settles nowhere.

    >>> coin = MarkovSource(torch.tensor([[0.5, 0.5], [0.5, 0.5]]))
    >>> round(coin.entropy / math.log(2), 12)
    1.0
    """

    transitions: Float[Tensor, "*context vocab"]
    stationary: Float[Tensor, "*context"] = field(init=False)
    entropy: float = field(init=False)

    def __post_init__(self) -> None:
        rows = self.transitions.double()
        if rows.ndim < 2 or len(set(rows.shape)) != 1:
            raise ValueError(f"transitions have shape {tuple(rows.shape)}: must be order + 1 ≥ 2 axes of one length")
        if not bool((rows >= 0).all()) or not torch.allclose(rows.sum(-1), torch.ones(()).double(), rtol=0, atol=1e-6):
            raise ValueError("transitions: every row along the last axis must be a distribution")
        rows = rows / rows.sum(-1, keepdim=True)
        stationary = _stationary(rows)
        surprise = -torch.xlogy(rows, rows).sum(-1)
        object.__setattr__(self, "transitions", rows)
        object.__setattr__(self, "stationary", stationary)
        object.__setattr__(self, "entropy", float((stationary * surprise).sum()))

    def __repr__(self) -> str:
        return f"MarkovSource(order={self.order}, vocab={self.vocab}, entropy={self.entropy:.4f} nats per token)"

    @property
    def order(self) -> int:
        return self.transitions.ndim - 1

    @property
    def vocab(self) -> int:
        return self.transitions.shape[-1]

    def sample(self, count: int, length: int, generator: torch.Generator) -> Int64[Tensor, "count length"]:
        """``count`` independent texts of ``length`` tokens, from the middle of a long text: all tokens are stationary.

        Raises:
            ValueError: a count below 1, or a length below the order.
        """
        check_count("count", count, 1)
        check_count("length", length, self.order)
        steps = self.transitions.reshape(-1, self.vocab).cumsum(-1)
        draws = torch.rand(length - self.order + 1, count, 1, generator=generator, dtype=torch.float64)
        state = torch.searchsorted(self.stationary.flatten().cumsum(0), draws[0, :, 0]).clamp(max=len(steps) - 1)
        text = torch.empty(count, length, dtype=torch.int64)
        for place in range(self.order):
            text[:, place] = state // self.vocab ** (self.order - 1 - place) % self.vocab
        for place, draw in enumerate(draws[1:], start=self.order):
            # Rounding may leave a row's sum below the draw.
            token = torch.searchsorted(steps[state], draw).clamp(max=self.vocab - 1)[:, 0]
            text[:, place] = token
            state = (state * self.vocab + token) % len(steps)
        return text

    def losses(self, text: Shaped[Tensor, "*batch length"]) -> Float[Tensor, "*batch length-order"]:
        """−ln P(token | context), in nats, of every token that has a whole context: the exact predictor's losses."""
        text = text.long()
        if text.shape[-1] <= self.order:
            raise ValueError(f"text has {text.shape[-1]} tokens; one more than the order {self.order} is the least")
        contexts = text.unfold(-1, self.order + 1, 1)
        return -self.transitions[contexts.unbind(-1)].log()


def markov_source(order: int, vocab: int, concentration: float, seed: int, zipf: float = 0.0) -> MarkovSource:
    """A random Markov source: for every context P(next | context) ~ Dirichlet(vocab · concentration · w).

    Token k = 1, 2, … has the weight w_k ∝ k^(−zipf). With ``zipf`` 0 all are 1/vocab, and no token is special; with 1
    tokens, and so contexts, are as unequally frequent as the words of a language. A small concentration makes the next
    token almost certain, a large one makes every row equal to w.

    Raises:
        ValueError: an order below 1, fewer than 2 tokens, a concentration that is not positive and finite, a negative
            ``zipf``, or a table of more than 10⁸ entries.

    >>> markov_source(order=2, vocab=8, concentration=0.3, seed=0)
    MarkovSource(order=2, vocab=8, entropy=... nats per token)
    """
    check_count("order", order, 1)
    check_count("vocab", vocab, 2)
    if not 0 < concentration < math.inf:
        raise ValueError(f"concentration={concentration}: must be positive and finite")
    if not 0 <= zipf < math.inf:
        raise ValueError(f"zipf={zipf}: must be zero or more, and finite")
    if vocab ** (order + 1) > 10**8:
        raise ValueError(f"order={order}, vocab={vocab}: a table of {vocab ** (order + 1):.1e} entries; at most 1e8")
    weights = np.arange(1, vocab + 1) ** -float(zipf)
    alpha = vocab * concentration * weights / weights.sum()
    rows = np.random.default_rng(seed).dirichlet(alpha, size=(vocab,) * order)
    return MarkovSource(torch.from_numpy(rows))


def _stationary(rows: Tensor) -> Tensor:
    """π of contexts with π(b, …, next) = Σ_a π(a, b, …) P(next | a, b, …)."""
    pi = torch.full(rows.shape[:-1], rows.shape[-1] ** -(rows.ndim - 1.0), dtype=rows.dtype)
    for _ in range(MOST_ITERATIONS):
        # Half of the mass stays: the same fixed point, and no cycles.
        after = (pi + (pi.unsqueeze(-1) * rows).sum(0)) / 2
        if float((after - pi).abs().sum()) < SETTLED:
            return after / after.sum()
        pi = after
    raise ValueError(f"transitions: no stationary distribution after {MOST_ITERATIONS:,} iterations")
