"""How the loss rises with the distance from the weights, straight up the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.optim.sharpness.norm_stats import frozen_norm_stats
from landform.optim.sharpness.sam import EPS, total_norm
from landform.optim.sharpness.wrapper import check_rho


def sharpness(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    rhos: Sequence[float] = (0.01, 0.02, 0.03, 0.04, 0.05),
) -> Float[np.ndarray, " rhos"]:
    """The perturbed-loss curve: L(w + rho g / ||g||_2) - L(w) for every rho, where L is the mean over the batches.

    What SAM makes small. To first order it is rho ||g||, and at a minimum rho^2/2 times a curvature; the largest
    curvature itself is :func:`landform.landscape.sharpness`. The model is measured in its present mode. It is left as
    it was: weights to the bit, gradients, running statistics.

    Arguments:
        model: its parameters that require a gradient are moved.
        loss: ``loss(model, batch)``, one number.
        batches: read once into memory; each weighs the same.
        rhos: distances, zero or more.

    Raises:
        ValueError: no batches, no rhos or a negative one, or no parameter that requires a gradient.

    Source: the curve that the code of arXiv 2403.07329 logs.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 2.0)
    >>> sharpness(model, lambda m, x: m(x).square().sum() / 2, [torch.ones(1, 1)], rhos=(0.0, 1.0))
    array([0. , 2.5])
    """
    if not len(rhos):
        raise ValueError("rhos: there are none")
    for rho in rhos:
        check_rho("rhos", rho)
    kept = list(batches)
    if not kept:
        raise ValueError("batches: there are none")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model: no parameter requires a gradient")
    with frozen_norm_stats(model):
        start, gradients = _mean_gradient(model, loss, kept, parameters)
        norm = total_norm(gradients) + EPS
        weights = [p.detach().clone() for p in parameters]
        rises = []
        with torch.no_grad():
            try:
                for rho in rhos:
                    for p, weight, gradient in zip(parameters, weights, gradients, strict=True):
                        p.copy_(weight + gradient * (rho / norm).to(gradient))
                    rises.append(float(np.mean([float(loss(model, batch)) for batch in kept])) - start)
            finally:
                for p, weight in zip(parameters, weights, strict=True):
                    p.copy_(weight)
    return np.array(rises)


def _mean_gradient(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], batches: list[Any], parameters: list[nn.Parameter]
) -> tuple[float, list[Tensor]]:
    """The mean loss and its gradient."""
    values = []
    gradients = [torch.zeros_like(p) for p in parameters]
    for batch in batches:
        with torch.enable_grad():
            value = loss(model, batch)
            found = torch.autograd.grad(value, parameters, allow_unused=True)
        values.append(float(value.detach()))
        for total, gradient in zip(gradients, found, strict=True):
            if gradient is not None:
                total.add_(gradient, alpha=1 / len(batches))
    return float(np.mean(values)), gradients
