"""Roof tiles: one roof on ground, seen from above, with its material, form and place in the world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.atlas import texture_atlas
from landform.data.scenes.draw import choose
from landform.data.scenes.factors import TEXTURES
from landform.data.scenes.overhead import per_image
from landform.data.scenes.render import check_size
from landform.data.scenes.roof_materials import (
    ALWAYS_FLAT,
    CONTINENTS,
    GROUND_HIGH,
    GROUND_LOW,
    MATERIALS,
    ROOF_MATERIALS,
    ROOF_SHAPES,
    ROOF_SIZE,
    ROOF_TINT,
    roof_material_prior,
)
from landform.data.scenes.roof_patterns import PATTERNS
from landform.data.tiles import TILE

CHUNK = 256
FLAT, GABLE, HIP, PYRAMIDAL = range(4)
SOLAR, HVAC, MIXED = 0.06, 0.30, 0.05
PANEL, PANEL_LINE, BOX = (0.08, 0.12, 0.30), (0.30, 0.36, 0.52), (0.82, 0.82, 0.80)

_LOW, _HIGH = (torch.tensor([getattr(m, end) for m in MATERIALS.values()]) for end in ("low", "high"))
_PITCH = torch.tensor([(m.pitch_u, m.pitch_v) for m in MATERIALS.values()])
_CONTRAST = torch.tensor([m.contrast for m in MATERIALS.values()])
_PATTERN = torch.tensor([list(PATTERNS).index(m.pattern) for m in MATERIALS.values()])


class RoofTiles(NamedTuple):
    """Images, the roofs' masks (alpha), and a column of metadata each, ``(n,)``, by name.

    ``material``, ``roof_shape`` and ``region`` are numbers; ``area`` is the footprint in m², the mask's pixels times
    gsd²; ``solar``, ``hvac`` and ``mixed`` say what lies on the roof.
    """

    images: Float[Tensor, "n 3 size size"]
    masks: Float[Tensor, "n 1 size size"]
    metadata: dict[str, Tensor]


def roof_tiles(
    index: Int[Tensor, " n"] | Sequence[int],
    material: Int[Tensor, " n"] | Sequence[int] | int | str,
    roof_shape: Int[Tensor, " n"] | Sequence[int] | int | str,
    region: Int[Tensor, " n"] | Sequence[int] | int | str,
    *,
    seed: int,
    size: int = 32,
    gsd: float = 0.3,
) -> RoofTiles:
    """Draw roofs, each a function of its index, material, shape, region and the seed alone.

    The footprint w = S (.55 + .25 u) times the region's roof size, h = w (.6 + .35 u), is turned by any angle and lies
    within two pixels (of 32) of the middle. Gables have two facets, hips and pyramids four; a facet's shade is
    .82 + .28 cos(its direction - the sun's azimuth), that of a flat roof 1. The material's pattern runs across and down
    each facet. The region also gives the ground and the tint. On 6 % of roofs lie solar panels, on 30 % of flat ones
    one to three boxes (HVAC), and 5 % are of a second material at one end (mixed).

    The four Amorphous materials and GreenVegetative lie on flat roofs only, and whatever shape is asked for, theirs is
    drawn flat and recorded so; no other material lies on a flat roof.

    Arguments:
        index: the images' numbers, at least 0.
        material: numbers into :data:`ROOF_MATERIALS`, one for each image; or one number or name for all.
        roof_shape: likewise of :data:`ROOF_SHAPES`.
        region: likewise of :data:`CONTINENTS`.
        seed: any whole number.
        size: pixels on a side, 16 … 256.
        gsd: metres that a pixel spans.

    Raises:
        TypeError: an argument that is not of integers.
        ValueError: a number or name that there is not, a flat roof of a material that has none, or another argument
            out of range.

    >>> images, masks, metadata = roof_tiles([0, 1], "ClayTiles", "hip", "Europe", seed=0)
    >>> images.shape, masks.shape, sorted(metadata)
    (torch.Size([2, 3, 32, 32]), torch.Size([2, 1, 32, 32]),
     ['area', 'hvac', 'material', 'mixed', 'region', 'roof_shape', 'solar'])
    """
    numbers = torch.as_tensor(index)
    if numbers.ndim != 1:
        raise ValueError(f"index has shape {tuple(numbers.shape)}: must be (n,)")
    check_size(size)
    if not (isinstance(gsd, int | float) and 0 < gsd < math.inf):
        raise ValueError(f"gsd={gsd!r}: must be metres above 0")
    of = per_image("material", material, ROOF_MATERIALS, numbers)
    form = per_image("roof_shape", roof_shape, ROOF_SHAPES, numbers)
    where = per_image("region", region, CONTINENTS, numbers)
    flat = ALWAYS_FLAT.to(numbers.device)[of]
    if bool((wrong := (form == FLAT) & ~flat).any()):
        name = ROOF_MATERIALS[int(of[wrong][0])]
        raise ValueError(f"roof_shape is flat where material is {name}: only Amorphous and GreenVegetative roofs are")
    form = torch.where(flat, FLAT, form)
    parts = [
        _draw(*(values[start : start + CHUNK] for values in (numbers, of, form, where)), seed=seed, size=size)
        for start in range(0, len(numbers), CHUNK)
    ] or [_draw(numbers.long(), of, form, where, seed=seed, size=size)]
    images, masks, *flags = (torch.cat(columns) for columns in zip(*parts, strict=True))
    metadata = {"material": of, "roof_shape": form, "region": where}
    metadata |= dict(zip(("solar", "hvac", "mixed"), flags, strict=True))
    metadata["area"] = masks.sum((1, 2, 3), dtype=torch.float64).float() * gsd**2
    return RoofTiles(images, masks, metadata)


def roof_factors(
    index: Int[Tensor, " n"] | Sequence[int], seed: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Materials, roof shapes and regions as they occur: the region uniform, the material by its prior there
    (:func:`roof_material_prior`), and the shape uniform over those that the material has.

    >>> tiles = roof_tiles([0, 1, 2], *roof_factors([0, 1, 2], seed=0), seed=0)
    """
    region = (hash_uniform(seed, index, Field.ROOF_DRAW_REGION) * len(CONTINENTS)).long()
    prior = roof_material_prior().to(region.device)[region]
    material = choose(hash_uniform(seed, index, Field.ROOF_DRAW_MATERIAL), prior)
    pitched = 1 + (hash_uniform(seed, index, Field.ROOF_DRAW_SHAPE) * 3).long()
    return material, torch.where(ALWAYS_FLAT.to(region.device)[material], FLAT, pitched), region


def _draw(index: Tensor, material: Tensor, form: Tensor, region: Tensor, *, seed: int, size: int) -> tuple[Tensor, ...]:
    """Images, masks and the three flags of one chunk."""
    device, scale = index.device, size / 32

    def u(field: Field) -> Tensor:
        return hash_uniform(seed, index, field).view(-1, 1, 1)

    width = size * (0.55 + 0.25 * u(Field.ROOF_WIDTH)) * ROOF_SIZE.to(device)[region].view(-1, 1, 1)
    height = width * (0.6 + 0.35 * u(Field.ROOF_HEIGHT))
    angle = math.pi * u(Field.ROOF_ANGLE)
    cos, sin = angle.double().cos().float(), angle.double().sin().float()
    position = torch.arange(size, device=device) + 0.5 - size / 2
    dx, dy = (
        position - 2 * scale * (2 * hash_uniform(seed, index, field).unsqueeze(1) - 1)
        for field in (Field.ROOF_X, Field.ROOF_Y)
    )
    dx, dy = dx.unsqueeze(1), dy.unsqueeze(2)
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    to_end, to_side = width / 2 - along.abs(), height / 2 - across.abs()
    mask = (0.5 + torch.minimum(to_end, to_side)).clamp(0, 1)

    # A point belongs to an end's facet where the end's eaves are nearer; a pyramid's facets meet in its middle.
    kind = form.view(-1, 1, 1)
    nearer = torch.where(kind == PYRAMIDAL, to_end * (height / width), to_end) < to_side
    end = nearer & (kind >= HIP)
    facing = torch.where(end, torch.where(along > 0, 0.0, 2.0), torch.where(across > 0, 1.0, 3.0))
    azimuth = (angle + facing * (math.pi / 2) - (0.6 + 0.6 * u(Field.ROOF_SUN))).double()
    shade = torch.where(kind == FLAT, 1.0, 0.82 + 0.28 * azimuth.cos().float())

    run = torch.where(end, across, along)
    down = torch.where(kind == FLAT, across, torch.where(end, to_end, to_side))
    mixed = u(Field.ROOF_MIXED) < MIXED
    other = material + 1 + (u(Field.ROOF_MIXED_MATERIAL).flatten() * (len(ROOF_MATERIALS) - 1)).long()
    colour = _cover(material, run, down, index, seed, scale)
    if bool(mixed.any()):
        these = mixed.flatten().nonzero().squeeze(1)
        second = _cover(other[these] % len(ROOF_MATERIALS), run[these], down[these], index[these], seed, scale)
        there = (along > width / 6)[these].unsqueeze(1)
        colour[these] = torch.where(there, second, colour[these])
    colour = colour * shade.unsqueeze(1)

    solar = u(Field.ROOF_SOLAR) < SOLAR
    if bool(solar.any()):
        side = torch.where(u(Field.ROOF_SOLAR_FACET) < 0.5, -1.0, 1.0)
        row = side * across - height / 4
        panel = solar & (along.abs() < width / 5) & (row.abs() < height / 7)
        line = ((along / scale).remainder(3) < 1) | ((row / scale).remainder(4) < 1)
        colour = torch.where(panel.unsqueeze(1), _two(PANEL, PANEL_LINE, line), colour)
    hvac = (u(Field.ROOF_HVAC) < HVAC) & (kind == FLAT)
    if bool(hvac.any()):
        count = 1 + (u(Field.ROOF_HVAC_COUNT) * 3).long()
        at_x, at_y = (hash_uniform(seed, index, f, (3,)) for f in (Field.ROOF_HVAC_X, Field.ROOF_HVAC_Y))
        for k in range(3):
            off_x = along - (at_x[:, k, None, None] - 0.5) * 0.6 * width
            off_y = across - (at_y[:, k, None, None] - 0.5) * 0.6 * height
            box = hvac & (k < count) & (torch.maximum(off_x.abs(), off_y.abs()) < 1.6 * scale)
            colour = torch.where(box.unsqueeze(1), _two(BOX, (0.55, 0.55, 0.55), off_x < -0.5 * scale), colour)

    ground = _ground(region, index, seed, size)
    tint = ROOF_TINT.to(device)[region].view(-1, 3, 1, 1)
    images = ((ground + (colour - ground) * mask.unsqueeze(1)) * tint).clamp_(0, 1)
    return images, mask.unsqueeze(1), solar.flatten(), hvac.flatten(), mixed.flatten()


def _cover(
    material: Tensor, run: Tensor, down: Tensor, index: Tensor, seed: int, scale: float
) -> Float[Tensor, "m 3 size size"]:
    """The material's colours where ``run`` is across and ``down`` is down the slope, in pixels."""
    device = material.device
    pitch = _PITCH.to(device)[material] * scale
    value = torch.empty_like(run)
    pattern = _PATTERN.to(device)[material]
    fields = (Field.ROOF_PATTERN_PHASE_X, Field.ROOF_PATTERN_PHASE_Y)
    phases = TILE * torch.stack([hash_uniform(seed, index, field) for field in fields], 1)
    for number, draw in enumerate(PATTERNS.values()):
        these = (pattern == number).nonzero().squeeze(1)
        if len(these):
            pitch_u, pitch_v = pitch[these].view(-1, 2, 1, 1).unbind(1)
            phase_a, phase_b = phases[these].view(-1, 2, 1, 1).unbind(1)
            a, b = run[these] / pitch_u + phase_a, down[these] / pitch_v + phase_b
            value[these] = draw(a, b, pitch_u / scale, pitch_v / scale)
    strength = _CONTRAST.to(device)[material].view(-1, 1, 1)
    value = (0.5 + strength * (value - 0.5)).unsqueeze(1)
    low, high = (colours.to(device)[material].view(-1, 3, 1, 1) for colours in (_LOW, _HIGH))
    return low + (high - low) * value


def _two(first: tuple[float, ...], second: tuple[float, ...], where: Tensor) -> Float[Tensor, "n 3 size size"]:
    """The second colour where it is said, else the first."""
    one, two = (torch.tensor(colour, device=where.device).view(1, 3, 1, 1) for colour in (first, second))
    return torch.where(where.unsqueeze(1), two, one)


def _ground(region: Tensor, index: Tensor, seed: int, size: int) -> Float[Tensor, "n 3 size size"]:
    position = torch.arange(size, device=index.device) * (TILE / size)
    column, row = (
        (position + TILE * hash_uniform(seed, index, field).unsqueeze(1)).long() & (TILE - 1)
        for field in (Field.ROOF_GROUND_PHASE_X, Field.ROOF_GROUND_PHASE_Y)
    )
    grain = texture_atlas()[TEXTURES.index("grain")].to(index.device)[row.unsqueeze(2), column.unsqueeze(1)]
    low, high = (colours.to(index.device)[region].view(-1, 3, 1, 1) for colours in (GROUND_LOW, GROUND_HIGH))
    return low + (high - low) * grain.unsqueeze(1)
