"""What the two ends alone say of the path between them: the height that their slopes and curvatures predict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from landform.landscape.connectivity.evaluation import LossFn, Points, placed
from landform.landscape.connectivity.layerwise import Grouping, layer_groups
from landform.landscape.connectivity.line import along_directions
from landform.landscape.connectivity.states import Layers, State, difference, weights

ORDERS: tuple[Literal[1], Literal[2]] = (1, 2)


def local_barrier_estimate(
    model: nn.Module,
    a: State,
    b: State,
    batch: tuple[Any, Tensor],
    loss_fn: LossFn,
    layers: Layers = None,
    *,
    chunk_size: int | None = None,
) -> dict[str, float]:
    """The climb to the middle of the line between two networks, as the second-order expansions at its ends predict it.

        b̂ = ¼ (g_A - g_B)ᵀ Δ + 1/16 Δᵀ (H_A + H_B) Δ,   Δ = B - A

    the mean of ½ g_Aᵀ Δ + ⅛ Δᵀ H_A Δ, seen from A, and of the same seen from B. It ranks how far the loss rises from
    the ends, and is no calibrated barrier: at minima, where curvature is hardly negative, it cannot be below zero. At
    stationary points b̂ <= ‖Δ‖² λ_max / 8. Where cross-entropy has all but vanished so has its Hessian, and b̂ with it.

    Arguments:
        layers: names of the modules that move, in which case Δ is zero elsewhere; all others stay at their own base, A
            or B.
        others: as in :func:`line_curvature`, modes and statistics included.

    Returns:
        ``estimate`` b̂; its factors ``sq_distance`` ‖Δ‖² and ``rayleigh_a``, ``rayleigh_b`` Δᵀ H Δ / ‖Δ‖² (0 where the
        networks are equal); ``slope_a``, ``slope_b`` gᵀ Δ.

    Raises:
        ValueError: state dicts that do not match (each difference is named) or are not finite, an unknown layer.
        FloatingPointError: a loss or product that is not finite.

    Source: arXiv 2406.16300 in spirit; the constants are derived.
    """
    a, b = placed(model, {"a": a, "b": b})
    return _estimates(model, a, b, batch, loss_fn, [weights(a, layers)], chunk_size)[0]


def layerwise_estimate(
    model: nn.Module,
    a: State,
    b: State,
    batch: tuple[Any, Tensor],
    loss_fn: LossFn,
    grouping: Grouping = "module",
    *,
    chunk_size: int | None = None,
) -> dict[str, dict[str, float]]:
    """:func:`local_barrier_estimate` of every layer by itself, all of them in one pass.

    Its ``estimate`` predicts what :func:`layerwise_increase` measures. Arguments and errors as there.
    """
    a, b = placed(model, {"a": a, "b": b})
    groups = layer_groups(a, grouping)
    found = _estimates(model, a, b, batch, loss_fn, [weights(a, keys) for keys in groups.values()], chunk_size)
    return dict(zip(groups, found, strict=True))


def _estimates(
    model: nn.Module,
    a: State,
    b: State,
    batch: tuple[Any, Tensor],
    loss_fn: LossFn,
    groups: list[list[str]],
    chunk_size: int | None,
) -> list[dict[str, float]]:
    moving = [key for key in a if any(key in keys for keys in groups)]
    step = difference(a, b, moving)

    def toward(chunk: slice) -> dict[str, Tensor]:
        return {
            key: torch.stack([step[key] if key in keys else torch.zeros_like(step[key]) for keys in groups[chunk]])
            for key in moving
        }

    squares = [sum(float(step[key].double().square().sum()) for key in keys) for keys in groups]
    slopes, curvatures = [], []
    for base in (a, b):
        points = Points(
            len(groups), partial(_copies, base, moving), {key: base[key] for key in base if key not in moving}
        )
        slope, curvature = (
            along_directions(model, points, toward, batch, loss_fn, order, chunk_size) for order in ORDERS
        )
        slopes.append(slope.tolist())
        curvatures.append(curvature.tolist())
    return [
        {
            "estimate": (slope_a - slope_b) / 4 + (curvature_a + curvature_b) / 16,
            "sq_distance": square,
            "rayleigh_a": curvature_a / square if square else 0.0,
            "rayleigh_b": curvature_b / square if square else 0.0,
            "slope_a": slope_a,
            "slope_b": slope_b,
        }
        for square, slope_a, slope_b, curvature_a, curvature_b in zip(squares, *slopes, *curvatures, strict=True)
    ]


def _copies(base: State, keys: Sequence[str], chunk: slice) -> dict[str, Tensor]:
    """The same point as many times as there are layers in the chunk."""
    return {key: base[key].expand(chunk.stop - chunk.start, *base[key].shape) for key in keys}
