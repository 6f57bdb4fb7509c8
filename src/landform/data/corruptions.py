"""Corruptions of images, of severity 1 to 5, as pure functions of (image, seed, index).

Each is the same for an image whatever batch it comes in, since all its chance is hashed from the image's index
(:mod:`landform.data.counter`) and no sum runs over the batch. The names follow the common-corruptions benchmarks, but
the strengths are this library's own, chosen for images of 32 pixels: errors under them must not be compared with
published ones. Lengths (blur, grid, square) grow with S/32, S being the image's shorter side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_normal, hash_uniform
from landform.data.tiles import TILE, noise_tile

Images = Float[Tensor, "batch channels height width"]
Index = Int[Tensor, " batch"]

# So many values at a time, so that what is computed on the way to a corrupted image stays in the processor's cache.
CHUNK = 2**20


def corrupt(images: Images, name: str, severity: int, *, seed: int, index: Index | Sequence[int]) -> Images:
    """The images corrupted, in [0, 1]; an image's corruption depends on nothing but itself, ``seed`` and its index.

    =================  ================================================================  =========================
    name               x becomes                                                         severity 1 … 5
    =================  ================================================================  =========================
    gaussian_noise     x + sigma n                                                       .04 .07 .11 .16 .22
    shot_noise         x + sqrt(x/c) n: Poisson counts c x, nearly                       250 100 50 25 12
    impulse_noise      0 or 1, with probability p/2 each, all channels of a pixel alike  .01 .02 .04 .07 .12
    gaussian_blur      blurred with sigma pixels                                         .5 .8 1.1 1.5 2
    motion_blur        averaged over L pixels of its row or, as often, of its column     3 4 5 7 9
    pixelate           the nearest of p × p samples                                      24 20 16 12 10
    brightness         x + b                                                             .08 .16 .24 .32 .4
    contrast           mean + c (x − mean), each channel's own                           .6 .45 .32 .22 .14
    saturate           grey + c (x − grey), grey = .299 R + .587 G + .114 B              .5 .25 0 2 3
    fog                x (1 − w) + .85 w, w = a (.3 + .8 t) with blotches t in [0, 1]    .25 .4 .55 .7 .85
    occlude            .5 within a square of side p S                                    .2 .3 .4 .5 .6
    jpeg               8 × 8 cosine transform, rounded at quality q by the luma table    50 30 18 10 6
    =================  ================================================================  =========================

    n is nearly normal (:func:`~landform.data.counter.hash_normal`). Blurs repeat the image's edge. ``saturate`` first
    takes colour away and at 4 and 5 adds it, so that it does not distort ever more; grey images it leaves alone.

    Arguments:
        images: floating point, values in [0, 1], any number of channels (``saturate`` of colours: 3).
        name: one of :data:`CORRUPTIONS`.
        severity: 1 … 5, or 0 for the images as they are.
        seed: any whole number.
        index: the images' numbers, at least 0.

    Raises:
        TypeError: images that are not floating point, or an index that is not of integers.
        ValueError: an unknown name, a severity out of range, images of another shape or with values outside [0, 1], or
            an index that does not fit.

    >>> images = torch.rand(4, 1, 20, 20)
    >>> noisy = corrupt(images, "gaussian_noise", 3, seed=0, index=torch.arange(4))
    >>> torch.equal(noisy[2:3], corrupt(images[2:3], "gaussian_noise", 3, seed=0, index=[2]))
    True
    """
    numbers = _check(images, name, severity, index)
    if severity == 0 or not len(images):
        return images.clone()
    function, strengths = _CORRUPTIONS[name]
    strength = strengths[severity - 1]
    chunk = max(1, CHUNK // images[0].numel())
    parts = [
        function(part, strength, seed, numbers_of_part).clamp(0, 1)
        for part, numbers_of_part in zip(images.split(chunk), numbers.split(chunk), strict=True)
    ]
    return torch.cat(parts)


def _check(images: Tensor, name: str, severity: int, index: Tensor | Sequence[int]) -> Tensor:
    if name not in _CORRUPTIONS:
        raise ValueError(f"name={name!r}: must be one of {', '.join(_CORRUPTIONS)}")
    if isinstance(severity, bool) or severity not in range(6):
        raise ValueError(f"severity={severity!r}: must be 1, 2, 3, 4 or 5, or 0 for no corruption")
    if not images.is_floating_point():
        raise TypeError(f"images have dtype {images.dtype}: must be floating point, in [0, 1]")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images have shape {tuple(images.shape)}: must be (batch, channels, height, width)")
    if name == "saturate" and images.shape[1] not in (1, 3):
        raise ValueError(f"images have {images.shape[1]} channels: saturate needs 1 or 3")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images hold values outside [0, 1], or NaN")
    numbers = torch.as_tensor(index, device=images.device)
    if numbers.shape != images.shape[:1]:
        raise ValueError(f"index has shape {tuple(numbers.shape)}: must be ({len(images)},), one for each image")
    return numbers


def _scale(x: Images) -> float:
    return min(x.shape[-2:]) / 32


def _gaussian_noise(x: Images, sigma: float, seed: int, index: Index) -> Images:
    return x + sigma * hash_normal(seed, index, Field.GAUSSIAN_NOISE, x.shape[1:])


def _shot_noise(x: Images, counts: float, seed: int, index: Index) -> Images:
    return x + (x / counts).sqrt() * hash_normal(seed, index, Field.SHOT_NOISE, x.shape[1:])


def _impulse_noise(x: Images, p: float, seed: int, index: Index) -> Images:
    u = hash_uniform(seed, index, Field.IMPULSE_NOISE, x.shape[2:]).unsqueeze(1)
    return torch.where(u < p / 2, 0.0, torch.where(u < p, 1.0, x))


def _gaussian_blur(x: Images, sigma: float, seed: int, index: Index) -> Images:
    sigma *= _scale(x)
    radius = math.ceil(2.5 * sigma)
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    kernel = [weight / sum(weights) for weight in weights]
    return _filtered(_filtered(x, kernel, -1), kernel, -2)


def _motion_blur(x: Images, length: float, seed: int, index: Index) -> Images:
    """Pixel k from the centre weighs what of it lies within the box [−L/2, L/2], so that any length has its blur."""
    length = max(1.0, length * _scale(x))
    radius = math.ceil((length - 1) / 2)
    overlaps = [min(k + 0.5, length / 2) - max(k - 0.5, -length / 2) for k in range(-radius, radius + 1)]
    kernel = [overlap / length for overlap in overlaps]
    sideways = hash_uniform(seed, index, Field.MOTION_BLUR).view(-1, 1, 1, 1) < 0.5
    return torch.where(sideways, _filtered(x, kernel, -1), _filtered(x, kernel, -2))


def _filtered(x: Images, kernel: Sequence[float], dim: int) -> Images:
    """A sum of shifted copies along one dimension: unlike a convolution's, its rounding is the same in every batch."""
    size, radius = x.shape[dim], len(kernel) // 2
    places = torch.arange(size, device=x.device)
    total = torch.zeros_like(x)
    for offset, weight in enumerate(kernel, start=-radius):
        total += weight * x.index_select(dim, (places + offset).clamp(0, size - 1))
    return total


