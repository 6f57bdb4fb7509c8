"""How far apart subsets are: a spectral embedding of their graph."""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from landform.shift.meta_graph.overlap import check_weights

Scale = Literal["max_abs", "none"]

SAME = 1e-8
"""Eigenvalues this near, of a Laplacian whose largest is 1, are one eigenvalue."""


def spectral_embedding(
    W: Float[Tensor, "n n"], dim: int = 5, centre: bool = True, scale: Scale = "max_abs"
) -> Float[Tensor, "n dim"]:
    """Coordinates of a graph's nodes: x_A = (u_2[A], …, u_{dim+1}[A]) of its Laplacian L = diag(W 1) - W.

    u_k is the unit eigenvector of the k-th smallest eigenvalue, in float64. Where eigenvalues are equal, their
    eigenvectors are any basis of one space, and a warning says that distances depend on it: when the last that is
    taken equals the next (or with ``"max_abs"`` another that is taken, which then sets the unit), and when a graph is
    disconnected, whose coordinates are indicators of its parts. Use one part then, or a lower threshold.

    Arguments:
        W: the graph's weights; the diagonal does not count.
        dim: how many coordinates, 1 … n - 1.
        centre: subtract each coordinate's mean.
        scale: ``"max_abs"`` divides all by the largest absolute coordinate, so that distances of different graphs are
            on different scales; ``"none"`` leaves unit eigenvectors.

    Raises:
        ValueError: an argument out of range; weights that are not square, symmetric, finite and at least 0.

    Source: arXiv 2202.06523, section 3.2, which calls networkx's ``spectral_layout``.

    >>> path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    >>> spectral_embedding(path, dim=1).abs().squeeze().round(decimals=3).abs().tolist()
    [1.0, 0.0, 1.0]
    """
    weights = check_weights(W)
    n = len(weights)
    if not 1 <= dim <= n - 1:
        raise ValueError(f"dim={dim}: must be from 1 to n - 1 = {n - 1}, for a graph of {n} nodes")
    if scale not in get_args(Scale):
        raise ValueError(f"scale={scale!r}: must be 'max_abs' or 'none'")
    values, vectors = torch.linalg.eigh(torch.diag(weights.sum(1)) - weights)
    _warn_of_ambiguity(values, dim, scale)
    coordinates = vectors[:, 1 : dim + 1]
    if centre:
        coordinates = coordinates - coordinates.mean(0)
    if scale == "max_abs":
        coordinates = coordinates / coordinates.abs().max()
    return coordinates


def spectral_distance(W: Float[Tensor, "n n"], dim: int = 5) -> Float[Tensor, "n n"]:
    """The distances |x_A - x_B| of all pairs of nodes, in the centred and scaled :func:`spectral_embedding`.

    The distance of several training subsets to a test subset is the mean of theirs.

    Raises:
        ValueError: as :func:`spectral_embedding`.
    """
    coordinates = spectral_embedding(W, dim)
    return torch.cdist(coordinates, coordinates, compute_mode="donot_use_mm_for_euclid_dist")


def _warn_of_ambiguity(values: Float[Tensor, " n"], dim: int, scale: Scale) -> None:
    tolerance = SAME * float(values[-1])
    if values[1] <= tolerance:
        parts = int((values <= tolerance).sum())
        warnings.warn(
            f"the graph is disconnected, in {parts} parts: coordinates depend on an arbitrary basis", stacklevel=3
        )
        return
    taken = values[1 : dim + 2]  # and the next, if there is one
    last = values[dim : dim + 2]
    gaps = (taken if scale == "max_abs" else last).diff()
    if len(gaps) and bool((gaps <= tolerance).any()):
        warnings.warn(
            f"eigenvalues among the first {dim} non-trivial ones and the next are equal: distances depend on an "
            "arbitrary basis",
            stacklevel=3,
        )
