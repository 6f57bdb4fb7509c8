"""Corruptions: their formulas by brute force, independence of the batch, and distortion that grows."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage

from landform.data import CORRUPTIONS, affine_jitter, corrupt, load
from landform.data.corruptions import LUMA, _jpeg
from landform.data.counter import Field, hash_normal, hash_uniform
from landform.data.tiles import noise_tile


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth coloured images of 32 pixels with values well inside [0, 1]."""
    waves = hash_normal(5, torch.arange(40), 200, (3, 6, 6))
    return (0.5 + 0.15 * torch.nn.functional.interpolate(waves, size=32, mode="bicubic")).clamp(0, 1)


@pytest.fixture(scope="module")
def letters() -> torch.Tensor:
    return load("glyphs:latin?size=20&limit=60")["test"].x


INDEX = torch.arange(40)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_s_corruption_is_its_own(name, images, letters, monkeypatch):
    for x in (images, letters):
        index = torch.arange(100, 100 + len(x))
        whole = corrupt(x, name, 3, seed=1, index=index)
        assert whole.shape == x.shape
        assert whole.dtype == x.dtype
        assert whole.min() >= 0
        assert whole.max() <= 1
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        assert torch.equal(corrupt(x[order], name, 3, seed=1, index=index[order]), whole[order])
        alone = torch.cat([corrupt(x[i : i + 1], name, 3, seed=1, index=[100 + i]) for i in range(7)])
        assert torch.equal(alone, whole[:7])
        with monkeypatch.context() as patch:
            patch.setattr("landform.data.corruptions.CHUNK", 7 * x[0].numel())
            assert torch.equal(corrupt(x, name, 3, seed=1, index=index), whole)
        assert torch.equal(corrupt(x, name, 0, seed=1, index=index), x)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [20, 32])
def test_distortion_grows_with_severity(name, size, images, letters):
    x = images if size == 32 else letters.expand(-1, 3, -1, -1)
    index = torch.arange(len(x))
    levels = [(corrupt(x, name, s, seed=0, index=index) - x).square().mean().item() for s in range(6)]
    assert levels[0] == 0
    if name == "saturate":
        grey_images = size == 20
        assert grey_images == (max(levels) < 1e-12)
        assert levels[1] <= levels[2] <= levels[3]
    elif name == "jpeg":
        assert all(a <= b for a, b in itertools.pairwise(levels))
    else:
        assert all(a < b for a, b in itertools.pairwise(levels)), levels


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog", "occlude"])
def test_chance_differs_between_images_and_seeds(name, images):
    same = images[:1].expand(8, -1, -1, -1)
    first, second = (corrupt(same, name, 5, seed=seed, index=INDEX[:8]) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert len(first.flatten(1).unique(dim=0)) > 1


def test_noises_have_their_spread(images):
    x = torch.full((40, 3, 32, 32), 0.5)
    noise = corrupt(x, "gaussian_noise", 2, seed=0, index=INDEX) - x
    assert noise.std().item() == pytest.approx(0.07, rel=0.01)
    expected = x + 0.07 * hash_normal(0, INDEX, Field.GAUSSIAN_NOISE, (3, 32, 32))
    torch.testing.assert_close(noise + x, expected.clamp(0, 1))
    for level, counts in ((0.1, 100), (0.4, 100)):
        shot = corrupt(torch.full_like(x, level), "shot_noise", 2, seed=0, index=INDEX)
        assert shot.std().item() == pytest.approx(math.sqrt(level / counts), rel=0.02)  # as Poisson counts have
    hit = corrupt(x, "impulse_noise", 5, seed=0, index=INDEX)
    assert torch.equal(hit[:, 0], hit[:, 2])
    for value in (0, 1):
        assert (hit == value).double().mean().item() == pytest.approx(0.06, rel=0.05)
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}


