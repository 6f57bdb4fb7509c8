"""Linear layers whose weights are not differentiated, by the fastest exact product that the processor has.

PyTorch multiplies single-precision matrices by MKL, which leaves half of some processors' arithmetic unused (AMD's with
AVX-512 among them); oneDNN, which it ships for convolutions, does not.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORTHWHILE = 2**21
"""Multiplications from which the other library's longer way into its kernel pays."""


def linear_by_input(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b as ``F.linear`` gives it, to rounding, for a backward pass that is only after x's gradient.

    The result requires a gradient whenever ``F.linear``'s does, but no gradient reaches ``weight`` and ``bias``, and
    the backward pass cannot be differentiated again.
    """
    if not faster(x, weight):
        return F.linear(x, weight, bias)
    out: Tensor = _LinearByInput.apply(x, weight, bias)
    return out


def faster(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`linear_by_input` has a faster way than ``F.linear`` for these."""
    return (
        type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.ndim >= 2
        and math.prod(x.shape[:-1]) * weight.numel() >= WORTHWHILE
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._functorch.maybe_current_level()
        and has_onednn()
    )


@cache
def has_onednn() -> bool:
    """Whether this PyTorch can multiply by oneDNN, on a processor where that gains."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    flat = x if x.ndim == 2 else x.flatten(0, -2)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "none", [], "")
    return out if x.ndim == 2 else out.view(*x.shape[:-1], -1)


class _LinearByInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x.detach(), weight.detach(), None if bias is None else bias.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(deltas[0], weight.T) if ctx.needs_input_grad[0] else None, None, None
