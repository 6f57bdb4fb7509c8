"""The two atlases that scenes are drawn from: distances to the outlines of shapes, and tiles of texture."""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from landform.data.tiles import TILE, noise_tile

EXTENT = 1.5
"""The atlas of shapes spans [-EXTENT, EXTENT]² in units of the object's radius."""


@cache
def shape_atlas() -> Float[Tensor, "10 64 64"]:
    """Signed distances to the outline, negative inside, at the centres of 64 × 64 cells.

    Columns are x to the right and rows y downwards from 1.5, so that shapes stand upright. In the order of
    :data:`~landform.data.scenes.SHAPES`. Shared between calls: do not write to it.
    """
    line = torch.linspace(-EXTENT, EXTENT, 2 * TILE + 1, dtype=torch.float64)[1::2]
    y, x = torch.meshgrid(-line, line, indexing="ij")
    r, angle = torch.hypot(x, y), torch.atan2(y, x)

    def box(width: float, height: float, above: float = 0.0) -> Tensor:
        return torch.maximum(x.abs() - width, (y - above).abs() - height)

    def polygon(sides: int, radius: float) -> Tensor:
        sector = 2 * math.pi / sides
        return r * ((angle - math.pi / 2).remainder(sector) - sector / 2).cos() - radius * math.cos(sector / 2)

    distances = (
        r - 0.9,
        torch.maximum(x.abs(), y.abs()) - 0.8,
        polygon(3, 1.15),
        torch.minimum(box(0.95, 0.32), box(0.32, 0.95)),
        (r - 0.72).abs() - 0.24,
        torch.maximum(r - 0.95, 0.7 - torch.hypot(x - 0.45, y)),
        r - 1.05 * (0.62 + 0.38 * (5 * (angle - math.pi / 2)).cos()),
        polygon(6, 1.0),
        torch.minimum(box(0.95, 0.27, 0.5), box(0.95, 0.27, -0.5)),
        torch.minimum(box(0.95, 0.28, 0.65), box(0.28, 0.95)),
    )
    return torch.stack(distances).float()


@cache
def texture_atlas() -> Float[Tensor, "8 64 64"]:
    """Tiles in [0, 1] that wrap around, sampled at the centres of 64 × 64 cells of the unit square.

    In the order of :data:`~landform.data.scenes.TEXTURES`. Shared between calls: do not write to it.
    """
    line = (torch.arange(TILE, dtype=torch.float64) + 0.5) / TILE
    y, x = torch.meshgrid(line, line, indexing="ij")
    pi = math.pi

    def step(v: Tensor) -> Tensor:
        return ((3 * v).tanh() + 1) / 2

    tiles = (
        torch.full_like(x, 0.5),
        step((8 * pi * x).sin()),
        step((8 * pi * y).sin()),
        step(2 * (6 * pi * x).sin() * (6 * pi * y).sin()),
        step((8 * pi * x).cos() + (8 * pi * y).cos() - 0.7),
        noise_tile(1.5, 12),
        noise_tile(0.7, 30),
        step((6 * pi * (x + y)).sin()),
    )
    return torch.stack([tile.float() for tile in tiles])
