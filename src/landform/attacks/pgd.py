"""Fast and projected gradient attacks: one step, a random start and a step, many steps."""

from __future__ import annotations

import torch
from torch import nn

from landform.attacks.balls import Ball, Batch
from landform.attacks.checks import check_batch, check_count, check_found, check_nonnegative, check_positive
from landform.attacks.gradient import InputGradient
from landform.attacks.losses import AttackLoss, Labels, LossName


def fgsm(
    model: nn.Module,
    x: Batch,
    y: Labels,
    *,
    ball: Ball,
    loss: LossName | AttackLoss = "ce",
    targeted: bool = False,
) -> Batch:
    """Fast gradient sign method: one step of the ball's radius, x_adv = Π(x + eps · step(∇_x J)) (arXiv 1412.6572).

    Arguments and errors are those of :func:`pgd`.

    >>> from landform.attacks import LinfBall
    >>> model, x = nn.Linear(3, 2).eval(), torch.rand(4, 3)
    >>> x_adv = fgsm(model, x, torch.tensor([0, 1, 1, 0]), ball=LinfBall(0.1))
    >>> bool(((x_adv - x).abs() <= 0.1).all())
    True
    """
    return pgd(model, x, y, ball=ball, steps=1, step_size=ball.eps, loss=loss, targeted=targeted, random_start=False)


def r_fgsm(
    model: nn.Module,
    x: Batch,
    y: Labels,
    *,
    ball: Ball,
    start_step: float,
    steps: int = 1,
    step_size: float | None = None,
    loss: LossName | AttackLoss = "ce",
    targeted: bool = False,
    generator: torch.Generator | None = None,
) -> Batch:
    """FGSM from a random corner: Π(x + start_step · step(normal noise)), then gradient steps (arXiv 1705.07204).

    ``step_size`` is what the start leaves of the radius, eps − start_step, unless given. Other arguments and errors
    are those of :func:`pgd`.
    """
    check_batch(x, y)
    check_nonnegative(start_step=start_step)
    noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    start = x.detach() + start_step * ball.step(noise)
    step_size = ball.eps - start_step if step_size is None else step_size
    return _ascend(InputGradient(model, loss, targeted=targeted), x, y, ball, start, steps, step_size)


def pgd(
    model: nn.Module,
    x: Batch,
    y: Labels,
    *,
    ball: Ball,
    steps: int,
    step_size: float,
    loss: LossName | AttackLoss = "ce",
    targeted: bool = False,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Batch:
    """Projected gradient ascent of a model's loss: x_{t+1} = Π(x_t + step_size · step(∇_x J(x_t))).

    step(g) is sign(g) in an L-infinity ball and g/‖g‖₂ in a Euclidean one; Π is the projection on the ball around x and
    on [0, 1]. Usual are 10 to 20 steps of 2.5 eps / steps (Madry et al., arXiv 1706.06083). Without the random start
    this is the basic iterative method, BIM (arXiv 1607.02533).

    Arguments:
        model: raw inputs in [0, 1] in, logits (batch, classes) out, in evaluation mode; see
            :class:`~landform.attacks.Normalized`.
        x: inputs (batch, ...) in [0, 1], float32 or float64.
        y: their labels (batch,), or with ``targeted`` the classes that they are to be taken for.
        ball: a :class:`~landform.attacks.LinfBall` or :class:`~landform.attacks.L2Ball`.
        steps, step_size: as many steps, each so long in the ball's norm.
        loss: ``"ce"``, ``"dlr"``, ``"margin"``, or a function (logits, y) → (batch,).
        targeted: descend the loss rather than climb it.
        random_start: start at a random point of the ball rather than at x.
        generator: draws the start.

    Returns x_adv, detached, exactly in the ball and in [0, 1].

    Raises:
        ValueError: inputs outside [0, 1] or NaN, labels that do not fit, a model in training mode, outputs that are not
            logits, steps below 1, a step size that is not positive.
        TypeError: inputs that are not float32 or float64, labels that are no whole numbers.

    >>> from landform.attacks import L2Ball
    >>> model, x = nn.Linear(3, 2).eval(), torch.rand(4, 3)
    >>> x_adv = pgd(model, x, torch.tensor([0, 1, 1, 0]), ball=L2Ball(0.1), steps=10, step_size=0.025)
    >>> bool(((x_adv - x).norm(dim=1) <= 0.1).all())
    True
    """
    check_batch(x, y)
    gradient = InputGradient(model, loss, targeted=targeted)
    start = ball.sample(x, generator) if random_start else x.detach()
    return _ascend(gradient, x, y, ball, start, steps, step_size)


def _ascend(
    gradient: InputGradient, x: Batch, y: Labels, ball: Ball, start: Batch, steps: int, step_size: float
) -> Batch:
    check_count(steps=steps)
    check_positive(step_size=step_size)
    project = ball.around(x)
    x_adv = project(start)
    for _ in range(steps):
        x_adv = project(torch.add(x_adv, ball.step(gradient(x_adv, y)), alpha=step_size))
    return check_found(x_adv)
