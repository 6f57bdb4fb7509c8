"""Communities of subsets: natural sub-populations of a class."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from landform.shift.meta_graph.overlap import check_weights


def graph_communities(
    W: Float[Tensor, "n n"], method: str = "greedy_modularity", weighted: bool = False
) -> list[list[int]]:
    """Groups of nodes with many edges inside and few between, the largest first; every node is in one.

    From single nodes, the two communities are joined that raise the modularity

        Q = 1/2m Σ_ij (A_ij - k_i k_j / 2m) [i and j are together]

    most, until none would (Clauset, Newman and Moore, 2004).

    Arguments:
        W: the graph's weights; an edge is where they are positive.
        method: ``"greedy_modularity"``.
        weighted: A is W; else A is 1 at every edge, as in the released code. A graph without edges stays apart.

    Raises:
        ValueError: another method, or weights that are not square, symmetric, finite and at least 0.

    Source: arXiv 2202.06523, section 3.2.

    >>> import torch
    >>> graph_communities(torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)))
    [[2, 3, 4], [0, 1]]
    """
    import networkx as nx

    if method != "greedy_modularity":
        raise ValueError(f"method={method!r}: must be 'greedy_modularity'")
    weights = check_weights(W).clone().fill_diagonal_(0)
    if not weights.any():
        return [[node] for node in range(len(weights))]
    graph = nx.from_numpy_array(weights.numpy())
    found = nx.community.greedy_modularity_communities(graph, weight="weight" if weighted else None)
    return sorted((sorted(community) for community in found), key=lambda nodes: (-len(nodes), nodes))
