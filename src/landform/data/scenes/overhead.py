"""Scenes from above: many small objects with exact boxes, under the appearance of a climate zone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.damage import EVENTS, Damage, damage, lost_roof, paint_surroundings, reach_of_damage
from landform.data.scenes.draw import check_share
from landform.data.scenes.placement import HALL, HOUSE, Objects, place
from landform.data.scenes.zones import ZONES, ZoneTable, zone_table
from landform.data.split import check_count
from landform.data.tiles import TILE

CHUNK = 128
SHADE = 0.55
SUNLIT, SHADED = 1.08, 0.86
ROAD, ROAD_HALF_WIDTH = 0.42, 3.5


class OverheadScenes(NamedTuple):
    """Images, and for each of their cells a box (x0, y0, x1, y1) and a class; -1 and a box of zeros where none is.

    Coordinates are continuous: pixel j covers [j, j + 1).
    """

    images: Float[Tensor, "n 3 size size"]
    boxes: Float[Tensor, "n cells 4"]
    labels: Int[Tensor, "n cells"]


def overhead_scenes(
    index: Int[Tensor, " n"] | Sequence[int],
    zone: Int[Tensor, " n"] | Sequence[int] | int | str,
    *,
    seed: int,
    size: int = 64,
    grid: int = 5,
    lam: float = 1.0,
    events: Sequence[int] | Int[Tensor, " n"] | int | str | None = None,
) -> OverheadScenes:
    """Draw scenes from above, each a function of its index, its zone and the seed alone, with exact boxes.

    The image is ``grid`` × ``grid`` cells; each holds an object with the zone's density, of a class by the zone's prior
    (:data:`OVERHEAD_CLASSES`), turned by 0 or pi/2 and up to a quarter radian, and moved about within the cell as far
    as it fits. Over the ground lies a straight road; then, cell by cell, each object takes 55 % of the light from the
    ground that its shadow covers, and is painted over it, roofs of houses and halls with a sunlit and a shaded half.
    Haze w over all, x (1 - w) + w c, and the zone's tint come last. A box is the extents of the turned rectangle (or
    disk), clipped to the image. An object whose clipped box has a side below 1.5 pixels is left out.

    With ``events`` there are only houses and halls, and the classes are 0 (no damage) and 1 (damaged), evenly: damaged
    ones have lost a wedge of 20 to 45 % of their roof and lie in debris, after a flood also in water.

    Arguments:
        index: the images' numbers, at least 0.
        zone: numbers into :data:`ZONES`, one for each image; or one number or name for all.
        seed: any whole number.
        size: pixels on a side, 32 … 512.
        grid: cells on a side, 1 … 16.
        lam: how much the zones differ, 0 (not at all) … 1.
        events: numbers into :data:`EVENTS`, or one number or name for all.

    Raises:
        TypeError: an index that is not of integers.
        ValueError: another argument out of range, an unknown zone or event, or lengths that differ.

    >>> images, boxes, labels = overhead_scenes(torch.arange(3), "cold", seed=0)
    >>> images.shape, boxes.shape, labels.shape
    (torch.Size([3, 3, 64, 64]), torch.Size([3, 25, 4]), torch.Size([3, 25]))
    """
    numbers = torch.as_tensor(index)
    if numbers.ndim != 1:
        raise ValueError(f"index has shape {tuple(numbers.shape)}: must be (n,)")
    for name, value, least, most in (("size", size, 32, 512), ("grid", grid, 1, 16)):
        check_count(name, value, least)
        if value > most:
            raise ValueError(f"{name}={value!r}: must be in {least} … {most}")
    table = zone_table(check_share("lam", lam), numbers.device)
    zones = per_image("zone", zone, ZONES, numbers)
    happened = None if events is None else per_image("events", events, EVENTS, numbers)
    images = torch.empty(len(numbers), 3, size, size, device=numbers.device)
    boxes = torch.empty(len(numbers), grid * grid, 4, device=numbers.device)
    labels = torch.empty(len(numbers), grid * grid, dtype=torch.int64, device=numbers.device)
    for start in range(0, len(numbers), CHUNK):
        part = slice(start, start + CHUNK)
        at, where = numbers[part], zones[part]
        objects = place(at, where, table, seed, size, grid, events is not None)
        wounds = None if happened is None else damage(at, happened[part], grid * grid, seed)
        canvas = _ground(at, where, table, seed, size)
        paint(canvas, objects, wounds)
        haze, grey = table.haze[where].view(-1, 2, 1, 1, 1).unbind(1)
        canvas = (canvas * (1 - haze) + haze * grey) * table.tint[where].view(-1, 1, 1, 3)
        images[part] = canvas.clamp_(0, 1).permute(0, 3, 1, 2)
        boxes[part] = objects.boxes
        labels[part] = objects.kind if wounds is None else torch.where(objects.kind < 0, -1, wounds.damaged.long())
    return OverheadScenes(images, boxes, labels)


def per_image(argument: str, value: object, names: tuple[str, ...], index: Tensor) -> Int[Tensor, " n"]:
    """One number or name for all images, or a number for each, as numbers of each; or a ValueError with the names."""
    if isinstance(value, str):
        if value not in names:
            raise ValueError(f"{argument}={value!r}: must be one of {', '.join(names)}")
        value = names.index(value)
    numbers = torch.as_tensor(value, device=index.device)
    if numbers.numel() and (numbers.is_floating_point() or numbers.dtype == torch.bool):
        raise TypeError(f"{argument} has dtype {numbers.dtype}: must be integers")
    if numbers.ndim and numbers.shape != index.shape:
        raise ValueError(
            f"{argument} has shape {tuple(numbers.shape)}: must be {tuple(index.shape)}, one for each image"
        )
    numbers = numbers.long().expand(index.shape)
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(names):
        wrong = numbers[(numbers < 0) | (numbers >= len(names))][0]
        raise ValueError(f"{argument} holds {int(wrong)}: must be in 0 … {len(names) - 1} ({', '.join(names)})")
    return numbers


def _ground(index: Tensor, zone: Tensor, table: ZoneTable, seed: int, size: int) -> Float[Tensor, "n size size 3"]:
    """The ground and the road over it."""
    position = torch.arange(size, device=index.device) + 0.5
    spread = 0.8 + 0.4 * hash_uniform(seed, index, Field.OVERHEAD_GROUND_FREQUENCY)
    pace = (table.frequency[zone] * spread * (TILE / size)).unsqueeze(1)
    column, row = (
        (position * pace + TILE * hash_uniform(seed, index, field).unsqueeze(1)).long() & (TILE - 1)
        for field in (Field.OVERHEAD_GROUND_PHASE_X, Field.OVERHEAD_GROUND_PHASE_Y)
    )
    flat = ((zone.unsqueeze(1) * TILE + row) * TILE).unsqueeze(2) + column.unsqueeze(1)
    b = table.ground_tile.view(-1).index_select(0, flat.view(-1)).view(*flat.shape, 1)
    low, high = (colours[zone].view(-1, 1, 1, 3) for colours in (table.ground_low, table.ground_high))
    canvas = low + (high - low) * b
    x, y = (
        position - size * hash_uniform(seed, index, field).unsqueeze(1)
        for field in (Field.OVERHEAD_ROAD_X, Field.OVERHEAD_ROAD_Y)
    )
    direction = (math.pi * hash_uniform(seed, index, Field.OVERHEAD_ROAD_DIRECTION)).double().unsqueeze(1)
    off = (x * direction.sin().float()).unsqueeze(1) - (y * direction.cos().float()).unsqueeze(2)
    alpha = (0.5 + ROAD_HALF_WIDTH * size / 64 - off.abs()).clamp_(0, 1).unsqueeze(3)
    return canvas + (ROAD - canvas) * alpha


def paint(canvas: Float[Tensor, "n size size 3"], objects: Objects, wounds: Damage | None = None) -> None:
    """Paint the objects in the order of their cells, in place.

    The loop is over cells, of all images at once, and within a cell over large and small objects, so that each is
    computed on a window no larger than it needs.
    """
    building = (objects.kind == HOUSE) | (objects.kind == HALL)
    for cell in range(objects.kind.shape[1]):
        for chosen in (building[:, cell], (objects.kind[:, cell] >= 0) & ~building[:, cell]):
            images = chosen.nonzero().squeeze(1)
            if len(images):
                _paint_cell(canvas, objects, wounds, images, cell)


def _paint_cell(canvas: Tensor, objects: Objects, wounds: Damage | None, images: Tensor, cell: int) -> None:
    size = canvas.shape[1]
    shadow, boxes = objects.shadow[images, cell], objects.boxes[images, cell]
    # What a window leaves out has alpha 0, so that no pixel depends on how large it is.
    margin = 1 if wounds is None else 1 + reach_of_damage(size)
    low = torch.minimum(boxes[:, :2], boxes[:, :2] + shadow) - margin
    high = torch.maximum(boxes[:, 2:], boxes[:, 2:] + shadow) + margin
    span = min(size, int((high - low).max()) + 2)
    begin = low.floor().long().clamp(0, size - span)
    steps = torch.arange(span, device=canvas.device)
    columns, rows = (begin[:, :1] + steps).unsqueeze(1), (begin[:, 1:] + steps).unsqueeze(2)
    flat = ((images.view(-1, 1, 1) * size + rows) * size + columns).view(-1)
    pixels = canvas.view(-1, 3)
    window = pixels.index_select(0, flat).view(len(images), span, span, 3)

    footprint = objects.footprint(images, cell, columns, rows)
    wound = None if wounds is None else wounds.of(images, cell)
    if wound is not None:
        paint_surroundings(window, footprint, wound, columns, rows, size)
    window *= (1 - SHADE * footprint.moved(shadow).coverage()).unsqueeze(3)
    colour = objects.colour[images, cell, None, None]
    if bool((objects.kind[images, cell] <= HALL).all()):
        halves = torch.where(footprint.v > 0, SUNLIT, SHADED)
        colour = colour * (halves if wound is None else lost_roof(halves, footprint, wound)).unsqueeze(3)
    window += (colour - window) * footprint.coverage().unsqueeze(3)
    pixels.index_copy_(0, flat, window.view(-1, 3))
