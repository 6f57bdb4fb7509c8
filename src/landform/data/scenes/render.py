"""Scenes as pixels: one textured object on a textured ground, by arithmetic on whole batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.appearance import FREQUENCY, GROUND_TEXTURE, LOW, PALETTE, SPAN
from landform.data.scenes.atlas import EXTENT, shape_atlas, texture_atlas
from landform.data.scenes.draw import check_share
from landform.data.scenes.factors import COLOURS, SHAPES, TEXTURES, Factors, check_factors
from landform.data.scenes.regions import ASPECT, regional_style
from landform.data.split import check_count
from landform.data.tiles import TILE

Images = Float[Tensor, "n 3 size size"]
Masks = Float[Tensor, "n 1 size size"]

OBJECT_FREQUENCY = 0.55  # tiles of texture in a radius
JITTER = 0.12  # the range of an object's colour about its palette's
SCALE_RANGE = (0.26, 0.36)
ROTATION = math.pi / 6


@overload
def render_scenes(
    factors: Factors,
    index: Int[Tensor, " n"] | Sequence[int],
    *,
    seed: int,
    size: int = ...,
    gamma: float = ...,
    chunk: int = ...,
    device: str | torch.device | None = ...,
    return_mask: Literal[False] = ...,
    n_distractors: int = ...,
    scale_range: tuple[float, float] = ...,
    rotation: float = ...,
) -> Images: ...
@overload
def render_scenes(
    factors: Factors,
    index: Int[Tensor, " n"] | Sequence[int],
    *,
    seed: int,
    size: int = ...,
    gamma: float = ...,
    chunk: int = ...,
    device: str | torch.device | None = ...,
    return_mask: Literal[True],
    n_distractors: int = ...,
    scale_range: tuple[float, float] = ...,
    rotation: float = ...,
) -> tuple[Images, Masks]: ...
def render_scenes(
    factors: Factors,
    index: Int[Tensor, " n"] | Sequence[int],
    *,
    seed: int,
    size: int = 32,
    gamma: float = 0.0,
    chunk: int = 256,
    device: str | torch.device | None = None,
    return_mask: bool = False,
    n_distractors: int = 0,
    scale_range: tuple[float, float] = SCALE_RANGE,
    rotation: float = ROTATION,
) -> Images | tuple[Images, Masks]:
    """Draw scenes of ``size`` × ``size`` pixels, each a function of its factors, its index and the seed alone.

    With uniform numbers u hashed from (seed, index), the object of radius s = S(.26 + .10 u_0) stands at
    S(.5 + .24(u - .5)), turned by at most a twelfth of pi. Where d is the distance to its outline in radii,

        alpha = clip(.5 - d s, 0, 1),   image = ground + (object - ground) alpha,
        object = clip(colour + .12(u - .5), 0, 1) g (.45 + .55 t),   ground = g (low + (high - low) b),

    with t and b the textures of the object and of the ground, looked up at hashed phases, and the light
    g = .85 + .3 u. Then the style of the region follows, at strength gamma
    (:func:`~landform.data.scenes.regions.regional_style`; the region also stretches the object), and the values are
    clipped to [0, 1]. The frequency of a ground is by image, not by pixel or metre.

    Arguments:
        factors: what is drawn.
        index: the images' numbers, at least 0; a number's image is the same in any batch, chunk and order.
        seed: any whole number.
        size: S, 16 … 256 pixels.
        gamma: strength of the regional style, in [0, 1].
        chunk: images drawn at a time; the result does not depend on it.
        device: where to draw; by default where the factors are.
        return_mask: give alpha as well.
        n_distractors: so many small objects of any other shape are drawn first.
        scale_range: the least and greatest radius, as shares of S, from .05 on.
        rotation: the range of angles, in radians, symmetric about 0.

    Returns: images float32 ``(n, 3, S, S)``; with ``return_mask`` also the masks alpha ``(n, 1, S, S)``.

    Raises:
        IndexError: a factor out of range.
        TypeError: factors or indices that are not integers.
        ValueError: another argument out of range, or lengths that differ.

    >>> from landform.data.scenes import SpuriousDesign
    >>> design = SpuriousDesign(strength=0.95)
    >>> index = torch.arange(4)
    >>> images = render_scenes(design(index, 0), index, seed=0)
    >>> images.shape, torch.equal(render_scenes(design([2], 0), [2], seed=0)[0], images[2])
    (torch.Size([4, 3, 32, 32]), True)
    """
    check_factors(factors)
    n = len(factors.shape)
    device = torch.device(device) if device is not None else factors.shape.device
    numbers = torch.as_tensor(index).to(device)
    if numbers.shape != (n,):
        raise ValueError(f"index has shape {tuple(numbers.shape)}: must be ({n},), one for each scene")
    check_size(size)
    check_share("gamma", gamma)
    check_count("chunk", chunk, 1)
    check_count("n_distractors", n_distractors, 0)
    low, high = scale_range
    if not 0.05 <= low <= high <= 1:
        raise ValueError(f"scale_range={scale_range!r}: must be two shares .05 <= least <= greatest <= 1")
    if not 0 <= rotation <= 2 * math.pi:
        raise ValueError(f"rotation={rotation!r}: must be in [0, 2 pi]")
    drawn = Factors(*(values.to(device) for values in factors[:5]))
    images = torch.empty(n, 3, size, size, device=device)
    masks = torch.empty(n, 1, size, size, device=device) if return_mask else None
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        these = Factors(*(values[part] for values in drawn[:5]))
        at = numbers[part]
        light = 0.85 + 0.3 * hash_uniform(seed, at, Field.LIGHT)
        image = _ground(these.background, at, seed, size, light)
        for k in range(n_distractors):
            _paint(image, _distractor(these.shape, k, at, seed, size), light)
        alpha = _paint(image, _object(these, at, seed, size, gamma, scale_range, rotation), light)
        if gamma:
            image = regional_style(image, these.region, gamma)
        torch.clamp(image, 0, 1, out=images[part])
        if masks is not None:
            masks[part] = alpha
    return images if masks is None else (images, masks)


def mask_boxes(masks: Masks) -> Float[Tensor, "n 4"]:
    """The tight boxes (x0, y0, x1, y1) of where alpha exceeds a half, 0 where it nowhere does; pixel j is [j, j + 1).

    >>> mask_boxes(torch.eye(4).view(1, 1, 4, 4))
    tensor([[0., 0., 4., 4.]])
    """
    if masks.ndim != 4 or masks.shape[1] != 1:
        raise ValueError(f"masks have shape {tuple(masks.shape)}: must be (n, 1, height, width)")
    inside = masks[:, 0] > 0.5
    ends = []
    for along in (inside.any(1), inside.any(2)):
        size = along.shape[1]
        first = along.int().argmax(1)
        last = size - along.flip(1).int().argmax(1)
        ends.append((first, torch.where(along.any(1), last, 0)))
    (x0, x1), (y0, y1) = ends
    return torch.stack((x0, y0, x1, y1), 1).float()


def check_size(size: int) -> None:
    """Refuse a side outside 16 … 256 pixels."""
    check_count("size", size, 16)
    if size > 256:
        raise ValueError(f"size={size!r}: must be in 16 … 256 pixels")


@dataclass(frozen=True)
class _Objects:
    """One object of each image: what it is, where it is, its radius in pixels, its colour and its texture's phases."""

    shape: Tensor
    texture: Tensor
    colour: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    aspect: Tensor
    phase_x: Tensor
    phase_y: Tensor


