"""Iterated attacks put together from a gradient, transforms, an optimiser and a ball."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from landform.attacks.balls import Ball, Batch
from landform.attacks.checks import check_batch, check_count, check_found, check_positive
from landform.attacks.losses import Labels
from landform.attacks.optimisers import InputOptimiser, MomentumIterative
from landform.attacks.transforms import GradientFn, Transform, transformed


class IterativeAttack:
    """x_{t+1} = Π(x_t + step_size · step(direction)): MI-FGSM, or with other parts NI, VMI, DI, TI, SI and their kin.

    Arguments:
        gradient_fn: (x, y) → the gradient to climb, such as :class:`~landform.attacks.InputGradient` of a model or of
            :class:`~landform.attacks.EnsembleLogits`.
        transforms: of inputs (``DiverseInput``, ``ScaleInvariant``, any differentiable function) and of gradients
            (``TranslationInvariant``). Images pass the former in their order, gradients then the latter.
        optimiser: ``MomentumIterative``, ``NesterovIterative`` or ``VarianceTuned``.
        ball: where the examples stay.
        steps: how many.
        step_size: eps / steps unless given.

    Calling it, ``attack(x, y)``, gives x_adv, detached, exactly in the ball and in [0, 1]. Every call starts afresh.

    Raises:
        ValueError, TypeError: as :func:`~landform.attacks.pgd` does.

    >>> from landform.attacks import InputGradient, LinfBall
    >>> model = torch.nn.Linear(3, 2).eval()
    >>> mi_fgsm = IterativeAttack(InputGradient(model), [], MomentumIterative(), LinfBall(0.1))
    >>> mi_fgsm(torch.rand(4, 3), torch.tensor([0, 1, 1, 0])).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        gradient_fn: GradientFn,
        transforms: Sequence[Transform] = (),
        optimiser: InputOptimiser | None = None,
        ball: Ball | None = None,
        *,
        steps: int = 10,
        step_size: float | None = None,
    ) -> None:
        if ball is None:
            raise ValueError("ball: an attack needs one, such as LinfBall(8 / 255)")
        check_count(steps=steps)
        check_positive(step_size=step_size)
        self.gradient_fn = gradient_fn
        self.transforms = tuple(transforms)
        self.optimiser = MomentumIterative() if optimiser is None else optimiser
        self.ball = ball
        self.steps = steps
        self.step_size = ball.eps / steps if step_size is None else step_size

    def __call__(self, x: Batch, y: Labels) -> Batch:
        check_batch(x, y)
        gradient = transformed(self.gradient_fn, self.transforms)

        def at(z: Batch) -> Batch:
            return gradient(z, y if len(z) == len(y) else y.repeat(len(z) // len(y)))

        direction = self.optimiser.directions(at, self.ball, self.step_size)
        project = self.ball.around(x)
        x_adv = project(x.detach())
        for _ in range(self.steps):
            x_adv = project(torch.add(x_adv, self.ball.step(direction(x_adv)), alpha=self.step_size))
        return check_found(x_adv)
