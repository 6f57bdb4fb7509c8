"""The `scenes` world: shapes on grounds that may give them away."""

from __future__ import annotations

import torch

from landform.data.scenes.factors import VALUES
from landform.data.scenes.render import render_scenes
from landform.data.scenes.spurious import SpuriousDesign
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
