"""Scenes in overlapping contexts: tags, grounds, and what they depend on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from landform.data.contexts import context_scenes


def test_tags_are_the_nearest_contexts() -> None:
    scenes = context_scenes(200, ("ring", "star"), seed=0, size=16, side=4)
    assert scenes.y.bincount().tolist() == [200, 200]
    assert scenes.classes == ("ring", "star")
    count = scenes.tags.sum(1)
    assert count.unique(return_counts=True)[0].tolist() == [1, 2, 3]
    assert count.bincount()[1:].min() > 100  # a third of 400 each
    axis = [(k + 0.5) / 4 for k in range(4)]
    for (a, b), tags in zip(scenes.place.tolist(), scenes.tags.tolist(), strict=True):
        distance = [(a - axis[k // 4]) ** 2 + (b - axis[k % 4]) ** 2 for k in range(16)]
        own = [d for d, tag in zip(distance, tags, strict=True) if tag]
        assert max(own) <= min(d for d, tag in zip(distance, tags, strict=True) if not tag)


def test_images_depend_on_seed_and_class_and_stay_in_range() -> None:
    first, again, other = (context_scenes(20, ("ring", "star"), seed=s, size=16) for s in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert 0 <= float(first.x.min()) < float(first.x.max()) <= 1
    full = context_scenes(50, ("ring",), seed=0, size=16, contrast=1.0)
    assert 0 <= float(full.x.min()) < float(full.x.max()) <= 1


def test_a_ground_has_the_hue_and_stripes_of_its_contexts() -> None:
    contrast, size = 0.4, 64
    scenes = context_scenes(40, ("disk",), seed=3, size=size, contrast=contrast)
    corner = scenes.x[:, :, :3].mean(2)  # the top rows, which no object reaches
    for k in range(40):
        hues, frequencies = [], []
        for c in scenes.tags[k].nonzero().squeeze(1).tolist():
            a, b = (c // 4 + 0.5) / 4, (c % 4 + 0.5) / 4
            hues.append([math.cos(math.pi * a + 2 * math.pi * channel / 3) for channel in range(3)])
            frequencies.append(1 + 3 * b)
        hue = torch.tensor(hues).mean(0)
        # Differences of channels are free of stripes.
        for i, j in ((0, 1), (1, 2)):
            expected = float(contrast * (hue[i] - hue[j]) / 3)
            torch.testing.assert_close(corner[k, i] - corner[k, j], torch.full((size,), expected), atol=1e-5, rtol=0)
        # What is left is spanned by sines and cosines of the contexts' frequencies.
        u = (torch.arange(size) + 0.5) / size
        basis = torch.stack([f(2 * math.pi * q * u) for q in frequencies for f in (torch.sin, torch.cos)], 1).double()
        stripes = (corner[k].mean(0) - 0.5 - contrast * hue.mean() / 3).double()
        fitted = basis @ torch.linalg.lstsq(basis, stripes.unsqueeze(1), driver="gelsd").solution.squeeze(1)
        torch.testing.assert_close(fitted, stripes, atol=1e-5, rtol=0)
        assert stripes.abs().max() <= contrast / 6 + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 0}, "per_class"),
        ({"shapes": ("cube",)}, "cube"),
        ({"shapes": ("ring", "ring")}, "ring"),
        ({"side": 1}, "side"),
        ({"contrast": 1.5}, "contrast"),
        ({"size": 8}, "size"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        context_scenes(**{"per_class": 2, "shapes": ("ring",), "seed": 0, **options})
