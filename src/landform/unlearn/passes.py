"""What ways to unlearn have in common: passes of one model, or of a stack of them, over shuffled samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from landform.training.many import Stack, seed_stream
from landform.training.many.train import check_data

ModelT = TypeVar("ModelT", nn.Module, Stack)
Samples = tuple[Shaped[Tensor, "n ..."], Int[Tensor, " n"]]

BatchLoss = Callable[[Float[Tensor, "models batch ..."], Int[Tensor, "models batch"]], Float[Tensor, " models"]]
"""The loss of each model, of its outputs on its batch and the numbers of the batch's samples."""


class Pupils(Generic[ModelT]):
    """Copies of the models that are to unlearn, as one stack, each with shuffles of its own.

    A single module is a stack of one. Shuffles are streams of (a number drawn from ``generator``, the model's id in its
    stack): a model ends the same whatever others are with it.
    """

    def __init__(self, model: ModelT, generator: torch.Generator | None) -> None:
        self.stack: Stack
        if isinstance(model, Stack):
            self.stack = model.subset(range(len(model)))
        elif isinstance(model, nn.Module):
            self.stack = Stack([model])
        else:
            raise TypeError(f"model: {type(model).__name__} is neither a torch.nn.Module nor a Stack")
        self.single = isinstance(model, nn.Module)
        self.trained: list[Tensor] = [p for p in self.stack.parameters() if p.requires_grad]
        if not self.trained:
            raise ValueError("model: none of its parameters requires a gradient")
        seed = int(torch.randint(2**31, (), generator=generator))
        self.streams = [seed_stream(seed, i) for i in self.stack.ids]

    @property
    def model(self) -> ModelT:
        """The models as they are now, in the form they came in."""
        return self.stack.module(0) if self.single else self.stack  # type: ignore[return-value]

    def pass_over(
        self, x: Shaped[Tensor, "n ..."], batch_size: int, optimizer: torch.optim.Optimizer, loss: BatchLoss
    ) -> None:
        """One update for each batch of a new shuffle of the samples; the last batch may be short."""
        order = torch.stack([torch.randperm(len(x), generator=stream) for stream in self.streams]).to(x.device)
        for index in order.split(batch_size, dim=1):
            optimizer.zero_grad()
            loss(self.stack(x[index]), index).sum().backward()
            optimizer.step()


AfterEpoch = Callable[[int, Any], None]
"""Is given the number of each epoch that has ended, from 1, and the model as it is then."""


def check_samples(name: str, samples: Samples) -> Samples:
    """The samples, once they are found to be inputs with a class number each."""
    if not (isinstance(samples, tuple) and len(samples) == 2 and all(isinstance(part, Tensor) for part in samples)):
        raise TypeError(f"{name}: need (x, y), a tensor of inputs and one of class numbers")
    x, y = samples
    if y.ndim != 1 or y.is_floating_point():
        raise ValueError(f"{name}: y must be class numbers (n,), got shape {tuple(y.shape)} {y.dtype}")
    try:
        check_data(x, y)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if int(y.min()) < 0:
        raise ValueError(f"{name}: y holds {int(y.min())}, but class numbers start at 0")
    return x, y


def check_counts(**counts: int) -> None:
    """That numbers of epochs or samples are at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