def test_blurs_are_scipy_s(images):
    x = images[:4].double()
    for severity, sigma in enumerate((0.5, 0.8, 1.1, 1.5, 2.0), start=1):
        radius = math.ceil(2.5 * sigma)
        expected = ndimage.gaussian_filter(
            x.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, radius, radius)
        )
        found = corrupt(x, "gaussian_blur", severity, seed=0, index=INDEX[:4])
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    for severity, length in ((1, 3), (3, 5), (4, 7), (5, 9)):
        found = corrupt(images.double(), "motion_blur", severity, seed=0, index=INDEX)
        sideways = hash_uniform(0, INDEX, Field.MOTION_BLUR) < 0.5
        assert 5 < sideways.sum() < 35
        for axis, these in ((3, sideways), (2, ~sideways)):
            expected = ndimage.uniform_filter1d(images[these].double().numpy(), length, axis=axis, mode="nearest")
            np.testing.assert_allclose(found[these].numpy(), expected, atol=1e-12)


def test_even_boxes_weigh_their_ends_by_half():
    x = torch.zeros(40, 1, 32, 32, dtype=torch.float64)
    x[:, :, 16, 16] = 1
    found = corrupt(x, "motion_blur", 2, seed=0, index=INDEX)
    line = found[hash_uniform(0, INDEX, Field.MOTION_BLUR) < 0.5][0, 0, 16, 13:20]
    torch.testing.assert_close(line, torch.tensor([0, 0.5, 1, 1, 1, 0.5, 0], dtype=torch.float64) / 4)


def test_pixelate_samples_a_grid(images):
    found = corrupt(images, "pixelate", 3, seed=0, index=INDEX)  # 16 of 32: every pixel stands twice
    torch.testing.assert_close(found, images[..., 1::2, 1::2].repeat_interleave(2, -1).repeat_interleave(2, -2))
    found = corrupt(images, "pixelate", 5, seed=0, index=INDEX)
    assert max(len(row.unique()) for row in found[0, 0]) <= 10


