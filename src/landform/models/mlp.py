"""Multilayer perceptrons."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}

Activation = str | Callable[[], nn.Module]


def make_activation(activation: Activation) -> nn.Module:
    """A new activation layer, from its name or from what makes one."""
    if callable(activation):
        return activation()
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: must be one of {', '.join(ACTIVATIONS)}, or make a module")
    return ACTIVATIONS[activation]()


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """That sizes are whole numbers of at least 1."""
    for name, value in sizes.items():
        for size in value if isinstance(value, Sequence) else (value,):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name}={value!r}: sizes must be whole numbers of at least 1")


class MLP(nn.Sequential):
    """A multilayer perceptron on flattened inputs.

        h_0 = flatten(x);  h_k = dropout(activation(norm(W_k h_{k−1} + b_k)));  output = W h_L + b

    It has two parts: ``features``, all but the last linear layer, and ``head``. As a sequence of plain layers it runs
    on the fastest engine of :class:`landform.training.Stack`. Layers are initialised as PyTorch does by default.

    Arguments:
        in_features: numbers in one input, whatever its shape.
        hidden: widths of the hidden layers; none makes a linear model.
        out_features: numbers in one output.
        activation: a name (``relu``, ``tanh``, ``gelu``, …), or a callable that makes a module.
        norm: ``"batch"``, ``"layer"`` or None, before each activation. Before batch normalisation the linear layers
            have no bias: it would be subtracted again.
        dropout: the probability of dropping a hidden feature in training mode.

    Raises:
        ValueError: sizes below 1, an unknown name, or a dropout outside [0, 1).

    >>> import torch
    >>> MLP(64, (32, 16), 10)(torch.randn(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    features: nn.Sequential
    head: nn.Linear

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: Activation = "relu",
        norm: Literal["batch", "layer"] | None = None,
        dropout: float = 0.0,
    ) -> None:
        check_sizes(in_features=in_features, hidden=hidden, out_features=out_features)
        if norm not in ("batch", "layer", None):
            raise ValueError(f"norm={norm!r}: must be 'batch', 'layer' or None")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: must be in [0, 1)")
        layers: list[nn.Module] = [nn.Flatten()]
        width = in_features
        for size in hidden:
            layers.append(nn.Linear(width, size, bias=norm != "batch"))
            if norm is not None:
                layers.append(nn.BatchNorm1d(size) if norm == "batch" else nn.LayerNorm(size))
            layers.append(make_activation(activation))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        super().__init__(OrderedDict(features=nn.Sequential(*layers), head=nn.Linear(width, out_features)))
