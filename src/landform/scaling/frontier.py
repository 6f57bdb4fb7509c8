"""The compute frontier: the least loss at each budget, over models of all sizes, and the size that has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from landform.scaling.fit import PowerLawFit, fit_power_law
from landform.scaling.laws import positive

Array = Float[np.ndarray, "..."]
Learning = tuple[ArrayLike, ArrayLike]
"""A learning curve: compute, rising, and the loss there."""
Method = Literal["measured", "smoothed"]


class Envelope(NamedTuple):
    """The pointwise minimum of curves on a grid: its value, and the number of the curve that has it."""

    loss: Float[np.ndarray, " grid"]
    argmin: Int[np.ndarray, " grid"]


def lower_envelope(curves: Sequence[Learning], grid: ArrayLike) -> Envelope:
    """The least of all curves at each point of ``grid``.

    Between its points a curve is straight on double logarithmic axes; outside of its range it counts for nothing. Where
    two are equal the first one has the minimum.

    Arguments:
        curves: (compute, loss) each, with rising compute.
        grid: the budgets.

    Raises:
        ValueError: no curve, a curve that is no such pair, or a grid point that no curve reaches.

    >>> C = np.array([1.0, 10.0, 100.0])
    >>> lower_envelope([(C, [3.0, 2.0, 1.9]), (C, [4.0, 2.5, 1.0])], C)
    Envelope(loss=array([3., 2., 1.]), argmin=array([0, 0, 1]))
    """
    grid = positive("grid", grid)
    if grid.ndim != 1:
        raise ValueError(f"grid has shape {grid.shape}; it must be a vector")
    values = _on_grid(curves, grid)
    unreached = grid[np.isinf(values).all(0)]
    if len(unreached):
        raise ValueError(f"grid: {unreached[0]:g} lies outside of the range of every curve")
    argmin = values.argmin(0)
    return Envelope(values[argmin, np.arange(len(grid))], argmin)


def _on_grid(curves: Sequence[Learning], grid: Array) -> Float[np.ndarray, "curves grid"]:
    """The curves' values, infinite where a curve does not reach."""
    if not len(curves):
        raise ValueError("curves: there is none")
    rows = []
    for number, (compute, loss) in enumerate(curves):
        compute, loss = positive(f"compute of curve {number}", compute), positive(f"loss of curve {number}", loss)
        if compute.ndim != 1 or compute.shape != loss.shape or not len(compute):
            raise ValueError(f"curve {number} has shapes {compute.shape} and {loss.shape}; they must be equal vectors")
        if (np.diff(compute) <= 0).any():
            raise ValueError(f"compute of curve {number} must rise from point to point")
        # A grid that was computed on its own may miss an end by rounding.
        near = np.where(np.isclose(grid, compute[0], rtol=1e-12, atol=0), compute[0], grid)
        near = np.where(np.isclose(grid, compute[-1], rtol=1e-12, atol=0), compute[-1], near)
        inside = (near >= compute[0]) & (near <= compute[-1])
        value = np.exp(np.interp(np.log(near), np.log(compute), np.log(loss)))
        # At its own points a curve has its own values, without the rounding of logarithms.
        at = np.searchsorted(compute, near).clip(max=len(compute) - 1)
        value = np.where(compute[at] == near, loss[at], value)
        rows.append(np.where(inside, value, np.inf))
    return np.array(rows)


@dataclass(frozen=True, eq=False)
class Frontier:
    """What :func:`fit_frontier` found.

    Attributes:
        compute, loss: the envelope on its grid.
        size: the size of the model that has the least loss at each budget.
        law: L(C), fitted to the envelope.
        switches: budgets at which the best model changes, and the geometric mean of the two sizes, which are equally
            good there.
        beta, C_0: N_opt(C) = (C/C_0)^beta, the line through the switches on double logarithmic axes; NaN where there
            are fewer than two: then sizes or budgets do not span enough for an exponent.
    """

    compute: Float[np.ndarray, " grid"]
    loss: Float[np.ndarray, " grid"]
    size: Float[np.ndarray, " grid"]
    law: PowerLawFit
    switches: tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]
    beta: float
    C_0: float

    def optimal_size(self, compute: ArrayLike) -> Array:
        """(C/C_0)^beta."""
        return (positive("compute", compute) / self.C_0) ** self.beta


def fit_frontier(
    curves: Sequence[Learning],
    sizes: ArrayLike,
    *,
    method: Method = "smoothed",
    first: float | None = None,
    points: int = 200,
) -> Frontier:
    """The compute frontier of models of several sizes, its law L(C), and the best size N_opt(C).

    The frontier ends where the curve that is best there ends: beyond, a larger model would be the best for no other
    reason than that the smaller one was not trained on.

    Arguments:
        curves: each model's learning curve, (compute, loss).
        sizes: each model's size, all different.
        method: "measured" takes the curves as they are; "smoothed" fits each by a power law plus constant in its own
            compute first, within the range where it was measured, so that noise does not make the best model flicker.
        first: the least budget; below it curves are left out (warm-up is no part of a law). Where two sizes were
            measured first unless given.
        points: of the grid, at equal ratios.

    Raises:
        ValueError: curves and sizes that do not fit together.

    Source: arXiv 2010.14701.
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r}: must be one of {get_args(Method)}")
    sizes = positive("sizes", sizes)
    if sizes.shape != (len(curves),) or len(np.unique(sizes)) < len(sizes):
        raise ValueError(f"sizes: must be {len(curves)} different numbers, one a curve")
    ranges = [(np.min(compute), np.max(compute)) for compute, _ in curves]
    low = sorted(start for start, _ in ranges)[:2][-1] if first is None else first
    high = max(end for _, end in ranges)
    if not min(start for start, _ in ranges) <= low < high:
        raise ValueError(f"first={low}: must lie where a curve was measured, below the largest compute {high:g}")
    grid = np.geomspace(low, high, points)
    if method == "smoothed":
        curves = [_smoothed(compute, loss, grid) for compute, loss in curves]
    values = _on_grid(curves, grid)
    argmin = values.argmin(0)
    changes = np.flatnonzero(np.diff(argmin))
    ended = changes[np.isinf(values[argmin[changes], changes + 1])]
    if len(ended):
        grid, values, argmin = (each[..., : ended[0] + 1] for each in (grid, values, argmin))
        changes = changes[changes < ended[0]]
    loss = values[argmin, np.arange(len(grid))]
    # A model that is best from its first point on became so at some unknown budget before.
    changes = changes[np.isfinite(values[argmin[changes + 1], changes])]
    at = np.sqrt(grid[changes] * grid[changes + 1])
    between = np.sqrt(sizes[argmin[changes]] * sizes[argmin[changes + 1]])
    beta, intercept = np.polyfit(np.log(at), np.log(between), 1) if len(changes) > 1 else (np.nan, np.nan)
    law = fit_power_law(grid, loss, form="power+const")
    return Frontier(grid, loss, sizes[argmin], law, (at, between), float(beta), float(np.exp(-intercept / beta)))


def _smoothed(compute: ArrayLike, loss: ArrayLike, grid: Array) -> Learning:
    """The law of one curve, at the points of the grid within its range and at its ends."""
    compute, loss = np.asarray(compute, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    kept = compute >= grid[0]
    if kept.sum() < 4:
        return compute, loss
    law = fit_power_law(compute[kept], loss[kept], form="power+const").law
    start = max(compute[0], grid[0])
    at = np.concatenate([[start], grid[(grid > start) & (grid < compute[-1])], compute[-1:]])
    return at, law(at)
