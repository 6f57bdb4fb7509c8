"""Batches to measure on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

Batch = tuple[Any, Tensor]


def check_loader(loader: Iterable[Any]) -> None:
    """Refuse what cannot be gone through again and again, batch by batch."""
    if isinstance(loader, Iterator):
        raise TypeError("loader can be gone through only once, but each point needs it: give a list or a DataLoader")
    if not isinstance(loader, Iterable) or isinstance(loader, Tensor | Mapping):
        raise TypeError(f"loader is a {type(loader).__name__}; it must give batches (inputs, targets)")
    if isinstance(loader, tuple | list) and loader and isinstance(loader[0], Tensor):
        raise TypeError("loader is one batch; it must give batches: write [(inputs, targets)]")


def batches_of(loader: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """The batches on ``device``, each known to be inputs with as many targets."""
    none = True
    for batch in loader:
        none = False
        yield on_device(check_batch(batch), device)
    if none:
        raise ValueError("loader has no batches")


def check_batch(batch: Any) -> Batch:
    """The batch itself, once it is known to be one."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise TypeError(f"a batch must be (inputs, targets) with targets in a tensor, not a {type(batch).__name__}")
    inputs, targets = batch
    if not targets.ndim or not len(targets):
        raise ValueError(f"a batch is empty: its targets have shape {tuple(targets.shape)}")
    if isinstance(inputs, Tensor) and (not inputs.ndim or len(inputs) != len(targets)):
        raise ValueError(f"a batch has inputs of shape {tuple(inputs.shape)}, but {len(targets)} targets")
    return inputs, targets


def on_device(data: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, data)
