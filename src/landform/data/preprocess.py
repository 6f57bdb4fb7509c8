"""How images are resized and scaled before a fixed encoder sees them."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from landform.data.channel_statistics import ChannelStatistics

Scale = Literal["none", "divide", "minmax", "standardise", "pretrain"]
SCALES = ("none", "divide", "minmax", "standardise", "pretrain")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


class Preprocess(nn.Module):
    """Resize images, then scale their values, channel by channel.

    ===============  ==================================================================================
    ``none``         x
    ``divide``       x / divisor: 10,000 for Sentinel-2's counts, 255 for 8-bit images
    ``minmax``       (x - min) / (max - min)
    ``standardise``  (x - mean) / std
    ``pretrain``     (clip((x - min) / (max - min), 0, 1) - mean) / std: values brought to the range
                     that an encoder was pre-trained on, and standardised by what it saw there
    ===============  ==================================================================================

    ``minmax`` and ``standardise`` take the statistics of the training images at hand. For ``pretrain``, min and max
    are the values that stand for 0 and 1, and mean and std those of the pre-training images in [0, 1]. So what SeCo's
    encoders expect is ``ChannelStatistics(min=(3, 2, 0), max=(88, 103, 129), mean=(.485, .456, .406),
    std=(.229, .224, .225))``, the last two being ImageNet's.

    Arguments:
        size: pixels of the shorter side, the other in proportion (rounded down), or (height, width). None keeps the
            images as they are; so does a size that they have.
        scale: one of the above.
        stats: needed where min, max, mean or std occur above.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.
        align_corners: whether the corner pixels' centres stay in place, as in Kornia (and in the paper's code), rather
            than the image's outline. Of no meaning to ``"nearest"``.
        antialias: filter before shrinking; enlarging is the same either way. Of no meaning to ``"nearest"``.
        divisor: of ``divide``.

    Shapes: (batch, channels, height, width) to (batch, channels, height', width'). Images of integers become float32.

    Raises:
        TypeError: stats of another type.
        ValueError: an unknown name, a size or divisor that is not positive, stats that are missing, or a channel that
            cannot be scaled because its std (or max - min) is 0; on images, another number of channels.

    Source: arXiv 2305.13456, section 3, and its code.

    >>> import torch
    >>> images = torch.rand(2, 3, 16, 16)
    >>> preprocess = Preprocess(48, "standardise", ChannelStatistics.from_loader([images]))
    >>> preprocess(images).shape
    torch.Size([2, 3, 48, 48])
    """

    shift: Tensor
    width: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        scale: Scale = "none",
        stats: ChannelStatistics | None = None,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
        align_corners: bool = False,
        antialias: bool = True,
        *,
        divisor: float = 10_000.0,
    ) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"scale={scale!r}: must be one of {', '.join(SCALES)}")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={interpolation!r}: must be one of {', '.join(INTERPOLATIONS)}")
        sides = (size,) if isinstance(size, int) else () if size is None else tuple(size)
        if size is not None and (
            not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
            or (not isinstance(size, int) and len(sides) != 2)
        ):
            raise ValueError(f"size={size!r}: must be None, a positive number of pixels, or (height, width)")
        if not (math.isfinite(divisor) and divisor > 0):
            raise ValueError(f"divisor={divisor}: must be positive and finite")
        if stats is not None and not isinstance(stats, ChannelStatistics):
            raise TypeError(f"stats is {type(stats).__name__}: must be ChannelStatistics")
        self.size, self.scale, self.interpolation = size, scale, interpolation
        self.align_corners, self.antialias, self.divisor = align_corners, antialias, divisor
        if scale in ("none", "divide"):
            return
        if stats is None:
            raise ValueError(f"stats: scale={scale!r} needs the ChannelStatistics of images")
        if scale in ("minmax", "pretrain"):
            self.register_buffer("shift", stats.min)
            self.register_buffer("width", _not_zero("max - min", stats.max - stats.min))
        if scale in ("standardise", "pretrain"):
            self.register_buffer("mean", stats.mean)
            self.register_buffer("std", _not_zero("std", stats.std))

    def extra_repr(self) -> str:
        return f"size={self.size}, scale={self.scale!r}"

    def forward(self, images: Shaped[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h2 w2"]:
        if images.ndim != 4:
            raise ValueError(f"images have shape {tuple(images.shape)}: must be (batch, channels, height, width)")
        x = images if images.is_floating_point() else images.float()
        x = self._resized(x)
        if self.scale == "divide":
            return x / self.divisor
        if self.scale in ("minmax", "pretrain"):
            x = (x - self._of(self.shift, x)) / self._of(self.width, x)
        if self.scale == "pretrain":
            x = x.clamp(0, 1)
        if self.scale in ("standardise", "pretrain"):
            x = (x - self._of(self.mean, x)) / self._of(self.std, x)
        return x

    def _resized(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.size is None:
            return x
        if isinstance(self.size, int):
            short = min(height, width)
            size = (self.size * height // short, self.size * width // short)
        else:
            size = self.size
        if size == (height, width):
            return x
        if self.interpolation == "nearest":
            return F.interpolate(x, size, mode="nearest-exact")
        return F.interpolate(
            x,
            size,
            mode=self.interpolation,
            align_corners=self.align_corners,
            antialias=self.antialias and (size[0] < height or size[1] < width),
        )

    @staticmethod
    def _of(values: Tensor, x: Tensor) -> Tensor:
        """One number a channel, to go with images x."""
        if len(values) != x.shape[1]:
            raise ValueError(f"images have {x.shape[1]} channels, the statistics are of {len(values)}")
        return values.to(x)[:, None, None]


def _not_zero(name: str, values: Tensor) -> Tensor:
    if wrong := (values <= 0).nonzero().flatten().tolist():
        raise ValueError(f"stats: {name} of band {wrong[0]} is {values[wrong[0]]:g}; it cannot be divided by")
    return values
