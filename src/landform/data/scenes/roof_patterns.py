"""The patterns of roofing: values in [0, 1] at a place (a, b), in pitches across and down the slope."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.tiles import TILE, noise_tile

Places = Float[Tensor, "m size size"]
# (a, b, pixels per unit of a, pixels per unit of b) -> value
Pattern = Callable[[Places, Places, Tensor, Tensor], Places]

BLOTCH_PITCHES = 4  # pitches that a tile of blotches spans


def _wave(function: Callable[[Tensor], Tensor], angle: Tensor) -> Tensor:
    """A sine or cosine that, rounded from float64, is the same on every device and for every length of batch."""
    return function(angle.double()).float()


def _fibre(a: Places, b: Places, pitch_u: Tensor, pitch_v: Tensor) -> Places:
    return 0.5 + 0.5 * _wave(torch.sin, 2 * math.pi * 1.7 * a + 3 * _wave(torch.sin, 5 * b))


def _barrel(a: Places, b: Places, pitch_u: Tensor, pitch_v: Tensor) -> Places:
    return 0.5 + 0.5 * _wave(torch.cos, 2 * math.pi * a)


def _folds(a: Places, b: Places, pitch_u: Tensor, pitch_v: Tensor) -> Places:
    return 0.5 + 0.5 * _wave(torch.sin, 2 * math.pi * (a + 0.15 * _wave(torch.sin, 4 * b)))


def _brick(a: Places, b: Places, pitch_u: Tensor, pitch_v: Tensor) -> Places:
    a = a + 0.5 * b.floor().remainder(2)
    return torch.minimum(_to_line(a) * pitch_u, _to_line(b) * pitch_v).clamp(max=1)


def _rows(a: Places, b: Places, pitch_u: Tensor, pitch_v: Tensor) -> Places:
    return 0.6 * (_to_line(b) * pitch_v).clamp(max=1) + 0.4 * _each(a, b)


def _panes(a: Places, b: Places, pitch_u: Tensor, pitch_v: Tensor) -> Places:
    grid = torch.minimum(_to_line(a) * pitch_u, _to_line(b) * pitch_v).clamp(max=1)
    return grid * (0.5 + 0.5 * _each(a, b))


def _blotch(a: Places, b: Places, pitch_u: Tensor, pitch_v: Tensor) -> Places:
    column, row = ((TILE / BLOTCH_PITCHES * p).floor().long() & (TILE - 1) for p in (a, b))
    return noise_tile(1.5, 12).to(a.device)[row, column]


PATTERNS: dict[str, Pattern] = {
    "fibre": _fibre,
    "blotch": _blotch,
    "brick": _brick,
    "barrel": _barrel,
    "rows": _rows,
    "panes": _panes,
    "joints": _brick,
    "folds": _folds,
}


def _to_line(p: Places) -> Places:
    """The distance to the nearest whole number."""
    return (p - p.round()).abs()


def _each(a: Places, b: Places) -> Places:
    """A number in [0, 1) of each shingle or pane, between one line and the next."""
    column, row = (p.floor().long() & (TILE - 1) for p in (a, b))
    return _white().to(a.device)[row, column]


@cache
def _white() -> Float[Tensor, "64 64"]:
    return hash_uniform(0, 0, Field.WHITE_TILE, (TILE, TILE))
