"""RandAugment on batches of tensors: a few operations of a pool, drawn for every image, all at one magnitude.

Cubuk et al., arXiv 1909.13719, with the pool and ranges of the code of arXiv 2110.06207. Every operation gives what
Pillow's gives on 8-bit images (nearest pixel, black outside); images are rounded to 8 bits on the way in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from landform.data.crop_flip import random_crop, random_flip

Images = UInt8[Tensor, "batch channels height width"]
Pool = Literal["all", "digits"]

CUTOUT_COLOUR = (125, 123, 114)
STRONGEST = 30
"""The magnitude M at which an operation reaches the end of its range."""


class Chance(NamedTuple):
    """What chance decides for each image: the direction of a movement, and a place as shares of the sides."""

    backward: Tensor
    place: Float[Tensor, "batch 2"]

    def of(self, images: Tensor) -> Chance:
        return Chance(self.backward[images], self.place[images])


def autocontrast(x: Images, value: float, chance: Chance) -> Images:
    """Stretch every channel from its darkest to its brightest pixel."""
    low, high = (f(x.flatten(2).double(), dim=2)[..., None, None] for f in (torch.amin, torch.amax))
    scale = 255 / (high - low).clamp(min=1)
    return torch.where(high > low, (x * scale - low * scale).trunc().clamp(0, 255), x.double()).to(torch.uint8)


def equalize(x: Images, value: float, chance: Chance) -> Images:
    """Spread every channel's histogram evenly."""
    flat = x.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=x.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    table = ((step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, flat), flat).view(x.shape).to(torch.uint8)


def invert(x: Images, value: float, chance: Chance) -> Images:
    return 255 - x


def posterize(x: Images, value: float, chance: Chance) -> Images:
    """Keep the highest ``value`` bits, at least one."""
    return x & (256 - (1 << 8 - max(1, int(value))))


def solarize(x: Images, value: float, chance: Chance) -> Images:
    """Invert what is not below ``value``."""
    return torch.where(x < value, x, 255 - x)


def solarize_add(x: Images, value: float, chance: Chance) -> Images:
    """Brighten by ``value``, then invert what is not below 128."""
    return solarize((x.double() + value).clamp(0, 255).to(torch.uint8), 128, chance)


def color(x: Images, value: float, chance: Chance) -> Images:
    """Away from grey, or towards it below 1."""
    return _blend(_grey(x), x, value)


def contrast(x: Images, value: float, chance: Chance) -> Images:
    """Away from the mean grey, or towards it below 1."""
    return _blend((_grey(x).double().mean((1, 2, 3), keepdim=True) + 0.5).to(torch.uint8), x, value)


def brightness(x: Images, value: float, chance: Chance) -> Images:
    """Away from black, or towards it below 1."""
    return _blend(torch.zeros_like(x), x, value)


def sharpness(x: Images, value: float, chance: Chance) -> Images:
    """Away from a smoothed image, or towards it below 1; the outermost pixels stay."""
    if min(x.shape[2:]) < 3:
        return x
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64, device=x.device)
    kernel[..., 1, 1] = 5
    smooth = F.conv2d(x.double().flatten(0, 1).unsqueeze(1), kernel / 13)
    degenerate = x.clone()
    degenerate[..., 1:-1, 1:-1] = (smooth + 0.5).clamp(0, 255).to(torch.uint8).view(*x.shape[:2], *smooth.shape[2:])
    return _blend(degenerate, x, value)


def rotate(x: Images, value: float, chance: Chance) -> Images:
    """By ``value`` degrees about the centre."""
    return _moved(x, chance, lambda sign: _rotation(sign * value, x))


def shear_x(x: Images, value: float, chance: Chance) -> Images:
    return _moved(x, chance, lambda sign: (1, sign * value, 0, 0, 1, 0))


def shear_y(x: Images, value: float, chance: Chance) -> Images:
    return _moved(x, chance, lambda sign: (1, 0, 0, sign * value, 1, 0))


def translate_x(x: Images, value: float, chance: Chance) -> Images:
    """By ``value`` pixels."""
    return _moved(x, chance, lambda sign: (1, 0, sign * value, 0, 1, 0))


