"""Norm balls: how far a perturbation may go, and which step uses that best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

Batch = Float[Tensor, "batch ..."]


@dataclass(frozen=True)
class LinfBall:
    """Perturbations of at most ``eps`` in every number: |δ|_∞ ≤ eps.

    A step is sign(g), whose zeros stay zero: a pixel without gradient does not move. The projection clips to
    [x − eps, x + eps] and to the range; bounds are rounded inwards, so that |x_adv − x| ≤ eps holds exactly, in real
    numbers and in the arithmetic of x's dtype alike.

    Raises:
        ValueError: eps is not positive and finite.

    >>> x = torch.full((1, 3), 0.5)
    >>> LinfBall(0.25).project(torch.tensor([[0.0, 0.6, 2.0]]), x)
    tensor([[0.2500, 0.6000, 0.7500]])
    """

    eps: float

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def step(self, grad: Batch) -> Batch:
        """The direction of steepest ascent in this norm, of norm 1."""
        return grad.sign()

    def around(self, x: Batch, lo: float = 0.0, hi: float = 1.0) -> Callable[[Batch], Batch]:
        """The projection on the ball around x within [lo, hi], for many points."""
        # The largest interval of representable numbers within [x − eps, x + eps], and within the range.
        bounds = _sum_rounded_inwards(x.detach(), *_both_ways(self.eps, x.dtype, x.device, x.ndim))
        below, above = bounds.clamp_(lo, hi).unbind()
        return lambda x_adv: torch.clamp(x_adv, below, above)

    def project(self, x_adv: Batch, x: Batch, lo: float = 0.0, hi: float = 1.0) -> Batch:
        """The nearest point of the ball around x within [lo, hi]."""
        return self.around(x, lo, hi)(x_adv)

    def sample(self, x: Batch, generator: torch.Generator | None = None) -> Batch:
        """A point of the ball around each x, uniformly, up to rounding; it may leave the range."""
        return torch.empty_like(x).uniform_(-self.eps, self.eps, generator=generator).add_(x.detach())


@dataclass(frozen=True)
class L2Ball:
    """Perturbations of Euclidean length at most ``eps``: ‖δ‖₂ ≤ eps, over all the numbers of a sample.

    A step is g / (‖g‖₂ + 1e-10). The projection is δ · min(1, eps / ‖δ‖₂), then clipping to the range, which only
    shortens δ. It aims a little below eps, by the rounding errors of a norm in x's dtype: a relative 1e-6 or so in
    float32, 1e-15 in float64. So ‖x_adv − x‖₂ ≤ eps in whatever order and precision that norm is summed up.

    Raises:
        ValueError: eps is not positive and finite.

    >>> x = torch.full((1, 2), 0.5, dtype=torch.float64)
    >>> L2Ball(0.5).project(x + torch.tensor([[0.3, 0.4]]) * 2, x)
    tensor([[0.8000, 0.9000]], dtype=torch.float64)
    """

    eps: float

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def step(self, grad: Batch) -> Batch:
        """The direction of steepest ascent in this norm, of norm 1."""
        return grad / (per_sample_norm(grad, 2) + 1e-10)

    def around(self, x: Batch, lo: float = 0.0, hi: float = 1.0) -> Callable[[Batch], Batch]:
        """The projection on the ball around x within [lo, hi], for many points."""
        x = x.detach()
        inside = x.clamp(lo, hi)
        margin = torch.finfo(x.dtype).eps * max(8.0, math.sqrt(x[0].numel()))
        aim, limit = self.eps * (1 - margin), self.eps * (1 - margin / 2)

        def project(x_adv: Batch) -> Batch:
            # Rounding x + δ changes δ, so what came out is measured again. Once is enough unless eps is tiny.
            for _ in range(8):
                delta = x_adv - x
                length = per_sample_norm(delta, 2, torch.float64)
                long = length > limit
                if not bool(long.any()):
                    return x_adv.clamp(lo, hi)
                shorter = x + delta * (aim / length).to(x.dtype)
                x_adv = torch.where(long, shorter, x_adv).clamp(lo, hi)
            long = per_sample_norm(x_adv - x, 2, torch.float64) > limit
            return torch.where(long, inside, x_adv)

        return project

    def project(self, x_adv: Batch, x: Batch, lo: float = 0.0, hi: float = 1.0) -> Batch:
        """The nearest point of the ball around x, clipped to [lo, hi]."""
        return self.around(x, lo, hi)(x_adv)

    def sample(self, x: Batch, generator: torch.Generator | None = None) -> Batch:
        """A point of the ball around each x, uniformly, up to rounding; it may leave the range."""
        direction = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        radius = _uniform((len(x), *(1,) * (x.ndim - 1)), x, generator) ** (1 / x[0].numel())
        offset = direction * (self.eps * radius / per_sample_norm(direction, 2))
        return x.detach() + offset


Ball = LinfBall | L2Ball


def per_sample_norm(x: Batch, order: float, dtype: torch.dtype | None = None) -> Batch:
    """The norm of each sample, in a shape that broadcasts against x."""
    dims = tuple(range(1, x.ndim))
    if order == 1:  # several times as fast as vector_norm is for it
        return x.abs().sum(dims, keepdim=True, dtype=dtype)
    return torch.linalg.vector_norm(x, order, dim=dims, keepdim=True, dtype=dtype)


@lru_cache(maxsize=16)
def _both_ways(eps: float, dtype: torch.dtype, device: torch.device, ndim: int) -> tuple[Tensor, Tensor]:
    """−eps and eps, rounded towards zero, and minus and plus the largest number there is."""
    size = torch.tensor(eps, dtype=dtype)
    if float(size) > eps:
        size = torch.nextafter(size, torch.zeros_like(size))
    sign = torch.tensor([-1.0, 1.0], dtype=dtype, device=device).view(2, *(1,) * ndim)
    return sign * float(size), sign * torch.finfo(dtype).max


def _sum_rounded_inwards(a: Tensor, b: Tensor, far: Tensor) -> Tensor:
    """a + b to the nearest number that does not pass it in the direction of ``far``, ± the largest number there is."""
    total = a + b
    shift = total - a
    error = (b - shift).add_(a - (total - shift))  # exactly what rounding took away (Knuth's two-sum)
    # Where that has the sign of −far, rounding went too far: one number back. Else towards itself, which moves nothing.
    # Products are several times as fast as a mask; the smallest error times the largest number is still 1e-7.
    return torch.nextafter(total, torch.addcmul(total, error.mul_(far).clamp_(max=0), far))


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)


def _check_eps(eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(f"eps={eps}: must be positive and finite")
