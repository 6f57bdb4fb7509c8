"""The loss on the plane through three networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.landscape.connectivity.checks import check_count
from landform.landscape.connectivity.evaluation import Loader, LossFn, Metric, Points, evaluate, placed
from landform.landscape.connectivity.states import State, difference, dot, weights


@dataclass(frozen=True, eq=False)
class LossPlane:
    """Values on a grid over the plane of three networks; coordinates are distances in weight space.

    ``values[metric][i, j]`` is at ``(x[j], y[i])``. Rows of ``corners`` are the origin at (0, 0), p1 at
    (‖p1 - origin‖, 0) and p2 in the upper half. ``axes`` are the orthonormal e1 and e2 by tensor.
    """

    x: Float[Tensor, " columns"]
    y: Float[Tensor, " rows"]
    values: Mapping[str, Float[Tensor, "rows columns"]]
    corners: Float[Tensor, "3 2"]
    origin: State
    axes: tuple[State, State]

    def coordinates(self, state: State) -> tuple[float, float]:
        """Where a network lies, projected onto the plane."""
        step = {key: state[key].to(self.origin[key]) - self.origin[key] for key in self.axes[0]}
        return dot(step, self.axes[0]), dot(step, self.axes[1])


def loss_plane(
    model: nn.Module,
    origin: State,
    p1: State,
    p2: State,
    loader: Loader,
    loss_fn: LossFn,
    grid: int = 25,
    *,
    margin: float = 0.25,
    metrics: Sequence[Metric] = ("loss",),
    recalibrate_bn: bool = True,
    recalibrate_on: Loader | None = None,
    chunk_size: int | None = None,
) -> LossPlane:
    """Loss on a ``grid`` × ``grid`` over the plane through three networks, such as an initialisation and two ends.

        e1 = (p1 - origin)/‖·‖,   e2 = the part of p2 - origin orthogonal to e1, /‖·‖

    Running statistics are no coordinates: measured anew at every point, or those of ``origin``.

    Arguments:
        origin, p1, p2: state dicts of one architecture.
        grid: points along each axis.
        margin: how far the grid reaches beyond the three networks on each side, as a share of their extent.
        others: as in :func:`interpolation_curve`.

    Raises:
        ValueError: state dicts that do not match (each difference is named) or are not finite, three networks on one
            line, fewer than 2 points, a negative margin.

    Source: arXiv 2406.16300; the plane is that of arXiv 1802.10026.
    """
    check_count("grid", grid, 2)
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin}: must be zero or more")
    origin, p1, p2 = placed(model, {"origin": origin, "p1": p1, "p2": p2})
    keys = weights(origin)
    first, second = difference(origin, p1, keys), difference(origin, p2, keys)
    width, reach = dot(first, first) ** 0.5, dot(second, second) ** 0.5
    if not width:
        raise ValueError("p1 equals origin: three networks that differ are needed for a plane")
    e1 = {key: tensor / width for key, tensor in first.items()}
    along = dot(second, e1)
    across = {key: tensor - along * e1[key] for key, tensor in second.items()}
    height = dot(across, across) ** 0.5
    if height <= 1e-6 * reach:
        raise ValueError("origin, p1 and p2 lie on one line (or two are equal), which is no plane")
    e2 = {key: tensor / height for key, tensor in across.items()}
    corners = torch.tensor([[0.0, 0.0], [width, 0.0], [along, height]], dtype=torch.float64)
    x, y = (_axis(places, grid, margin) for places in corners.T)

    def at(chunk: slice) -> dict[str, Tensor]:
        v, u = torch.cartesian_prod(y, x)[chunk].T
        return {key: origin[key] + _times(u, e1[key]) + _times(v, e2[key]) for key in keys}

    points = Points(grid * grid, at, {key: tensor for key, tensor in origin.items() if key not in set(keys)})
    found = evaluate(
        model,
        points,
        loader,
        loss_fn,
        metrics,
        recalibrate_bn=recalibrate_bn,
        recalibrate_on=recalibrate_on,
        chunk_size=chunk_size,
    )
    values = {metric: value.view(grid, grid) for metric, value in found.items()}
    return LossPlane(x, y, values, corners, origin, (e1, e2))


def _axis(places: Float[Tensor, " corners"], grid: int, margin: float) -> Float[Tensor, " grid"]:
    low, high = float(places.min()), float(places.max())
    beyond = margin * (high - low)
    return torch.linspace(low - beyond, high + beyond, grid, dtype=torch.float64)


def _times(weight: Float[Tensor, " points"], tensor: Tensor) -> Tensor:
    return weight.to(tensor).view(-1, *[1] * tensor.ndim) * tensor
