"""How much subsets have in common, and the graph of it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from landform.shift.meta_graph.collection import SubsetCollection


def overlap_coefficient(a: Collection[int], b: Collection[int]) -> float:
    """|A ∩ B| / min(|A|, |B|), of Szymkiewicz and Simpson: 1 where one set holds the other, 0 where they are disjoint.

    Raises:
        ValueError: an empty set.

    >>> overlap_coefficient({1, 2, 3, 4}, {3, 4, 5})
    0.6666666666666666
    """
    first, second = set(a), set(b)
    if not first or not second:
        raise ValueError(f"a of {len(first)} and b of {len(second)} items: the overlap of an empty set is undefined")
    return len(first & second) / min(len(first), len(second))


def overlap_graph(
    collection: SubsetCollection, threshold: float = 0.2
) -> tuple[tuple[str, ...], Float[Tensor, "subsets subsets"]]:
    """The meta-graph of a class: its subsets' names, and the weights of the edges between them.

    W_AB is the overlap coefficient of A and B, or 0 where that is below ``threshold``; no subset has an edge to
    itself. Float64, in the order of the collection.

    Raises:
        ValueError: a threshold outside [0, 1].

    Source: arXiv 2202.06523, section 3.2; the threshold is the released code's.

    >>> overlap_graph(SubsetCollection({"a": {1, 2}, "b": {2, 3}, "c": {4}}))[1].tolist()
    [[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: must lie in [0, 1]")
    incidence = collection.incidence()
    shared = torch.from_numpy((incidence @ incidence.T).toarray())
    size = shared.diagonal()
    weights = shared / torch.minimum(size.unsqueeze(1), size)
    weights[weights < threshold] = 0
    return collection.names, weights.fill_diagonal_(0)


def check_weights(weights: object) -> Float[Tensor, "n n"]:
    """The weights of an undirected graph in float64, or a ValueError that says what they lack."""
    found = torch.as_tensor(weights, dtype=torch.float64)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or not len(found):
        raise ValueError(f"W has shape {tuple(found.shape)}: must be (n, n), at least one node")
    if not found.isfinite().all() or (found < 0).any():
        raise ValueError("W holds a negative weight, NaN or infinity: weights are finite and at least 0")
    if not torch.allclose(found, found.T, rtol=1e-9, atol=1e-12):
        raise ValueError("W is not symmetric: the graph has no direction")
    return found
