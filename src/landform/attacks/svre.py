"""SVRE: the gradients of an ensemble's members with their variance reduced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from landform.attacks.balls import Ball, Batch
from landform.attacks.checks import (
    check_batch,
    check_count,
    check_found,
    check_models,
    check_nonnegative,
    check_positive,
)
from landform.attacks.gradient import InputGradient
from landform.attacks.losses import Labels
from landform.attacks.transforms import Transform, transformed


def svre(
    models: Sequence[nn.Module],
    x: Batch,
    y: Labels,
    *,
    ball: Ball,
    steps: int = 10,
    step_size: float | None = None,
    inner_step: float | None = None,
    inner_iterations: int | None = None,
    momentum: float = 1.0,
    transforms: Sequence[Transform] = (),
    targeted: bool = False,
    generator: torch.Generator | None = None,
) -> Batch:
    """Stochastic variance reduced ensemble attack (Xiong et al., CVPR 2022).

    Every outer step takes the mean gradient ḡ = mean_i ∇J_i(x_t). From z = x_t and G̃ = 0, an inner loop draws a model k
    and does

        u = ∇J_k(z) − (∇J_k(x_t) − ḡ);   G̃ ← μ G̃ + u;   z ← Π(z + inner_step · step(G̃))

    and then G ← μ G + G̃, x_{t+1} = Π(x_t + step_size · step(G)), with G running through all outer steps.

    Arguments:
        models: the ensemble; others as of :func:`~landform.attacks.pgd`.
        step_size, inner_step: eps / 10 unless given.
        inner_iterations: 4 for each model unless given.
        transforms: as of :class:`~landform.attacks.IterativeAttack`, applied to every gradient.
        generator: draws the models.

    Raises:
        ValueError, TypeError: no models, or as :func:`~landform.attacks.pgd` does.
    """
    models = list(models)
    check_models(models)
    check_batch(x, y)
    inner_iterations = 4 * len(models) if inner_iterations is None else inner_iterations
    check_count(steps=steps, inner_iterations=inner_iterations)
    check_positive(step_size=step_size, inner_step=inner_step)
    check_nonnegative(momentum=momentum)
    step_size = ball.eps / 10 if step_size is None else step_size
    inner_step = ball.eps / 10 if inner_step is None else inner_step

    gradients = [transformed(InputGradient(model, targeted=targeted), transforms) for model in models]
    project = ball.around(x)
    x_adv = project(x.detach())
    outer = torch.zeros_like(x_adv)
    for _ in range(steps):
        own = [gradient(x_adv, y) for gradient in gradients]
        mean = torch.stack(own).mean(0)
        z, inner = x_adv, torch.zeros_like(x_adv)
        for k in torch.randint(len(models), (inner_iterations,), generator=generator).tolist():
            inner = momentum * inner + gradients[k](z, y) - (own[k] - mean)
            z = project(z + inner_step * ball.step(inner))
        outer = momentum * outer + inner
        x_adv = project(x_adv + step_size * ball.step(outer))
    return check_found(x_adv)
