"""Loss and error of one network at many points of its weight space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from landform.landscape.connectivity.data import batches_of, check_loader
from landform.landscape.connectivity.pointwise import Pointwise, chunks
from landform.landscape.connectivity.recalibration import has_statistics, measured
from landform.landscape.connectivity.states import State, check_states
from landform.landscape.curvature.operators import evaluating

LossFn = Callable[[Any, Any], Tensor]
Metric = Literal["loss", "error"]
Loader = Iterable[Any]


@dataclass(frozen=True)
class Points:
    """``count`` points of weight space. ``at(indices)`` gives the tensors in which they differ, the points on the first
    axis; ``shared`` are those that all have in common."""

    count: int
    at: Callable[[slice], dict[str, Tensor]]
    shared: dict[str, Tensor]


def evaluate(
    model: nn.Module,
    points: Points,
    loader: Loader,
    loss_fn: LossFn,
    metrics: Sequence[Metric] = ("loss",),
    *,
    recalibrate_bn: bool = True,
    recalibrate_on: Loader | None = None,
    chunk_size: int | None = None,
) -> dict[str, Float[Tensor, " points"]]:
    """Mean over samples of each metric at every point, in eval mode and float64, on the CPU.

    The loss of a batch counts by its number of samples, so that the batching of the data does not matter. The points
    are evaluated in stacks (see :class:`Pointwise`), each with normalisation statistics of its own, measured on
    ``recalibrate_on`` or else on ``loader``.
    """
    check_metrics(metrics)
    check_loader(loader)
    device = device_of(model)
    first = next(batches_of(loader, device))[0]
    size = sum(p.numel() for p in model.parameters())
    calibration = loader if recalibrate_on is None else recalibrate_on
    recalibrates = recalibrate_bn and has_statistics(model)
    sums = {metric: torch.zeros(points.count, dtype=torch.float64) for metric in metrics}
    shared = dict(points.shared)

    def one(point: dict[str, Tensor], inputs: Any, targets: Tensor) -> tuple[Tensor, ...]:
        # A state dict names tied weights more than once: each name is given its own tensor, all of them alike.
        outputs = functional_call(model, {**shared, **point}, (inputs,), tie_weights=False)
        return tuple(_measure(metric, outputs, targets, loss_fn) for metric in metrics)

    values = Pointwise(one)
    samples = 0
    with torch.no_grad(), evaluating(model):
        for chunk in chunks(points.count, chunk_size, size, first):
            stacked = points.at(chunk)
            if recalibrates:
                stacked.update(measured(model, stacked, shared, calibration))
            samples = 0
            for inputs, targets in batches_of(loader, device):
                samples += len(targets)
                for metric, value in zip(metrics, values(stacked, inputs, targets), strict=True):
                    sums[metric][chunk] += len(targets) * value.double().cpu()
    return {metric: total / samples for metric, total in sums.items()}


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def placed(model: nn.Module, states: Mapping[str, State]) -> list[dict[str, Tensor]]:
    """State dicts, known to be the model's, on its device."""
    check_states(states, model)
    device = device_of(model)
    return [{key: tensor.detach().to(device) for key, tensor in state.items()} for state in states.values()]


def check_metrics(metrics: Sequence[str]) -> None:
    known = get_args(Metric)
    if isinstance(metrics, str) or not metrics or not set(metrics) <= set(known):
        raise ValueError(f"metrics={metrics!r}: must be several or one of {known}, as a tuple")


def _measure(metric: str, outputs: Any, targets: Tensor, loss_fn: LossFn) -> Tensor:
    if metric == "loss":
        loss = loss_fn(outputs, targets)
        if not isinstance(loss, Tensor) or loss.ndim:
            raise ValueError("loss_fn must give the mean over a batch, a scalar tensor (reduction='mean')")
        return loss
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or targets.is_floating_point():
        raise ValueError(
            "metrics: 'error' needs logits (batch, classes, ...) and class numbers as targets; without them ask for "
            "metrics=('loss',)"
        )
    return (outputs.argmax(1) != targets).double().mean()
