"""CellOT: one optimal transport map from all that is untreated to all that is treated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.flows.icnn import ICNN


class CellOT(nn.Module):
    """A transport map x ↦ ∇g(x) between two distributions, for squared Euclidean cost, from unpaired samples.

        max over f, min over g of   E_x0 [f(∇g(x0)) − ⟨x0, ∇g(x0)⟩] − E_x1 [f(x1)] + penalty · Σ ‖max(−W_g, 0)‖

    (f and g :class:`ICNN`; f's weights are clamped, g's penalised). It knows no population but the pooled ones that it
    was fitted to: one map for a treatment, whatever the patient.

    Arguments:
        dim, hidden: of both networks.

    Source: Makkuva et al., arXiv 1908.10612; CellOT (Bunne et al., Nature Methods 2023), whose defaults these are.

    >>> CellOT(dim=2, hidden=(8,)).transport(torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64, 64, 64, 64)) -> None:
        super().__init__()
        self.dim = dim
        self.f, self.g = ICNN(dim, hidden), ICNN(dim, hidden)

    def fit(
        self,
        x0: Float[Tensor, "n d"],
        x1: Float[Tensor, "m d"],
        *,
        steps: int = 100_000,
        inner_steps: int = 10,
        batch_size: int = 256,
        learning_rate: float = 1e-4,
        penalty: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " steps"]:
        """Train on all points of many populations together; (n, d) and (m, d).

        Each of ``steps`` makes ``inner_steps`` updates of g and one of f, by Adam with betas (0.5, 0.9), on
        ``batch_size`` random points of each side.

        Returns: the dual objective E f(x1) − E f(∇g(x0)) + E ⟨x0, ∇g(x0)⟩ of each step's batch before f's update.
        With both networks at the optimum it is half of (E‖x0‖² + E‖x1‖² − W2²).

        Raises:
            ValueError: sets that are not (n, d) and (m, d), or an amount below 1.
        """
        if x0.ndim != 2 or x1.ndim != 2 or x0.shape[1] != self.dim or x1.shape[1] != self.dim:
            raise ValueError(
                f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)}: must be (n, {self.dim}) and (m, {self.dim})"
            )
        for name, value in (("steps", steps), ("inner_steps", inner_steps), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        adam_f, adam_g = (
            torch.optim.Adam(net.parameters(), lr=learning_rate, betas=(0.5, 0.9)) for net in (self.f, self.g)
        )
        objectives = []
        for _ in range(steps):
            source, target = (
                x[torch.randint(len(x), (batch_size,), generator=generator).to(x.device)] for x in (x0, x1)
            )
            for _ in range(inner_steps):
                moved = self.g.gradient(source, create_graph=True)
                loss_g = (self.f(moved) - (source * moved).sum(1)).mean() + penalty * self.g.penalty()
                adam_g.zero_grad()
                loss_g.backward()
                adam_g.step()
            moved = self.g.gradient(source)
            loss_f = (self.f(target) - self.f(moved)).mean()
            adam_f.zero_grad()
            loss_f.backward()
            adam_f.step()
            self.f.clamp()
            objectives.append((loss_f + (source * moved).sum(1).mean()).detach())
        return torch.stack(objectives)

    def transport(self, x0: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """∇g at every point."""
        if x0.shape[-1] != self.dim:
            raise ValueError(f"x0 has shape {tuple(x0.shape)}: its last axis must be {self.dim}")
        return self.g.gradient(x0.reshape(-1, self.dim)).view_as(x0)
