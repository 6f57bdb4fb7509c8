"""The spectral density of an operator, by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landform.landscape.curvature.krylov import lanczos, ritz, seeded
from landform.landscape.curvature.operators import Symmetric, SymmetricOperator, as_operator


class SpectralDensity(NamedTuple):
    """A density on a grid, and the quadrature that it is made of. It unpacks to ``(grid, density, nodes, weights)``.

    All are float64 on the CPU; ``nodes`` and ``weights`` are (probes, steps), and the weights of a probe sum to 1.
    Where a probe's process ended early its last places have weight 0.
    """

    grid: Float[Tensor, " g"]
    density: Float[Tensor, " g"]
    nodes: Float[Tensor, "probes steps"]
    weights: Float[Tensor, "probes steps"]

    def mean(self, function: Callable[[Tensor], Tensor]) -> float:
        """The mean of a function over the eigenvalues, tr h(H)/P ≈ mean_k Σ_i w_i h(θ_i).

        For example ``mean(lambda t: (t.abs() < eps).double())`` is the share of eigenvalues within eps of zero.
        """
        return float((self.weights * function(self.nodes)).sum(1).mean())


def spectral_density(
    op: Symmetric,
    steps: int | None = None,
    probes: int = 4,
    sigma: float | None = None,
    grid: int | Float[Tensor, " g"] = 10_000,
    *,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    """How the eigenvalues are distributed: stochastic Lanczos quadrature, smoothed by a Gaussian.

        phi(t) = mean_k Σ_i w_i^(k) N(t; θ_i^(k), sigma²)

    θ^(k) are the eigenvalues of the tridiagonal T of a process that starts from the k-th random vector of signs, and
    w^(k) the squares of the first components of T's eigenvectors.

    Arguments:
        op: an operator or a symmetric matrix.
        steps: Lanczos steps a probe; by default min(P, 80). Memory: a basis of so many vectors.
        probes: how many random starts.
        sigma: the Gaussian's standard deviation; by default 1 % of the range of the nodes. (PyHessian's density has 100
            steps, one probe and sigma² = 1e-5 max(1, λ_max − λ_min).)
        grid: where to give the density: so many points from 5 sigma below the least node to 5 sigma above the greatest,
            over which the trapezoidal rule gives an integral of 1; or the points themselves.
        generator: draws the signs; by default one seeded with 0.

    Raises:
        ValueError: fewer than one step or probe, a sigma that is not positive, or fewer than two grid points.
        FloatingPointError: a product that is not finite.

    Source: Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao, arXiv 1901.10159.

    >>> found = spectral_density(torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0])), probes=1)
    >>> round(found.mean(lambda t: (t > 0.5).double()), 4)
    0.25
    """
    operator = as_operator(op)
    steps = min(operator.shape[0], 80) if steps is None else steps
    if steps < 1 or probes < 1:
        raise ValueError(f"steps={steps}, probes={probes}: both must be at least 1")
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"sigma={sigma}: must be positive and finite")
    points = None if isinstance(grid, int) else grid.detach().to("cpu", torch.float64)
    if (grid if isinstance(grid, int) else grid.numel() if grid.ndim == 1 else 0) < 2:
        raise ValueError(f"grid={grid}: must be a number of points, or a vector of them, at least 2")
    generator = seeded(generator)
    nodes, weights = np.zeros((2, probes, min(steps, operator.shape[0])))
    for k in range(probes):
        values, vectors = ritz(lanczos(operator, steps, v0=signs(operator, 1, generator)[0]))
        nodes[k] = values[-1]
        nodes[k, : len(values)] = values
        weights[k, : len(values)] = vectors[0] ** 2
    low, high = float(nodes.min()), float(nodes.max())
    if sigma is None:
        # Where all eigenvalues are one there is no range to take a share of.
        sigma = 0.01 * (high - low) or 0.01 * abs(high) or 0.01
    if points is None:
        points = torch.linspace(low - 5 * sigma, high + 5 * sigma, int(grid), dtype=torch.float64)
    heights = weights / (probes * sigma * math.sqrt(2 * math.pi))
    density = np.zeros(len(points))
    for node, height in zip(nodes.ravel(), heights.ravel(), strict=True):
        density += height * np.exp(-0.5 * ((points.numpy() - node) / sigma) ** 2)
    if isinstance(grid, int):
        density /= np.trapezoid(density, points.numpy())
    return SpectralDensity(points, torch.from_numpy(density), torch.from_numpy(nodes), torch.from_numpy(weights))


def signs(op: SymmetricOperator, count: int, generator: torch.Generator) -> Float[Tensor, "k P"]:
    """Random vectors of +1 and −1."""
    drawn = torch.randint(2, (count, op.shape[0]), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(dtype=op.dtype, device=op.device)
