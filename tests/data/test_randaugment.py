"""RandAugment's operations against Pillow's, pixel by pixel, and what is drawn for each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from landform.data import RandAugment, RandAugmentRecipe, random_crop, random_flip
from landform.data import randaugment as ra
from landform.data.randaugment import Chance


def pillow_cutout(image, v, place):
    width, height = image.size
    x0, y0 = (int(max(0, share * side - v / 2)) for share, side in zip(place, (width, height), strict=True))
    image = image.copy()
    corner = (x0, y0, min(width, x0 + v), min(height, y0 + v))
    ImageDraw.Draw(image).rectangle(corner, (125, 123, 114))
    return image


def pillow_solarize_add(image, v, _):
    brighter = np.clip(np.array(image).astype(int) + v, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), 128)


def affine(matrix):
    return lambda image, v, _: image.transform(image.size, Image.Transform.AFFINE, matrix(v))


PILLOW = {
    ra.autocontrast: lambda image, v, _: ImageOps.autocontrast(image),
    ra.equalize: lambda image, v, _: ImageOps.equalize(image),
    ra.invert: lambda image, v, _: ImageOps.invert(image),
    ra.rotate: lambda image, v, _: image.rotate(v),
    ra.posterize: lambda image, v, _: ImageOps.posterize(image, max(1, int(v))),
    ra.solarize: lambda image, v, _: ImageOps.solarize(image, v),
    ra.solarize_add: pillow_solarize_add,
    ra.color: lambda image, v, _: ImageEnhance.Color(image).enhance(v),
    ra.contrast: lambda image, v, _: ImageEnhance.Contrast(image).enhance(v),
    ra.brightness: lambda image, v, _: ImageEnhance.Brightness(image).enhance(v),
    ra.sharpness: lambda image, v, _: ImageEnhance.Sharpness(image).enhance(v),
    ra.shear_x: affine(lambda v: (1, v, 0, 0, 1, 0)),
    ra.shear_y: affine(lambda v: (1, 0, 0, v, 1, 0)),
    ra.cutout: pillow_cutout,
    ra.translate_x: affine(lambda v: (1, 0, v, 0, 1, 0)),
    ra.translate_y: affine(lambda v: (1, 0, 0, 0, 1, v)),
}
MOVING = {ra.rotate, ra.shear_x, ra.shear_y, ra.translate_x, ra.translate_y}


def pictures(n=6, size=(24, 32)):
    """Smooth and noisy images, one of a single colour, one of few levels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, *size, generator=generator)
    ramp = torch.linspace(0, 1, size[1]).expand(3, *size)
    x[0], x[1] = 0.25, 0.2 + 0.6 * ramp
    x[2] = (x[2] > 0.5).float()
    return (x * 255).round().to(torch.uint8)


