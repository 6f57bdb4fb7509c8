"""The network of a velocity field, with Fourier features of place and time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.models import MLP
from landform.models.mlp import check_sizes

TIME_FREQUENCIES = (1.0, 1e-4)
"""The first and the last frequency of the transformer's sinusoids, in radians per unit of time."""


def time_embedding(
    t: Float[Tensor, "*batch 1"], dim: int, frequencies: tuple[float, float] = TIME_FREQUENCIES
) -> Float[Tensor, "*batch dim"]:
    """Sines, then cosines, of time at ``dim // 2`` frequencies from the first to the last of two, evenly in logarithm.

        [sin(ω_i t); cos(ω_i t)],   ω_i = ω_first (ω_last/ω_first)^(i/(half − 1)),   i = 0 … half − 1

    An odd ``dim`` ends in a zero. The default is the transformer's, exp(−ln(10000) i/(half − 1)), which for t in [0, 1]
    is nearly constant in all but the first few.

    >>> time_embedding(torch.zeros(1), 5)
    tensor([0., 0., 1., 1., 0.])
    """
    half = dim // 2
    first, last = (math.log(frequency) for frequency in frequencies)
    steps = torch.arange(half, device=t.device, dtype=t.dtype) / max(half - 1, 1)
    angle = t * torch.exp(first + (last - first) * steps)
    return torch.cat([angle.sin(), angle.cos(), t.new_zeros(*t.shape[:-1], dim % 2)], dim=-1)


class VelocityField(nn.Module):
    """v_t(x | c): a multilayer perceptron on a condition, time, and the place with random Fourier features of it.

        z = [c; time embedding; cos(2π x B); sin(2π x B); x],   B ~ frequency_scale · N(0, 1), (d, n_frequencies), fixed
        v = MLP(z), with SELU

    ``residual=False``: ``depth`` linear layers, the last to the output. ``residual=True``: one into the width, then
    ``depth − 1`` blocks h ← SELU(W h + b + h), and one to the output. (The released code compares plain fields with a
    residual one; for a fair comparison take one kind for all.) The condition holds whatever the field is to know:
    a population's embedding, a treatment, or both after one another.

    Arguments:
        dim: d, the coordinates of a point.
        cond_dim: numbers in a condition; 0 for none.
        frequency_scale: cycles per unit of x. 0.01 is the paper's; at small widths 0.1 learns faster.
        time_frequencies: first and last frequency of the time embedding, see :func:`time_embedding`. The paper's leave
            little but t itself and its cosine; (1, 30) learns faster at small widths.
        generator: draws B (PyTorch's global one if None).

    B is a buffer, so checkpoints hold it.

    Raises:
        ValueError: sizes below 1 (``cond_dim`` below 0), a scale or frequency that is not positive; in ``forward``,
            shapes that do not fit.

    Source: arXiv 2408.14608, Section 4 and its released code.

    >>> field = VelocityField(dim=2, cond_dim=3, width=16)
    >>> field(torch.tensor(0.5), torch.randn(4, 10, 2), torch.randn(4, 3)).shape
    torch.Size([4, 10, 2])
    """

    B: Tensor

    def __init__(
        self,
        dim: int,
        cond_dim: int = 0,
        width: int = 512,
        depth: int = 4,
        time_dim: int = 128,
        n_frequencies: int = 128,
        frequency_scale: float = 0.01,
        residual: bool = False,
        *,
        time_frequencies: tuple[float, float] = TIME_FREQUENCIES,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(dim=dim, width=width, depth=depth, time_dim=time_dim, n_frequencies=n_frequencies)
        if not isinstance(cond_dim, int) or cond_dim < 0:
            raise ValueError(f"cond_dim={cond_dim!r}: must be a whole number of at least 0")
        if not 0 < frequency_scale < math.inf:
            raise ValueError(f"frequency_scale={frequency_scale}: must be positive and finite")
        if len(time_frequencies) != 2 or not all(0 < frequency < math.inf for frequency in time_frequencies):
            raise ValueError(f"time_frequencies={time_frequencies}: must be two positive numbers")
        super().__init__()
        self.dim, self.cond_dim, self.time_dim, self.time_frequencies = dim, cond_dim, time_dim, time_frequencies
        features = cond_dim + time_dim + 2 * n_frequencies + dim
        self.net: nn.Module
        if residual:
            blocks = [ResidualLayer(width) for _ in range(depth - 1)]
            self.net = nn.Sequential(nn.Linear(features, width), nn.SELU(), *blocks, nn.Linear(width, dim))
        else:
            self.net = MLP(features, (width,) * (depth - 1), dim, activation=nn.SELU)
        self.register_buffer("B", frequency_scale * torch.randn(dim, n_frequencies, generator=generator))

    def forward(
        self,
        t: Float[Tensor, ""] | Float[Tensor, "*batch 1"] | Float[Tensor, "*batch"],
        x: Float[Tensor, "*batch d"],
        cond: Float[Tensor, "*batch cond_dim"] | None = None,
    ) -> Float[Tensor, "*batch d"]:
        """The velocity at time t and place x.

        Arguments:
            t: one time for all points, or one for each, with or without a last axis of length 1.
            x: points (…, d), such as those of several populations (batch, n, d).
            cond: a condition for each point (…, cond_dim), or one for all points of a population, (batch, cond_dim).
        """
        if x.ndim < 1 or x.shape[-1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}: its last axis must be dim={self.dim}")
        lead = x.shape[:-1]
        if t.ndim and t.shape == lead and t.ndim != x.ndim:
            t = t.unsqueeze(-1)
        when = time_embedding(t.to(x.dtype).expand(*lead, 1), self.time_dim, self.time_frequencies)
        angle = 2 * math.pi * x @ self.B
        parts = [when, angle.cos(), angle.sin(), x]
        if self.cond_dim:
            if cond is None or cond.shape[-1] != self.cond_dim:
                given = None if cond is None else tuple(cond.shape)
                raise ValueError(f"cond: {given}, but its last axis must be cond_dim={self.cond_dim}")
            of_population = cond.ndim == x.ndim - 1
            parts.insert(0, (cond.unsqueeze(-2) if of_population else cond).expand(*lead, -1))
        elif cond is not None and cond.shape[-1]:
            raise ValueError(f"cond: {tuple(cond.shape)}, but the field has cond_dim=0")
        flat = torch.cat(parts, dim=-1).reshape(-1, self.cond_dim + self.time_dim + 2 * self.B.shape[1] + self.dim)
        return self.net(flat).view(*lead, self.dim)


class ResidualLayer(nn.Module):
    """h ← SELU(W h + b + h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, h: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        return nn.functional.selu(self.linear(h) + h)
