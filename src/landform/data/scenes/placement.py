"""Where the objects of an overhead scene are: one to a cell at most, without rejection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.draw import choose
from landform.data.scenes.zones import ZoneTable

OVERHEAD_CLASSES = ("house", "hall", "car", "truck", "tank", "container")
HOUSE, HALL, CAR, TRUCK, TANK, CONTAINER = range(6)

# Width and height of the footprint in pixels of an image of 64, and the height above ground that casts the shadow.
FOOTPRINT = torch.tensor([(8, 7), (14, 10), (4.5, 2.4), (8, 3), (6, 6), (7, 3)])
ELEVATION = torch.tensor([3.0, 4.0, 1.0, 2.0, 3.0, 2.0])
CONTAINER_COLOURS = torch.tensor([(0.75, 0.30, 0.15), (0.20, 0.40, 0.60), (0.30, 0.55, 0.30)])
TANK_COLOUR = torch.tensor((0.88, 0.88, 0.86))
JITTER = 0.12
LEAST_SIDE = 1.5


@dataclass(frozen=True)
class Footprint:
    """Footprints in their own coordinates: (u, v) of each pixel from the middle, u along the width."""

    u: Float[Tensor, "m rows columns"]
    v: Float[Tensor, "m rows columns"]
    width: Float[Tensor, "m 1 1"]
    height: Float[Tensor, "m 1 1"]
    cos: Float[Tensor, "m 1 1"]
    sin: Float[Tensor, "m 1 1"]
    disk: Bool[Tensor, "m 1 1"]

    def moved(self, by: Float[Tensor, "m 2"]) -> Footprint:
        """The footprint moved by (dx, dy) pixels of the image."""
        dx, dy = by[:, 0, None, None], by[:, 1, None, None]
        u, v = self.u - (dx * self.cos + dy * self.sin), self.v - (dy * self.cos - dx * self.sin)
        return replace(self, u=u, v=v)

    def distance(self) -> Float[Tensor, "m rows columns"]:
        """Of each pixel from the outline, negative inside."""
        away = torch.maximum(self.u.abs() - self.width / 2, self.v.abs() - self.height / 2)
        if not bool(self.disk.any()):
            return away
        return torch.where(self.disk, (self.u.square() + self.v.square()).sqrt() - self.width / 2, away)

    def coverage(self) -> Float[Tensor, "m rows columns"]:
        """How much of each pixel is covered, clip(.5 - distance, 0, 1)."""
        return (0.5 - self.distance()).clamp_(0, 1)


@dataclass(frozen=True)
class Objects:
    """The objects of n images, one in each of the cells, in pixels and radians; ``kind`` is -1 where a cell is empty.

    ``cos`` and ``sin`` are those of the angle that x must turn by to lie along the width; ``shadow`` is how far the
    shadow lies from the object.
    """

    kind: Int[Tensor, "n cells"]
    x: Float[Tensor, "n cells"]
    y: Float[Tensor, "n cells"]
    width: Float[Tensor, "n cells"]
    height: Float[Tensor, "n cells"]
    cos: Float[Tensor, "n cells"]
    sin: Float[Tensor, "n cells"]
    colour: Float[Tensor, "n cells 3"]
    shadow: Float[Tensor, "n cells 2"]
    boxes: Float[Tensor, "n cells 4"]

    def footprint(self, images: Int[Tensor, " m"], cell: int, columns: Tensor, rows: Tensor) -> Footprint:
        """Those in one cell of some images, seen from the centres of pixels at ``columns`` and ``rows``."""
        kind, x, y, width, height, cos, sin = (
            values[images, cell, None, None]
            for values in (self.kind, self.x, self.y, self.width, self.height, self.cos, self.sin)
        )
        dx, dy = columns + 0.5 - x, rows + 0.5 - y
        return Footprint(dx * cos + dy * sin, dy * cos - dx * sin, width, height, cos, sin, kind == TANK)


def place(
    index: Int[Tensor, " n"],
    zone: Int[Tensor, " n"],
    table: ZoneTable,
    seed: int,
    size: int,
    grid: int,
    buildings: bool,
) -> Objects:
    """The objects of overhead scenes; of ``buildings`` only, houses and halls in their own proportion."""
    cells, scale, device = grid * grid, size / 64, index.device

    def u(field: Field) -> Tensor:
        return hash_uniform(seed, index, field, (cells,))

    prior = table.prior[zone].double()
    if buildings:
        prior[:, CAR:] = 0
    kind = choose(u(Field.OVERHEAD_CLASS).flatten(), prior.repeat_interleave(cells, 0)).view(-1, cells)
    growth = table.size[zone].unsqueeze(1) * (0.85 + 0.3 * u(Field.OVERHEAD_WIDTH))
    footprint = FOOTPRINT.to(device)[kind] * scale
    width = footprint[..., 0] * growth
    height = footprint[..., 1] * growth * (0.85 + 0.3 * u(Field.OVERHEAD_HEIGHT))
    height = torch.where(kind == TANK, width, height)
    angle = (u(Field.OVERHEAD_TURNED) < 0.5) * (math.pi / 2) + (u(Field.OVERHEAD_ANGLE) - 0.5) * 0.5
    # In float64 a cosine, once rounded, is the same on every device and for every length of batch.
    cos, sin = angle.double().cos().float(), angle.double().sin().float()
    half_x = ((width * cos).abs() + (height * sin).abs()) / 2
    half_y = ((width * sin).abs() + (height * cos).abs()) / 2
    half_x, half_y = (torch.where(kind == TANK, width / 2, half) for half in (half_x, half_y))
    cell, number = size / grid, torch.arange(cells, device=device)
    centre_x, centre_y = (number % grid + 0.5) * cell, (number // grid + 0.5) * cell
    x = centre_x + (2 * u(Field.OVERHEAD_X) - 1) * (cell / 2 - half_x - 0.5).clamp(min=0)
    y = centre_y + (2 * u(Field.OVERHEAD_Y) - 1) * (cell / 2 - half_y - 0.5).clamp(min=0)
    boxes = torch.stack((x - half_x, y - half_y, x + half_x, y + half_y), -1).clamp(0, size)
    large = ((boxes[..., 2:] - boxes[..., :2]) >= LEAST_SIDE).all(-1)
    there = (u(Field.OVERHEAD_OCCUPIED) < table.density[zone].unsqueeze(1)) & large
    shadow = table.shadow[zone]
    reach = (ELEVATION.to(device)[kind] * 1.3 * scale * shadow[:, 2:]).unsqueeze(-1)
    return Objects(
        kind=torch.where(there, kind, -1),
        x=x,
        y=y,
        width=width,
        height=height,
        cos=cos,
        sin=sin,
        colour=_colours(kind, zone, table, u),
        shadow=shadow[:, None, :2] * reach,
        boxes=torch.where(there.unsqueeze(-1), boxes, 0.0),
    )


def _colours(kind: Tensor, zone: Tensor, table: ZoneTable, u: Callable[[Field], Tensor]) -> Float[Tensor, "n cells 3"]:
    device = kind.device
    choice = (u(Field.OVERHEAD_PAINT) * 3).long()
    at = zone.unsqueeze(1).expand_as(choice)
    colour = table.roofs[at, choice]
    for kinds, colours in (
        ((CAR, TRUCK), table.vehicles[at, choice]),
        ((CONTAINER,), CONTAINER_COLOURS.to(device)[choice]),
        ((TANK,), TANK_COLOUR.to(device).expand(*choice.shape, 3)),
    ):
        chosen = torch.stack([kind == k for k in kinds]).any(0)
        colour = torch.where(chosen.unsqueeze(-1), colours, colour)
    jitter = [u(f) for f in (Field.OVERHEAD_JITTER_RED, Field.OVERHEAD_JITTER_GREEN, Field.OVERHEAD_JITTER_BLUE)]
    return (colour + JITTER * (torch.stack(jitter, -1) - 0.5)).clamp(0, 1)