def _pixelate(x: Images, grid: float, seed: int, index: Index) -> Images:
    for dim in (-2, -1):
        size = x.shape[dim]
        samples = min(size, max(1, round(grid * size / 32)))
        cell = (2 * torch.arange(size, device=x.device) + 1) * samples // (2 * size)
        x = x.index_select(dim, (2 * cell + 1) * size // (2 * samples))
    return x


def _brightness(x: Images, b: float, seed: int, index: Index) -> Images:
    return x + b


def _contrast(x: Images, c: float, seed: int, index: Index) -> Images:
    # In float64 the mean, once rounded, does not show in which order the pixels were added.
    mean = x.mean((2, 3), keepdim=True, dtype=torch.float64).to(x.dtype)
    return (x - mean) * c + mean


def _saturate(x: Images, c: float, seed: int, index: Index) -> Images:
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    return grey + (x - grey) * c


def _fog(x: Images, a: float, seed: int, index: Index) -> Images:
    """One tile of blotches spans the image, moved cyclically to a hashed place."""
    rows, columns = (
        (TILE * (hash_uniform(seed, index, field).unsqueeze(1) + (torch.arange(size, device=x.device) + 0.5) / size))
        .long()
        .remainder(TILE)
        for field, size in ((Field.FOG_ROW, x.shape[2]), (Field.FOG_COLUMN, x.shape[3]))
    )
    t = noise_tile(1.5, 12).to(x)[rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)
    w = (a * (0.6 + 0.8 * (t - 0.5) + 0.1)).clamp(0, 1)
    return x * (1 - w) + 0.85 * w


def _occlude(x: Images, p: float, seed: int, index: Index) -> Images:
    side = max(1, round(p * min(x.shape[-2:])))
    inside = []
    for field, size in ((Field.OCCLUDE_ROW, x.shape[2]), (Field.OCCLUDE_COLUMN, x.shape[3])):
        start = (hash_uniform(seed, index, field) * (size - side + 1)).long().unsqueeze(1)
        place = torch.arange(size, device=x.device)
        inside.append((place >= start) & (place < start + side))
    square = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
    return torch.where(square.unsqueeze(1), 0.5, x)


# The table of luma of the JPEG standard, ITU-T T.81, annex K.1.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def _jpeg(x: Images, quality: float, seed: int, index: Index) -> Images:
    """Every channel as luma, in 8 × 8 blocks of levels 0 … 255; an image that does not fill them repeats its edge."""
    height, width = x.shape[2:]
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = ((torch.tensor(LUMA, device=x.device) * scale + 50) / 100).floor().clamp(1, 255).to(x.dtype)
    for dim in (2, 3):
        size = x.shape[dim]
        x = x.index_select(dim, torch.arange(-(-size // 8) * 8, device=x.device).clamp(max=size - 1))
    n, channels, rows, columns = x.shape
    blocks = (255 * x - 128).view(n, channels, rows // 8, 8, columns // 8, 8).transpose(3, 4)
    to_waves = _cosines().to(x)
    waves = _along(_along(blocks, to_waves).mT, to_waves).mT
    waves = (waves / steps).round() * steps
    blocks = _along(_along(waves, to_waves.mT).mT, to_waves.mT).mT
    whole = blocks.transpose(3, 4).reshape(n, channels, rows, columns)
    return (whole[:, :, :height, :width] + 128) / 255


@cache
def _cosines() -> Float[Tensor, "8 8"]:
    """The orthonormal cosine transform: row k has c_k cos(pi k (2 i + 1)/16), c_0 = sqrt(1/8), else 1/2."""
    k, i = torch.arange(8.0, dtype=torch.float64).unsqueeze(1), torch.arange(8.0, dtype=torch.float64)
    waves = (math.pi * k * (2 * i + 1) / 16).cos() / 2
    waves[0] = math.sqrt(1 / 8)
    return waves


def _along(x: Tensor, matrix: Float[Tensor, "8 8"]) -> Tensor:
    """``matrix`` applied to the last dimension, as a sum of products whose rounding is the same in every batch."""
    total = matrix[:, 0] * x[..., :1]
    for i in range(1, 8):
        total = total + matrix[:, i] * x[..., i : i + 1]
    return total


_CORRUPTIONS: dict[str, tuple[Callable[[Images, float, int, Index], Images], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.07, 0.11, 0.16, 0.22)),
    "shot_noise": (_shot_noise, (250, 100, 50, 25, 12)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.04, 0.07, 0.12)),
    "gaussian_blur": (_gaussian_blur, (0.5, 0.8, 1.1, 1.5, 2.0)),
    "motion_blur": (_motion_blur, (3, 4, 5, 7, 9)),
    "pixelate": (_pixelate, (24, 20, 16, 12, 10)),
    "brightness": (_brightness, (0.08, 0.16, 0.24, 0.32, 0.40)),
    "contrast": (_contrast, (0.6, 0.45, 0.32, 0.22, 0.14)),
    "saturate": (_saturate, (0.5, 0.25, 0, 2, 3)),
    "fog": (_fog, (0.25, 0.40, 0.55, 0.70, 0.85)),
    "occlude": (_occlude, (0.2, 0.3, 0.4, 0.5, 0.6)),
    "jpeg": (_jpeg, (50, 30, 18, 10, 6)),
}

CORRUPTIONS = tuple(_CORRUPTIONS)
"""The names of all corruptions."""
