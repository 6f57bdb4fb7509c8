"""Meta flow matching: a flow that is told the whole population it begins from."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from landform.data.populations import PointPopulations
from landform.flows.encoder import PopulationEncoder, knn_graph
from landform.flows.flow import Budget, Fields, PopulationFlow, Velocity
from landform.flows.matching import FlowMatchingLoss


class MetaFlowMatching(PopulationFlow):
    """MFM: v_t(x | φ(p_0)), a velocity field that is told an embedding of the population at t = 0.

    One training on many pairs of populations amortises their dynamics: how a population that was never seen will move
    takes one embedding and one integration. The initial population suffices as a condition since it determines all
    later ones.

    Arguments:
        encoder: φ, from points (and their node features) to a vector.
        velocity: with a condition of that many numbers (and a treatment's, which follow).
        loss: how both are trained; :class:`FlowMatchingLoss` as it comes when None.

    Source: arXiv 2408.14608.

    >>> from landform.flows import PopulationEncoder, VelocityField
    >>> model = MetaFlowMatching(PopulationEncoder(2, width=8, k=5), VelocityField(dim=2, cond_dim=8, width=16))
    >>> losses = model.fit(PointPopulations(torch.randn(4, 30, 2), torch.randn(4, 30, 2)), steps=3)
    >>> model.transport(torch.randn(7, 25, 2), steps=2).shape  # seven new ones
    torch.Size([7, 25, 2])
    """

    def __init__(self, encoder: PopulationEncoder, velocity: nn.Module, loss: FlowMatchingLoss | None = None) -> None:
        super().__init__(velocity, loss)
        self.encoder = encoder

    def fit(
        self, environments: PointPopulations, *, alternate: bool = False, **budget: Unpack[Budget]
    ) -> Float[Tensor, " steps"]:
        """Train on pairs of populations, as :class:`~landform.flows.flow.Budget` says; gives each step's loss.

        The embedding is of the whole source population, whatever points the loss is taken at; graphs are made once.

        Arguments:
            alternate: as the released code trains: odd steps update the field, told embeddings of earlier steps; even
                steps embed anew and update the encoder. Else every step updates both.
        """
        embed = TrainingEmbeddings(self.encoder, environments)
        fields: Fields
        if alternate:
            fields = Alternation(self.velocity, embed, len(environments))
        else:

            def fields(index: Tensor) -> tuple[Velocity, Tensor | None]:
                return self.velocity, embed(index)

        return self._train(environments, fields, **budget)

    @torch.no_grad()
    def transport(
        self,
        x0: Float[Tensor, "*batch n d"],
        *,
        node_features: Float[Tensor, "*batch n f"] | None = None,
        mask: Bool[Tensor, "*batch n"] | None = None,
        treatment: Float[Tensor, "*batch c"] | None = None,
        embedding: Float[Tensor, "*batch width"] | None = None,
        **solver: Any,
    ) -> Float[Tensor, "*batch n d"]:
        """Where the field carries populations, (batch, n, d) or one alone (n, d).

        Arguments:
            node_features, mask: what the encoder takes.
            treatment: of each population.
            embedding: told to the field in place of the population's own.
            solver: what :func:`integrate` takes.
        """
        if embedding is None:
            whole = (x0, node_features, mask)
            if x0.ndim == 2:
                embedding = self.encoder(*(None if part is None else part.unsqueeze(0) for part in whole)).squeeze(0)
            else:
                embedding = self.encoder(*whole)
        return self._carry(x0, embedding, treatment, **solver)


class TrainingEmbeddings:
    """The encoder on the source populations of numbered environments, whose graphs it makes once."""

    def __init__(self, encoder: PopulationEncoder, environments: PointPopulations) -> None:
        self.encoder, self.environments = encoder, environments
        self.graph = knn_graph(environments.x0, encoder.k, environments.mask0)

    def __call__(self, index: Tensor) -> Tensor:
        given = self.environments
        features, mask = (None if part is None else part[index] for part in (given.node_features, given.mask0))
        return self.encoder(given.x0[index], features, mask, graph=self.graph[index])


class Alternation:
    """Updates of the field and of the encoder in turn, by keeping the other one out of each step's gradient."""

    def __init__(self, velocity: nn.Module, embed: TrainingEmbeddings, n_environments: int) -> None:
        self.velocity, self.embed = velocity, embed
        self.kept: list[Tensor | None] = [None] * n_environments
        self.step = 0

    def __call__(self, index: Tensor) -> tuple[Velocity, Tensor | None]:
        self.step += 1
        numbers = index.tolist()
        if self.step % 2:
            new = [number for number in numbers if self.kept[number] is None]
            if new:
                with torch.no_grad():
                    self._keep(new, self.embed(index.new_tensor(new)))
            return self.velocity, torch.stack([h for number in numbers if (h := self.kept[number]) is not None])
        told = self.embed(index)
        self._keep(numbers, told.detach())
        fixed = {name: value.detach() for name, value in self.velocity.named_parameters()}
        return lambda t, x, cond: functional_call(self.velocity, fixed, (t, x, cond)), told

    def _keep(self, numbers: list[int], embeddings: Tensor) -> None:
        for number, embedding in zip(numbers, embeddings, strict=True):
            self.kept[number] = embedding
