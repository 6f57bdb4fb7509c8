"""The one interface of all learning-rate schedules: a shape, a plan of updates, and PyTorch's scheduler around it.

A *shape* is a pure function of progress s in [0, 1] (``cosine_factor``, ``uba_factor``, …). ``lr_factor`` lays it over
a budget of updates: warm-up, grid and floor. :class:`Schedule` makes that a ``torch.optim.lr_scheduler.LRScheduler``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Grid = Literal["endpoint", "midpoint"]
WarmupStart = Literal["first_step", "zero"]
Steps = Int[np.ndarray, "..."]
Factors = Float[np.ndarray, "..."]
Progress = TypeVar("Progress", float, np.ndarray, Tensor)
Shape = Callable[[Any], Any]


def on_progress(
    formula: Callable[[ModuleType, Any], Any], progress: Any, *, clip: bool = False, tensor: bool = False
) -> Any:
    """Evaluate ``formula(numpy or torch, progress)`` in float64: a number gives a float, an array an array, a tensor a
    tensor (as does anything with ``tensor=True``).

    Raises:
        ValueError: progress outside [0, 1] (unless ``clip``), or not a number.
    """
    tensor = tensor or isinstance(progress, Tensor)
    s = torch.as_tensor(progress, dtype=torch.float64) if tensor else np.asarray(progress, dtype=np.float64)
    if clip:
        s = s.clip(0.0, 1.0)
    if not bool(((s >= 0) & (s <= 1)).all()):
        raise ValueError(f"progress={progress}: must lie in [0, 1]")
    factor = formula(torch if tensor else np, s)
    return float(factor) if not tensor and np.ndim(progress) == 0 else factor


def lr_factor(
    shape: Shape,
    step: int | Steps,
    total: int,
    *,
    eta_min_ratio: float = 0.0,
    warmup: int = 0,
    warmup_start: WarmupStart = "first_step",
    grid: Grid = "endpoint",
) -> Factors:
    """What multiplies the base rate at update ``step`` = 0, 1, … of a budget of ``total`` updates.

    After W = ``warmup`` updates, with n = total − W, t = min(step − W, n − 1) and r = ``eta_min_ratio``,

        factor = r + (1 − r) shape(s),   s = t/n  (endpoint)   or   s = (2t + 1)/(2n)  (midpoint)

    so that beyond the end the last value is held. Update t of the warm-up has (t + 1)/W of the first factor after it
    ("first_step"), or t/W ("zero", whose first update does nothing).

    Returns: float64 array of the shape of ``step``.

    >>> from landform.optim.schedules import linear_factor
    >>> lr_factor(linear_factor, np.arange(6), total=6, warmup=2)
    array([0.5 , 1.  , 1.  , 0.75, 0.5 , 0.25])
    """
    check_plan(total, warmup, warmup_start)
    check_grid(grid)
    check_ratio("eta_min_ratio", eta_min_ratio)
    length = total - warmup

    def decay(t: Steps) -> Factors:
        s = (2 * t + 1) / (2 * length) if grid == "midpoint" else t / length
        return eta_min_ratio + (1.0 - eta_min_ratio) * shape(s)

    return warmed_up(decay, check_steps(step), total, warmup, warmup_start)


def warmed_up(plan: Callable[[Steps], Factors], step: Steps, total: int, warmup: int, start: WarmupStart) -> Factors:
    """Linear warm-up to the first factor of ``plan``, then ``plan`` on the updates from there on, then its last."""
    factor = plan(np.clip(step - warmup, 0, total - warmup - 1))
    if warmup:
        risen = (step + (start == "first_step")) / warmup
        factor = np.where(step < warmup, risen * plan(np.zeros_like(step)), factor)
    return np.asarray(factor, dtype=np.float64)


class Schedule(LRScheduler):
    """A plan of learning rates for a known budget; the base of every schedule here.

    Every parameter group's rate at update t is its base rate times ``lr_factor(t)``; step it once after each update.
    Its ``state_dict`` holds plain numbers alone, so a checkpoint loads with ``torch.load(..., weights_only=True)``, and
    a resumed run has the same rates to the bit. It may follow a warm-up of PyTorch's own inside ``SequentialLR``.

    Subclasses set what :meth:`plan` needs before they call ``super().__init__``.
    """

    def __init__(
        self, optimizer: Optimizer, total: int, warmup: int, warmup_start: WarmupStart, last_epoch: int = -1
    ) -> None:
        check_plan(total, warmup, warmup_start)
        self.total = int(total)
        self.warmup = int(warmup)
        self.warmup_start = warmup_start
        super().__init__(optimizer, last_epoch)

    def plan(self, t: Steps) -> Factors:
        """The factors of the updates ``t`` = 0, 1, …, total − warmup − 1 after the warm-up."""
        raise NotImplementedError

    def lr_factor(self, step: int | Steps) -> Factors:
        """What multiplies the base rates at update ``step``; beyond the end, the last value."""
        return warmed_up(self.plan, check_steps(step), self.total, self.warmup, self.warmup_start)

    def values(self, total: int | None = None) -> Float[np.ndarray, " total"]:
        """The factors of the first ``total`` updates (all of the budget unless given)."""
        return self.lr_factor(np.arange(self.total if total is None else total))

    def checkpoints(self) -> list[int]:
        """The numbers of updates after which a finished model exists: here the end alone."""
        return [self.total]

    def cost(self) -> int:
        """The number of updates that the schedule executes."""
        return self.total

    def branch_points(self) -> dict[int, int]:
        """The budgets that side runs of their own end at, and the update at which each leaves this run: here none."""
        return {}

    def branch(self, budget: int) -> Schedule:
        """The schedule of such a side run, on the same optimizer and set to the first update of the run's own.

        Raises:
            ValueError: no side run ends at ``budget``.
        """
        raise ValueError(f"budget={budget}: side runs end at {sorted(self.branch_points()) or 'no budget'}")

    def get_lr(self) -> list[float | Tensor]:
        factor = float(self.lr_factor(self.last_epoch))
        return [base * factor for base in self.base_lrs]


class ShapedSchedule(Schedule):
    """One shape over the whole budget, as in :func:`lr_factor`; subclasses give the ``shape``."""

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        *,
        eta_min_ratio: float = 0.0,
        warmup: int = 0,
        warmup_start: WarmupStart = "first_step",
        grid: Grid = "endpoint",
        last_epoch: int = -1,
    ) -> None:
        check_grid(grid)
        check_ratio("eta_min_ratio", eta_min_ratio)
        self.eta_min_ratio = float(eta_min_ratio)
        self.grid = grid
        super().__init__(optimizer, total, warmup, warmup_start, last_epoch)

    def shape(self, progress: Any) -> Any:
        """The factor, before the floor, as a function of progress in [0, 1]."""
        raise NotImplementedError

    def plan(self, t: Steps) -> Factors:
        options: dict[str, Any] = {"eta_min_ratio": self.eta_min_ratio, "grid": self.grid}
        return lr_factor(self.shape, t, self.total - self.warmup, **options)


def check_plan(total: int, warmup: int, warmup_start: str) -> None:
    check_count("total", total, 1)
    check_count("warmup", warmup, 0)
    if warmup >= total:
        raise ValueError(f"warmup={warmup}: must be less than the budget, total={total}")
    if warmup_start not in get_args(WarmupStart):
        raise ValueError(f"warmup_start={warmup_start!r}: must be one of {get_args(WarmupStart)}")


def check_grid(grid: str) -> None:
    if grid not in get_args(Grid):
        raise ValueError(f"grid={grid!r}: must be one of {get_args(Grid)}")


def check_steps(step: int | Steps) -> Steps:
    steps = np.asarray(step)
    if not np.issubdtype(steps.dtype, np.integer):
        raise TypeError(f"step={step!r}: must be an int, or an array of ints")
    if (steps < 0).any():
        raise ValueError(f"step={step!r}: must be zero or more")
    return steps


def check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}={value!r}: must be an int")
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")


def check_ratio(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: must lie in [0, 1]")


def check_positive(name: str, value: Any) -> None:
    values = value.detach() if isinstance(value, Tensor) else np.asarray(value, dtype=np.float64)
    if not bool(((values > 0) & (values < np.inf)).all()):
        raise ValueError(f"{name}={value}: must be positive and finite")
