"""A language whose loss landscape is a river valley by construction: bigrams, some certain and the others not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from landform.data.markov import MarkovSource
from landform.data.split import check_count

Frequencies = Literal["uniform", "stationary"]


@dataclass(frozen=True)
class Excess:
    """By how much a loss is above the entropy, in nats: over all tokens, and over those after rows of each kind alone.

    A kind that has no rows has no loss: NaN.
    """

    total: Float[Tensor, "*batch"]
    stochastic: Float[Tensor, "*batch"]
    deterministic: Float[Tensor, "*batch"]


@dataclass(frozen=True, eq=False, repr=False)
class BigramLanguage:
    """Pairs (i, j) with i of known frequencies and j ~ P_i, and the exact loss of any table of logits on them.

        L(theta) = Σ_i pi_i [H(P_i) + KL(P_i ‖ softmax(theta_i))]
        ∂L/∂theta_i = pi_i (softmax(theta_i) − P_i),   ∂²L/∂theta_i² = pi_i (diag(q) − q qᵀ),  q = softmax(theta_i)

    At the optimum a stochastic row is curved, and the gradient of single examples has exactly its Hessian as its
    covariance: hillsides with noise. A deterministic row flattens as it is learnt, and its gradient never ends: a
    river. Logits are ``(*batch, V, V)``, of a table or of any network that reads i.

    Arguments:
        transitions: P, a row for each i.
        frequencies: pi.

    Attributes:
        deterministic: which rows have a single successor.
        entropies: H(P_i) of each row, in nats.
        entropy: Σ_i pi_i H(P_i), the least loss there is.

    Raises:
        ValueError: rows or frequencies that are not distributions.

    Source: the idea of arXiv 2410.05192, section 4 (steep and flat directions from uncertain and certain tokens).
    """

    transitions: Float[Tensor, "V V"]
    frequencies: Float[Tensor, " V"]
    deterministic: Bool[Tensor, " V"] = field(init=False)
    entropies: Float[Tensor, " V"] = field(init=False)
    entropy: float = field(init=False)

    def __post_init__(self) -> None:
        rows, pi = self.transitions.double(), self.frequencies.double()
        if rows.ndim != 2 or rows.shape[0] != rows.shape[1] or pi.shape != rows.shape[:1]:
            shapes = f"{tuple(rows.shape)} and {tuple(pi.shape)}"
            raise ValueError(f"transitions and frequencies: must be (V, V) and (V,), not {shapes}")
        for name, table in (("transitions", rows), ("frequencies", pi)):
            if not bool((table >= 0).all()) or not bool(((table.sum(-1) - 1).abs() < 1e-6).all()):
                raise ValueError(f"{name}: must be distributions, of sum 1 along the last axis")
        rows, pi = rows / rows.sum(-1, keepdim=True), pi / pi.sum()
        entropies = -torch.xlogy(rows, rows).sum(-1)
        object.__setattr__(self, "transitions", rows)
        object.__setattr__(self, "frequencies", pi)
        object.__setattr__(self, "deterministic", rows.amax(-1) == 1)
        object.__setattr__(self, "entropies", entropies)
        object.__setattr__(self, "entropy", float(pi @ entropies))

    def __repr__(self) -> str:
        certain = int(self.deterministic.sum())
        return f"BigramLanguage(V={len(self.frequencies)}, deterministic={certain}, entropy={self.entropy:.4f} nats)"

    def sample(self, count: int, generator: torch.Generator) -> tuple[Int64[Tensor, " count"], Int64[Tensor, " count"]]:
        """``count`` independent pairs: the tokens i, and the tokens j that follow them."""
        check_count("count", count, 1)
        draws = torch.rand(2, count, generator=generator, dtype=torch.float64)
        # Rounding may leave a cumulative sum below 1, and a draw may be 0 before a token that never comes.
        last = len(self.frequencies) - 1
        first = torch.searchsorted(self.frequencies.cumsum(0), draws[0], right=True).clamp(max=last)
        steps = self.transitions.cumsum(-1)[first]
        following = torch.searchsorted(steps, draws[1, :, None], right=True).clamp(max=last)[:, 0]
        return first, following

    def loss(self, logits: Float[Tensor, "*batch V V"]) -> Float[Tensor, "*batch"]:
        """The expected cross-entropy in nats per token, float64."""
        return self.entropy + self.excess_loss(logits).total

    def gradient(self, logits: Float[Tensor, "*batch V V"]) -> Float[Tensor, "*batch V V"]:
        """Of the expected loss: pi_i (softmax(theta_i) − P_i)."""
        return self.frequencies[:, None] * (self._probabilities(logits) - self.transitions)

    def hessian_eigenvalues(self, logits: Float[Tensor, "*batch V V"]) -> Float[Tensor, "*batch V V"]:
        """The eigenvalues, ascending, of each row's block of the Hessian: rows do not interact."""
        q = self._probabilities(logits)
        blocks = self.frequencies[:, None, None] * (torch.diag_embed(q) - q[..., :, None] * q[..., None, :])
        return torch.linalg.eigvalsh(blocks)

    def excess_loss(self, logits: Float[Tensor, "*batch V V"]) -> Excess:
        """KL(P_i ‖ softmax(theta_i)): its mean over all rows by frequency, and over those of each kind."""
        logits = self._checked(logits)
        kl = -self.entropies - (self.transitions * logits.log_softmax(-1)).sum(-1)

        def mean(rows: Tensor) -> Tensor:
            weights = self.frequencies * rows
            return kl @ (weights / weights.sum())

        return Excess(kl @ self.frequencies, mean(~self.deterministic), mean(self.deterministic))

    def stationary_excess(self, eta: float, batch_size: int) -> float:
        """The excess loss, in nats per token, that SGD at a constant rate settles at on the hillsides.

            (eta/(2B)) Σ_k lambda_k/(2 − eta lambda_k)  ≈  (eta/(4B)) Σ_{stochastic i} pi_i (1 − Σ_j P_ij²)

        with lambda_k the Hessian's eigenvalues at the optimum and B = ``batch_size``: the quadratic approximation, for
        plain SGD on logits. With heavy-ball momentum beta take eta/(1 − beta), to first order. What is left to learn
        of deterministic rows comes on top. Divided by the stochastic rows' share of tokens it is theirs alone.

        Raises:
            ValueError: a rate that is not positive, or at which SGD diverges (eta · max lambda ≥ 2).

        Source: derived, from the moments of SGD on a quadratic.
        """
        check_count("batch_size", batch_size, 1)
        eigenvalues = self.hessian_eigenvalues(self.transitions.clamp_min(1e-300).log()).clamp(min=0)
        sharpest = float(eigenvalues.max())
        if not 0 < eta < math.inf or eta * sharpest >= 2:
            raise ValueError(f"eta={eta}: must be positive, and below 2/max lambda = {2 / sharpest:.4g} to settle")
        return float((eigenvalues / (2 - eta * eigenvalues)).sum()) * eta / (2 * batch_size)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return self._checked(logits).softmax(-1)

    def _checked(self, logits: Tensor) -> Tensor:
        if logits.shape[-2:] != self.transitions.shape:
            size = len(self.frequencies)
            raise ValueError(f"logits have shape {tuple(logits.shape)}; the last two axes must be ({size}, {size})")
        return logits.double()


