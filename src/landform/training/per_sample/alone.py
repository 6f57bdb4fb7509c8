"""Normalisation as each sample would see it alone.

A network in training mode that is given one sample normalises with that sample's own spatial statistics and updates its
running averages. Vectorised over samples, the first must be kept and the second left out: an update under ``vmap``
would write one value a sample into a single buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class AloneStatistics(TorchFunctionMode):
    """While active, batch and instance normalisation that would update running statistics compute without them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return batch_norm_alone(*args, **kwargs)
        if func is F.instance_norm:
            return instance_norm_alone(*args, **kwargs)
        return func(*args, **kwargs)


def batch_norm_alone(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.batch_norm`` that never touches the running statistics."""
    if training:
        if input.shape[0] == 1 and input[0, 0].numel() == 1:
            raise ValueError(
                "batch normalisation in training mode has a single value per channel when a sample stands alone, so "
                "its variance is zero; put the module in eval mode or use GroupNorm"
            )
        running_mean = running_var = None
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm_alone(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``F.instance_norm`` that never touches the running statistics."""
    if use_input_stats:
        running_mean = running_var = None
    return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def clones(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a module's buffers, for a forward pass that may write to them."""
    return {name: buffer.clone() for name, buffer in buffers.items()}
