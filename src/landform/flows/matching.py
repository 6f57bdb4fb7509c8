"""Conditional flow matching: learning a velocity field from pairs of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.flows.coupling import ot_pairs

Coupling = Literal["paired", "independent", "ot"]
Base = Literal["source", "gaussian"]
Form = Literal["squared", "expanded"]


class FlowMatchingLoss(nn.Module):
    """How far a velocity field is from carrying points along straight lines to their partners.

        L = E ‖v_t(x_t | c) − u‖²,   x_t = (1 − t) x_0 + t x_1,   u = x_1 − x_0,   t ~ U(0, 1) for each pair

    Squares are summed over the d coordinates and averaged over all pairs of all populations.

    Arguments:
        coupling: which points are pairs, within each population: ``"paired"``, those of one position;
            ``"independent"``, every point of x0 with a random one of x1; ``"ot"``, as many as x0 has points, drawn from
            the exact optimal plan between the two sets as they are given: the mini-batch coupling, where these are
            mini-batches.
        base: ``"source"`` takes x0 as given; ``"gaussian"`` puts N(0, I) in its place, as many points as x1 has.
        form: ``"squared"`` is the above; ``"expanded"`` is ‖v‖² − 2⟨v, u⟩, less by E‖u‖²: of the same gradient,
            but negative where a field is good.
        generator: draws t, the Gaussian and the pairs (PyTorch's global one if None).

    Raises:
        ValueError: an unknown name; in ``forward``, x0 and x1 that are not (B, n, d) and (B, m, d), or paired sets of
            different sizes.
        ImportError: ``"ot"`` between sets of different sizes without POT (the extra ``transport``).

    Source: arXiv 2408.14608, Section 2; Lipman et al., arXiv 2210.02747; coupling: Tong et al., arXiv 2302.00482.

    >>> x0 = torch.randn(3, 50, 2)
    >>> FlowMatchingLoss()(lambda t, x: torch.ones_like(x), x0, x0 + 1).round(decimals=6)
    tensor(0.)
    """

    def __init__(
        self,
        coupling: Coupling = "paired",
        base: Base = "source",
        form: Form = "squared",
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value, allowed in (
            ("coupling", coupling, ("paired", "independent", "ot")),
            ("base", base, ("source", "gaussian")),
            ("form", form, ("squared", "expanded")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(repr, allowed))}")
        super().__init__()
        self.coupling, self.base, self.form, self.generator = coupling, base, form, generator

    def extra_repr(self) -> str:
        return f"coupling={self.coupling!r}, base={self.base!r}, form={self.form!r}"

    def forward(
        self,
        velocity: Callable[..., Tensor],
        x0: Float[Tensor, "batch n d"],
        x1: Float[Tensor, "batch m d"],
        **cond: Any,
    ) -> Float[Tensor, ""]:
        """The loss of ``velocity(t, x, **cond)``, given t (batch, n, 1) and x (batch, n, d)."""
        if x0.ndim != 3 or x1.ndim != 3 or x0.shape[::2] != x1.shape[::2]:
            raise ValueError(
                f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)}: must be (batch, n, d) and (batch, m, d) of one batch "
                "and d"
            )
        if self.base == "gaussian":
            x0 = self._random(torch.randn, x1.shape, x1)
        start, end = self._pairs(x0, x1)
        t = self._random(torch.rand, (*start.shape[:2], 1), start)
        u = end - start
        v = velocity(t, start + t * u, **cond)
        if v.shape != u.shape:
            raise ValueError(f"velocity: gave {tuple(v.shape)} for points {tuple(u.shape)}")
        each = (v - u).square() if self.form == "squared" else v.square() - 2 * v * u
        return each.sum(-1).mean()

    def _pairs(self, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        (batch, n, _), m = x0.shape, x1.shape[1]
        if self.coupling == "paired":
            if n != m:
                raise ValueError(f"coupling='paired': x0 has {n} points and x1 {m}; they must be as many")
            return x0, x1
        if self.coupling == "independent":
            device = None if self.generator is None else self.generator.device
            j = torch.randint(m, (batch, n), generator=self.generator, device=device).to(x1.device)
            return x0, take(x1, j)
        drawn = [ot_pairs(a, b, generator=self.generator) for a, b in zip(x0, x1, strict=True)]
        i, j = (torch.stack(index) for index in zip(*drawn, strict=True))
        return take(x0, i), take(x1, j)

    def _random(self, draw: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
        device = like.device if self.generator is None else self.generator.device
        return draw(shape, generator=self.generator, device=device, dtype=like.dtype).to(like.device)


def take(x: Float[Tensor, "batch n d"], index: Tensor) -> Float[Tensor, "batch k d"]:
    """Of each population the points at ``index`` (batch, k)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
