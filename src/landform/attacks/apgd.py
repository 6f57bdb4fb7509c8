"""Auto-PGD: projected gradient ascent that sets its own step sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from landform.attacks.balls import Ball, Batch
from landform.attacks.checks import check_batch, check_count, check_found
from landform.attacks.gradient import Evaluated, InputGradient
from landform.attacks.losses import AttackLoss, Labels, LossName, Values


@dataclass(frozen=True)
class Ascent:
    """What Auto-PGD found: the points of highest loss, and the last points that fooled the model.

    ``x_fooled`` is x itself where ``fooled`` is False.
    """

    x_best: Batch
    loss_best: Values
    x_fooled: Batch
    fooled: Bool[Tensor, " batch"]


def apgd(
    model: nn.Module,
    x: Batch,
    y: Labels,
    *,
    ball: Ball,
    steps: int = 100,
    loss: LossName | AttackLoss = "ce",
    targeted: bool = False,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    rho: float = 0.75,
) -> Batch:
    """Auto-PGD: the points of highest loss that ascent with momentum and self-set step sizes finds (arXiv 2003.01690).

        z = Π(x_t + η step(g));   x_{t+1} = Π(x_t + a (z − x_t) + (1 − a)(x_t − x_{t−1})),  a = 0.75, at first 1

    η starts at 2 eps, for each sample its own. At checkpoints, the first after 22 % of the steps and then at intervals
    shorter by 3 % down to 6 %, a sample's η is halved and it goes back to its best point, if its loss rose in no more
    than ``rho`` of the interval's steps, or if η was not halved at the last checkpoint and the best loss has stood
    still since. There is no step size to tune. Everything else is as of :func:`~landform.attacks.pgd`.

    Arguments:
        rho: the share of steps that have to raise the loss.

    Raises:
        ValueError, TypeError: rho outside (0, 1), or as :func:`~landform.attacks.pgd` does.
    """
    check_batch(x, y)
    gradient = InputGradient(model, loss, targeted=targeted)
    return auto_ascend(gradient, x, y, ball, steps, rho, random_start=random_start, generator=generator).x_best


def auto_ascend(
    gradient: InputGradient,
    x: Batch,
    y: Labels,
    ball: Ball,
    steps: int,
    rho: float = 0.75,
    *,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Ascent:
    """:func:`apgd`, with all that it found."""
    check_count(steps=steps)
    if not 0 < rho < 1:
        raise ValueError(f"rho={rho}: must be in (0, 1)")
    project = ball.around(x)
    at = project(ball.sample(x, generator) if random_start else x.detach())
    before = at
    found = gradient.evaluate(at, y)
    g, loss = found.gradient, found.losses
    x_best, g_best, loss_best = at, g, loss
    shape = (-1, *(1,) * (x.ndim - 1))
    fooled = _fooled(gradient, found, y)
    x_fooled = torch.where(fooled.view(shape), at, project(x.detach()))
    size = torch.full((len(x),), 2 * ball.eps, dtype=x.dtype, device=x.device)

    window, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    since, rises = 0, torch.zeros_like(y)
    best_before, halved_before = loss_best, torch.ones_like(fooled)
    for t in range(steps):
        a = 0.75 if t else 1.0
        z = project(at + size.view(shape) * ball.step(g))
        before, at = at, project(at + a * (z - at) + (1 - a) * (at - before))
        last, found = loss, gradient.evaluate(at, y)
        g, loss = found.gradient, found.losses

        now = _fooled(gradient, found, y)
        x_fooled, fooled = torch.where(now.view(shape), at, x_fooled), fooled | now
        better = loss > loss_best
        x_best = torch.where(better.view(shape), at, x_best)
        g_best = torch.where(better.view(shape), g, g_best)
        loss_best = torch.where(better, loss, loss_best)

        since, rises = since + 1, rises + (loss > last)
        if since == window:
            halve = (rises <= rho * window) | (~halved_before & (loss_best <= best_before))
            size = torch.where(halve, size / 2, size)
            at = torch.where(halve.view(shape), x_best, at)
            g = torch.where(halve.view(shape), g_best, g)
            best_before, halved_before = loss_best, halve
            since, rises, window = 0, torch.zeros_like(rises), max(window - shorter, least)
    return Ascent(check_found(x_best), loss_best, x_fooled, fooled)


def _fooled(gradient: InputGradient, found: Evaluated, y: Labels) -> Bool[Tensor, " batch"]:
    """Whether the model takes a point for another class, or if targeted for the wanted one."""
    predicted = found.logits.argmax(1)
    return predicted == y if gradient.targeted else predicted != y
