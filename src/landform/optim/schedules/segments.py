"""Schedules laid out piece by piece: the shapes in which a rate goes from one value to another, and plans of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from torch.optim import Optimizer

from landform.optim.schedules.base import (
    Factors,
    Progress,
    Schedule,
    Steps,
    WarmupStart,
    check_count,
    on_progress,
)

DecayShape = Literal["inverse", "linear", "cosine", "exponential", "sqrt"]
SegmentShape = Literal["constant", "warmup", "inverse", "linear", "cosine", "exponential", "sqrt"]
Compat = Literal["levanter"]
Segment = tuple[int, int, SegmentShape, float, float]

# How far a shape has come from one value (0) to the other (1), and on which scale of the rate that is linear.
GEOMETRIC = ("inverse", "exponential")
PATHS: dict[str, Callable[[ModuleType, Any, float, float], Any]] = {
    "inverse": lambda xp, u, a, b: 1 / (1 / a + (1 / b - 1 / a) * u),
    "exponential": lambda xp, u, a, b: a ** (1 - u) * b**u,
    "linear": lambda xp, u, a, b: a + (b - a) * u,
    "cosine": lambda xp, u, a, b: b + (a - b) * (1 + xp.cos(math.pi * u)) / 2,
    "sqrt": lambda xp, u, a, b: a + (b - a) * xp.sqrt(u),
}


def decay_factor(progress: Progress, shape: DecayShape = "inverse", min_ratio: float = 0.1) -> Progress:
    """The last stretch of a warmup-stable-decay schedule: from 1 down to rho = ``min_ratio``, with u the progress.

        inverse      1 / (1 + (1/rho − 1) u)     1/rate is linear in time: the best decay on a quadratic with noise
        linear       1 − (1 − rho) u
        cosine       rho + (1 − rho)(1 + cos(pi u))/2
        exponential  rho^u
        sqrt         1 − (1 − rho) sqrt(u)

    Raises:
        ValueError: progress outside [0, 1], an unknown shape, rho not in (0, 1].

    Source: arXiv 2410.05192 (inverse, with its optimality); arXiv 2405.18392 (sqrt).

    >>> decay_factor(0.0), round(decay_factor(0.5), 6), decay_factor(1.0)
    (1.0, 0.181818, 0.1)
    """
    check_decay(shape, min_ratio)
    return on_progress(lambda xp, u: PATHS[shape](xp, u, 1.0, min_ratio) + 0 * u, progress)


class Segments(Schedule):
    """A plan in pieces: over updates start, …, end − 1 the rate goes from one factor towards another.

        eta_t = base · path(u),   u = (t − start)/(end − start)

    so that a piece begins at its first factor and would have its second at ``end``, where the next piece begins. Shapes
    are those of :func:`decay_factor`, between any two factors (up too); "constant" ignores the second; "warmup" is a
    line whose first update is one step up already (u = (t − start + 1)/(end − start)) unless ``warmup_start`` is
    "zero".

    Arguments:
        optimizer: the optimizer whose rates are set.
        segments: (start, end, shape, from, to) of each piece, one after the other from 0 on, without gaps.
        warmup_start: see above.
        compat: "levanter" repeats the second rate of an inverse piece in the place of its first, as that library does.

    Raises:
        ValueError, TypeError: no pieces, a gap or an overlap, an unknown shape, a negative factor (or one of 0 in an
            inverse or exponential piece).

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> pieces = [(0, 2, "warmup", 0.0, 1.0), (2, 4, "constant", 1.0, 1.0), (4, 8, "linear", 1.0, 0.0)]
    >>> Segments(optimizer, pieces).values()
    array([0.5 , 1.  , 1.  , 1.  , 1.  , 0.75, 0.5 , 0.25])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        segments: Sequence[Segment],
        *,
        warmup_start: WarmupStart = "first_step",
        compat: Compat | None = None,
        last_epoch: int = -1,
    ) -> None:
        self.segments = check_segments(segments)
        if compat is not None and compat not in get_args(Compat):
            raise ValueError(f"compat={compat!r}: must be None or one of {get_args(Compat)}")
        self.compat = compat
        # The warm-up, where there is one, is a piece too: the base class has none to add.
        super().__init__(optimizer, self.segments[-1][1], 0, warmup_start, last_epoch)

    def plan(self, t: Steps) -> Factors:
        factors = np.empty(np.shape(t))
        for start, end, shape, first, last in self.segments:
            here = (t >= start) & (t < end)
            if not here.any():
                continue
            done = (t[here] - start).astype(np.float64)
            if shape == "warmup":
                done += self.warmup_start == "first_step"
            if shape == "inverse" and self.compat == "levanter":
                done = np.maximum(done, 1)
            if shape == "constant":
                factors[here] = first
            else:
                path = PATHS["linear" if shape == "warmup" else shape]
                factors[here] = path(np, done / (end - start), first, last)
        return factors


def check_decay(shape: str, min_ratio: float) -> None:
    if shape not in get_args(DecayShape):
        raise ValueError(f"shape={shape!r}: must be one of {get_args(DecayShape)}")
    if not 0 < min_ratio <= 1:
        raise ValueError(f"min_ratio={min_ratio}: must lie in (0, 1]")


def check_segments(segments: Sequence[Segment]) -> list[Segment]:
    if not segments:
        raise ValueError(f"segments={segments}: at least one is needed")
    checked: list[Segment] = []
    at = 0
    for start, end, shape, first, last in segments:
        described = f"the segment ({start}, {end}, {shape!r}, {first}, {last})"
        check_count("a segment's start", start, 0)
        check_count("a segment's end", end, 1)
        if start != at:
            raise ValueError(f"{described}: must start at {at}, where the one before ends, without gap or overlap")
        if end <= start:
            raise ValueError(f"{described}: must end after it starts")
        if shape not in get_args(SegmentShape):
            raise ValueError(f"{described}: the shape must be one of {get_args(SegmentShape)}")
        for factor in (first, last):
            if not 0 <= factor < math.inf or (factor == 0 and shape in GEOMETRIC):
                least = "positive" if shape in GEOMETRIC else "zero or more"
                raise ValueError(f"{described}: factors must be finite and {least}")
        checked.append((int(start), int(end), shape, float(first), float(last)))
        at = end
    return checked
