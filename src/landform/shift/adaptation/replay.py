"""A buffer of the latest images."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


class ReplayBuffer:
    """The latest ``capacity`` samples of a stream: the first to come is the first to go.

    Arguments:
        capacity: how many it holds, at least 1.
        device: where they are kept. Room for all is set aside when the first come.

    Raises:
        ValueError: a capacity below 1; samples of another shape; more samples asked for than there are.

    >>> buffer = ReplayBuffer(capacity=3)
    >>> buffer.add(torch.arange(5.0))
    >>> len(buffer), buffer.sample(3, torch.Generator().manual_seed(0)).sort().values
    (3, tensor([2., 3., 4.]))
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: must be at least 1")
        self.capacity = capacity
        self.device = torch.device(device)
        self._samples: Tensor | None = None
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, self.capacity)

    def add(self, samples: Shaped[Tensor, "batch ..."]) -> None:
        """Put in samples, the oldest first; only the latest ``capacity`` stay."""
        if self._samples is None:
            self._samples = torch.empty(self.capacity, *samples.shape[1:], dtype=samples.dtype, device=self.device)
        if samples.shape[1:] != self._samples.shape[1:]:
            raise ValueError(f"samples have shape {tuple(samples.shape[1:])}: must be {tuple(self._samples.shape[1:])}")
        self._count += len(samples)
        latest = samples[-self.capacity :] if len(samples) else samples
        places = torch.arange(self._count - len(latest), self._count, device=self.device) % self.capacity
        self._samples[places] = latest.detach().to(self.device, self._samples.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Shaped[Tensor, "n ..."]:
        """``n`` different samples drawn at random, on the buffer's device; ``generator`` is one of the CPU."""
        if self._samples is None or not 0 <= n <= len(self):
            raise ValueError(f"n={n}: must be in 0 … {len(self)}, the samples there are")
        return self._samples[torch.randperm(len(self), generator=generator)[:n].to(self.device)]
