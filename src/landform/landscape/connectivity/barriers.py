"""Barriers: one number for how far a path rises, in each of the definitions that are in use."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from landform.landscape.connectivity.checks import check_choice
from landform.landscape.connectivity.curves import Curve

Kind = Literal["max_deviation", "instability", "midpoint", "signed_extreme"]

STABLE_BELOW = 0.02
"""A pair counts as stable where its ``instability``, an error, is below this (Frankle et al., arXiv 1912.05671)."""

ROUNDING = 1e-9
"""How far the ends and the middle of a grid may be off."""


def barrier(curve: Curve, kind: Kind = "max_deviation", metric: str | None = None) -> float:
    """The height of the barrier on a curve ℓ(t), t in [0, 1].

        max_deviation:  max_t [ℓ(t) - ((1 - t) ℓ(0) + t ℓ(1))], never negative (arXiv 2110.06296)
        instability:    max_t ℓ(t) - (ℓ(0) + ℓ(1))/2, of the error (arXiv 1912.05671); stable below ``STABLE_BELOW``
        midpoint:       ℓ(1/2) - (ℓ(0) + ℓ(1))/2, negative where the average of two networks beats them
        signed_extreme: (ℓ(0) + ℓ(1))/2 - ℓ(t*) where the difference is largest in modulus: here *negative* is a
                        barrier (arXiv 2305.18383)

    The first measures from the line between the ends and the second from their mean: they differ where the ends do.
    Points outside [0, 1] do not count. Ends and midpoint must be points of the curve; nothing is interpolated.

    Arguments:
        kind: the definition.
        metric: of the curve's values; by default the error for ``"instability"`` and the loss for all others.

    Raises:
        ValueError: an unknown kind or metric, fewer than 3 points in [0, 1], no point at 0 or 1 (or, for
            ``"midpoint"``, at 1/2), or a value that is NaN.

    >>> curve = Curve([0.0, 0.5, 1.0], {"loss": [1.0, 3.0, 2.0]})
    >>> barrier(curve), barrier(curve, "signed_extreme")
    (1.5, -1.5)
    """
    check_choice("kind", kind, get_args(Kind))
    metric = metric or ("error" if kind == "instability" else "loss")
    check_choice("metric", metric, tuple(curve.values))
    inside = (curve.t >= -ROUNDING) & (curve.t <= 1 + ROUNDING)
    t, values = curve.t[inside], curve.values[metric][inside]
    if len(t) < 3:
        raise ValueError(f"curve has {len(t)} points in [0, 1]; a barrier needs at least 3")
    if values.isnan().any():
        raise ValueError(f"curve: the {metric} is NaN at t = {t[values.isnan()].tolist()}")
    start, end = _value_at(0, t, values), _value_at(1, t, values)
    middle = (start + end) / 2
    if kind == "midpoint":
        return float(_value_at(0.5, t, values) - middle)
    if kind == "instability":
        return float(values.max() - middle)
    if kind == "signed_extreme":
        return float(middle - values[(middle - values).abs().argmax()])
    # torch.lerp meets both ends exactly, so that they deviate by nothing.
    return float((values - torch.lerp(start, end, t)).max())


def _value_at(place: float, t: Tensor, values: Tensor) -> Tensor:
    found = (t - place).abs() <= ROUNDING
    if not found.any():
        raise ValueError(f"curve has no point at t = {place:g}, which this barrier needs; t = {t.tolist()}")
    return values[found][0]
