"""Paths from one network to another in weight space."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from landform.landscape.connectivity.checks import check_choice
from landform.landscape.connectivity.states import Layers, State, check_states, dot, selected, weights

Path = Literal["lerp", "slerp", "bezier"]


def interpolate(
    a: State, b: State, t: float, mode: Path = "lerp", layers: Layers = None, *, control: State | None = None
) -> dict[str, Tensor]:
    """The state dict at ``t`` on a path from ``a`` (t = 0) to ``b`` (t = 1).

        lerp:   (1 - t) A + t B
        slerp:  [sin((1 - t) ω) A + sin(t ω) B] / sin ω,   cos ω = <A, B> / (‖A‖ ‖B‖)
        bezier: (1 - t)² A + 2 t (1 - t) C + t² B

    The ends are exact. The angle ω is that of the two weight vectors as wholes; where they are parallel slerp is lerp.
    Floating-point running statistics follow the path too, on a straight line for slerp, but those of an interpolated
    network mean little: see :func:`recalibrate_batchnorm`. Integer tensors are copied from ``a``.

    Arguments:
        a, b: state dicts of one architecture.
        t: where on the path; beyond [0, 1] it is extended.
        mode: which path.
        layers: names of modules (or tensors) to move; all others stay as in ``a``. Everything moves if None.
        control: C, a state dict, for the quadratic Bézier curve.

    Raises:
        ValueError: keys or shapes that differ (each is named), weights that are not finite, an unknown mode or layer, a
            ``t`` that is not finite, ``control`` missing or not asked for.

    Source: arXiv 2406.16300; the Bézier curve is that of arXiv 1802.10026.

    >>> a, b = {"weight": torch.zeros(2)}, {"weight": torch.tensor([2.0, 4.0])}
    >>> interpolate(a, b, 0.25)
    {'weight': tensor([0.5000, 1.0000])}
    """
    check_path(a, b, mode, control)
    if not math.isfinite(t):
        raise ValueError(f"t={t}: must be a finite number")
    moving = along(a, b, torch.tensor([t], dtype=torch.float64), mode, layers, control)
    return {key: moving[key][0] if key in moving else tensor.clone() for key, tensor in a.items()}


def check_path(a: State, b: State, mode: str, control: State | None) -> None:
    """Refuse what defines no path."""
    check_choice("mode", mode, get_args(Path))
    if (control is not None) != (mode == "bezier"):
        needed = "needs control, the state dict that bends the curve" if mode == "bezier" else "takes no control"
        raise ValueError(f"mode={mode!r} {needed}")
    check_states({"a": a, "b": b} if control is None else {"a": a, "b": b, "control": control})


def along(
    a: State, b: State, t: Tensor, mode: Path = "lerp", layers: Layers = None, control: State | None = None
) -> dict[str, Tensor]:
    """The floating-point tensors of ``layers`` at every one of the points ``t`` (T,): name -> (T, \\*shape)."""
    moving = [key for key in selected(a, layers) if a[key].is_floating_point()]
    if mode == "slerp":
        on_sphere = weights(a, layers)
        u, v = _spherical(a, b, t, on_sphere)
        moved = {key: _weighted(u, a[key]) + _weighted(v, b[key]) for key in on_sphere}
        return {key: moved[key] if key in moved else _line(a[key], b[key], t) for key in moving}
    if mode == "bezier":
        assert control is not None
        # De Casteljau: exact at the ends, as each straight line is.
        return {key: _lerp(_line(a[key], control[key], t), _line(control[key], b[key], t), t) for key in moving}
    return {key: _line(a[key], b[key], t) for key in moving}


def _line(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    return _lerp(start.expand(len(t), *start.shape), end.to(start).expand(len(t), *end.shape), t)


def _lerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    # torch.lerp starts from the nearer end: exact at both, and the same line from either.
    return torch.lerp(start, end, t.to(start).view(-1, *[1] * (start.ndim - 1)))


def _weighted(weight: Tensor, tensor: Tensor) -> Tensor:
    return weight.to(tensor).view(-1, *[1] * tensor.ndim) * tensor


def _spherical(a: State, b: State, t: Tensor, keys: list[str]) -> tuple[Tensor, Tensor]:
    """The two weights of slerp at every point."""
    x, y = ({key: state[key] for key in keys} for state in (a, b))
    lengths = math.sqrt(dot(x, x) * dot(y, y))
    if not lengths:
        raise ValueError("mode='slerp': one of the networks is all zeros, which has no direction")
    angle = math.acos(max(-1.0, min(1.0, dot(x, y) / lengths)))
    if math.pi - angle < 1e-6:
        raise ValueError("mode='slerp': the networks are opposite, so that no one great circle joins them")
    if angle < 1e-6:
        return 1 - t, t
    sine = torch.sin(torch.tensor(angle, dtype=t.dtype))
    return torch.sin((1 - t) * angle) / sine, torch.sin(t * angle) / sine
