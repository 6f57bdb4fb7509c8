"""One function at many points of weight space: all together where the network allows it, else one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

BUDGET = 2**24
"""By default as many points are held together as keep weights and activations to about this many numbers."""

ACTIVATIONS = 8
"""Activations are taken to be this many times as many numbers as the inputs."""


class Pointwise:
    """``one(point, *args)`` at each of a stack of points, whose tensors have the points on their first axis.

    The result, tensors or tuples of them, has the points on its first axis too. In-place changes of a point's tensors
    are seen in the stack. A network that ``torch.func.vmap`` cannot vectorise is looped over.
    """

    def __init__(self, one: Callable[..., Any]) -> None:
        self._one = one
        self._vectorises = True

    def __call__(self, points: dict[str, Tensor], *args: Any) -> Any:
        count = len(next(iter(points.values())))
        if count > 1 and self._vectorises:
            try:
                return vmap(lambda point: self._one(point, *args))(points)
            except (RuntimeError, ValueError, TypeError, NotImplementedError):
                # Not told apart from a mistake of the caller's: the loop meets that again and reports it in full.
                self._vectorises = False
        each = [self._one({key: tensor[i] for key, tensor in points.items()}, *args) for i in range(count)]
        return tree_map(lambda *parts: torch.stack(parts), *each)


def chunks(count: int, chunk_size: int | None, weights: int, inputs: Any) -> Iterator[slice]:
    """Ranges of points to be held together: ``chunk_size`` of them or, by default, what a fixed budget allows."""
    if chunk_size is None:
        activations = ACTIVATIONS * inputs.numel() if isinstance(inputs, Tensor) else 0
        chunk_size = max(1, BUDGET // max(1, weights + activations))
    elif chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1, or None for what a fixed budget allows")
    for start in range(0, count, chunk_size):
        yield slice(start, min(start + chunk_size, count))
