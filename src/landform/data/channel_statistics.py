"""Minimum, maximum, mean and standard deviation of every channel of a set of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from landform.data.items import images_and_labels


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Each channel's ``min``, ``max``, ``mean`` and ``std``, float64 ``(channels,)``, in the images' own unit.

    Any sequence of numbers is taken for a field. They need not be of one set of images: as the statistics of an
    encoder's pre-training, ``min`` and ``max`` are the values that it took for 0 and 1 (see :class:`Preprocess`).

    Raises:
        ValueError: fields that are empty, of unequal lengths or not finite, or a negative ``std``.

    >>> ChannelStatistics.from_loader([torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])]).mean
    tensor([3.], dtype=torch.float64)
    """

    min: Float[Tensor, " channels"]
    max: Float[Tensor, " channels"]
    mean: Float[Tensor, " channels"]
    std: Float[Tensor, " channels"]

    def __post_init__(self) -> None:
        for name in ("min", "max", "mean", "std"):
            values: Tensor | Sequence[float] = getattr(self, name)
            numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
            if numbers.ndim != 1 or not len(numbers):
                raise ValueError(f"{name} has shape {tuple(numbers.shape)}: must be one number a channel")
            if not numbers.isfinite().all():
                raise ValueError(f"{name}={numbers.tolist()}: must be finite")
            object.__setattr__(self, name, numbers)
        lengths = {name: len(getattr(self, name)) for name in ("min", "max", "mean", "std")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"min, max, mean and std must be of equally many channels, not {lengths}")
        if self.std.min() < 0:
            raise ValueError(f"std={self.std.tolist()}: must not be negative")

    def __len__(self) -> int:
        return len(self.mean)

    @classmethod
    def from_loader(cls, loader: Iterable[Any]) -> ChannelStatistics:
        """The statistics over all pixels of all images that ``loader`` gives, in one pass and in float64.

        Batches are merged as Welford and Chan et al. do: with n pixels of mean m and sum of squared deviations S so
        far, and n', m', S' in the batch, d = m' - m,

            m <- m + d n' / (n + n'),    S <- S + S' + d² n n' / (n + n'),    std = √(S / (n - 1)) at the end.

        Nothing but the loader's images enters, so that statistics of a training set know nothing of a test set.

        Arguments:
            loader: batches ``(batch, channels, height, width)``, alone, with labels, or in mappings as ``"image"``.
                Images may differ in size between batches.

        Raises:
            TypeError: a batch of another form.
            ValueError: no pixels or a single one, another number of channels, or values that are not finite.
        """
        count = 0
        low = high = mean = squares = torch.empty(0)
        for number, batch in enumerate(loader):
            images = images_and_labels(batch)[0]
            if images.ndim != 4:
                raise ValueError(
                    f"batch {number} has shape {tuple(images.shape)}: must be (batch, channels, height, width)"
                )
            if not images.numel():
                continue
            values = images.detach().transpose(0, 1).flatten(1).double().cpu()
            if not values.isfinite().all():
                raise ValueError(f"batch {number} holds values that are not finite")
            new, there = values.mean(1), values.shape[1]
            deviations = (values - new[:, None]).square().sum(1)
            if not count:
                low, high, mean, squares = values.amin(1), values.amax(1), new, deviations
            elif len(values) != len(mean):
                raise ValueError(f"batch {number} has {len(values)} channels, those before it had {len(mean)}")
            else:
                low, high = torch.minimum(low, values.amin(1)), torch.maximum(high, values.amax(1))
                step = new - mean
                mean = mean + step * there / (count + there)
                squares = squares + deviations + step.square() * count * there / (count + there)
            count += there
        if count < 2:
            raise ValueError(f"loader: {count} pixels a channel; a standard deviation needs at least 2")
        return cls(low, high, mean, (squares / (count - 1)).sqrt())
