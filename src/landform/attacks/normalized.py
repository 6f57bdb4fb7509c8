"""A model on raw images, whose own normalisation is part of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalized(nn.Module):
    """A model of raw images in [0, 1]: model((x − mean) / std), with a mean and a standard deviation for each channel.

    Attacks measure perturbations, and clip, in raw images; so whatever normalisation a model was trained with belongs
    inside it.

    Arguments:
        model: what wants normalised images.
        mean, std: one number a channel, or one for all.

    Raises:
        ValueError: mean and std of different length, or a std that is not positive.

    >>> Normalized(nn.Identity(), mean=[0.5], std=[0.25])(torch.ones(1, 1, 1, 2))
    tensor([[[[2., 2.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] | Tensor | float, std: Sequence[float] | Tensor | float):
        super().__init__()
        self.model = model
        values = [torch.as_tensor(v, dtype=torch.get_default_dtype()).reshape(-1) for v in (mean, std)]
        if values[0].shape != values[1].shape:
            raise ValueError(f"mean={mean} and std={std}: must be of one length, a number for each channel")
        if not bool(values[0].isfinite().all()) or not bool((values[1] > 0).all()):
            raise ValueError(f"mean={mean}, std={std}: means must be finite and standard deviations positive")
        for name, value in zip(("mean", "std"), values, strict=True):
            self.register_buffer(name, value.reshape(-1, 1, 1), persistent=False)
        self.training = model.training  # the model keeps its own

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Tensor:
        if self.mean.shape[0] not in (1, x.shape[1]):
            raise ValueError(f"x has {x.shape[1]} channels, but there are means for {self.mean.shape[0]}")
        return self.model((x - self.mean.to(x.dtype)) / self.std.to(x.dtype))
