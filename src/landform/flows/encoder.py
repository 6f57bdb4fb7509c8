"""An embedding of a whole set of points, by graph convolutions over its nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from landform.models.mlp import check_sizes

EPS = 1e-12
DENSE = 16
"""A set is small where it has at most so many times the points of a neighbourhood."""
MOST_DISTANCES = 2**24
"""Held at once while neighbours are looked for."""


def knn_graph(
    x: Float[Tensor, "batch n d"], k: int, mask: Bool[Tensor, "batch n"] | None = None
) -> Int64[Tensor, "batch n k+1"]:
    """Of every point its own position and those of its k nearest others, by Euclidean distance within its set.

    k is clipped to n − 1. Where ``mask`` leaves a set fewer than k + 1 points, the rest of a row is −1.
    """
    batch, n, _ = x.shape
    k = min(k, n - 1)
    own = torch.arange(n, device=x.device).expand(batch, n).unsqueeze(-1)
    if k == 0:
        return own
    at_once = max(1, MOST_DISTANCES // n**2)
    present = [None] * batch if mask is None else mask.split(at_once)
    nearest = [_nearest(part, k, there) for part, there in zip(x.split(at_once), present, strict=False)]
    return torch.cat([own, torch.cat(nearest)], dim=-1)


def _nearest(x: Tensor, k: int, mask: Tensor | None) -> Tensor:
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    if mask is not None:
        distance = distance.masked_fill(~mask.unsqueeze(1), torch.inf)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    found = distance.topk(k, largest=False)
    return found.indices.masked_fill(found.values == torch.inf, -1)


class PopulationEncoder(nn.Module):
    """h = φ(X): one vector for a set of points, whatever their order and number.

        Z_0 = [X; node features],   Z_l = ReLU(Â Z_{l−1} W_l + b_l) (no ReLU after the last),   h = mean_i Z_L,i / ‖·‖

    with Â = D^(−1/2) (A + I) D^(−1/2) of the directed graph in which k edges enter each point, from its nearest others.
    D counts the edges that enter, k + 1 at every point, so Â is the mean over a point and its neighbours.
    The graph knows coordinates alone. With k = 0 there is no edge, and the encoder is a DeepSets network.

    Arguments:
        in_dim: coordinates and node features of a point together.
        width, depth: of the graph convolutions.
        k: neighbours of a point; clipped to all others.
        normalise: divide by the Euclidean norm, so that ‖h‖ = 1: magnitude survives only through direction.
        pool: ``"mean"``, or ``"max"``, over the points.

    Weights are initialised as graph convolutions usually are: Glorot's uniform, and zero biases.

    Raises:
        ValueError: sizes out of range, an unknown pool; in ``forward``, shapes that do not fit or an empty set.

    Source: arXiv 2408.14608, Section 4.1; Kipf & Welling, arXiv 1609.02907.

    >>> encoder = PopulationEncoder(in_dim=2, width=8, k=5)
    >>> encoder(torch.randn(3, 20, 2)).norm(dim=1).round(decimals=4).detach()
    tensor([1., 1., 1.])
    """

    def __init__(
        self,
        in_dim: int,
        width: int = 64,
        depth: int = 3,
        k: int = 50,
        normalise: bool = True,
        pool: Literal["mean", "max"] = "mean",
    ) -> None:
        check_sizes(in_dim=in_dim, width=width, depth=depth)
        if not isinstance(k, int) or k < 0:
            raise ValueError(f"k={k!r}: must be a whole number of at least 0")
        if pool not in ("mean", "max"):
            raise ValueError(f"pool={pool!r}: must be 'mean' or 'max'")
        super().__init__()
        self.in_dim, self.width, self.k, self.normalise, self.pool = in_dim, width, k, normalise, pool
        self.layers = nn.ModuleList(nn.Linear(in_dim if layer == 0 else width, width) for layer in range(depth))
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def extra_repr(self) -> str:
        return f"k={self.k}, normalise={self.normalise}, pool={self.pool!r}"

    def forward(
        self,
        x: Float[Tensor, "batch n d"],
        node_features: Float[Tensor, "batch n f"] | None = None,
        mask: Bool[Tensor, "batch n"] | None = None,
        *,
        graph: Int64[Tensor, "batch n k+1"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """The embeddings of several sets.

        Arguments:
            x: coordinates.
            node_features: what else is known of each point, such as its one-hot cell type.
            mask: true where a point is there; for sets of different sizes, padded to one.
            graph: :func:`knn_graph` of these very points, where it is known beforehand.
        """
        z = x if node_features is None else torch.cat([x, node_features], dim=-1)
        if x.ndim != 3 or z.shape[-1] != self.in_dim:
            raise ValueError(
                f"x {tuple(x.shape)} with node features gives {z.shape[-1]} numbers a point: must be (batch, n, d) "
                f"and in_dim={self.in_dim}"
            )
        batch, n, _ = x.shape
        if n == 0 or (mask is not None and not bool(mask.any(1).all())):
            raise ValueError("x: a population has no point")
        if mask is not None and mask.shape != (batch, n):
            raise ValueError(f"mask has shape {tuple(mask.shape)}: must be {(batch, n)}")
        if graph is None:
            graph = knn_graph(x.detach(), self.k, mask)
        average = averaging(graph, z.dtype)
        for number, layer in enumerate(self.layers):
            z = layer(average(z))
            if number + 1 < len(self.layers):
                z = torch.relu(z)
        h = self._pooled(z, mask)
        return h / h.norm(dim=1, keepdim=True).clamp(min=EPS) if self.normalise else h

    def _pooled(self, z: Tensor, mask: Tensor | None) -> Tensor:
        if self.pool == "max":
            return (z if mask is None else z.masked_fill(~mask.unsqueeze(-1), -torch.inf)).amax(1)
        if mask is None:
            return z.mean(1)
        return z.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / mask.sum(1, keepdim=True)


def averaging(graph: Int64[Tensor, "batch n k+1"], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """What takes of every point the mean over the points that its row of ``graph`` names; −1 names none.

    Of small sets by a matrix, which is faster, of large ones by look-up, which needs no n² numbers.
    """
    batch, n, row = graph.shape
    if row == 1:
        return lambda z: z
    if n <= DENSE * row:
        named = graph >= 0
        share = named.to(dtype) / named.sum(-1, keepdim=True)
        dense = torch.zeros(batch, n, n, dtype=dtype, device=graph.device)
        dense.scatter_add_(2, graph.clamp(min=0), share)
        return dense.matmul
    nobody = batch * n  # a row of zeros that does not count
    offset = n * torch.arange(batch, device=graph.device).view(-1, 1, 1)
    rows = torch.where(graph < 0, nobody, graph + offset).flatten(0, 1)

    def look_up(z: Tensor) -> Tensor:
        table = torch.cat([z.flatten(0, 1), z.new_zeros(1, z.shape[-1])])
        return F.embedding_bag(rows, table, mode="mean", padding_idx=nobody).view_as(z)

    return look_up
