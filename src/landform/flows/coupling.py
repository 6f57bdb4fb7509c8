"""Couplings of two sets of points: which point of the one goes with which of the other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from landform.metrics.transport import transport_plan


def ot_pairs(
    x0: Float[Tensor, "n d"],
    x1: Float[Tensor, "m d"],
    n_pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int64[Tensor, " n_pairs"], Int64[Tensor, " n_pairs"]]:
    """Pairs (i, j) drawn from the optimal plan between two sets, for squared Euclidean cost and equal weights.

    The plan is exact; pairs are drawn from it with replacement, each with the mass that the plan moves along it.

    Arguments:
        n_pairs: how many; as many as ``x0`` has points when None.
        generator: draws them (PyTorch's global one if None).

    Returns: positions in ``x0`` and in ``x1``.

    Raises:
        ValueError: sets that are not (n, d) and (m, d), empty or not finite, or fewer than one pair.
        ImportError: sets of different sizes, and POT (the extra ``transport``) is not installed.

    >>> i, j = ot_pairs(torch.tensor([[0.0], [5.0]]), torch.tensor([[6.0], [1.0]]), n_pairs=20)
    >>> bool((i + j == 1).all())
    True
    """
    if x0.ndim != 2 or x1.ndim != 2 or x0.shape[1] != x1.shape[1]:
        raise ValueError(f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)}: must be (n, d) and (m, d) of one d")
    count = len(x0) if n_pairs is None else n_pairs
    if count < 1:
        raise ValueError(f"n_pairs={n_pairs}: must be at least 1")
    plan = transport_plan(x0, x1)
    drawn = torch.multinomial(torch.from_numpy(plan.mass), count, replacement=True, generator=generator)
    rows, columns = (torch.from_numpy(index)[drawn].to(x0.device) for index in (plan.rows, plan.columns))
    return rows, columns
