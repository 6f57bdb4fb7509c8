"""Loss and error along a path between two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.landscape.connectivity.checks import check_count
from landform.landscape.connectivity.evaluation import Loader, LossFn, Metric, Points, evaluate, placed
from landform.landscape.connectivity.interpolation import Path, along, check_path
from landform.landscape.connectivity.states import Layers, State


@dataclass(frozen=True, eq=False)
class Curve:
    """What was measured along a path: ``values[metric][i]`` at ``t[i]``. The error is a share in [0, 1].

    Raises:
        ValueError: no metrics, values that are not one a point, or a ``t`` that is not finite.
    """

    t: Float[Tensor, " points"]
    values: Mapping[str, Float[Tensor, " points"]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "t", torch.as_tensor(self.t, dtype=torch.float64))
        if self.t.ndim != 1 or not torch.isfinite(self.t).all():
            raise ValueError(f"t has shape {tuple(self.t.shape)}; it must be a vector of finite numbers")
        if not isinstance(self.values, Mapping) or not self.values:
            raise ValueError(f"values={self.values!r}: must map at least one metric to its values")
        values = {metric: torch.as_tensor(found, dtype=torch.float64) for metric, found in self.values.items()}
        for metric, found in values.items():
            if found.shape != self.t.shape:
                raise ValueError(f"values[{metric!r}] has shape {tuple(found.shape)}, t has {tuple(self.t.shape)}")
        object.__setattr__(self, "values", values)


def interpolation_curve(
    model: nn.Module,
    a: State,
    b: State,
    loader: Loader,
    loss_fn: LossFn,
    n_points: int = 25,
    recalibrate_bn: bool = True,
    metrics: Sequence[Metric] = ("loss", "error"),
    *,
    mode: Path = "lerp",
    layers: Layers = None,
    control: State | None = None,
    recalibrate_on: Loader | None = None,
    chunk_size: int | None = None,
) -> Curve:
    """Loss and error of a network on a path from ``a`` to ``b``, at evenly spaced points with both ends.

    Values are means over samples in eval mode. The points are evaluated together where ``torch.func.vmap`` can
    vectorise the network and memory allows, else one after another. The model is left as it was.

    Arguments:
        model: of the architecture of both state dicts; its own weights do not matter, and its device is used.
        a, b: the ends.
        loader: batches ``(inputs, targets)`` to measure on, a list or a DataLoader.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch.
        n_points: 25; 11 and 3 are the cheap variants.
        recalibrate_bn: measure the running statistics of batch normalisation anew at every point (see
            :func:`recalibrate_batchnorm`), without which there is a barrier that is none of the weights'.
        metrics: ``"loss"``, ``"error"`` (the share of samples whose largest output is not their class) or both.
        mode, layers, control: the path, as in :func:`interpolate`.
        recalibrate_on: training batches for the statistics, where ``loader`` is not of training data.
        chunk_size: how many points to evaluate together at most.

    Raises:
        ValueError: state dicts that do not match the model (each difference is named), weights that are not finite,
            fewer than 2 points, an unknown metric, mode or layer, no batches.
        TypeError: a loader that can be gone through only once.

    Source: arXiv 2406.16300.

    >>> model = nn.Linear(3, 2)
    >>> a, b = nn.Linear(3, 2).state_dict(), nn.Linear(3, 2).state_dict()
    >>> data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    >>> curve = interpolation_curve(model, a, b, data, nn.functional.cross_entropy)
    >>> curve.t.shape, sorted(curve.values)
    (torch.Size([25]), ['error', 'loss'])
    """
    check_count("n_points", n_points, 2)
    check_path(a, b, mode, control)
    a, b, *bend = placed(model, {"a": a, "b": b} if control is None else {"a": a, "b": b, "control": control})
    t = torch.linspace(0, 1, n_points, dtype=torch.float64)
    values = evaluate(
        model,
        path_points(a, b, t, mode, layers, bend[0] if bend else None),
        loader,
        loss_fn,
        metrics,
        recalibrate_bn=recalibrate_bn,
        recalibrate_on=recalibrate_on,
        chunk_size=chunk_size,
    )
    return Curve(t, values)


def path_points(
    a: State,
    b: State,
    t: Float[Tensor, " points"],
    mode: Path = "lerp",
    layers: Layers = None,
    control: State | None = None,
    *,
    rest: State | None = None,
) -> Points:
    """Points of a path, made when they are needed. What does not move is as in ``rest``, or else in ``a``."""
    moving = along(a, b, t[:1], mode, layers, control).keys()
    return Points(
        len(t),
        lambda chunk: along(a, b, t[chunk], mode, layers, control),
        {key: tensor for key, tensor in (a if rest is None else rest).items() if key not in moving},
    )
