"""Gradient descent on quadratics, exactly: worst cases, the steps that minimise them, and the moments of noisy SGD.

On f(x) = ½ Σ_i h_i x_i² a coordinate shrinks by 1 − eta h_i at each update, so that what a whole sequence of rates does
is a product (without noise) or a two-term recursion of second moments (with it). Nothing here samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

Order = Literal["descending", "leja"]


def chebyshev_steps(mu: float, L: float, T: int, order: Order = "descending") -> Float[Tensor, " T"]:
    """The T step sizes whose worst case over all curvatures in [mu, L] is the least: reciprocals of Chebyshev's roots.

        1/eta_t = (L + mu)/2 − (L − mu)/2 cos((2t − 1) pi/(2T)),   t = 1, …, T

    From large to small ("descending") they are the UBA schedule with eta_max = 1/mu, eta_min = 1/L, phi = 2 L/mu on the
    midpoint grid. In that order the iterate grows enormously before it shrinks, as 1/mu is far above the stable 2/L;
    a solver that runs in floating point should take them in "leja" order, which keeps every partial product small.

    Raises:
        ValueError: not 0 < mu ≤ L < ∞, T < 1, or an unknown order.

    Source: arXiv 2505.24452 (the minimax problem); Young 1953 (the steps); Reichel 1990 (the order).

    >>> chebyshev_steps(1.0, 3.0, 2)
    tensor([0.7735, 0.3694], dtype=torch.float64)
    """
    check_interval(mu, L)
    check_updates(T)
    if order not in get_args(Order):
        raise ValueError(f"order={order!r}: must be one of {get_args(Order)}")
    angle = (2 * torch.arange(1, T + 1, dtype=torch.float64) - 1) * math.pi / (2 * T)
    # (L + mu)/2 − (L − mu)/2 cos(angle), without cancellation near mu.
    curvature = mu + (L - mu) * torch.sin(angle / 2) ** 2
    return 1 / (leja(curvature) if order == "leja" else curvature)


def leja(points: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The points reordered: the largest first, then always the one of greatest product of distances to those taken."""
    order = [int(points.abs().argmax())]
    score = torch.zeros_like(points)  # the logarithm of that product; −inf, for good, at a point taken
    while len(order) < len(points):
        score = score + torch.log((points - points[order[-1]]).abs())
        order.append(int(score.argmax()))
    return points[order]


def chebyshev_residual(mu: float, L: float, T: int) -> float:
    """The least worst case of T steps over curvatures in [mu, L]: 1/cosh(T arccosh((kappa + 1)/(kappa − 1))).

    >>> round(chebyshev_residual(1.0, 10.0, 10), 6)
    0.002863
    """
    check_interval(mu, L)
    check_updates(T)
    # arccosh((kappa + 1)/(kappa − 1)) = 2 artanh(1/sqrt(kappa)); 1/cosh(a) = 2 exp(−a)/(1 + exp(−2a)) cannot overflow.
    decay = math.exp(-2 * T * math.atanh(math.sqrt(mu / L))) if mu < L else 0.0
    return 2 * decay / (1 + decay**2)


def worst_case_residual(
    etas: ArrayLike | Float[Tensor, "*batch T"], mu: float, L: float, n: int = 2001
) -> Float[Tensor, "*batch"]:
    """What gradient descent leaves of the worst coordinate: max over curvatures lambda of |Π_t (1 − eta_t lambda)|.

    lambda runs over a grid of n equidistant curvatures from mu to L. The order of the steps does not matter, and no
    partial product overflows.

    Raises:
        ValueError: not 0 < mu ≤ L < ∞, n < 2, no steps, or a step that is not finite.

    >>> worst_case_residual([0.1] * 10, 1.0, 10.0)
    tensor(0.3487, dtype=torch.float64)
    """
    check_interval(mu, L)
    if n < 2:
        raise ValueError(f"n={n}: the grid needs both ends, so at least 2 points")
    return residual_curve(etas, torch.linspace(mu, L, n, dtype=torch.float64)).amax(-1)


def residual_curve(
    etas: ArrayLike | Float[Tensor, "*batch T"], curvatures: ArrayLike | Float[Tensor, " n"]
) -> Float[Tensor, "*batch n"]:
    """|Π_t (1 − eta_t lambda)| for each curvature lambda: by how much gradient descent shrinks that coordinate."""
    steps = check_etas(etas)
    curvature = torch.as_tensor(curvatures, dtype=torch.float64)
    log = torch.zeros(*steps.shape[:-1], len(curvature), dtype=torch.float64)
    for few in steps.split(8, dim=-1):  # so few factors cannot overflow, and their product needs one logarithm
        product = torch.ones_like(log)
        for eta in few.unbind(-1):
            product = product * (1 - eta[..., None] * curvature)
        log = log + product.abs().log()
    return log.exp()


