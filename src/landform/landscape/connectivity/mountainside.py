"""Where two runs stand towards each other and towards their common start: same mountainside, or a ridge between?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from landform.landscape.connectivity.barriers import barrier
from landform.landscape.connectivity.curves import interpolation_curve
from landform.landscape.connectivity.evaluation import LossFn
from landform.landscape.connectivity.line import line_curvature
from landform.landscape.connectivity.states import State, check_states, difference, dot, weights


@dataclass(frozen=True)
class Mountainside:
    """A pair of networks at one moment of training.

    ``distance`` is ‖A - B‖; ``cosine`` that of the angle between A - θ_0 and B - θ_0 (NaN where one has not moved);
    ``loss_a`` and ``loss_b`` are the losses of the two; ``barrier`` is the ``max_deviation`` between them; and
    ``min_curvature`` the least ℓ'' on their line, negative on a ridge.
    """

    distance: float
    cosine: float
    loss_a: float
    loss_b: float
    barrier: float
    min_curvature: float


def mountainside(
    model: nn.Module,
    origin: State,
    a: State,
    b: State,
    batch: tuple[Any, Tensor],
    loss_fn: LossFn,
    n_points: int = 25,
    *,
    chunk_size: int | None = None,
) -> Mountainside:
    """How two runs from ``origin`` stand towards each other, measured on a fixed batch.

    To be called on checkpoints of two runs at several times. Arguments and errors are those of
    :func:`interpolation_curve` and :func:`line_curvature`.

    Source: arXiv 2406.16300.
    """
    check_states({"origin": origin, "a": a, "b": b}, model)
    keys = weights(origin)
    gone_a, gone_b = difference(origin, a, keys), difference(origin, b, keys)
    apart = difference(a, b, keys)
    lengths = (dot(gone_a, gone_a) * dot(gone_b, gone_b)) ** 0.5
    curve = interpolation_curve(model, a, b, [batch], loss_fn, n_points, metrics=("loss",), chunk_size=chunk_size)
    curvature = line_curvature(model, a, b, batch, loss_fn, n_points, chunk_size=chunk_size)
    return Mountainside(
        distance=dot(apart, apart) ** 0.5,
        cosine=dot(gone_a, gone_b) / lengths if lengths else float("nan"),
        loss_a=float(curve.values["loss"][0]),
        loss_b=float(curve.values["loss"][-1]),
        barrier=barrier(curve),
        min_curvature=float(curvature.min()),
    )
