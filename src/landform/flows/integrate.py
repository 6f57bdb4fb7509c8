"""Carrying points along a velocity field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Method = Literal["euler", "midpoint", "dopri5"]


def integrate(
    velocity: Callable[..., Tensor],
    x0: Float[Tensor, "*batch d"],
    cond: Tensor | None = None,
    method: Method = "euler",
    steps: int = 100,
    atol: float = 1e-4,
    rtol: float = 1e-4,
    return_path: bool = False,
) -> Float[Tensor, "*batch d"] | Float[Tensor, "steps+1 *batch d"]:
    """Solve dx/dt = v_t(x | cond) from x0 at t = 0 to t = 1, by torchdiffeq.

    Arguments:
        velocity: ``velocity(t, x)``, or ``velocity(t, x, cond)`` where there is a condition; t is one time for all.
        method: ``"euler"`` and ``"midpoint"`` take ``steps`` equal steps (error of order 1 and 2 in their size);
            ``"dopri5"`` chooses its own, to the tolerances.
        steps: for a path, how many parts of time it is given at.
        atol, rtol: the tolerances of ``"dopri5"``.
        return_path: give x at t = 0, 1/steps, …, 1 instead of at the end alone.

    Raises:
        ValueError: an unknown method, steps below 1 or a tolerance that is not positive.
        ImportError: torchdiffeq (the extra ``transport``) is not installed.

    >>> integrate(lambda t, x: torch.ones_like(x), torch.zeros(2, 1), steps=1)
    tensor([[1.],
            [1.]])
    """
    if method not in ("euler", "midpoint", "dopri5"):
        raise ValueError(f"method={method!r}: must be 'euler', 'midpoint' or 'dopri5'")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: must be a whole number of at least 1")
    if not (atol > 0 and rtol > 0):
        raise ValueError(f"atol={atol}, rtol={rtol}: must be positive")
    odeint = _odeint()

    def field(t: Tensor, x: Tensor) -> Tensor:
        return velocity(t, x) if cond is None else velocity(t, x, cond)

    ends_alone = method == "dopri5" and not return_path
    times = torch.linspace(0, 1, 2 if ends_alone else steps + 1, device=x0.device, dtype=x0.dtype)
    path = odeint(field, x0, times, method=method, atol=atol, rtol=rtol)
    return path if return_path else path[-1]


def _odeint() -> Any:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ImportError(
            "integrating a flow needs torchdiffeq; install it with: pip install 'landform[transport]'"
        ) from error
    return odeint