def second_moments(
    curvatures: Float[Tensor, " n"],
    etas: ArrayLike | Float[Tensor, "*batch T"],
    noise: float | Float[Tensor, " n"],
    start: Float[Tensor, " n"],
) -> Float[Tensor, "*batch updates n"]:
    """E x_i² before and after each of T updates of x <- x − eta (h x + noise xi), with xi of mean 0 and variance 1.

        v_i <- (1 − eta h_i)² v_i + eta² noise²

    Arguments:
        curvatures: h, the diagonal Hessian.
        etas: rates, in the order used; leading axes are independent runs.
        noise: standard deviation of the gradient noise, of each coordinate or of all.
        start: E x_i² before the first update.

    Returns: float64; entry 0 along ``updates`` = T + 1 is the start.
    """
    steps = check_etas(etas)
    if curvatures.ndim != 1 or start.shape != curvatures.shape:
        shapes = f"{tuple(curvatures.shape)} and {tuple(start.shape)}"
        raise ValueError(f"curvatures and start: must be vectors of one length, not of shapes {shapes}")
    variance = torch.as_tensor(noise, dtype=torch.float64) ** 2
    moment = start.double().expand(*steps.shape[:-1], -1)
    moments = [moment]
    for eta in steps[..., None].unbind(-2):
        moment = (1 - eta * curvatures) ** 2 * moment + eta**2 * variance
        moments.append(moment)
    return torch.stack(moments, dim=-2)


@dataclass(frozen=True)
class QuadraticProblem:
    """f(x) = ½ Σ_i h_i x_i² whose gradients carry independent noise, with the exact moments of SGD on it."""

    spectrum: Float[Tensor, " n"]
    noise: float
    start: Float[Tensor, " n"]

    @property
    def condition_number(self) -> float:
        return float(self.spectrum.max() / self.spectrum.min())

    def loss(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        return (self.spectrum * x**2).sum(-1) / 2

    def gradient(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """The gradient without its noise."""
        return self.spectrum * x

    def second_moments(self, etas: ArrayLike | Float[Tensor, "*batch T"]) -> Float[Tensor, "*batch updates n"]:
        """E x_i² from the start on; see :func:`second_moments`."""
        return second_moments(self.spectrum, etas, self.noise, self.start**2)

    def expected_loss(self, etas: ArrayLike | Float[Tensor, "*batch T"]) -> Float[Tensor, "*batch updates"]:
        """E f before and after each update: ½ Σ_i h_i E x_i²."""
        return (self.spectrum * self.second_moments(etas)).sum(-1) / 2


def quadratic_problem(
    spectrum: Sequence[float] | Float[Tensor, " n"], noise: float = 0.0, seed: int = 0
) -> QuadraticProblem:
    """A quadratic with these curvatures, and a standard normal start drawn from ``seed``.

    Arguments:
        spectrum: the Hessian's eigenvalues, all positive.
        noise: standard deviation of each coordinate of the gradient's noise.

    Raises:
        ValueError: an empty spectrum, a curvature that is not positive and finite, or a negative noise.

    >>> problem = quadratic_problem([1.0, 10.0], noise=0.1)
    >>> problem.expected_loss([0.1] * 50)[-1] < problem.expected_loss([0.01] * 50)[-1]
    tensor(True)
    """
    curvatures = torch.as_tensor(spectrum, dtype=torch.float64)
    if curvatures.ndim != 1 or len(curvatures) == 0:
        raise ValueError(
            f"spectrum: must be a vector of at least one curvature, not of shape {tuple(curvatures.shape)}"
        )
    if not bool(((curvatures > 0) & curvatures.isfinite()).all()):
        raise ValueError(f"spectrum={curvatures.tolist()}: curvatures must be positive and finite")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise}: a standard deviation is finite and at least 0")
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(len(curvatures), generator=generator, dtype=torch.float64)
    return QuadraticProblem(curvatures, float(noise), start)


def check_interval(mu: float, L: float) -> None:
    if not 0 < mu <= L < math.inf:
        raise ValueError(f"mu={mu}, L={L}: must satisfy 0 < mu <= L, both finite")


def check_updates(T: int) -> None:
    if T < 1:
        raise ValueError(f"T={T}: at least one update is needed")


def check_etas(etas: ArrayLike | Tensor) -> Tensor:
    steps = torch.as_tensor(etas, dtype=torch.float64)
    if steps.ndim == 0 or steps.shape[-1] == 0:
        raise ValueError(f"etas: must have at least one step along its last axis, not the shape {tuple(steps.shape)}")
    if not bool(steps.isfinite().all()):
        raise ValueError("etas: every step must be finite")
    return steps
