"""The common weakness attack, and its parts: sharpness-aware steps and the cosine similarity encourager."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

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
from landform.attacks.ensemble import EnsembleLogits, Reduce
from landform.attacks.gradient import InputGradient
from landform.attacks.losses import Labels
from landform.attacks.optimisers import accumulator
from landform.attacks.transforms import GradientFn, Transform, TranslationInvariant, transformed

OuterNorm = Literal["sample", "batch"]


def common_weakness_attack(
    models: Sequence[nn.Module],
    x: Batch,
    y: Labels,
    *,
    ball: Ball,
    steps: int = 10,
    step_size: float | None = None,
    reverse_step: float | None = None,
    inner_step: float = 50.0,
    momentum: float = 1.0,
    sam: bool = True,
    cse: bool = True,
    reduce: Reduce = "mean",
    outer_norm: OuterNorm = "sample",
    transforms: Sequence[Transform] = (),
    targeted: bool = False,
) -> Batch:
    """MI-CWA: examples at points that are flat for all models and near all their optima (arXiv 2303.09105, Alg. 1).

    With the joint gradient g(x) = ∇ CE(reduce_i f_i(x), y), and each step from m̂ = m = 0 at first:

        z ← Π(x_t − reverse_step · step(g(x_t)))                                    back from the attack, as SAM
        for each model i in turn:  m̂ ← μ m̂ + ∇CE(f_i(z), y) / ‖·‖₂;  z ← Π(z + inner_step · m̂)
        m ← μ m + (z − x_t) / ‖z − x_t‖₁;   x_{t+1} ← Π(x_t + step_size · step(m))

    step is sign in an L-infinity ball. m̂ runs on through all steps. One step takes 2n model gradients, twice MI-FGSM's.

    The parts: ``sam=False`` starts the inner loop at x_t (MI-CSE). ``cse=False`` has no inner loop but one joint
    gradient at the unprojected x_t − reverse_step · step(g): m ← μ m + g / ‖g‖₁ (MI-SAM). Without both this is MI-FGSM
    on the averaged logits, with this function's step size.

    Arguments:
        models: the surrogates, in the order in which the inner loop visits them; raw inputs in [0, 1] in, logits out.
        x, y, ball, targeted: as of :func:`~landform.attacks.pgd`; a targeted attack turns every gradient, the reverse
            step's too.
        steps: outer steps.
        step_size: eps / 5 unless given.
        reverse_step: eps / 15 unless given.
        inner_step: 50 at 224×224×3, where it takes a pixel from edge to edge of a usual ball; see
            :func:`scaled_inner_step` for other sizes.
        momentum: μ, of both momenta.
        reduce: ``"mean"`` of the logits as in the paper, or their ``"sum"`` as in the paper's code.
        outer_norm: the norm of z − x_t is each sample's own, or the ``"batch"``'s as in the code, where examples depend
            on those they are made with.
        transforms: as of :class:`~landform.attacks.IterativeAttack`. Those of inputs apply to the models' gradients in
            the inner loop (to the joint one where there is no loop), those of gradients to every gradient.

    Returns x_adv, detached, exactly in the ball and in [0, 1].

    Raises:
        ValueError, TypeError: no models, an unknown name, a negative number, or as :func:`~landform.attacks.pgd` does.

    >>> from landform.attacks import LinfBall
    >>> models = [nn.Linear(3, 2).eval() for _ in range(4)]
    >>> x, y = torch.rand(5, 3), torch.tensor([0, 1, 1, 0, 1])
    >>> x_adv = common_weakness_attack(models, x, y, ball=LinfBall(0.1), inner_step=scaled_inner_step(3))
    >>> bool(((x_adv - x).abs() <= 0.1).all())
    True
    """
    models = list(models)
    check_models(models)
    check_batch(x, y)
    check_count(steps=steps)
    check_positive(step_size=step_size, inner_step=inner_step)
    check_nonnegative(reverse_step=reverse_step, momentum=momentum)
    if outer_norm not in ("sample", "batch"):
        raise ValueError(f"outer_norm={outer_norm!r}: must be 'sample' or 'batch'")
    step_size = ball.eps / 5 if step_size is None else step_size
    joint, singles = _gradients(
        models, reduce, transforms if not cse else _of_gradients(transforms), transforms, targeted
    )
    reverse = _reverse(joint, ball, reverse_step) if sam else None
    project = ball.around(x)
    x_adv = project(x.detach())
    accumulate_inner = accumulator(momentum, order=2)
    accumulate = accumulator(momentum) if not cse or outer_norm == "sample" else _batch_accumulator(momentum)
    for _ in range(steps):
        z = reverse(x_adv, y) if reverse else x_adv
        if cse:
            z = _encourage(singles, project(z), y, inner_step, accumulate_inner, project)
            m = accumulate(z - x_adv)
        else:
            m = accumulate(joint(z, y))
        x_adv = project(x_adv + step_size * ball.step(m))
    return check_found(x_adv)


def adam_common_weakness_attack(
    models: Sequence[nn.Module],
    x: Batch,
    y: Labels,
    *,
    ball: Ball,
    steps: int = 10,
    step_size: float = 1e-3,
    reverse_step: float | None = None,
    inner_step: float = 50.0,
    momentum: float = 1.0,
    reduce: Reduce = "mean",
    transforms: Sequence[Transform] = (),
    targeted: bool = False,
) -> Batch:
    """Adam-CWA: the common weakness attack that moves along z − x_t by Adam, of rate ``step_size`` (arXiv 2303.09105).

    Steps shrink where z − x_t changes its sign, so it suits many steps and large regions, such as patches. Arguments,
    result and errors are those of :func:`common_weakness_attack`; ``momentum`` is of the inner loop.
    """
    models = list(models)
    check_models(models)
    check_batch(x, y)
    check_count(steps=steps)
    check_positive(step_size=step_size, inner_step=inner_step)
    check_nonnegative(reverse_step=reverse_step, momentum=momentum)
    joint, singles = _gradients(models, reduce, _of_gradients(transforms), transforms, targeted)
    reverse = _reverse(joint, ball, reverse_step)
    project = ball.around(x)
    x_adv = project(x.detach()).clone()
    adam = torch.optim.Adam([x_adv], lr=step_size, maximize=True)
    accumulate_inner = accumulator(momentum, order=2)
    for _ in range(steps):
        z = _encourage(singles, project(reverse(x_adv, y)), y, inner_step, accumulate_inner, project)
        x_adv.grad = z - x_adv
        adam.step()
        x_adv.copy_(project(x_adv))
    x_adv.grad = None
    return check_found(x_adv)


def scaled_inner_step(numbers: int) -> float:
    """The inner step that moves one of ``numbers`` pixels as far as 50 does at 224×224×3: 50 · sqrt(numbers / 150528).

    The paper gives its 50 for one size alone. A normalised gradient spreads its length over all pixels, so that a
    typical one moves by inner_step / sqrt(numbers); this keeps that.
    """
    check_count(numbers=numbers)
    return 50.0 * math.sqrt(numbers / (224 * 224 * 3))


def _gradients(
    models: Sequence[nn.Module],
    reduce: Reduce,
    of_joint: Sequence[Transform],
    of_singles: Sequence[Transform],
    targeted: bool,
) -> tuple[GradientFn, list[GradientFn]]:
    joint = transformed(InputGradient(EnsembleLogits(models, reduce), targeted=targeted), of_joint)
    return joint, [transformed(InputGradient(model, targeted=targeted), of_singles) for model in models]


def _of_gradients(transforms: Sequence[Transform]) -> list[Transform]:
    return [t for t in transforms if isinstance(t, TranslationInvariant)]


def _reverse(joint: GradientFn, ball: Ball, size: float | None) -> GradientFn:
    """(x, y) → a point a step back from where the attack would go."""
    size = ball.eps / 15 if size is None else size
    return lambda x, y: x - size * ball.step(joint(x, y))


def _encourage(
    singles: Sequence[GradientFn],
    z: Batch,
    y: Labels,
    size: float,
    accumulate: Callable[[Batch], Batch],
    project: Callable[[Batch], Batch],
) -> Batch:
    """The cosine similarity encourager: a step for each model in turn, on normalised gradients."""
    for gradient in singles:
        z = project(z + size * accumulate(gradient(z, y)))
    return z


def _batch_accumulator(momentum: float) -> Callable[[Batch], Batch]:
    whole = accumulator(momentum)
    return lambda d: whole(d[None])[0]
