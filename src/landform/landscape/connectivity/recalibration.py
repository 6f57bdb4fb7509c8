"""Running statistics of batch normalisation, measured anew for weights that no training has led to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from landform.landscape.connectivity.data import batches_of, check_loader
from landform.landscape.connectivity.pointwise import Pointwise
from landform.landscape.curvature.operators import evaluating


def recalibrate_batchnorm(model: nn.Module, loader: Iterable[Any]) -> None:
    """Measure the running statistics of every batch normalisation anew, in place.

    They become the plain averages, over the batches of ``loader``, of the batch means and (unbiased) variances: those
    of interpolated, averaged or pruned weights are nowhere near what their ends have stored. Batch normalisations see
    the batches in training mode and all other layers in eval mode, so that dropout draws nothing. A model without
    running statistics is left as it is.

    Arguments:
        loader: batches ``(inputs, targets)`` of training data without augmentation.

    Raises:
        ValueError: no batches.

    Source: arXiv 2406.16300, and torch.optim.swa_utils.update_bn, which averages alike.
    """
    check_loader(loader)
    state = dict(model.state_dict())
    if statistics := measured(model, {key: tensor[None] for key, tensor in state.items()}, {}, loader):
        model.load_state_dict({**state, **{key: tensor[0] for key, tensor in statistics.items()}})


def has_statistics(model: nn.Module) -> bool:
    """Whether there is anything to recalibrate."""
    return bool(_normalisations(model))


def measured(
    model: nn.Module, stacked: dict[str, Tensor], shared: dict[str, Tensor], loader: Iterable[Any]
) -> dict[str, Tensor]:
    """Running statistics at every point of a stack: name -> (points, \\*shape)."""
    norms = _normalisations(model)
    count = len(next(iter(stacked.values())))
    statistics = {
        f"{name}.{key}": torch.full_like(buffer, key == "running_var").expand(count, *buffer.shape).clone()
        for name, norm in norms.items()
        for key, buffer in norm.named_buffers(recurse=False)
    }
    if not norms:
        return statistics
    weights = {key: tensor for key, tensor in stacked.items() if key not in statistics}

    def one(point: dict[str, Tensor], inputs: Any) -> Tensor:
        functional_call(model, {**shared, **point}, (inputs,), tie_weights=False)
        return next(iter(statistics.values())).new_zeros(())

    forward = Pointwise(one)
    batches = 0
    device = next(iter(stacked.values())).device
    with torch.no_grad(), evaluating(model), _training(norms.values()):
        for inputs, _ in batches_of(loader, device):
            batches += 1
            for norm in norms.values():
                # Momentum 1/k gives the plain average of k batches. A momentum of None would do so too, but reads a
                # counter that holds a number for every point.
                norm.momentum = 1 / batches
            forward({**weights, **statistics}, inputs)
    for key, tensor in statistics.items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(batches)
    return statistics


def _normalisations(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


@contextmanager
def _training(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """While open these layers are in training mode and may change their momentum. Their mode is restored by others."""
    momenta = [(norm, norm.momentum) for norm in norms]
    try:
        for norm, _ in momenta:
            norm.train()
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """While open, batch normalisations with running statistics normalise by those of the batch, and keep no record.

    The loss is then a function of the weights alone, as it is where statistics are measured anew at every point.
    """
    norms = _normalisations(model).values()
    before = [(norm, norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, training, track in before:
            norm.training, norm.track_running_stats = training, track
