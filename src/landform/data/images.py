"""Decoding of many image files at once."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"})
# Images are handed to threads by so many, since a thread's errand costs more than one small image.
ERRAND = 64
ORIENTATION = ExifTags.Base.Orientation

Size = int | tuple[int, int]


def check_size(size: Size | None) -> tuple[int, int] | None:
    """``size`` as (height, width)."""
    if size is None:
        return None
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"size={size!r}: must be a whole number of pixels, or two: (height, width)")
    return sides


def decode(
    sources: Sequence[Path | bytes], names: Sequence[str], *, size: Size | None = None, grayscale: bool | None = None
) -> Float[Tensor, "n c h w"]:
    """Decode image files, or the bytes of such, into one float32 tensor in [0, 1].

    Images are turned upright as their EXIF data say. There is one channel where every image is grey or ``grayscale`` is
    True (luma: 0.299 R + 0.587 G + 0.114 B), and otherwise three, RGB; an alpha channel is dropped.

    Arguments:
        sources: paths, or the files' bytes.
        names: what to call each image in an error.
        size: resize (antialiased, without keeping the aspect ratio) to S × S, or to (height, width).
        grayscale: True for one channel, False for three, None as the images are.

    Raises:
        ValueError: no image, something that is not an image, or, without ``size``, images of different sizes.
    """
    target = check_size(size)
    if not sources:
        raise ValueError("there are no images to decode")

    def errand(start: int) -> list[NDArray[np.uint8 | np.float32]]:
        stop = start + ERRAND
        return [_decode(s, n, target, grayscale) for s, n in zip(sources[start:stop], names[start:stop], strict=True)]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        arrays = [array for done in pool.map(errand, range(0, len(sources), ERRAND)) for array in done]
    _check_equal(arrays, names)
    channels = max(len(array) for array in arrays)
    arrays = [np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays]
    # Of 16-bit images there are floats already; everything else stays in bytes up to here, a quarter of the memory.
    return torch.from_numpy(np.stack(arrays)).to(torch.float32).div_(255)


def _decode(
    source: Path | bytes, name: str, size: tuple[int, int] | None, grayscale: bool | None
) -> NDArray[np.uint8 | np.float32]:
    """One image as (channels, height, width), in units of 1/255."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            image: Image.Image = file
            if image.getexif().get(ORIENTATION, 1) != 1:
                image = ImageOps.exif_transpose(image)
            grey = image.mode in GREY_MODES if grayscale is None else grayscale
            mode = "L" if grey else "RGB"
            if image.mode.startswith(("I", "F")):
                image = _deep(image, name)
            elif image.mode != mode:
                image = image.convert(mode)
            if size is not None and image.size != size[::-1]:
                image = image.resize(size[::-1], Image.Resampling.BILINEAR)
            array = np.array(image)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from error
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return planes if grey else np.broadcast_to(planes, (3, *planes.shape[1:]))


def _deep(image: Image.Image, name: str) -> Image.Image:
    """An image of 16 bits a pixel, in floats so that none are lost."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"{name} has pixels of mode {image.mode} beyond 16 bits; their range is not known")
    return Image.fromarray(values.astype(np.float32) / 257)


def _check_equal(arrays: Iterable[NDArray[np.uint8 | np.float32]], names: Sequence[str]) -> None:
    first: tuple[int, ...] | None = None
    for array, name in zip(arrays, names, strict=True):
        shape = array.shape[1:]
        first = first or shape
        if shape != first:
            raise ValueError(
                f"images differ in size: {names[0]} is {first[0]} × {first[1]} (height × width), "
                f"{name} is {shape[0]} × {shape[1]}; give size= to resize them all"
            )
