"""The trace of an operator, by random probes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from landform.landscape.curvature.density import signs
from landform.landscape.curvature.krylov import seeded
from landform.landscape.curvature.operators import Symmetric, as_operator

FEWEST = 10
"""Before so many probes an estimate that happens to repeat itself does not end the search."""


class Trace(NamedTuple):
    """An estimate of a trace with its standard error. It unpacks to ``(mean, stderr)``."""

    mean: float
    stderr: float


def hutchinson_trace(
    op: Symmetric, probes: int = 100, tol: float = 1e-3, *, generator: torch.Generator | None = None
) -> Trace:
    """The mean of vᵀ H v over random vectors of signs: unbiased, and exact for a diagonal H.

    Arguments:
        op: an operator or a symmetric matrix.
        probes: how many vectors at most.
        tol: stop, after ten probes or more, once the standard error is at most ``tol`` times the mean.
        generator: draws the signs; by default one seeded with 0.

    Raises:
        ValueError: fewer than two probes, or a negative tolerance.
        FloatingPointError: a product that is not finite.

    Source: Hutchinson 1989; variance 2 Σ_{i≠j} H_ij² a probe.

    >>> hutchinson_trace(torch.diag(torch.tensor([1.0, 2.0, 4.0])))
    Trace(mean=7.0, stderr=0.0)
    """
    if probes < 2:
        raise ValueError(f"probes={probes}: a standard error needs at least 2")
    if not tol >= 0:
        raise ValueError(f"tol={tol}: must be zero or more")
    operator = as_operator(op)
    generator = seeded(generator)
    found = torch.empty(0, dtype=torch.float64)
    while len(found) < probes:
        count = min(FEWEST, probes - len(found))
        vectors = signs(operator, count, generator).T
        quadratic = (vectors * operator.matmat(vectors)).sum(0, dtype=torch.float64)
        found = torch.cat([found, quadratic.cpu()])
        mean, stderr = float(found.mean()), float(found.std()) / math.sqrt(len(found))
        if stderr <= tol * abs(mean):
            break
    return Trace(mean, stderr)