def test_tones(images):
    found = corrupt(images, "brightness", 2, seed=0, index=INDEX)
    torch.testing.assert_close(found, (images + 0.16).clamp(max=1))
    low = corrupt(images, "contrast", 5, seed=0, index=INDEX)
    torch.testing.assert_close(low.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(low.std((2, 3)), 0.14 * images.std((2, 3)))
    grey = corrupt(images, "saturate", 3, seed=0, index=INDEX)
    luma = torch.from_numpy(np.array([0.299, 0.587, 0.114], dtype=np.float32))
    torch.testing.assert_close(grey, (images * luma.view(3, 1, 1)).sum(1, keepdim=True).expand_as(images))


def test_fog_is_its_formula_with_a_tile_that_was_moved(images):
    t = (corrupt(torch.zeros(2, 1, 64, 64), "fog", 1, seed=0, index=[0, 1]) / 0.85 / 0.25 - 0.3) / 0.8
    tile = noise_tile(1.5, 12)
    for k, moved in enumerate(t[:, 0]):
        rows, columns = (int(64 * hash_uniform(0, k, f) + 0.5) for f in (Field.FOG_ROW, Field.FOG_COLUMN))
        torch.testing.assert_close(moved, tile.roll((-rows, -columns), (0, 1)), atol=1e-5, rtol=0)
    white = corrupt(torch.ones(2, 1, 64, 64), "fog", 1, seed=0, index=[0, 1])
    torch.testing.assert_close(white[:, 0], 1 - 0.15 * 0.25 * (0.3 + 0.8 * t[:, 0]))


def test_tiles_wrap_and_have_no_high_frequency():
    tile = noise_tile(1.5, 12).double()
    assert not torch.equal(noise_tile(1.5, 12, 1), noise_tile(1.5, 12))
    assert tile.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert tile.std().item() == pytest.approx(0.2, abs=0.01)
    seam = (tile[:, 0] - tile[:, -1]).square().mean()
    assert seam < 2 * (tile[:, 1:] - tile[:, :-1]).square().mean()
    power = torch.fft.fft2(tile - tile.mean()).abs().square()
    cycles = torch.fft.fftfreq(64, 1 / 64)
    high = torch.hypot(cycles.unsqueeze(1), cycles) > 12
    assert power[high].sum() < 0.01 * power.sum()
    with pytest.raises(ValueError, match="cut=0"):
        noise_tile(1.5, 0)


def test_the_square_has_its_side_and_moves_about(images):
    x = torch.zeros(40, 1, 20, 20)
    hidden = corrupt(x, "occlude", 2, seed=0, index=INDEX) == 0.5
    assert torch.equal(hidden.sum((1, 2, 3)), torch.full((40,), 36))
    rows = hidden.any(3).squeeze(1)
    assert torch.equal(rows.sum(1), torch.full((40,), 6))
    starts = rows.int().argmax(1)
    assert len(starts.unique()) > 8
    assert starts.min() >= 0
    assert starts.max() <= 14


def test_jpeg_is_the_transform_rounded():
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steps = np.clip(np.floor((np.array(LUMA) * (5000 / 10) + 50) / 100), 1, 255)
    for image, found in zip(x[:, 0], corrupt(x, "jpeg", 4, seed=0, index=[0, 1, 2])[:, 0], strict=True):
        waves = fft.dctn(255 * image.numpy() - 128, norm="ortho")
        expected = (fft.idctn(np.round(waves / steps) * steps, norm="ortho") + 128) / 255
        np.testing.assert_allclose(found.numpy(), expected.clip(0, 1), atol=1e-12)


@pytest.mark.parametrize("quality", [50, 30, 10])
def test_jpeg_is_nearly_pillow_s(quality, letters):
    x = letters[:20].round(decimals=2)
    levels = (x * 255).round()
    for image, found in zip(levels, _jpeg(levels / 255, quality, 0, INDEX).clamp(0, 1), strict=True):
        file = io.BytesIO()
        Image.fromarray(image[0].numpy().astype(np.uint8)).save(file, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(file)).astype(float)
        # Pillow rounds pixels to whole levels, and its transform is of integers.
        assert np.abs(255 * found[0].numpy() - theirs).mean() < 1.5


def test_precision_and_odd_sizes_are_kept():
    x = torch.rand(3, 2, 21, 13, dtype=torch.float64)
    for name in CORRUPTIONS:
        if name == "saturate":
            continue
        for severity in range(1, 6):
            found = corrupt(x, name, severity, seed=0, index=[0, 1, 2])
            assert found.shape == x.shape
            assert found.dtype == x.dtype
    assert corrupt(x[:0], "fog", 1, seed=0, index=[]).shape == (0, 2, 21, 13)
    still = affine_jitter(x)
    assert torch.equal(corrupt(still, "jpeg", 0, seed=0, index=[0, 1, 2]), x)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"name": "rain"}, ValueError, "rain.*gaussian_noise"),
        ({"severity": 6}, ValueError, "severity=6"),
        ({"severity": -1}, ValueError, "severity=-1"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, "uint8"),
        ({"images": torch.zeros(2, 8, 8)}, ValueError, r"\(2, 8, 8\)"),
        ({"images": torch.full((2, 3, 8, 8), 1.5)}, ValueError, "outside"),
        ({"images": torch.full((2, 3, 8, 8), math.nan)}, ValueError, "NaN"),
        ({"name": "saturate", "images": torch.zeros(2, 2, 8, 8)}, ValueError, "2 channels"),
        ({"index": [0]}, ValueError, r"\(1,\)"),
        ({"index": [0, -4]}, ValueError, "-4"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(change, error, match):
    arguments = {"images": torch.zeros(2, 3, 8, 8), "name": "gaussian_noise", "severity": 1, "index": [0, 1]} | change
    with pytest.raises(error, match=match):
        corrupt(arguments["images"], arguments["name"], arguments["severity"], seed=0, index=arguments["index"])
