"""Draws from a distribution by its inverse, one uniform number each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def weights(name: str, values: object, *shape: int) -> Float[Tensor, " *shape"]:
    """``values`` as float64 weights of the given shape, with some mass; -1 allows any size.

    Raises:
        TypeError: values that are no numbers.
        ValueError: another shape, a negative or infinite weight, NaN, or no mass at all.
    """
    try:
        table = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is no table of numbers: {error}") from error
    if table.ndim != len(shape) or any(want not in (-1, has) for want, has in zip(shape, table.shape, strict=True)):
        raise ValueError(f"{name} has shape {tuple(table.shape)}: must be {shape}")
    if not bool(table.isfinite().all()) or bool((table < 0).any()):
        raise ValueError(f"{name} holds a negative weight, NaN or infinity: weights are finite and at least 0")
    if not bool(table.sum() > 0):
        raise ValueError(f"{name} has no mass: some weight must be above 0")
    return table


def choose(u: Float[Tensor, " n"], table: Float[Tensor, "... k"]) -> Int[Tensor, " n"]:
    """The value at quantile u of weights ``(k,)`` shared by all, or ``(n, k)`` of each; weight 0 is never drawn."""
    cumulative = table.cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]
    u = u.to(table.dtype)
    if table.ndim == 1:
        return torch.searchsorted(cumulative, u, right=True)
    return torch.searchsorted(cumulative, u.unsqueeze(-1), right=True).squeeze(-1)


def check_share(name: str, value: object) -> float:
    """A number in [0, 1], or a ValueError that names it."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: must be a number in [0, 1]")
    return float(value)


def check_values(name: str, values: Sequence[int], count: int, length: int | None = None) -> Int[Tensor, " k"]:
    """Numbers of 0 … count - 1 as a tensor, of a given length if any; or a ValueError that names them."""
    numbers = torch.as_tensor(list(values))
    if numbers.is_floating_point() or not len(numbers) or numbers.ndim != 1:
        raise ValueError(f"{name}={values!r}: must be whole numbers, at least one")
    if length is not None and len(numbers) != length:
        raise ValueError(f"{name} has {len(numbers)} entries: must be {length}")
    if int(numbers.min()) < 0 or int(numbers.max()) >= count:
        raise ValueError(f"{name}={list(values)}: must lie in 0 … {count - 1}")
    return numbers.long()
