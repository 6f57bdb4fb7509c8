"""Slope and curvature of the loss along straight lines in weight space, and the barrier that the curvature makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor, nn
from torch.func import functional_call

from landform.landscape.connectivity.checks import check_count
from landform.landscape.connectivity.curves import path_points
from landform.landscape.connectivity.data import check_batch, on_device
from landform.landscape.connectivity.evaluation import LossFn, Points, device_of, placed
from landform.landscape.connectivity.pointwise import Pointwise, chunks
from landform.landscape.connectivity.recalibration import batch_statistics
from landform.landscape.connectivity.states import Layers, State, difference, weights
from landform.landscape.curvature import hvp
from landform.landscape.curvature.operators import evaluating


def line_curvature(
    model: nn.Module,
    a: State,
    b: State,
    batch: tuple[Any, Tensor],
    loss_fn: LossFn,
    n: int = 25,
    *,
    layers: Layers = None,
    chunk_size: int | None = None,
) -> Float[Tensor, " n"]:
    """The second derivative of the loss along the straight line from ``a`` to ``b``, at ``n`` even points.

        ℓ''(s) = Δᵀ H(A + s Δ) Δ,   Δ = B - A

    by exact Hessian-vector products. A ridge is where it is negative: a barrier stands on the line if and only if ℓ''
    is negative somewhere with enough weight (see :func:`barrier_from_curvature`). With ReLU the Hessian misses the
    kinks, whose share of a barrier can be any; smooth activations have none. Dropout is off. Batch normalisation uses
    the statistics of the batch, so that the loss is a function of the weights alone.

    Arguments:
        model: of the architecture of both state dicts; its own weights do not matter.
        batch: ``(inputs, targets)``, fixed: the whole training set where it fits.
        loss_fn: ``loss_fn(outputs, targets)``, a scalar.
        layers: names of the modules that move; all others stay as in ``a``.
        chunk_size: how many points to differentiate together at most.

    Returns:
        ℓ'' at ``torch.linspace(0, 1, n)``, float64.

    Raises:
        ValueError: state dicts that do not match (each difference is named) or are not finite, fewer than 2 points.
        FloatingPointError: a loss or product that is not finite.

    Source: arXiv 2406.16300; the identity is derived.
    """
    check_count("n", n, 2)
    a, b = placed(model, {"a": a, "b": b})
    moving = weights(a, layers)
    step = difference(a, b, moving)
    points = path_points(a, b, torch.linspace(0, 1, n, dtype=torch.float64), layers=moving)

    def toward(chunk: slice) -> dict[str, Tensor]:
        return {key: tensor.expand(chunk.stop - chunk.start, *tensor.shape) for key, tensor in step.items()}

    return along_directions(model, points, toward, batch, loss_fn, 2, chunk_size)


def barrier_from_curvature(
    curvature: Float[Tensor, " n"], t: float | Float[Tensor, "*points"]
) -> Float[Tensor, "*points"]:
    """The deviation from the chord at ``t`` that a line's curvature makes.

        ℓ(t) - [(1 - t) ℓ(0) + t ℓ(1)] = - ∫₀¹ G(t, s) ℓ''(s) ds,   G(t, s) = min(t, s) (1 - max(t, s)) >= 0

    Its maximum over t is the ``max_deviation`` barrier. The integral is that of the cubic spline through ``curvature``,
    exact in t: of the order of accuracy of Simpson's rule, without its trouble with the kink of G at s = t.

    Arguments:
        curvature: ℓ'' at even points from s = 0 to s = 1, as :func:`line_curvature` gives.
        t: where, in [0, 1].

    Raises:
        ValueError: fewer than 2 values, values that are not finite, or a ``t`` outside [0, 1].

    >>> barrier_from_curvature(torch.tensor([-8.0, -8.0, -8.0]), 0.5)
    tensor(1., dtype=torch.float64)
    """
    values = torch.as_tensor(curvature, dtype=torch.float64).cpu().numpy()
    places = torch.as_tensor(t, dtype=torch.float64).cpu().numpy()
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"curvature has shape {values.shape}; it must be a vector of at least 2 values")
    if not np.isfinite(values).all():
        raise ValueError("curvature has values that are not finite")
    if not ((places >= 0) & (places <= 1)).all():
        raise ValueError(f"t={t}: must lie in [0, 1]")
    # The deviation is the function of that second derivative which is zero at both ends.
    twice = CubicSpline(np.linspace(0, 1, len(values)), values).antiderivative(2)
    return torch.as_tensor(twice(places) - (1 - places) * twice(0.0) - places * twice(1.0))


def along_directions(
    model: nn.Module,
    points: Points,
    directions: Callable[[slice], dict[str, Tensor]],
    batch: tuple[Any, Tensor],
    loss_fn: LossFn,
    order: Literal[1, 2],
    chunk_size: int | None = None,
) -> Float[Tensor, " n"]:
    """The first or second derivative of the loss at each of several points, each along a direction of its own.

    The points share no weights that move, so the loss summed over them has a Hessian of blocks: one product with all
    directions is the product of each.
    """
    inputs, targets = on_device(check_batch(batch), device_of(model))

    def one(point: dict[str, Tensor]) -> Tensor:
        loss = loss_fn(functional_call(model, {**points.shared, **point}, (inputs,), tie_weights=False), targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            raise ValueError("loss_fn must give the mean over a batch, a scalar tensor (reduction='mean')")
        return loss

    each = Pointwise(one)
    found = []
    size = sum(p.numel() for p in model.parameters())
    with evaluating(model), batch_statistics(model), torch.enable_grad():
        for chunk in chunks(points.count, chunk_size, size, inputs):
            at = {key: tensor.detach().requires_grad_() for key, tensor in points.at(chunk).items()}
            toward = directions(chunk)
            if order == 1:
                gradient = torch.autograd.grad(each(at).sum(), list(at.values()), materialize_grads=True)
                vector: State = dict(zip(at, gradient, strict=True))
            else:
                vector = hvp(lambda params, _: each(params).sum(), at, None, toward)
            found.append(_inner(vector, toward))
    return torch.cat(found)


def _inner(u: State, v: State) -> Float[Tensor, " n"]:
    """Inner products point by point, in float64 on the CPU."""
    return torch.stack([(u[key].double() * v[key].double()).flatten(1).sum(1) for key in u]).sum(0).cpu()