def _object(
    factors: Factors, index: Tensor, seed: int, size: int, gamma: float, scale: tuple[float, float], rotation: float
) -> _Objects:
    u = {field: hash_uniform(seed, index, field) for field in _OBJECT_FIELDS}
    jitter = torch.stack([u[field] for field in (Field.JITTER_RED, Field.JITTER_GREEN, Field.JITTER_BLUE)], 1) - 0.5
    return _Objects(
        shape=factors.shape,
        texture=factors.texture,
        colour=(PALETTE.to(index.device)[factors.colour] + JITTER * jitter).clamp(0, 1),
        x=size * (0.5 + 0.24 * (u[Field.CENTRE_X] - 0.5)),
        y=size * (0.5 + 0.24 * (u[Field.CENTRE_Y] - 0.5)),
        radius=size * (scale[0] + (scale[1] - scale[0]) * u[Field.RADIUS]),
        angle=(u[Field.ROTATION] - 0.5) * rotation,
        aspect=1 - gamma + gamma * ASPECT.to(index.device)[factors.region],
        phase_x=u[Field.OBJECT_PHASE_X],
        phase_y=u[Field.OBJECT_PHASE_Y],
    )


_OBJECT_FIELDS = (
    Field.RADIUS,
    Field.ROTATION,
    Field.CENTRE_X,
    Field.CENTRE_Y,
    Field.OBJECT_PHASE_X,
    Field.OBJECT_PHASE_Y,
    Field.JITTER_RED,
    Field.JITTER_GREEN,
    Field.JITTER_BLUE,
)


