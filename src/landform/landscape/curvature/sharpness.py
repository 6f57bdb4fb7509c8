"""Sharpness: the largest eigenvalue of the Hessian, cheaply and with a check."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landform.landscape.curvature.krylov import Krylov, starting
from landform.landscape.curvature.operators import Symmetric, as_operator


@dataclass(frozen=True)
class Sharpness:
    """The largest Ritz value, its vector (P,), the residual ‖H u − value u‖ and the products that it took.

    An eigenvalue lies within ``residual`` of ``value``. ``float(sharpness)`` is its value.
    """

    value: float
    vector: Float[Tensor, " P"]
    residual: float
    products: int

    def __float__(self) -> float:
        return self.value


def sharpness(
    op: Symmetric,
    v0: Float[Tensor, " P"] | None = None,
    *,
    steps: int = 20,
    max_steps: int = 60,
    rtol: float = 0.01,
    generator: torch.Generator | None = None,
) -> Sharpness:
    """The largest eigenvalue, by Lanczos' process from a Gaussian start.

    ``steps`` products are made; if the residual beta_m |last component| is then above ``rtol`` times the value, the
    process goes on until it is not, or until ``max_steps``, with a warning.

    While tracking sharpness over training, pass the last ``vector`` as ``v0``: the residual is then checked after every
    product from the second on, and two to five suffice. A warm start follows its eigenvector even after another has
    overtaken it, so start cold now and then.

    Arguments:
        op: an operator or a symmetric matrix.
        v0: a vector near the eigenvector, for a warm start.
        steps, max_steps: the products to make from a cold start, and at most.
        rtol: the residual allowed, relative to the value.
        generator: draws the cold start; by default one seeded with 0.

    Raises:
        ValueError: steps that are not 1 ≤ steps ≤ max_steps, an ``rtol`` that is not positive, or a bad start.
        FloatingPointError: a product that is not finite.

    Source: arXiv 1706.04454; Lanczos 1950.

    >>> round(float(sharpness(torch.diag(torch.tensor([3.0, -8.0, 1.0])))), 4)
    3.0
    """
    if not 1 <= steps <= max_steps:
        raise ValueError(f"steps={steps}, max_steps={max_steps}: must be 1 ≤ steps ≤ max_steps")
    if not rtol > 0:
        raise ValueError(f"rtol={rtol}: must be positive")
    operator = as_operator(op)
    krylov = Krylov(operator, max_steps, starting(operator, v0, generator))
    least = min(steps, krylov.capacity) if v0 is None else min(2, krylov.capacity)
    while True:
        krylov.expand()
        if krylov.size < least and not krylov.invariant:
            continue
        values, coordinates = krylov.eigh()
        value, top = float(values[-1]), coordinates[:, -1:]
        residual = krylov.beta * float(np.abs(top[-1, 0]))
        if krylov.invariant or krylov.full or residual <= rtol * abs(value):
            break
    if residual > rtol * abs(value) and not krylov.invariant:
        warnings.warn(
            f"after {krylov.size} products the sharpness is {value:.4g} with a residual of {residual:.2g}, "
            f"above rtol={rtol:g} of it; raise max_steps",
            RuntimeWarning,
            stacklevel=2,
        )
    return Sharpness(value, krylov.vectors(top)[0], residual, krylov.size)
