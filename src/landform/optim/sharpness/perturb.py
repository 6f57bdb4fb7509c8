"""One step of gradient ascent on inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from landform.optim.sharpness.wrapper import check_rho

PerturbMode = Literal["sample", "batch", "style"]


def perturb_inputs(
    loss_fn: Callable[[Tensor], Float[Tensor, ""]],
    x: Float[Tensor, "batch ..."],
    radius: float,
    mode: PerturbMode = "sample",
    lower: float | None = None,
    upper: float | None = None,
) -> Float[Tensor, "batch ..."]:
    """Move inputs one step up the loss; what comes out is a constant, without a graph.

    With D the gradient of ``loss_fn`` at x:

    ``"sample"``
        x_i + radius D_i / ||D_i||_2: every sample moves by ``radius``, or stays where its gradient is zero.
    ``"batch"``
        x + radius D / max(||D||_2 over the batch, 1e-12): at every position the moves of all samples together have
        the norm ``radius``. So released code does it, and samples are not independent; ``radius`` is no distance.
    ``"style"``
        x = z s + m, with m the mean and s = sqrt(variance + 1e-5) of each image's channel (unbiased over H, W) and z
        kept: m and s each take a step of ``radius`` times their gradient, which is not normalised. Released code for
        this forgets to rebuild the image and so changes nothing; here it is rebuilt.

    Arguments:
        loss_fn: gives one number for inputs of x's shape; gradients reach parameters through it only if it asks.
        x: floating point, samples first; images (batch, channels, H, W) for ``"style"``.
        radius: how far, zero or more.
        lower, upper: clip to these, where inputs have a physical range (released code does not).

    Raises:
        TypeError: inputs that are not floating point.
        ValueError: a negative radius, an unknown mode, lower above upper, a wrong shape, or a loss of several numbers.

    Source: arXiv 2403.07329; its code for "batch" and "style".

    >>> perturb_inputs(lambda x: (x * torch.tensor([3.0, 4.0])).sum(), torch.zeros(1, 2), radius=10.0)
    tensor([[6., 8.]])
    """
    check_rho("radius", radius)
    if mode not in get_args(PerturbMode):
        raise ValueError(f"mode={mode!r}: must be one of {', '.join(map(repr, get_args(PerturbMode)))}")
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; inputs to be moved must be floating point")
    if x.ndim < 1 or not x.numel():
        raise ValueError(f"x has shape {tuple(x.shape)}; there must be samples, on the first axis")
    if lower is not None and upper is not None and not lower <= upper:
        raise ValueError(f"lower={lower}: must not be above upper={upper}")
    x = x.detach()
    moved = _restyled(loss_fn, x, radius) if mode == "style" else x + radius * _direction(loss_fn, x, mode)
    return moved if lower is None and upper is None else moved.clamp(lower, upper)


def _direction(loss_fn: Callable[[Tensor], Tensor], x: Tensor, mode: PerturbMode) -> Tensor:
    (gradient,) = _gradients(loss_fn, x.clone().requires_grad_(), lambda leaf: leaf)
    if mode == "batch":
        return F.normalize(gradient, p=2.0, dim=0, eps=1e-12)
    flat = gradient.flatten(1) if gradient.ndim > 1 else gradient.unsqueeze(1)
    # Gradients of samples that are fitted well are tiny: without this their squares would vanish.
    peak = flat.abs().amax(1, keepdim=True)
    flat = torch.where(peak == 0, 0.0, flat / peak)
    return F.normalize(flat, p=2.0, dim=1).reshape(x.shape)


def _restyled(loss_fn: Callable[[Tensor], Tensor], x: Tensor, radius: float) -> Tensor:
    if x.ndim != 4 or x[0, 0].numel() < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; mode='style' needs images (batch, channels, height, width)")
    mean = x.mean((2, 3), keepdim=True)
    spread = (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
    content = (x - mean) / spread
    style = torch.stack([mean, spread]).requires_grad_()
    (gradient,) = _gradients(loss_fn, style, lambda leaf: content * leaf[1] + leaf[0])
    mean, spread = style.detach() + radius * gradient
    return content * spread + mean


def _gradients(
    loss_fn: Callable[[Tensor], Tensor], leaf: Tensor, inputs: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        value = loss_fn(inputs(leaf))
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss_fn: must give one number, got {shape}")
        return torch.autograd.grad(value, leaf)
