"""The simplest features of an image: its channels' statistics."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ImageStatistics(nn.Module):
    """Mean, standard deviation, maximum and minimum of every channel over the image.

    Features come in blocks, [mean_1 … mean_C, std_1 … std_C, max_1 … max_C, min_1 … min_C], the standard deviation
    being the unbiased one (of P pixels, over P - 1). There is nothing to train. Extrema shrink when an image is
    resized, so give it images of their native size.

    Shapes: (batch, C, height, width) to (batch, 4 C).

    Raises:
        ValueError: not images, or images of one pixel.

    Source: "imagestats" of arXiv 2305.13456.

    >>> ImageStatistics()(torch.full((1, 1, 2, 2), 5.0))
    tensor([[5., 0., 5., 5.]])
    """

    def forward(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch features"]:
        if images.ndim != 4:
            raise ValueError(f"images have shape {tuple(images.shape)}: must be (batch, channels, height, width)")
        pixels = images.flatten(2)
        if pixels.shape[2] < 2:
            raise ValueError(f"images of {images.shape[2]} × {images.shape[3]}: a deviation needs two pixels or more")
        return torch.cat([pixels.mean(2), pixels.std(2), pixels.amax(2), pixels.amin(2)], dim=1)
