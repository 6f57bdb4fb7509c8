"""The laws themselves: a power of one quantity plus a constant, and of model size and data together."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

Array = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = L_inf + (x_0/x)^alpha: loss against size, data or compute, where nothing else limits.

    L_inf is the loss that no x takes away (the entropy of the data, when x is all that limits), the rest is reducible.
    On double logarithmic axes L − L_inf is a straight line.

    Source: arXiv 2010.14701, eq. 1.1.

    Raises:
        ValueError: a scale or exponent that is not positive, a constant below 0, or one that is not finite.

    >>> float(PowerLaw(L_inf=2.0, x_0=100.0, alpha=0.5)(400.0))
    2.5
    """

    L_inf: float
    x_0: float
    alpha: float

    def __post_init__(self) -> None:
        check_law(self, zero_allowed=("L_inf",))

    def __call__(self, x: ArrayLike) -> Array:
        """The loss at x > 0, in the shape of x."""
        return self.L_inf + (self.x_0 / positive("x", x)) ** self.alpha

    def needed(self, loss: ArrayLike) -> Array:
        """The x at which the loss is reached: x_0 (loss − L_inf)^(−1/alpha).

        Raises:
            ValueError: a loss that is not above ``L_inf``; no x reaches it.
        """
        rest = np.asarray(loss, dtype=np.float64) - self.L_inf
        if not (rest > 0).all():
            raise ValueError(f"loss={loss!r}: must be above L_inf={self.L_inf}")
        return self.x_0 * rest ** (-1 / self.alpha)


class Allocation(NamedTuple):
    """The best use of a compute budget: parameters, tokens, and the loss that they give."""

    size: Array
    tokens: Array
    loss: Array


@dataclass(frozen=True)
class TwoTermLaw:
    """L(N, D) = E + A/N^a + G/D^b: loss against parameters N and training tokens D, either of which may limit.

    With a budget of C = 6 N D floating-point operations the best size and the best loss are powers of C:

        N_opt = (aA/(bG))^(1/(a+b)) (C/6)^(b/(a+b)),   D_opt = C/(6 N_opt),   L_opt − E ∝ C^(−ab/(a+b))

    (set the derivative of L(N, C/(6N)) by N to zero).

    Source: arXiv 2010.14701; the form is that of arXiv 2203.15556, section 3.3.

    Raises:
        ValueError: a coefficient or exponent that is not positive, or a constant below 0.

    >>> law = TwoTermLaw(E=1.69, A=406.4, a=0.34, G=410.7, b=0.28)
    >>> best = law.allocate(5.76e23)
    >>> f"{best.size:.3g} parameters, {best.tokens:.3g} tokens, {best.loss:.4f} nats"
    '3.22e+10 parameters, 2.98e+12 tokens, 1.9307 nats'
    """

    E: float
    A: float
    a: float
    G: float
    b: float

    def __post_init__(self) -> None:
        check_law(self, zero_allowed=("E",))

    def __call__(self, x: ArrayLike) -> Array:
        """The loss at x = (N, D) along the last axis."""
        x = positive("x", x)
        if x.ndim == 0 or x.shape[-1] != 2:
            raise ValueError(f"x has shape {x.shape}; its last axis must be (parameters, tokens)")
        return self.E + self.A / x[..., 0] ** self.a + self.G / x[..., 1] ** self.b

    @property
    def beta(self) -> float:
        """The exponent of N_opt in C: b/(a + b)."""
        return self.b / (self.a + self.b)

    def allocate(self, compute: ArrayLike, flops_a_token: float = 6.0) -> Allocation:
        """The best parameters and tokens for budgets of ``compute`` FLOPs, at ``flops_a_token`` · N each token."""
        products = positive("compute", compute) / flops_a_token
        ratio = self.a * self.A / (self.b * self.G)
        size = ratio ** (1 / (self.a + self.b)) * products**self.beta
        tokens = products / size
        return Allocation(size, tokens, self(np.stack([size, tokens], axis=-1)))


def positive(name: str, values: ArrayLike) -> Array:
    """``values`` as float64, all of them positive and finite."""
    array = np.asarray(values, dtype=np.float64)
    if not ((array > 0) & (array < math.inf)).all():
        raise ValueError(f"{name}: must be positive and finite throughout")
    return array


def check_law(law: PowerLaw | TwoTermLaw, zero_allowed: tuple[str, ...]) -> None:
    for field, value in zip(fields(law), astuple(law), strict=True):
        if not 0 <= value < math.inf or (value == 0 and field.name not in zero_allowed):
            least = "zero or more" if field.name in zero_allowed else "positive"
            raise ValueError(f"{field.name}={value}: must be {least} and finite")