def bigram_language(
    V: int,
    deterministic_fraction: float = 0.5,
    concentration: float = 0.5,
    seed: int = 0,
    *,
    frequencies: Frequencies = "uniform",
) -> BigramLanguage:
    """A random bigram language: so many of its V rows have one successor, the others P_i ~ Dirichlet(concentration).

    Deterministic rows lead on to stochastic rows in the end, so that a long text visits every row; if all rows are
    deterministic they are one cycle. The rows' order is random.

    Arguments:
        V: number of tokens.
        deterministic_fraction: of the rows, rounded to a whole number of them.
        concentration: small makes a stochastic row's successors few, large makes them equally likely.
        frequencies: of the first token: "uniform", or "stationary" as in a long text.

    Raises:
        ValueError: fewer than 2 tokens, a fraction outside [0, 1], a concentration that is not positive and finite, an
            unknown kind of frequencies.

    >>> bigram_language(V=64, deterministic_fraction=0.5, concentration=0.5, seed=0)
    BigramLanguage(V=64, deterministic=32, entropy=... nats)
    """
    check_count("V", V, 2)
    if not 0 <= deterministic_fraction <= 1:
        raise ValueError(f"deterministic_fraction={deterministic_fraction}: must lie in [0, 1]")
    if not 0 < concentration < math.inf:
        raise ValueError(f"concentration={concentration}: must be positive and finite")
    if frequencies not in get_args(Frequencies):
        raise ValueError(f"frequencies={frequencies!r}: must be one of {get_args(Frequencies)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(V)
    certain = round(deterministic_fraction * V)
    rows = rng.dirichlet(np.full(V, float(concentration)), size=V)
    for place, row in enumerate(order[:certain]):
        rows[row] = 0
        # Any row later in the order: the deterministic ones then run in no circle, but lead to a stochastic one.
        following = rng.integers(place + 1, V) if certain < V else (place + 1) % V
        rows[row, order[following]] = 1
    transitions = torch.from_numpy(rows)
    if frequencies == "uniform":
        return BigramLanguage(transitions, torch.full((V,), 1 / V, dtype=torch.float64))
    return BigramLanguage(transitions, MarkovSource(transitions).stationary)