def _distractor(shape: Tensor, number: int, index: Tensor, seed: int, size: int) -> _Objects:
    """A small object anywhere in the image, of a shape other than ``shape``, which is the image's own."""
    fields = (
        Field.DISTRACTOR_SHAPE,
        Field.DISTRACTOR_TEXTURE,
        Field.DISTRACTOR_COLOUR,
        Field.DISTRACTOR_X,
        Field.DISTRACTOR_Y,
        Field.DISTRACTOR_RADIUS,
        Field.DISTRACTOR_ROTATION,
    )
    what, texture, colour, x, y, radius, angle = (
        hash_uniform(seed, index, field, (number + 1,))[:, number] for field in fields
    )
    return _Objects(
        shape=(shape + 1 + (what * (len(SHAPES) - 1)).long()) % len(SHAPES),
        texture=(texture * len(TEXTURES)).long(),
        colour=PALETTE.to(index.device)[(colour * len(COLOURS)).long()],
        x=size * x,
        y=size * y,
        radius=size * (0.07 + 0.05 * radius),
        angle=(angle - 0.5) * 2 * math.pi,
        aspect=torch.ones_like(x),
        phase_x=texture,
        phase_y=colour,
    )


def _ground(background: Tensor, index: Tensor, seed: int, size: int, light: Tensor) -> Images:
    device = index.device
    spread = 0.8 + 0.4 * hash_uniform(seed, index, Field.GROUND_FREQUENCY)
    pace = (FREQUENCY.to(device)[background] * spread * (TILE / size)).unsqueeze(1)
    place = torch.arange(size, device=device) + 0.5
    column, row = (
        (place * pace + TILE * hash_uniform(seed, index, field).unsqueeze(1)).int() & (TILE - 1)
        for field in (Field.GROUND_PHASE_X, Field.GROUND_PHASE_Y)
    )
    tile = GROUND_TEXTURE.to(device)[background].int().unsqueeze(1)
    b = _look_up(texture_atlas(), ((tile * TILE + row) * TILE).unsqueeze(2) + column.unsqueeze(1)).unsqueeze(1)
    low, span = (colours.to(device)[background] * light.unsqueeze(1) for colours in (LOW, SPAN))
    return (span[:, :, None, None] * b).add_(low[:, :, None, None])


def _paint(image: Images, what: _Objects, light: Tensor) -> Masks:
    """Paint one object over each image, in place; returns its alpha."""
    size, device = image.shape[-1], image.device
    place = torch.arange(size, device=device) + 0.5
    x, y = place - what.x.unsqueeze(1), place - what.y.unsqueeze(1)
    # In float64 a cosine, once rounded, is the same on every device and for every length of batch.
    cos, sin = what.angle.double().cos().float(), what.angle.double().sin().float()
    per_radius = 1 / what.radius
    across = per_radius / what.aspect
    # (u, v), the object's own coordinates in radii, are sums of what a column and what a row contributes.
    u_x, u_y = x * (cos * across).unsqueeze(1), y * (sin * across).unsqueeze(1)
    v_x, v_y = x * (-sin * per_radius).unsqueeze(1), y * (cos * per_radius).unsqueeze(1)

    def cells(along_x: Tensor, along_y: Tensor, scale: float, start: Tensor | float) -> Tensor:
        return (along_y * scale + start).unsqueeze(2) + (along_x * scale).unsqueeze(1)

    scale = TILE / (2 * EXTENT)
    column, row = (cells(a, b, scale, TILE / 2).clamp_(0, TILE - 1).int() for a, b in ((u_x, u_y), (v_x, v_y)))
    flat = row.mul_(TILE).add_(column).add_((what.shape.int() * TILE**2)[:, None, None])
    distance = _look_up(shape_atlas(), flat)
    alpha = distance.mul_(-what.radius[:, None, None]).add_(0.5).clamp_(0, 1).unsqueeze(1)
    # A whole number of tiles is added so that no coordinate is negative: casts to int round towards 0.
    scale = OBJECT_FREQUENCY * TILE
    column, row = (
        cells(a, b, scale, (TILE * (phase + AHEAD)).unsqueeze(1)).int().bitwise_and_(TILE - 1)
        for a, b, phase in ((u_x, u_y, what.phase_x), (v_x, v_y, what.phase_y))
    )
    flat = row.mul_(TILE).add_(column).add_((what.texture.int() * TILE**2)[:, None, None])
    shade = _look_up(texture_atlas(), flat).mul_(0.55).add_(0.45).unsqueeze(1)
    colour = (what.colour * light.unsqueeze(1))[:, :, None, None]
    image += (colour * shade).sub_(image).mul_(alpha)
    return alpha


AHEAD = 32
"""Tiles that are added to an object's texture coordinates: more than any pixel of an image lies before the object."""


def _look_up(atlas: Tensor, flat: Tensor) -> Tensor:
    return atlas.to(flat.device).view(-1).index_select(0, flat.view(-1)).view(flat.shape)
