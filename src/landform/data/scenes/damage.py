"""Damage to buildings seen from above: lost roof, debris, flood water."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.atlas import texture_atlas
from landform.data.scenes.factors import TEXTURES
from landform.data.scenes.placement import Footprint
from landform.data.tiles import TILE

EVENTS = ("storm", "flood")
DAMAGE_CLASSES = ("no damage", "damaged")

LOST = 0.3  # of the roof's brightness is left where it is lost
DEBRIS, DEBRIS_REACH, DEBRIS_LEVEL = (0.48, 0.44, 0.40), 4.0, 0.55
WATER, WATER_REACH = (0.30, 0.38, 0.46), 5.0
OPACITY = 0.85


@dataclass(frozen=True)
class Damage:
    """Which objects are damaged, the share of the roof that is lost, where its wedge begins, and whether it flooded."""

    damaged: Bool[Tensor, ...]
    share: Float[Tensor, ...]
    start: Float[Tensor, ...]
    flood: Bool[Tensor, ...]

    def of(self, images: Int[Tensor, " m"], cell: int) -> Damage:
        """That of one cell in some images, each ``(m, 1, 1)``."""
        values = (self.damaged, self.share, self.start, self.flood)
        return Damage(*(value[images, cell, None, None] for value in values))


def damage(index: Int[Tensor, " n"], event: Int[Tensor, " n"], cells: int, seed: int) -> Damage:
    """Half the objects, hashed, each with 20 … 45 % of its roof lost; each ``(n, cells)``."""
    hit, share, start = (
        hash_uniform(seed, index, field, (cells,))
        for field in (Field.OVERHEAD_DAMAGED, Field.OVERHEAD_WEDGE_SHARE, Field.OVERHEAD_WEDGE_START)
    )
    damaged = hit < 0.5
    return Damage(damaged, 0.20 + 0.25 * share, start, damaged & (event == EVENTS.index("flood")).unsqueeze(1))


def reach_of_damage(size: int) -> float:
    """Pixels that debris and water lie beyond the box of their object: a corner's distance counts along its sides."""
    return math.sqrt(2) * max(DEBRIS_REACH, WATER_REACH) * size / 64


def lost_roof(shade: Tensor, footprint: Footprint, damage: Damage) -> Float[Tensor, "m rows columns"]:
    """The roof's shade, dark in the wedge that is lost.

    A wedge from the middle that takes the share f of the outline takes the share f of the area: all triangles between
    the middle and a stretch of a square's outline are of one height, and a rectangle is a stretched square.
    """
    a, b = footprint.u / (footprint.width / 2), footprint.v / (footprint.height / 2)
    wide = a.abs() >= b.abs()
    longest = torch.where(wide, a.abs(), b.abs()).clamp(min=1e-6)
    side = torch.where(wide, torch.where(a >= 0, 0.0, 2.0), torch.where(b >= 0, 1.0, 3.0))
    within = torch.where(wide, torch.where(a >= 0, b, -b), torch.where(b >= 0, -a, a)) / longest
    around = (side + (within + 1) / 2) / 4
    return torch.where(damage.damaged & ((around - damage.start).remainder(1) < damage.share), LOST * shade, shade)


def paint_surroundings(
    window: Float[Tensor, "m rows columns 3"],
    footprint: Footprint,
    damage: Damage,
    columns: Int[Tensor, "m 1 columns"],
    rows: Int[Tensor, "m rows 1"],
    size: int,
) -> None:
    """Water around a flooded object, and grains of debris around any damaged one, in place."""
    grain = texture_atlas()[TEXTURES.index("grain")].to(window.device)
    grains = grain[rows % TILE, columns % TILE] > DEBRIS_LEVEL
    for where, reach, colour in (
        (damage.flood, WATER_REACH, WATER),
        (damage.damaged & grains, DEBRIS_REACH, DEBRIS),
    ):
        alpha = OPACITY * where * (reach * size / 64 - footprint.distance()).clamp(0, 1)
        window += (torch.tensor(colour, device=window.device) - window) * alpha.unsqueeze(3)
