"""Transforms that make attacks transfer: of the image before the model, and of the gradient after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from landform.attacks.checks import check_count
from landform.attacks.losses import Labels

Images = Float[Tensor, "batch channels height width"]
GradientFn = Callable[[Tensor, Labels], Tensor]
"""(x, y) → the gradient that an attack climbs, in x's shape."""


class InputTransform(Protocol):
    """Images to views of them, differentiably: one view of each image, or all images k times over, (k · batch, ...)."""

    def __call__(self, x: Images, /) -> Float[Tensor, "views channels height width"]: ...


@dataclass
class DiverseInput:
    """DI: with probability p, shrink the images and pad them with zeros to their size, at random (arXiv 1803.06978).

    Height and width become a random share of themselves, down to ``smallest``, the same for the whole batch, as does
    the offset; bilinear.

    Raises:
        ValueError: p outside [0, 1], or smallest outside (0, 1].

    >>> DiverseInput(p=1.0)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """

    p: float = 0.5
    smallest: float = 0.9
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p={self.p}: must be in [0, 1]")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest={self.smallest}: must be in (0, 1]")

    def __call__(self, x: Images) -> Images:
        check_images(x)
        u, v, top, left = torch.rand(4, generator=self.generator, dtype=torch.float64).tolist()
        if u >= self.p:
            return x
        height, width = x.shape[2:]
        least = max(1, int(self.smallest * height))
        tall = least + int(v * (height - least + 1))
        wide = max(1, round(width * tall / height))
        small = F.interpolate(x, size=(tall, wide), mode="bilinear", align_corners=False)
        above, before = int(top * (height - tall + 1)), int(left * (width - wide + 1))
        return F.pad(small, (before, width - wide - before, above, height - tall - above))


@dataclass(frozen=True)
class ScaleInvariant:
    """SI: the images at x / 2^s for s = 0 … copies − 1; the attack climbs the mean of their losses (arXiv 1908.06281).

    Raises:
        ValueError: copies below 1.

    >>> ScaleInvariant(copies=2)(torch.ones(1, 1, 1, 1)).flatten()
    tensor([1.0000, 0.5000])
    """

    copies: int = 5

    def __post_init__(self) -> None:
        check_count(copies=self.copies)

    def __call__(self, x: Images) -> Float[Tensor, "views channels height width"]:
        return torch.cat([x / 2**s for s in range(self.copies)])


class TranslationInvariant:
    """TI: the gradient, convolved with a Gaussian in each channel, as if averaged over shifts (arXiv 1904.02884).

    The kernel is the outer product of normal densities at ``kernel_size`` even points from −3 to 3, of sum 1; zeros
    pad the gradient so that it keeps its size. 15 suits images of 224 pixels; below 64 pixels take 3 or 5.

    Raises:
        ValueError: an even kernel size.

    >>> TranslationInvariant(3)(torch.ones(1, 1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    kernel: Float[Tensor, "size size"]

    def __init__(self, kernel_size: int = 15) -> None:
        check_count(kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: must be odd, so that the gradient keeps its place")
        # A single point stands at the centre, not at −3.
        points = torch.linspace(-3, 3, kernel_size, dtype=torch.float64) if kernel_size > 1 else torch.zeros(1).double()
        density = torch.exp(-points.square() / 2) / math.sqrt(2 * math.pi)
        kernel = torch.outer(density, density)
        self.kernel = kernel / kernel.sum()

    def __call__(self, gradient: Images) -> Images:
        check_images(gradient)
        channels, size = gradient.shape[1], self.kernel.shape[0]
        weight = self.kernel.to(gradient).expand(channels, 1, size, size)
        return F.conv2d(gradient, weight, padding=size // 2, groups=channels)


Transform = InputTransform | TranslationInvariant


def transformed(gradient: GradientFn, transforms: Sequence[Transform]) -> GradientFn:
    """The gradient through input transforms, in their order, and then through gradient transforms, in theirs.

    Where there are several views of an image, it is the gradient of their mean loss.
    """
    before = [t for t in transforms if not isinstance(t, TranslationInvariant)]
    after = [t for t in transforms if isinstance(t, TranslationInvariant)]

    def through(x: Tensor, y: Labels) -> Tensor:
        if before:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                views = x
                for transform in before:
                    views = transform(views)
            copies = len(views) // len(x)
            outer = gradient(views.detach(), y.repeat(copies) if copies > 1 else y) / copies
            (found,) = torch.autograd.grad(views, x, outer)
        else:
            found = gradient(x, y)
        for smooth in after:
            found = smooth(found)
        return found

    return through if transforms else gradient


def check_images(x: Tensor) -> None:
    """That these are images.

    Raises:
        ValueError: they have other than four dimensions.
    """
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; must be images, (batch, channels, height, width)")