def translate_y(x: Images, value: float, chance: Chance) -> Images:
    """By ``value`` pixels."""
    return _moved(x, chance, lambda sign: (1, 0, 0, 0, 1, sign * value))


def cutout(x: Images, value: float, chance: Chance) -> Images:
    """Paint a square of ``value`` pixels grey around a place of the image; what is outside of it is lost."""
    inside = []
    for share, size in zip(chance.place.to(x.device).T, x.shape[:1:-1], strict=True):  # columns, then rows
        first = (share * size - value / 2).clamp(min=0).floor()
        last = (first + value).clamp(max=size).floor()
        pixel = torch.arange(size, device=x.device)
        inside.append((pixel >= first.unsqueeze(1)) & (pixel <= last.unsqueeze(1)))
    columns, rows = inside
    paint = torch.tensor(CUTOUT_COLOUR, dtype=torch.uint8, device=x.device).view(1, 3, 1, 1)
    if x.shape[1] == 1:
        paint = _grey(paint)
    return torch.where((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), paint, x)


class Operation(NamedTuple):
    """What is done, and its values at magnitude 0 and at the strongest."""

    apply: Callable[[Tensor, float, Chance], Tensor]
    low: float
    high: float


MOVES = (rotate, translate_x, translate_y)
"""What the pool for digits leaves out."""

OPERATIONS = (
    Operation(autocontrast, 0, 1),
    Operation(equalize, 0, 1),
    Operation(invert, 0, 1),
    Operation(rotate, 0, 30),
    Operation(posterize, 0, 4),
    Operation(solarize, 0, 256),
    Operation(solarize_add, 0, 110),
    Operation(color, 0.1, 1.9),
    Operation(contrast, 0.1, 1.9),
    Operation(brightness, 0.1, 1.9),
    Operation(sharpness, 0.1, 1.9),
    Operation(shear_x, 0, 0.3),
    Operation(shear_y, 0, 0.3),
    Operation(cutout, 0, 40),
    Operation(translate_x, 0, 100),
    Operation(translate_y, 0, 100),
)


class RandAugment:
    """N operations for every image, drawn with replacement, each at the value low + M/30 (high − low) of its range.

    The pool is auto-contrast, equalise, invert, rotate (to 30°), posterise (to 4 bits), solarise, solarise-add, colour,
    contrast, brightness, sharpness (0.1 to 1.9 each), shear (to 0.3), cutout (to 40 pixels) and translation (to 100
    pixels: on small images a large M moves them out of sight). Movements go either way with probability ½.

    Arguments:
        n, m: N and M.
        pool: ``"digits"`` leaves out rotation and translation, as published for MNIST and SVHN.

    Raises:
        ValueError: n below 1, m outside [0, 30], or an unknown pool.

    >>> images = torch.rand(4, 3, 32, 32)
    >>> RandAugment(2, 9)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(self, n: int, m: float, pool: Pool = "all") -> None:
        if n < 1:
            raise ValueError(f"n={n}: must be at least 1")
        if not 0 <= m <= STRONGEST:
            raise ValueError(f"m={m}: must lie in [0, {STRONGEST}]")
        if pool not in get_args(Pool):
            raise ValueError(f"pool={pool!r}: must be one of {', '.join(map(repr, get_args(Pool)))}")
        self.n, self.m = n, m
        self.operations = [op for op in OPERATIONS if pool == "all" or op.apply not in MOVES]

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Augment images of 1 or 3 channels in [0, 1]; ``generator`` draws on the CPU.

        Raises:
            TypeError: images that are not floating point.
            ValueError: images of another shape or range.
        """
        if not x.is_floating_point():
            raise TypeError(f"x is {x.dtype}; images must be floating point, in [0, 1]")
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"x has shape {tuple(x.shape)}; images are (batch, 1 or 3 channels, height, width)")
        if x.numel() and not (x.amin() >= 0 and x.amax() <= 1):
            raise ValueError(f"x reaches from {x.amin():g} to {x.amax():g}; images must lie in [0, 1]")
        found = (x * 255).round().to(torch.uint8)
        for _ in range(self.n):
            drawn = torch.randint(len(self.operations), (len(x),), generator=generator)
            draws = torch.rand(len(x), 3, generator=generator, dtype=torch.float64)
            chance = Chance(draws[:, 0] < 0.5, draws[:, 1:])
            augmented = found.clone()
            for number, (apply, low, high) in enumerate(self.operations):
                images = (drawn == number).nonzero().squeeze(1)
                if len(images):
                    value = low + self.m / STRONGEST * (high - low)
                    rows = images.to(x.device)
                    augmented[rows] = apply(found[rows], value, chance.of(images))
            found = augmented
        return found.to(x.dtype) / 255


