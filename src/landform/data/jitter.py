"""Random affine jitter of whole batches of images."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

# grid_sample holds a grid twice as large as one channel of its images; so many images at a time keep it small.
CHUNK = 8192


def warp(
    x: Float[Tensor, "batch channels height width"],
    matrix: Float[Tensor, "batch 2 2"],
    shift: Float[Tensor, "batch 2"],
) -> Float[Tensor, "batch channels height width"]:
    """Move every image's content by its own affine map about the image's centre c.

    What was at pixel p = (column, row) comes to ``matrix (p - c) + c + shift``, in pixels; values between pixels are
    interpolated bilinearly, and what lies outside the image is 0.

    Raises:
        TypeError: images that are not floating point.
        ValueError: shapes that do not fit.
    """
    _check_images(x)
    if matrix.shape != (len(x), 2, 2) or shift.shape != (len(x), 2):
        raise ValueError(
            f"matrix {tuple(matrix.shape)} and shift {tuple(shift.shape)} must be ({len(x)}, 2, 2) and ({len(x)}, 2)"
        )
    if not len(x):
        return x.clone()
    # grid_sample asks where each output pixel comes from, in units of half the image: p = half * u.
    half = torch.tensor([x.shape[3] / 2, x.shape[2] / 2], dtype=x.dtype, device=x.device)
    inverse = torch.linalg.inv(matrix.to(x))
    origin = -(inverse @ shift.to(x).unsqueeze(2))
    theta = torch.cat([inverse * half / half.unsqueeze(1), origin / half.unsqueeze(1)], dim=2)
    parts = [
        grid_sample(part, affine_grid(theta_part, list(part.shape), align_corners=False), align_corners=False)
        for part, theta_part in zip(x.split(CHUNK), theta.split(CHUNK), strict=True)
    ]
    return torch.cat(parts)


def affine_jitter(
    x: Float[Tensor, "batch channels height width"],
    *,
    rotation: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Rotate, scale, shear and shift every image by amounts of its own, all drawn uniformly at once.

    With a ~ U(-rotation, rotation), s ~ U(1 - scale, 1 + scale), k ~ U(-shear, shear) and t ~ U(-shift, shift)^2 the
    content moves about the image's centre by::

        A = s [[cos a, sin a], [-sin a, cos a]] [[1, k], [0, 1]],    p -> A p + (t_1 width, t_2 height)

    in (column, row) coordinates, so that a positive angle turns counter-clockwise to the eye. Bilinear; outside is 0.
    All amounts zero give a copy.

    Arguments:
        x: floating-point images, on any device.
        rotation: the greatest angle, in degrees.
        scale: the greatest change of size, as a fraction below 1.
        shear: the greatest slope of the shear.
        shift: the greatest shift, as a fraction of the width and of the height.
        generator: draws the amounts, five numbers an image, on its own device (default: torch's global generator).

    Raises:
        TypeError: images that are not floating point.
        ValueError: images that are not 4-dimensional, or an amount that is negative, not finite, or (scale) 1 or more.

    >>> x = torch.rand(2, 1, 8, 8)
    >>> affine_jitter(x, rotation=10, shift=0.1, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    for name, amount in (("rotation", rotation), ("scale", scale), ("shear", shear), ("shift", shift)):
        if not (math.isfinite(amount) and amount >= 0) or (name == "scale" and amount >= 1):
            raise ValueError(f"{name}={amount}: must be zero or more{', and below 1' if name == 'scale' else ''}")
    _check_images(x)
    device = x.device if generator is None else generator.device
    draws = torch.rand(len(x), 5, generator=generator, dtype=torch.float64, device=device) * 2 - 1
    angle, factor, slope = draws[:, 0] * math.radians(rotation), 1 + draws[:, 1] * scale, draws[:, 2] * shear
    cos, sin = factor * angle.cos(), factor * angle.sin()
    matrix = torch.stack([cos, cos * slope + sin, -sin, cos - sin * slope], dim=1).view(-1, 2, 2)
    offset = draws[:, 3:] * shift * torch.tensor([x.shape[-1], x.shape[-2]], device=device)
    # The grid's rounding would move float32 images by some 1e-6 pixels; no amount at all is to change nothing.
    return warp(x, matrix, offset) if any((rotation, scale, shear, shift)) else x.clone()


def _check_images(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; images to be moved must be floating point")
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; images are (batch, channels, height, width)")
