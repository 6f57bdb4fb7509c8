"""Networks that are nothing but a sequence of PyTorch's own layers, run for their input's gradient alone.

No code but PyTorch's decides what becomes of an activation there, so it is known which of them nothing needs again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from landform.training.linear import linear_by_input
from landform.training.vectorised import has_hooks

UNKEPT = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm,
)  # fmt: skip
"""Layers that give a tensor of its own, which their backward pass does without."""

FEW = range(2, 8)
"""Numbers of positions for which the backward pass of PyTorch's group normalisation is several times too slow."""


def chain(model: nn.Module) -> list[nn.Module] | None:
    """The layers of a network that is a sequence of PyTorch's own, or sequences of sequences; None for any other.

    None, too, for a network with hooks, which may keep what passes, or a compiled one.

    >>> chain(nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(2, 3), nn.ReLU())))
    [Flatten(start_dim=1, end_dim=-1), Linear(in_features=2, out_features=3, bias=True), ReLU()]
    """
    layers: list[nn.Module] = []
    return layers if _append(model, layers) and not _has_any_global_hook() else None


def _append(module: nn.Module, layers: list[nn.Module]) -> bool:
    if has_hooks(module) or module._compiled_call_impl is not None:
        return False
    if type(module).forward is nn.Sequential.forward:
        return all(_append(child, layers) for child in module._modules.values() if child is not None)
    layers.append(module)
    return not module._modules and type(module).__module__.startswith("torch.nn.modules.")


def chain_by_input(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What the layers give one after another, to rounding, for a backward pass that is only after x's gradient.

    Rectifiers write over the output of a convolution or normalisation, linear layers are those of
    :func:`~landform.training.linear.linear_by_input`.
    """
    before: nn.Module | None = None
    for layer in layers:
        if type(layer) is nn.ReLU and type(before) in UNKEPT:
            x = torch.relu_(x)
        elif type(layer) is nn.Linear:
            x = linear_by_input(x, layer.weight, layer.bias)
        elif type(layer) is nn.GroupNorm and x.ndim > 2 and math.prod(x.shape[2:]) in FEW:
            x = _group_norm(layer, x)
        else:
            x = layer(x)
        before = layer
    return x


def _group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation as a layer normalisation of each group, which has a fast backward pass."""
    groups = x.reshape(len(x), layer.num_groups, -1)
    out = F.layer_norm(groups, groups.shape[2:], eps=layer.eps).view(x.shape)
    if layer.weight is None:
        return out
    weight = layer.weight.view(-1, *(1,) * (x.ndim - 2))
    return out * weight if layer.bias is None else torch.addcmul(layer.bias.view_as(weight), out, weight)
