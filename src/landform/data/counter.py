"""Random numbers without a generator: hashes of (seed, index, field).

Sample i draws the same numbers alone, in any batch, in any order and on any worker or device, since nothing is
remembered between draws. ``index`` numbers the sample and ``field`` says what the number is for. With the output
function of splitmix64,

    mix(z): z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31

modulo 2^64 and G = 0x9E3779B97F4A7C15, a sample's key and its stream of 64-bit integers, such as one a pixel, are

    key = mix(mix(seed + G) + G (256 index + field + 1)),    z_j = mix(key + G (j + 1)),  j = 0, 1, …

Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), for splitmix64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor

# 64-bit constants as torch's signed integers, whose products and sums wrap around.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


class Field(IntEnum):
    """What a number is drawn for. Part of the format: a number is never given another meaning.

    0–39 are for geometry and light, 40–79 for corruptions, 80–119 for factors (label, attributes, region), and those
    from 120 on for extensions.
    """

    RADIUS = 0
    ROTATION = 1
    CENTRE_X = 2
    CENTRE_Y = 3
    OBJECT_PHASE_X = 4
    OBJECT_PHASE_Y = 5
    GROUND_FREQUENCY = 6
    GROUND_PHASE_X = 7
    GROUND_PHASE_Y = 8
    JITTER_RED = 9
    JITTER_GREEN = 10
    JITTER_BLUE = 11
    LIGHT = 12
    GAUSSIAN_NOISE = 40
    SHOT_NOISE = 41
    IMPULSE_NOISE = 42
    MOTION_BLUR = 43
    FOG_ROW = 44
    FOG_COLUMN = 45
    OCCLUDE_ROW = 46
    OCCLUDE_COLUMN = 47
    LABEL = 80
    COUPLED = 81
    ATTRIBUTE = 82
    CELL = 83
    SHAPE = 84
    TEXTURE = 85
    COLOUR = 86
    BACKGROUND = 87
    REGION = 88
    WAYS = 89
    NOISE_TILE = 120
    DISTRACTOR_SHAPE = 121
    DISTRACTOR_TEXTURE = 122
    DISTRACTOR_COLOUR = 123
    DISTRACTOR_X = 124
    DISTRACTOR_Y = 125
    DISTRACTOR_RADIUS = 126
    DISTRACTOR_ROTATION = 127
    WHITE_TILE = 128
    OVERHEAD_GROUND_FREQUENCY = 130
    OVERHEAD_GROUND_PHASE_X = 131
    OVERHEAD_GROUND_PHASE_Y = 132
    OVERHEAD_ROAD_X = 133
    OVERHEAD_ROAD_Y = 134
    OVERHEAD_ROAD_DIRECTION = 135
    OVERHEAD_OCCUPIED = 136
    OVERHEAD_CLASS = 137
    OVERHEAD_WIDTH = 138
    OVERHEAD_HEIGHT = 139
    OVERHEAD_TURNED = 140
    OVERHEAD_ANGLE = 141
    OVERHEAD_X = 142
    OVERHEAD_Y = 143
    OVERHEAD_PAINT = 144
    OVERHEAD_JITTER_RED = 145
    OVERHEAD_JITTER_GREEN = 146
    OVERHEAD_JITTER_BLUE = 147
    OVERHEAD_DAMAGED = 148
    OVERHEAD_WEDGE_SHARE = 149
    OVERHEAD_WEDGE_START = 150
    ROOF_WIDTH = 160
    ROOF_HEIGHT = 161
    ROOF_ANGLE = 162
    ROOF_X = 163
    ROOF_Y = 164
    ROOF_SUN = 165
    ROOF_GROUND_PHASE_X = 166
    ROOF_GROUND_PHASE_Y = 167
    ROOF_PATTERN_PHASE_X = 168
    ROOF_PATTERN_PHASE_Y = 169
    ROOF_SOLAR = 170
    ROOF_SOLAR_FACET = 171
    ROOF_HVAC = 172
    ROOF_HVAC_COUNT = 173
    ROOF_HVAC_X = 174
    ROOF_HVAC_Y = 175
    ROOF_MIXED = 176
    ROOF_MIXED_MATERIAL = 177
    ROOF_DRAW_REGION = 178
    ROOF_DRAW_MATERIAL = 179
    ROOF_DRAW_SHAPE = 180


def mix(z: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The output function of splitmix64 on int64 tensors, read as 64 bits without a sign.

    >>> mix(torch.tensor(1234567 + GOLDEN)).item()
    6457827717110365317
    """
    z = (z ^ _shift(z, 30)) * FIRST
    z = (z ^ _shift(z, 27)) * SECOND
    return z ^ _shift(z, 31)


