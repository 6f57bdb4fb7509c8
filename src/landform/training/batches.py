"""Batches of tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor


def batches(
    x: Shaped[Tensor, "n ..."],
    y: Shaped[Tensor, "n ..."],
    batch_size: int,
    generator: torch.Generator | None = None,
    *,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches (x, y) without end: permutation after permutation of the samples.

    The last batch of an epoch is short where ``batch_size`` does not divide n, or left out with ``drop_last=True``.
    ``generator`` (PyTorch's global one if None) draws the permutations, on the CPU; indexing happens where x lies.

    Raises:
        ValueError: x and y of different lengths or empty, or a batch size that is not from 1 to n.

    >>> source = batches(torch.arange(5.0), torch.arange(5), 2, torch.Generator().manual_seed(0))
    >>> [len(next(source)[0]) for _ in range(4)]
    [2, 2, 1, 2]
    """
    n = len(x)
    if n != len(y):
        raise ValueError(f"x and y: {n} samples but {len(y)} targets")
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size={batch_size}: must be from 1 to the number of samples, {n}")
    return _epochs(x, y, batch_size, generator, n - n % batch_size if drop_last else n)


def _epochs(
    x: Tensor, y: Tensor, batch_size: int, generator: torch.Generator | None, used: int
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        order = torch.randperm(len(x), generator=generator)[:used].to(x.device)
        for rows in order.split(batch_size):
            yield x[rows], y[rows]
