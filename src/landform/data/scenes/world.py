"""The `scenes`, `overhead` and `roofs` worlds, as splits."""

from __future__ import annotations

import torch

from landform.data.counter import Field, hash_uniform
from landform.data.scenes.factors import VALUES
from landform.data.scenes.overhead import overhead_scenes
from landform.data.scenes.placement import OVERHEAD_CLASSES
from landform.data.scenes.render import render_scenes
from landform.data.scenes.roof_materials import CONTINENTS, ROOF_MATERIALS, ROOF_SHAPES
from landform.data.scenes.roofs import roof_factors, roof_tiles
from landform.data.scenes.spurious import SpuriousDesign
from landform.data.scenes.zones import ZONES
from landform.data.split import Split, check_count

TEST = 10**9
"""Where the test images' numbers begin, so that no number of training images reaches them."""


def scenes(
    *,
    train: int = 2000,
    test: int = 500,
    size: int = 32,
    label: str = "shape",
    attribute: str = "background",
    strength: float = 0.0,
    test_strength: float = 0.0,
    gamma: float = 0.0,
    seed: int = 0,
) -> dict[str, Split]:
    """Scenes of :class:`~landform.data.scenes.SpuriousDesign`: x is float32 ``(N, 3, size, size)``, y the label.

    Fields say each scene's shape, texture, colour, background and region, and its group (label · K + attribute).

    Arguments:
        train: scenes in the training split; more of them leave the others as they are.
        test: scenes in the test split.
        size: pixels on a side, 16 … 256.
        label: the factor that is y: shape, texture, colour, background or region.
        attribute: the factor that goes along with it.
        strength: how often it does beyond chance, in the training split: 0 … 1.
        test_strength: likewise in the test split.
        gamma: strength of the regions' style, 0 … 1.
        seed: draws everything.

    Raises:
        ValueError: an argument out of range.
    """
    splits = {}
    for name, start, count, rho in (("train", 0, train, strength), ("test", TEST, test, test_strength)):
        check_count(name, count, 1)
        design = SpuriousDesign(label, attribute, rho)
        index = torch.arange(start, start + count)
        factors = design(index, seed)
        fields = {factor: getattr(factors, factor) for factor in VALUES} | {"group": factors.group}
        groups = tuple(f"{y} & {a}" for y in VALUES[label] for a in VALUES[attribute])
        x = render_scenes(factors, index, seed=seed, size=size, gamma=gamma)
        splits[name] = Split(x, factors.label, design.classes, fields, VALUES | {"group": groups})
    return splits


def overhead(
    *, train: int = 400, test: int = 100, size: int = 64, grid: int = 5, lam: float = 1.0, seed: int = 0
) -> dict[str, Split]:
    """Scenes from above: x is float32 ``(N, 3, size, size)``, y the climate zone, uniform.

    Fields count the objects of each class. Their boxes are :func:`~landform.data.scenes.overhead_scenes`'s, for image i
    those of index i, in the test split of :data:`TEST` + i, and zone y.

    Arguments:
        train: scenes in the training split; more of them leave the others as they are.
        test: scenes in the test split.
        size: pixels on a side, 32 … 512.
        grid: cells on a side, each with at most one object.
        lam: how much the zones differ, 0 … 1.
        seed: draws everything.

    Raises:
        ValueError: an argument out of range.
    """
    splits = {}
    for name, start, count in (("train", 0, train), ("test", TEST, test)):
        check_count(name, count, 1)
        index = torch.arange(start, start + count)
        zone = (hash_uniform(seed, index, Field.REGION) * len(ZONES)).long()
        images, _, labels = overhead_scenes(index, zone, seed=seed, size=size, grid=grid, lam=lam)
        fields = {kind: (labels == number).sum(1) for number, kind in enumerate(OVERHEAD_CLASSES)}
        splits[name] = Split(images, zone, ZONES, fields)
    return splits


def roofs(*, train: int = 2000, test: int = 500, size: int = 32, seed: int = 0) -> dict[str, Split]:
    """Roof tiles as they occur in six continents: x is float32 ``(N, 3, size, size)``, y the material.

    Fields say each roof's shape and continent, and whether it has solar panels, boxes (hvac) or a second material.

    Arguments:
        train: tiles in the training split; more of them leave the others as they are.
        test: tiles in the test split.
        size: pixels on a side, 16 … 256.
        seed: draws everything.

    Raises:
        ValueError: an argument out of range.
    """
    splits = {}
    for name, start, count in (("train", 0, train), ("test", TEST, test)):
        check_count(name, count, 1)
        index = torch.arange(start, start + count)
        tiles = roof_tiles(index, *roof_factors(index, seed), seed=seed, size=size)
        fields = {
            column: tiles.metadata[column].long() for column in ("roof_shape", "region", "solar", "hvac", "mixed")
        }
        names = {"roof_shape": ROOF_SHAPES, "region": CONTINENTS}
        splits[name] = Split(tiles.images, tiles.metadata["material"], ROOF_MATERIALS, fields, names)
    return splits