def hash_uniform(
    seed: int, index: Int[Tensor, "*batch"] | Sequence[int] | int, field: int, shape: Sequence[int] = ()
) -> Float[Tensor, "*batch ..."]:
    """Uniform numbers in [0, 1): multiples of 2^-24, exact in float32.

    They are the upper 24 bits of the key, or with a ``shape`` (such as that of an image) of the stream z_j.

    Arguments:
        seed: any whole number, taken modulo 2^64.
        index: the samples' numbers, at least 0.
        field: what is drawn, 0 … 255.
        shape: of the numbers that one sample draws; none for a single one.

    Returns: float32 (\\*batch, \\*shape), on the device of ``index``.

    Raises:
        TypeError: a seed, index or field that is not of whole numbers.
        ValueError: a negative index, or a field out of range.

    >>> hash_uniform(7, [0, 1, 2], 0)
    tensor([0.7215, 0.9697, 0.6428])
    """
    key = _key(seed, index, field)
    z = _stream(key, shape) if shape else key
    return _shift(z, 40).to(torch.float32) * 2.0**-24


def hash_normal(
    seed: int, index: Int[Tensor, "*batch"] | Sequence[int] | int, field: int, shape: Sequence[int] = ()
) -> Float[Tensor, "*batch ..."]:
    """Nearly normal numbers, by integer arithmetic and so the same to the bit on every device.

    Each is the sum of the four 16-bit integers that make up z_j, less 131070, times sqrt(3)/65536: mean 0, variance
    1 − 2^-32, excess kurtosis −0.3. Its tails end at ±3.46.

    Arguments, results and errors are those of :func:`hash_uniform`; without a ``shape`` a sample's number is z_0.

    >>> hash_normal(7, [0, 1], 0, (2, 3)).shape
    torch.Size([2, 2, 3])
    """
    z = _stream(_key(seed, index, field), shape)
    total = (z & 0xFFFF) + (_shift(z, 16) & 0xFFFF) + (_shift(z, 32) & 0xFFFF) + _shift(z, 48)
    return (total - 131070).to(torch.float32) * (math.sqrt(3) / 65536)


def _shift(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: zeros enter, not the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def _key(seed: int, index: Tensor | Sequence[int] | int, field: int) -> Tensor:
    for name, value in (("seed", seed), ("field", field)):
        if not isinstance(value, Integral):
            raise TypeError(f"{name}={value!r}: must be a whole number")
    if not 0 <= field <= 255:
        raise ValueError(f"field={field}: must be in 0 … 255")
    numbers = torch.as_tensor(index)
    if numbers.numel() and (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool):
        raise TypeError(f"index has dtype {numbers.dtype}: must be integers")
    numbers = numbers.long()
    if numbers.numel() and (least := int(numbers.min())) < 0:
        raise ValueError(f"index holds {least}: must be at least 0")
    start = mix(torch.tensor(_signed(int(seed) + GOLDEN), device=numbers.device))
    return mix(start + GOLDEN * (256 * numbers + (int(field) + 1)))


def _stream(key: Tensor, shape: Sequence[int]) -> Tensor:
    """The first integers of each key's stream, (\\*key.shape, \\*shape)."""
    steps = GOLDEN * torch.arange(1, math.prod(shape) + 1, device=key.device)
    return mix(key.unsqueeze(-1) + steps).reshape(*key.shape, *shape)


def _signed(value: int) -> int:
    """The 64-bit integer of two's complement that equals ``value`` modulo 2^64."""
    return (value + 2**63) % 2**64 - 2**63