@pytest.mark.parametrize("op", ra.OPERATIONS, ids=lambda op: op.apply.__name__)
@pytest.mark.parametrize("magnitude", [0, 6, 9, 17, 30])
def test_operations_are_pillows(op, magnitude):
    x = pictures()
    value = op.low + magnitude / 30 * (op.high - op.low)
    backward = torch.arange(len(x)) % 2 == 1
    place = torch.rand(len(x), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = op.apply(x, value, Chance(backward, place))
    assert ours.dtype == torch.uint8
    for image, result, back, at in zip(x, ours, backward, place, strict=True):
        v = -value if back and op.apply in MOVING else value
        expected = PILLOW[op.apply](Image.fromarray(image.movedim(0, 2).numpy()), v, at.tolist())
        difference = np.abs(result.movedim(0, 2).numpy().astype(int) - np.asarray(expected).astype(int))
        if op.apply in MOVING:  # Pillow's fixed-point coordinates may round a pixel's border the other way
            assert (difference > 0).mean() < 0.02
        else:
            assert difference.max() == 0


def test_grey_images_are_those_of_equal_channels():
    grey = pictures()[:, :1]
    chance = Chance(torch.zeros(6, dtype=torch.bool), torch.full((6, 2), 0.4, dtype=torch.float64))
    for op in ra.OPERATIONS:
        value = op.low + 0.4 * (op.high - op.low)
        ours, coloured = op.apply(grey, value, chance), op.apply(grey.expand(-1, 3, -1, -1), value, chance)
        expected = coloured if op.apply is not ra.cutout else coloured[:, 1:2]
        torch.testing.assert_close(ours.expand_as(expected), expected)


def test_pools_and_ranges_are_as_published():
    ranges = {op.apply.__name__: (op.low, op.high) for op in ra.OPERATIONS}
    assert len(ranges) == 16
    assert ranges["rotate"] == (0, 30)
    assert ranges["color"] == ranges["sharpness"] == (0.1, 1.9)
    assert ranges["translate_x"] == (0, 100)
    digits = {op.apply.__name__ for op in RandAugment(1, 9, "digits").operations}
    assert set(ranges) - digits == {"rotate", "translate_x", "translate_y"}


def test_each_image_has_operations_of_its_own():
    """Of 16 operations at one magnitude, on copies of one image, every result is one of theirs and all occur."""
    x = pictures()[4:5].expand(400, -1, -1, -1)
    found = RandAugment(1, 9)(x / 255, torch.Generator().manual_seed(0))
    found = (found * 255).round().to(torch.uint8)
    results = set()
    for op in ra.OPERATIONS:
        value = op.low + 9 / 30 * (op.high - op.low)
        for backward in (False, True):
            chance = Chance(torch.tensor([backward]), torch.zeros(1, 2, dtype=torch.float64))
            if op.apply is not ra.cutout:
                results.add(op.apply(x[:1], value, chance)[0].numpy().tobytes())
    seen = {image.numpy().tobytes() for image in found}
    assert results <= seen
    strange = [image for image in found if image.numpy().tobytes() not in results]
    assert all((image == x[0]).float().mean() > 0.6 for image in strange)  # cut out
    assert 400 / 16 * 0.4 < len(strange) < 400 / 16 * 2


def test_two_operations_follow_one_another():
    x = torch.rand(50, 1, 16, 16)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    twice = RandAugment(1, 20)(RandAugment(1, 20)(x, generators[0]), generators[0])
    torch.testing.assert_close(RandAugment(2, 20)(x, generators[1]), twice)


def test_the_same_generator_gives_the_same_images():
    x, recipe = torch.rand(20, 3, 24, 24), RandAugmentRecipe(2, 9, size=16, mean=(0.5, 0.4, 0.3), sd=(0.2, 0.2, 0.2))
    first, again, other = (recipe(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (20, 3, 16, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_recipe_is_its_parts_in_order():
    x = torch.rand(10, 3, 24, 24)
    mean, sd = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    recipe = RandAugmentRecipe(1, 9, size=16, padding=2, mean=mean, sd=sd)
    generator = torch.Generator().manual_seed(5)
    y = RandAugment(1, 9)(x, generator)
    y = torch.nn.functional.interpolate(y, size=16, mode="bilinear", antialias=True)
    y = random_flip(random_crop(y, 2, generator), generator)
    y = (y - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(sd).view(3, 1, 1)
    torch.testing.assert_close(recipe(x, torch.Generator().manual_seed(5)), y)


def test_crops_are_windows_of_the_padded_image():
    x = 1 + torch.rand(300, 2, 5, 7)
    padded = torch.nn.functional.pad(x, [2] * 4)
    found = random_crop(x, 2, torch.Generator().manual_seed(0))
    places = set()
    for image, source in zip(found, padded, strict=True):
        windows = [(r, c) for r in range(5) for c in range(5) if torch.equal(image, source[:, r : r + 5, c : c + 7])]
        assert len(windows) == 1
        places.update(windows)
    assert len(places) == 25
    assert torch.equal(random_crop(x, 0), x)


def test_half_of_the_images_are_mirrored():
    x = torch.rand(400, 1, 3, 4)
    found = random_flip(x, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(found, x, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, found, x, strict=True))
    assert 150 < sum(mirrored) < 250


@pytest.mark.parametrize(
    ("arguments", "match"),
    [((0, 9), "n=0"), ((1, 31), "m=31"), ((1, -1), "m=-1"), ((1, 9, "svhn"), "pool='svhn'")],
)
def test_augmentations_that_cannot_be(arguments, match):
    for kind in (RandAugment, RandAugmentRecipe):
        with pytest.raises(ValueError, match=match):
            kind(*arguments)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, r"torch\.uint8"),
        (torch.zeros(2, 2, 8, 8), ValueError, "1 or 3 channels"),
        (torch.full((2, 3, 8, 8), 255.0), ValueError, "must lie in"),
        (torch.full((2, 3, 8, 8), torch.nan), ValueError, "must lie in"),
    ],
)
def test_images_that_are_none(x, error, match):
    with pytest.raises(error, match=match):
        RandAugment(1, 9)(x)


def test_recipes_need_mean_and_deviation_together():
    with pytest.raises(ValueError, match="both or neither"):
        RandAugmentRecipe(1, 9, mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="padding=-1"):
        random_crop(torch.zeros(1, 1, 4, 4), -1)
