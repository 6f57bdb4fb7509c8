"""A flow that is told which training environment it is in."""

from __future__ import annotations

from typing import Any, Unpack

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from landform.data.populations import PointPopulations
from landform.flows.flow import Budget, PopulationFlow
from landform.flows.matching import FlowMatchingLoss
from landform.models.mlp import check_sizes


class ConditionalFlowMatching(PopulationFlow):
    """CGFM: v_t(x | e), with e the one-hot number of the environment.

    An environment never seen has no number: it is given the uniform average of all, as the released code does.

    Arguments:
        velocity: with a condition of ``n_environments`` numbers (and a treatment's).
        n_environments: how many there are to train on.

    Source: arXiv 2408.14608, Section 5.

    >>> import torch
    >>> from landform.flows import VelocityField
    >>> model = ConditionalFlowMatching(VelocityField(dim=2, cond_dim=4, width=16), n_environments=4)
    >>> losses = model.fit(PointPopulations(torch.randn(4, 30, 2), torch.randn(4, 30, 2)), steps=3)
    >>> model.transport(torch.randn(7, 30, 2), steps=2).shape  # seven new ones
    torch.Size([7, 30, 2])
    """

    def __init__(self, velocity: nn.Module, n_environments: int, loss: FlowMatchingLoss | None = None) -> None:
        check_sizes(n_environments=n_environments)
        super().__init__(velocity, loss)
        self.n_environments = n_environments

    def fit(self, environments: PointPopulations, **budget: Unpack[Budget]) -> Float[Tensor, " steps"]:
        """Train on pairs of populations, as :class:`~landform.flows.flow.Budget` says; gives each step's loss.

        Raises:
            ValueError: another number of environments than the model's.
        """
        if len(environments) != self.n_environments:
            raise ValueError(f"environments: {len(environments)}, but n_environments={self.n_environments}")
        return self._train(environments, lambda index: (self.velocity, self._one_hot(index)), **budget)

    def transport(
        self,
        x0: Float[Tensor, "batch n d"],
        environment: Int64[Tensor, " batch"] | None = None,
        *,
        treatment: Tensor | None = None,
        **solver: Any,
    ) -> Float[Tensor, "batch n d"]:
        """Where the field carries populations.

        Arguments:
            environment: the number of each among the training environments; None where they are new.
            solver: what :func:`integrate` takes.
        """
        if environment is None:
            told = x0.new_full((*x0.shape[:-2], self.n_environments), 1 / self.n_environments)
        elif environment.shape != x0.shape[:-2] or not bool(
            ((environment >= 0) & (environment < self.n_environments)).all()
        ):
            raise ValueError(f"environment: must be {tuple(x0.shape[:-2])} numbers below {self.n_environments}")
        else:
            told = self._one_hot(environment)
        return self._carry(x0, told, treatment, **solver)

    def _one_hot(self, index: Tensor) -> Tensor:
        dtype = next(self.velocity.parameters()).dtype
        return F.one_hot(index, self.n_environments).to(dtype)
