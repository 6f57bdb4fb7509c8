"""Tiles of natural-looking noise that continue seamlessly at their edges."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from landform.data.counter import Field, hash_normal

TILE = 64
"""The side of a tile."""


@cache
def noise_tile(exponent: float, cut: int, number: int = 0) -> Float[Tensor, "64 64"]:
    """Noise whose amplitude falls with the frequency k as k^-exponent, in [0, 1].

    White noise of a fixed seed is filtered in Fourier space (k in cycles a tile; nothing is left at 0 and above
    ``cut``) and standardised to a of mean 0 and variance 1; the tile is clip(.5 + a/5, 0, 1), and wraps around. It is
    shared between calls: do not write to it.

    Arguments:
        exponent: of the fall; 1.5 makes blotches, 0.7 grain.
        cut: the highest frequency that is left, in cycles a tile.
        number: which of many such tiles.

    Raises:
        ValueError: no frequency is left.
    """
    if not 1 <= cut <= TILE // 2:
        raise ValueError(f"cut={cut}: must be in 1 … {TILE // 2} cycles")
    white = hash_normal(0, number, Field.NOISE_TILE, (TILE, TILE)).double()
    cycles = torch.fft.fftfreq(TILE, 1 / TILE, dtype=torch.float64)
    k = torch.hypot(cycles.unsqueeze(1), cycles)
    amplitude = torch.where((k > 0) & (k <= cut), k.clamp(min=1) ** -exponent, 0.0)
    noise = torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real
    return (0.5 + noise / noise.std(correction=0) / 5).clamp(0, 1).float()
