"""Optimisers over inputs: which direction an iterated attack takes, given gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from landform.attacks.balls import Ball, Batch, per_sample_norm
from landform.attacks.checks import check_count, check_nonnegative

TINY = 1e-12
"""Added to norms that gradients are divided by, for a saturated model's are zero."""

Directions = Callable[[Batch], Batch]


class InputOptimiser(Protocol):
    def directions(self, gradient: Callable[[Batch], Batch], ball: Ball, step_size: float) -> Directions:
        """A fresh run: a function that gives for each iterate in turn the direction of its step.

        ``gradient`` also takes k times as many inputs, in the order of the batch k times over.
        """
        ...


@dataclass(frozen=True)
class MomentumIterative:
    """MI-FGSM: m ← μ m + g / ‖g‖₁, for each sample; the step goes along m (Dong et al., arXiv 1710.06081).

    The usual step size is eps / steps.

    Raises:
        ValueError: a negative momentum.
    """

    momentum: float = 1.0

    def __post_init__(self) -> None:
        check_nonnegative(momentum=self.momentum)

    def directions(self, gradient: Callable[[Batch], Batch], ball: Ball, step_size: float) -> Directions:
        accumulate = accumulator(self.momentum)
        return lambda x: accumulate(gradient(x))


@dataclass(frozen=True)
class NesterovIterative:
    """NI-FGSM: MI with g taken ahead, at x + α μ m (Lin et al., arXiv 1908.06281).

    Here m ← μ m + g / mean|g|: divided by the L1 norm, m would be too small for the look-ahead to differ from x.

    Raises:
        ValueError: a negative momentum.
    """

    momentum: float = 1.0

    def __post_init__(self) -> None:
        check_nonnegative(momentum=self.momentum)

    def directions(self, gradient: Callable[[Batch], Batch], ball: Ball, step_size: float) -> Directions:
        m: Batch | None = None

        def direction(x: Batch) -> Batch:
            nonlocal m
            g = gradient(x if m is None else x + step_size * self.momentum * m)
            g = g / (per_sample_norm(g, 1) / g[0].numel() + TINY)
            m = g if m is None else self.momentum * m + g
            return m

        return direction


@dataclass(frozen=True)
class VarianceTuned:
    """VMI-FGSM: MI with g + v, where v says how the gradient differs nearby (Wang and He, arXiv 2103.15571).

        m ← μ m + (g + v) / ‖g + v‖₁;  v ← mean_j ∇J(x + u_j) − g,  u_j uniform in ± beta · eps

    ``samples`` neighbours are evaluated together, so a step takes as many times the memory.

    Raises:
        ValueError: negative momentum or beta, or samples below 1.
    """

    momentum: float = 1.0
    samples: int = 20
    beta: float = 1.5
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_nonnegative(momentum=self.momentum, beta=self.beta)
        check_count(samples=self.samples)

    def directions(self, gradient: Callable[[Batch], Batch], ball: Ball, step_size: float) -> Directions:
        accumulate = accumulator(self.momentum)
        v: Batch | None = None

        def direction(x: Batch) -> Batch:
            nonlocal v
            g = gradient(x)
            step = accumulate(g if v is None else g + v)
            shape = (self.samples, *x.shape)
            u = torch.rand(shape, dtype=x.dtype, device=x.device, generator=self.generator).mul_(2).sub_(1)
            near = gradient((x + self.beta * ball.eps * u).flatten(0, 1))
            v = near.unflatten(0, (self.samples, -1)).mean(0) - g
            return step

        return direction


def accumulator(momentum: float, order: float = 1) -> Callable[[Batch], Batch]:
    """Momentum of normalised gradients: gives m ← momentum · m + g / ‖g‖ for each g in turn, per sample, from m = 0."""
    m: Batch | None = None

    def accumulate(g: Batch) -> Batch:
        nonlocal m
        norm = per_sample_norm(g, order) + TINY
        m = g / norm if m is None else torch.addcdiv(m if momentum == 1 else momentum * m, g, norm)
        return m

    return accumulate
