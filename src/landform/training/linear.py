"""Linear layers for a backward pass that is only after their inputs' gradients: a faster way to the same numbers.

PyTorch multiplies single-precision matrices by MKL, which leaves half of some processors' arithmetic unused (AMD's with
AVX-512 among them); oneDNN, which it ships for convolutions, does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from landform.training.vectorised import is_compiled

WORTHWHILE = 2**22
"""The multiplications from which the other library's longer way into its kernel pays, as measured."""


class LinearByInput(TorchFunctionMode):
    """While active, ``F.linear`` is :func:`linear_by_input`, in every layer that uses it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (linear_by_input if func is F.linear else func)(*args, **(kwargs or {}))


def fewest_samples(model: nn.Module) -> float:
    """From how many samples on :class:`LinearByInput` is likely to make a model's passes faster: infinity if never."""
    own = (parameter for module in model.modules() for parameter in module._parameters.values())
    widest = max((parameter.numel() for parameter in own if parameter is not None and parameter.ndim == 2), default=0)
    if not widest or not has_onednn() or is_compiled(model):
        return math.inf
    # The mode itself adds to every call in the network, which several threads make up for later than one.
    return WORTHWHILE / widest * (1 if torch.get_num_threads() == 1 else 8)


def linear_by_input(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b as ``F.linear`` gives it, to rounding.

    The result requires a gradient whenever ``F.linear``'s does, but none ever reaches ``weight`` and ``bias``.
    """
    if not faster(x, weight):
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(x, weight, bias)
    return out


def faster(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`linear_by_input` has a faster way than ``F.linear`` for these."""
    return (
        type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.ndim >= 2
        and math.prod(x.shape[:-1]) * weight.numel() >= WORTHWHILE
        and has_onednn()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._functorch.maybe_current_level()
    )


@cache
def has_onednn() -> bool:
    """Whether this PyTorch can multiply by oneDNN, on a processor where that gains."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        flat = x if x.ndim == 2 else x.flatten(0, -2)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(flat, weight, bias, "none", [], "")
        return out if x.ndim == 2 else out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        return linear_by_input(deltas[0], weight.detach().T) if ctx.needs_input_grad[0] else None, None, None
