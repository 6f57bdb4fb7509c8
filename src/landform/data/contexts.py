"""Scenes in contexts that overlap: objects on grounds that mix what the image is tagged with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landform.data.scenes import SHAPES, SubpopulationDesign, render_scenes
from landform.data.split import check_count

ASPHALT = 5  # under the scenes that objects are cut out of
HALF_TURN = math.pi


@dataclass(frozen=True)
class ContextScenes:
    """Images with the tags that an annotator might give them.

    ``x`` (N, 3, S, S) in [0, 1]; ``y`` (N,) the class; ``place`` (N, 2) the image's point in the square of contexts;
    ``tags`` (N, side²), which contexts it has, number ``side`` · row + column.
    """

    x: Float[Tensor, "n 3 size size"]
    y: Int[Tensor, " n"]
    place: Float[Tensor, "n 2"]
    tags: Bool[Tensor, "n contexts"]
    classes: tuple[str, ...]


def context_scenes(
    per_class: int,
    shapes: Sequence[str],
    *,
    seed: int,
    size: int = 24,
    side: int = 4,
    contrast: float = 1.0,
) -> ContextScenes:
    """Objects of some shapes, whatever their colour and texture, each on a ground that mixes one to three contexts.

    The contexts are the centres of ``side`` × ``side`` cells of a square. An image has a uniform point of it, and the
    one to three contexts nearest to that (one, two and three are as likely). Along the first axis the colour of a
    context turns half way round the circle of hues, and along the second its stripes become finer, from one to four
    in the image; the ground is the mean of the image's contexts, whose stripes begin anywhere:

        ground = 1/2 + contrast · mean_c [hue_c / 3 + sin(2 pi (f_c u + phase)) / 6].

    hue_c is cos(pi a + 2 pi channel / 3) at the place a along the first axis.

    Arguments:
        per_class: images of each class.
        shapes: the classes, of :data:`landform.data.scenes.SHAPES`.
        seed: draws everything.
        size: pixels on a side, 16 … 256.
        side: the square root of the number of contexts, at least 2.
        contrast: how much contexts differ, in [0, 1].

    Raises:
        ValueError: an argument out of range, or an unknown shape.
    """
    check_count("per_class", per_class, 1)
    check_count("side", side, 2)
    if not 0 <= contrast <= 1:
        raise ValueError(f"contrast={contrast}: must lie in [0, 1]")
    if not shapes or len(set(shapes)) < len(shapes) or not set(shapes) <= set(SHAPES):
        raise ValueError(f"shapes={tuple(shapes)}: must be different ones of {', '.join(SHAPES)}")
    n = per_class * len(shapes)
    index, y = torch.arange(n), torch.arange(len(shapes)).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(seed)
    place, count = torch.rand(n, 2, generator=generator), torch.randint(1, 4, (n, 1), generator=generator)
    phases = torch.rand(n, generator=generator)

    axis = (torch.arange(side) + 0.5) / side
    centres = torch.cartesian_prod(axis, axis)
    tags = torch.cdist(place, centres).argsort(1).argsort(1) < count

    shape = torch.tensor([SHAPES.index(name) for name in shapes])[y]
    some = SubpopulationDesign([1.0], ("shape",))(index, seed)  # any colour and texture
    factors = some._replace(shape=shape, background=torch.full((n,), ASPHALT), region=torch.zeros_like(y))
    objects, mask = render_scenes(factors, index, seed=seed, size=size, return_mask=True)
    weights = tags / tags.sum(1, keepdim=True)
    ground = _grounds(centres, weights, phases, size, contrast)
    return ContextScenes(torch.lerp(ground, objects, mask), y, place, tags, tuple(shapes))


def _grounds(
    centres: Float[Tensor, "contexts 2"],
    weights: Float[Tensor, "n contexts"],
    phases: Float[Tensor, " n"],
    size: int,
    contrast: float,
) -> Float[Tensor, "n 3 size size"]:
    angle = HALF_TURN * centres[:, :1] + 2 * HALF_TURN / 3 * torch.arange(3)
    hue = weights @ angle.cos()
    u = (torch.arange(size) + 0.5) / size
    turns = (1 + 3 * centres[:, 1]).view(1, -1, 1) * u + phases.view(-1, 1, 1)
    stripes = torch.einsum("nc,ncs->ns", weights, (2 * HALF_TURN * turns).sin())
    return 0.5 + contrast * (hue[:, :, None, None] / 3 + stripes[:, None, None, :] / 6)
