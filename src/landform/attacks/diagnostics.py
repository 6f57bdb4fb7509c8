"""Why examples transfer: how models' gradients agree at a point, and how flat their losses are around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from landform.attacks.balls import Batch
from landform.attacks.checks import check_batch, check_count, check_labels, check_logits, check_models, check_positive
from landform.attacks.gradient import InputGradient
from landform.attacks.losses import Labels
from landform.attacks.optimisers import TINY


def gradient_cosine(models: Sequence[nn.Module], x: Batch, y: Labels) -> float:
    """The mean cosine of two models' gradients ∇_x CE(f_i(x), y), over all pairs of models and all samples.

    A sample whose gradient is zero counts as cosine 0. See arXiv 2303.09105, Sec. 3.3.

    Raises:
        ValueError, TypeError: fewer than two models, or as :func:`~landform.attacks.pgd` does.
    """
    check_models(models)
    if len(models) < 2:
        raise ValueError(f"models: a cosine is of two gradients, but there is {len(models)} model")
    check_batch(x, y)
    gradients = torch.stack([InputGradient(model)(x, y).flatten(1) for model in models], dim=1)
    unit = gradients / (torch.linalg.vector_norm(gradients, dim=2, keepdim=True) + TINY)
    cosines = unit @ unit.mT
    first, second = torch.triu_indices(len(models), len(models), offset=1)
    return float(cosines[:, first, second].double().mean())


@torch.no_grad()
def input_sharpness(
    models: Sequence[nn.Module],
    x: Batch,
    y: Labels,
    rho: float,
    samples: int,
    generator: torch.Generator | None = None,
) -> float:
    """How much cross-entropy changes nearby: mean |J_i(x + rho · s) − J_i(x)| over models, samples and random signs s.

    ``samples`` draws of s are shared by the models; the points may leave [0, 1].

    Raises:
        ValueError, TypeError: rho not positive, samples below 1, or as :func:`~landform.attacks.pgd` does.
    """
    check_models(models)
    check_batch(x, y)
    check_positive(rho=rho)
    check_count(samples=samples)
    here = torch.stack([_losses(model, x, y) for model in models])
    changes = []
    for _ in range(samples):
        signs = torch.randint(2, x.shape, device=x.device, generator=generator).to(x.dtype).mul_(2).sub_(1)
        near = torch.stack([_losses(model, x + rho * signs, y) for model in models])
        changes.append((near - here).abs())
    return float(torch.stack(changes).double().mean())


@torch.no_grad()
def loss_section(
    model: nn.Module,
    x: Batch,
    direction: Batch,
    radii: Sequence[float] | Float[Tensor, " radii"],
    y: Labels | None = None,
) -> Float[Tensor, "radii batch"]:
    """Cross-entropy along a line through each sample: J(x + r · direction) for every r of ``radii``.

    ``y`` are the classes that the model gives at x, unless given. The points may leave [0, 1].

    Raises:
        ValueError, TypeError: a direction of another shape, no radii, or as :func:`~landform.attacks.pgd` does.
    """
    check_models([model], "model")
    check_batch(x, y)
    if direction.shape != x.shape or not bool(direction.isfinite().all()):
        raise ValueError(f"direction: has shape {tuple(direction.shape)}; must be finite, and {tuple(x.shape)} as x")
    line = torch.as_tensor(radii, dtype=x.dtype, device=x.device)
    if line.ndim != 1 or not len(line) or not bool(line.isfinite().all()):
        raise ValueError(f"radii={radii}: must be a list of finite numbers, at least one")
    if y is None:
        y = model(x).argmax(1)
    return torch.stack([_losses(model, x + r * direction, y) for r in line])


def _losses(model: nn.Module, x: Batch, y: Labels) -> Float[Tensor, " batch"]:
    logits = model(x)
    check_logits(logits, x)
    check_labels(logits, y)
    return F.cross_entropy(logits, y, reduction="none")
