"""Resizing and scaling of images, and channel statistics, against PyTorch, closed forms and whole-set computations."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from landform.data import ChannelStatistics, Preprocess

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(n=7, channels=3, height=9, width=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3000 + 500 * torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64)


# Statistics.


def test_statistics_are_those_of_all_pixels_at_once():
    x = images(20) * torch.tensor([1.0, 1e-3, 40.0], dtype=torch.float64).view(3, 1, 1) + 1e5
    found = ChannelStatistics.from_loader(DataLoader(TensorDataset(x, torch.zeros(20)), batch_size=6))
    whole = x.transpose(0, 1).flatten(1)
    for name, values in (
        ("min", whole.amin(1)),
        ("max", whole.amax(1)),
        ("mean", whole.mean(1)),
        ("std", whole.std(1)),
    ):
        torch.testing.assert_close(getattr(found, name), values, rtol=1e-11, atol=0)


def test_statistics_take_loaders_in_all_usual_forms():
    x = images()
    forms = [[x], [(x, torch.zeros(7))], [[x]], [{"image": x, "label": 0}], [x[:3].int(), x[3:].int()]]
    found = [ChannelStatistics.from_loader(form).mean for form in forms]
    for mean in found[1:4]:
        assert torch.equal(mean, found[0])
    torch.testing.assert_close(found[4], x.int().double().mean((0, 2, 3)))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "0 pixels"),
        ([torch.zeros(1, 2, 1, 1)], "1 pixels"),
        ([torch.zeros(3, 4, 4)], "batch 0 has shape"),
        ([torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3)], "batch 1 has 3 channels"),
        ([torch.full((1, 2, 3, 3), math.nan)], "not finite"),
    ],
)
def test_statistics_refuse(loader, message):
    with pytest.raises(ValueError, match=message):
        ChannelStatistics.from_loader(loader)


def test_statistics_refuse_other_forms():
    with pytest.raises(TypeError, match="item is a str"):
        ChannelStatistics.from_loader(["image"])
    with pytest.raises(ValueError, match="equally many"):
        ChannelStatistics((0,), (1,), (0, 0), (1, 1))
    with pytest.raises(ValueError, match="negative"):
        ChannelStatistics((0,), (1,), (0,), (-1,))


def test_statistics_of_published_training_sets_are_taken_as_they_are(shared_data):
    content = json.loads((shared_data("resize-normalize-matters") / "eurosat_stats.json").read_text())
    stats = ChannelStatistics(**content)
    assert len(stats) == 13
    x = stats.mean.view(1, 13, 1, 1).expand(2, -1, 4, 4)
    assert Preprocess(scale="standardise", stats=stats)(x).abs().max() < 1e-12


# Resizing.


def test_a_ramp_is_resized_as_its_corners_say():
    ramp = torch.arange(12.0, dtype=torch.float64).view(1, 1, 3, 4)
    # A ramp is linear, so that with corners kept every pixel is where the lines say it is.
    rows, columns = torch.linspace(0, 2, 6, dtype=torch.float64), torch.linspace(0, 3, 8, dtype=torch.float64)
    expected = 4 * rows[:, None] + columns[None]
    for size in (6, (6, 8)):
        torch.testing.assert_close(Preprocess(size, align_corners=True)(ramp)[0, 0], expected)
        assert not torch.allclose(Preprocess(size)(ramp)[0, 0], expected)
    # By outline: centres at (j + .5)/2 - .5, held at the border.
    centre = ((torch.arange(8, dtype=torch.float64) + 0.5) / 2 - 0.5).clamp(0, 3)
    torch.testing.assert_close(Preprocess(6)(ramp)[0, 0, 0], centre)


def test_the_shorter_side_is_meant_and_the_other_follows():
    assert Preprocess(6)(torch.rand(1, 2, 5, 7)).shape == (1, 2, 6, 8)  # 8.4
    assert Preprocess(6)(torch.rand(1, 2, 7, 5)).shape == (1, 2, 8, 6)
    assert Preprocess((6, 3))(torch.rand(1, 2, 7, 5)).shape == (1, 2, 6, 3)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_same_size_is_the_identity(interpolation, align_corners):
    x = images()
    assert torch.equal(Preprocess(9, interpolation=interpolation, align_corners=align_corners)(x), x)
    assert torch.equal(Preprocess(interpolation=interpolation, align_corners=align_corners)(x), x)


def test_shrinking_is_filtered_and_enlarging_is_not():
    fine = (torch.arange(16) % 2).double().expand(1, 1, 16, 16)  # stripes too fine for 8 pixels
    shrunk = Preprocess(8)(fine)[..., 1:-1]
    assert (shrunk - 0.5).abs().max() < 1e-12
    assert torch.equal(Preprocess(4)(fine), F.interpolate(fine, 4, mode="bilinear", antialias=True))
    assert torch.equal(Preprocess(4, antialias=False)(fine), F.interpolate(fine, 4, mode="bilinear"))
    x = images()
    assert torch.equal(Preprocess(20)(x), Preprocess(20, antialias=False)(x))


# Scaling.


def test_scales_are_their_formulas():
    x = images()
    stats = ChannelStatistics.from_loader([x])
    low, high, mean, std = (getattr(stats, n).view(3, 1, 1) for n in ("min", "max", "mean", "std"))
    expected = {
        "none": x,
        "divide": x / 10_000,
        "minmax": (x - low) / (high - low),
        "standardise": (x - mean) / std,
    }
    for scale, values in expected.items():
        torch.testing.assert_close(Preprocess(scale=scale, stats=stats)(x), values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Preprocess(scale="divide", divisor=255)(x), x / 255)
    scaled = Preprocess(scale="standardise", stats=stats)(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(scaled.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.std(1), torch.ones(3, dtype=torch.float64))


def test_what_seco_expects():
    low, high = torch.tensor([3.0, 2, 0]).view(3, 1, 1), torch.tensor([88.0, 103, 129]).view(3, 1, 1)
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    x = 160 * torch.rand(2, 3, 5, 5) - 10
    published = ((((x - low) / (high - low)) * 255).clamp(0, 255) / 255 - mean) / std
    stats = ChannelStatistics((3, 2, 0), (88, 103, 129), IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(Preprocess(scale="pretrain", stats=stats)(x), published, atol=1e-6, rtol=1e-6)


def test_resizing_and_linear_scaling_commute():
    x = images()
    stats = ChannelStatistics.from_loader([x])
    together = Preprocess(14, "standardise", stats)(x)
    torch.testing.assert_close(Preprocess(14)(Preprocess(scale="standardise", stats=stats)(x)), together)


def test_integers_become_floats_and_statistics_follow_a_module():
    counts = (1000 * torch.rand(2, 3, 4, 4)).short()
    assert Preprocess(8)(counts).dtype == torch.float32
    stats = ChannelStatistics.from_loader([counts])
    module = Preprocess(None, "standardise", stats)
    twin = Preprocess(None, "standardise", ChannelStatistics((0,) * 3, (1,) * 3, (0,) * 3, (1,) * 3))
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin(counts), module(counts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "log"}, "scale='log'"),
        ({"scale": None}, "scale=None"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos'"),
        ({"size": 0}, "size=0"),
        ({"size": True}, "size=True"),
        ({"size": (3, 3, 3)}, "size="),
        ({"scale": "standardise"}, "needs the ChannelStatistics"),
        ({"divisor": 0.0}, r"divisor=0\.0"),
    ],
)
def test_preprocess_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**arguments)


def test_constant_bands_and_other_channels_are_refused():
    flat = ChannelStatistics((0, 2), (1, 2), (0.5, 2), (0.1, 0))
    with pytest.raises(ValueError, match="std of band 1"):
        Preprocess(scale="standardise", stats=flat)
    with pytest.raises(ValueError, match="max - min of band 1"):
        Preprocess(scale="minmax", stats=flat)
    with pytest.raises(TypeError, match="stats is tuple"):
        Preprocess(scale="minmax", stats=((0,), (1,)))
    fine = ChannelStatistics((0, 2), (1, 3), (0.5, 2), (0.1, 1))
    with pytest.raises(ValueError, match="3 channels"):
        Preprocess(scale="minmax", stats=fine)(torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match="must be"):
        Preprocess()(torch.rand(3, 4, 4))
