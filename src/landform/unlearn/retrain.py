"""Retraining: what unlearning is to be like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from landform.training.many import Stack, train_many
from landform.unlearn.datamodels import check_forget


def retrain(
    factory: Callable[[], nn.Module],
    x: Shaped[Tensor, "n ..."],
    y: Shaped[Tensor, "n ..."],
    forget: Int[Tensor, " forgotten"] | Sequence[int],
    *,
    count: int | Sequence[int] = 1,
    seed: int = 0,
    **training: Any,
) -> Stack:
    """Train models from new initialisations on all samples but the forgotten ones: the oracles of unlearning.

    Arguments:
        factory: makes a model.
        x, y: all samples.
        forget: numbers of the samples to leave out; none gives models of the whole data.
        count: how many models, or their numbers, as of ``Stack.from_factory``.
        seed: with a model's number, names its initialisation and the order of its data.
        training: how to train, as :func:`landform.training.many.train_many` takes it: ``steps``, ``batch_size``,
            ``lr``, ``momentum``, …

    Returns:
        The trained models; ``stack.module(0)`` is the first as a module.

    Raises:
        ValueError: a forget set that is not distinct numbers below n or leaves nothing, or settings that
            ``train_many`` refuses.

    >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
    >>> len(retrain(lambda: nn.Linear(3, 2), x, y, [0, 5], count=4, steps=5, batch_size=6, lr=0.1))
    4
    """
    kept = torch.ones(len(x), dtype=torch.bool)
    kept[check_forget(forget, len(x))] = False
    if not bool(kept.any()):
        raise ValueError(f"forget: holds all {len(x)} samples, which leaves none to train on")
    stack = Stack.from_factory(factory, count, seed).to(x.device)
    train_many(stack, x[kept.to(x.device)], y[kept.to(y.device)], seed=seed, **training)
    return stack
