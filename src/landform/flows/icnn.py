"""A network that is convex in its input."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from landform.models.mlp import check_sizes

SLOPE = 0.2
INIT = 0.1


class ICNN(nn.Module):
    """φ(x), convex in x: an input-convex network, whose gradient can be an optimal transport map.

        z_1 = LeakyReLU(A_0 x + b_0)²,   z_{l+1} = LeakyReLU(W_l z_l + A_l x + b_l),   φ = W_L z_L + A_L x + b_L

    with the slope 0.2, convex while all W_l ≥ 0: :meth:`clamp` makes them so, :meth:`penalty` asks for it. Weights
    begin uniform in [0, 0.1], biases zero.

    Arguments:
        dim: d, the coordinates of a point.
        hidden: widths of z_1, …, z_L; at least one.

    Raises:
        ValueError: sizes below 1, or no hidden layer.

    Source: Amos, Xu & Kolter, arXiv 1609.07152, as in CellOT (Bunne et al., Nature Methods 2023).

    >>> ICNN(2, (16, 16))(torch.randn(5, 2)).shape
    torch.Size([5])
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64, 64, 64, 64)) -> None:
        check_sizes(dim=dim, hidden=hidden)
        if not hidden:
            raise ValueError("hidden=(): there must be at least one hidden layer")
        super().__init__()
        widths = (*hidden, 1)
        self.convex = nn.ModuleList(nn.Linear(below, above, bias=False) for below, above in pairwise(widths))
        self.direct = nn.ModuleList(nn.Linear(dim, width) for width in widths)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.uniform_(parameter, 0, INIT)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        z = F.leaky_relu(self.direct[0](x), SLOPE).square()
        for convex, direct in zip(self.convex[:-1], self.direct[1:-1], strict=True):
            z = F.leaky_relu(convex(z) + direct(x), SLOPE)
        return (self.convex[-1](z) + self.direct[-1](x)).squeeze(-1)

    def gradient(self, x: Float[Tensor, "n d"], create_graph: bool = False) -> Float[Tensor, "n d"]:
        """∇φ(x), which a loss can train φ through where ``create_graph`` is set."""
        with torch.enable_grad():
            inputs = x if x.requires_grad and create_graph else x.detach().requires_grad_()
            (found,) = torch.autograd.grad(self(inputs).sum(), inputs, create_graph=create_graph)
        return found

    @torch.no_grad()
    def clamp(self) -> None:
        """Make every W_l ≥ 0."""
        for weight in self.convex.parameters():
            weight.clamp_(min=0)

    def penalty(self) -> Float[Tensor, ""]:
        """Σ_l ‖max(−W_l, 0)‖, Frobenius: zero where φ is convex."""
        return torch.stack([F.relu(-weight).norm() for weight in self.convex.parameters()]).sum()