@dataclass(frozen=True)
class RandAugmentRecipe:
    """The strong recipe's images: RandAugment, resize, random crop, mirror images, normalisation, in this order.

    Arguments:
        n, m, pool: see :class:`RandAugment`.
        size: side to resize to, antialiased; None leaves the images as they are.
        padding: of the crop.
        flip: mirror half of the images.
        mean, sd: of each channel; None leaves values in [0, 1].

    >>> RandAugmentRecipe(1, 6)(torch.rand(4, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 32, 32])
    """

    n: int
    m: float
    pool: Pool = "all"
    size: int | None = None
    padding: int = 4
    flip: bool = True
    mean: Sequence[float] | None = None
    sd: Sequence[float] | None = None

    def __post_init__(self) -> None:
        RandAugment(self.n, self.m, self.pool)
        if (self.mean is None) != (self.sd is None):
            raise ValueError(f"mean={self.mean}, sd={self.sd}: give both or neither")

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch channels size size"]:
        x = RandAugment(self.n, self.m, self.pool)(x, generator)
        if self.size is not None:
            x = F.interpolate(x, size=self.size, mode="bilinear", antialias=True)
        x = random_crop(x, self.padding, generator)
        if self.flip:
            x = random_flip(x, generator)
        if self.mean is not None and self.sd is not None:
            mean, sd = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.sd))
            x = (x - mean) / sd
        return x


def _grey(x: Images) -> Images:
    """(B, 1, H, W) luma."""
    if x.shape[1] == 1:
        return x
    weights = torch.tensor([19595, 38470, 7471], device=x.device).view(1, 3, 1, 1)
    return ((x * weights).sum(1, keepdim=True) + 0x8000 >> 16).to(torch.uint8)


def _blend(start: Images, end: Images, share: float) -> Images:
    """From ``start`` towards ``end``, and beyond for a share above 1."""
    a, b = start.float(), end.float()
    return (a + share * (b - a)).clamp(0, 255).to(torch.uint8)


Matrix = tuple[float, float, float, float, float, float]


def _rotation(degrees: float, x: Images) -> Matrix:
    cos, sin = math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))
    centre_x, centre_y = x.shape[3] / 2, x.shape[2] / 2
    return (
        cos, sin, centre_x - cos * centre_x - sin * centre_y,
        -sin, cos, centre_y + sin * centre_x - cos * centre_y,
    )  # fmt: skip


def _moved(x: Images, chance: Chance, matrix: Callable[[int], Matrix]) -> Images:
    """Each image by the affine map of +1 or of −1, which says where an output pixel comes from."""
    moved = torch.empty_like(x)
    for sign, these in ((1, ~chance.backward), (-1, chance.backward)):
        rows = these.nonzero().squeeze(1).to(x.device)
        if len(rows):
            moved[rows] = _affine(x[rows], matrix(sign))
    return moved


def _affine(x: Images, matrix: Matrix) -> Images:
    """out(column, row) = x(a c + b r + c₀, d c + e r + f₀), all at the pixels' centres; black outside."""
    a, b, c0, d, e, f0 = matrix
    height, width = x.shape[2:]
    row, column = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width))
    row = row.unsqueeze(1)
    from_column, from_row = (a * column + b * row + c0).floor(), (d * column + e * row + f0).floor()
    inside = (from_column >= 0) & (from_column < width) & (from_row >= 0) & (from_row < height)
    index = torch.where(inside, from_row * width + from_column, 0.0).long().flatten().to(x.device)
    return x.flatten(2)[..., index].view(x.shape) * inside.to(x.device)
