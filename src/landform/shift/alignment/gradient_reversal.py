"""A layer that is the identity forward, and turns the gradient round on its way back."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Reverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, coefficient: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.coefficient = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * gradients[0], None


class GradientReversal(nn.Module):
    """y = x, with the gradient -coefficient · dl/dy: what comes before it maximises what comes after it minimises.

    Arguments:
        coefficient: at least 0; may be changed between steps.

    Raises:
        ValueError: a coefficient that is negative or not finite.

    Source: DANN, arXiv 1505.07818, section 4.2.

    >>> x = torch.ones(2, requires_grad=True)
    >>> GradientReversal(0.5)(x).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """

    def __init__(self, coefficient: float = 1.0) -> None:
        super().__init__()
        if not 0 <= coefficient < float("inf"):
            raise ValueError(f"coefficient={coefficient}: must be finite and at least 0")
        self.coefficient = coefficient

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _Reverse.apply(x, self.coefficient)

    def extra_repr(self) -> str:
        return f"coefficient={self.coefficient}"
