"""The unified budget-aware schedule (UBA): one closed form from "constant, then a cliff" over cosine to early decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from landform.optim.schedules.base import (
    Factors,
    Grid,
    Progress,
    Schedule,
    ShapedSchedule,
    Steps,
    WarmupStart,
    check_count,
    check_grid,
    check_positive,
    on_progress,
)


@overload
def uba_factor(progress: Progress, phi: float | np.ndarray, *, clip: bool = False) -> Progress: ...
@overload
def uba_factor(progress: float | np.ndarray | Tensor, phi: Tensor, *, clip: bool = False) -> Tensor: ...
def uba_factor(progress: Any, phi: Any, *, clip: bool = False) -> Any:
    """The UBA shape, with s the progress and phi > 0 the shape parameter:

        u_phi(s) = 2(1 + cos(pi s)) / (2 phi + (2 − phi)(1 + cos(pi s)))  =  1 / (1 + (phi/2) tan²(pi s/2))

    It falls from u(0) = 1 to u(1) = 0, and falls with phi: phi = 2 is cosine, phi → 0 holds 1 until the end, a large
    phi drops at once. It is at one half at s = (2/pi) atan(sqrt(2/phi)), and u_phi(s) = 1 − u_{4/phi}(1 − s).

    Arguments:
        progress: number, array or tensor in [0, 1]; evaluated in float64.
        phi: number, or an array or tensor that broadcasts against ``progress``. Differentiable when a tensor.
        clip: bring progress outside [0, 1] to the nearer end instead of raising.

    Raises:
        ValueError: progress outside [0, 1]; phi not positive and finite.

    Source: arXiv 2505.24452. Formulas like (1 − s)^phi go under the same name in places; they are another method.

    >>> round(uba_factor(0.5, phi=2.0), 12), uba_factor(1.0, phi=1e-3)
    (0.5, 0.0)
    """
    check_positive("phi", phi)

    def formula(xp: Any, s: Any) -> Any:
        # tan overflows at s = 1; the sine of 1 − s is the cosine of s, and exactly 0 at the end.
        high, low = xp.sin(math.pi / 2 * (1 - s)) ** 2, xp.sin(math.pi / 2 * s) ** 2
        return 2 * high / (2 * high + phi * low)

    return on_progress(formula, progress, clip=clip, tensor=isinstance(phi, Tensor))


def phi_from_condition_number(kappa: float) -> float:
    """phi = 2 kappa: exact for the Chebyshev setting, where the curvatures fill [mu, L], kappa = L/mu, the extreme
    rates are 1/mu and 1/L, and the grid is the midpoints (see :func:`landform.optim.quadratic.chebyshev_steps`).

    Training caps the largest rate at about 2/L instead, so there phi is to be tuned; {0.5, 1, 2, 5, 10} is a good grid.

    >>> phi_from_condition_number(10)
    20.0
    """
    if not 1 <= kappa < math.inf:
        raise ValueError(f"kappa={kappa}: a condition number is finite and at least 1")
    return 2.0 * kappa


class UBASchedule(ShapedSchedule):
    """Unified budget-aware schedule in one phase.

        eta_t = eta_min + (eta_max − eta_min) u_phi(s_t)

    with eta_max each parameter group's base rate, eta_min = eta_min_ratio · eta_max, and u_phi of :func:`uba_factor`.
    The endpoint grid s_t = t/n replaces cosine annealing as it is; the midpoint grid s_t = (2t + 1)/(2n) is the one of
    the minimax theory. n = total − warmup.

    Arguments:
        optimizer: the optimizer whose rates are set.
        total: the budget in updates, warm-up included.
        phi: shape; 2 is cosine, smaller holds the rate longer, larger decays earlier. Search {0.5, 1, 2, 5, 10}.
        eta_min_ratio, warmup, warmup_start, grid: see :func:`lr_factor`.

    Raises:
        ValueError, TypeError: an argument out of its range, by name.

    Source: arXiv 2505.24452.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> UBASchedule(optimizer, total=4, phi=5.0).values().round(3)
    array([1.   , 0.7  , 0.286, 0.064])
    """

    def __init__(self, optimizer: Optimizer, total: int, phi: float = 2.0, **options: Any) -> None:
        check_positive("phi", phi)
        self.phi = float(phi)
        super().__init__(optimizer, total, **options)

    def shape(self, progress: Progress) -> Progress:
        return uba_factor(progress, self.phi)


class UBAPhases(Schedule):
    """Unified budget-aware schedule in several phases, each with its own extreme rates and shape.

    In a phase of n updates, at its t-th update,

        eta = base · (low + (high − low) u_phi(s)),   s = t/n  or  (2t + 1)/(2n)

    Phases with equal extremes restart (as SGDR does); phi → 0 with falling extremes is step decay.

    Arguments:
        optimizer: the optimizer whose rates are set.
        phases: (length in updates, eta_max_ratio, eta_min_ratio, phi) of each phase; ratios are to the base rate.
        warmup: updates before the first phase, not counted in its length.

    Raises:
        ValueError, TypeError: no phase, or an argument out of its range, by name.

    Source: arXiv 2505.24452, the multi-phase form.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> UBAPhases(optimizer, [(2, 1.0, 0.0, 2.0), (2, 0.5, 0.1, 2.0)]).values()
    array([1. , 0.5, 0.5, 0.3])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        phases: Sequence[tuple[int, float, float, float]],
        *,
        warmup: int = 0,
        warmup_start: WarmupStart = "first_step",
        grid: Grid = "endpoint",
        last_epoch: int = -1,
    ) -> None:
        if not phases:
            raise ValueError(f"phases={phases}: at least one is needed")
        for length, high, low, phi in phases:
            check_count("a phase's length", length, 1)
            check_positive("a phase's phi", phi)
            check_positive("a phase's eta_max_ratio", high)
            if not 0 <= low <= high:
                raise ValueError(f"a phase's eta_min_ratio={low}: must lie in [0, eta_max_ratio={high}]")
        check_count("warmup", warmup, 0)
        check_grid(grid)
        self.phases = [(int(length), float(high), float(low), float(phi)) for length, high, low, phi in phases]
        self.grid = grid
        total = warmup + sum(length for length, *_ in self.phases)
        super().__init__(optimizer, total, warmup, warmup_start, last_epoch)

    def checkpoints(self) -> list[int]:
        """The ends of the phases, where each has come down to its own lowest rate."""
        return [int(end) for end in self.warmup + np.cumsum([length for length, *_ in self.phases])]

    def plan(self, t: Steps) -> Factors:
        length, high, low, phi = np.array(self.phases).T
        ends = np.cumsum(length)
        k = np.searchsorted(ends, t, side="right")
        offset = 0.5 if self.grid == "midpoint" else 0.0
        s = (t - (ends - length)[k] + offset) / length[k]
        return low[k] + (high[k] - low[k]) * uba_factor(s, phi[k])
