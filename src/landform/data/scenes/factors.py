"""What a scene is made of: the factors, their values' names, and which of them a sample has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform

SHAPES = ("disk", "square", "triangle", "plus", "ring", "crescent", "star", "hexagon", "bars", "tee")
TEXTURES = ("plain", "stripes_v", "stripes_h", "checker", "dots", "blotch", "grain", "diagonal")
COLOURS = ("red", "green", "blue", "yellow", "purple", "teal", "orange", "white")
BACKGROUNDS = ("grass", "sand", "water", "snow", "forest", "asphalt", "brick", "indoor")
REGIONS = ("r0", "r1", "r2", "r3", "r4", "r5")

VALUES = {
    "shape": SHAPES,
    "texture": TEXTURES,
    "colour": COLOURS,
    "background": BACKGROUNDS,
    "region": REGIONS,
}
"""Every factor's values, by name."""

_DRAWN_FROM = {
    "shape": Field.SHAPE,
    "texture": Field.TEXTURE,
    "colour": Field.COLOUR,
    "background": Field.BACKGROUND,
    "region": Field.REGION,
}
_NONE = torch.empty(0, dtype=torch.int64)


class Factors(NamedTuple):
    """The factors of n scenes, int64 ``(n,)`` each, with the label to predict and the group to be fair to.

    The first five say what is drawn (numbers into :data:`VALUES`); ``label`` and ``group`` are the design's, and empty
    where factors were put together by hand.
    """

    shape: Int[Tensor, " n"]
    texture: Int[Tensor, " n"]
    colour: Int[Tensor, " n"]
    background: Int[Tensor, " n"]
    region: Int[Tensor, " n"]
    label: Int[Tensor, " n"] = _NONE
    group: Int[Tensor, " n"] = _NONE


def check_factors(factors: Factors) -> None:
    """Refuse factors of another type, of unequal lengths, or out of range.

    Raises:
        TypeError: a factor that is no integer tensor.
        ValueError: a factor of another shape than (n,).
        IndexError: a value that the factor does not have; the message names the factor.
    """
    n = None
    for name, names in VALUES.items():
        values = getattr(factors, name)
        if not isinstance(values, Tensor) or values.is_floating_point() or values.dtype == torch.bool:
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"factor {name} is {kind}: must be a tensor of integers")
        n = len(values) if n is None and values.ndim == 1 else n
        if values.shape != (n,):
            raise ValueError(f"factor {name} has shape {tuple(values.shape)}: every factor must be (n,), alike")
        if n:
            low, high = (int(v) for v in values.aminmax())
            if low < 0 or high >= len(names):
                found = low if low < 0 else high
                raise IndexError(f"factor {name} holds {found}: it has the values 0 … {len(names) - 1}")


def check_name(argument: str, name: object) -> str:
    """The name of a factor, or a ValueError that lists them."""
    if name not in VALUES:
        raise ValueError(f"{argument}={name!r}: must be one of {', '.join(VALUES)}")
    return str(name)


def uniform(index: Tensor | Sequence[int], seed: int) -> dict[str, Int[Tensor, " n"]]:
    """Every factor by itself, uniform over its values: what a design begins with."""
    return {name: (hash_uniform(seed, index, field) * len(VALUES[name])).long() for name, field in _DRAWN_FROM.items()}
