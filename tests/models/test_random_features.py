"""Image statistics and random convolutional features against brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landform.models import ImageStatistics, RandomConvFeatures
from landform.models.random_conv import zca_squared


def test_image_statistics_are_numpys():
    x = torch.randn(5, 3, 6, 7, dtype=torch.float64)
    a = x.numpy()
    expected = np.concatenate([a.mean((2, 3)), a.std((2, 3), ddof=1), a.max((2, 3)), a.min((2, 3))], axis=1)
    np.testing.assert_allclose(ImageStatistics()(x).numpy(), expected, rtol=1e-12)


def test_image_statistics_of_constant_and_rescaled_images():
    flat = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert ImageStatistics()(flat).tolist() == [[3, -2, 0, 0, 3, -2, 3, -2]]
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(ImageStatistics()(2.5 * x), 2.5 * ImageStatistics()(x))
    with pytest.raises(ValueError, match="two pixels"):
        ImageStatistics()(torch.rand(2, 3, 1, 1))
    with pytest.raises(ValueError, match="must be"):
        ImageStatistics()(torch.rand(2, 3))


def test_random_features_are_an_average_over_positions():
    net = RandomConvFeatures(2, features=6, seed=3).double()
    x = torch.randn(3, 2, 5, 6, dtype=torch.float64)
    windows = x.unfold(2, 3, 1).unfold(3, 3, 1)  # n, c, rows, columns, 3, 3
    z = torch.einsum("ncijab,fcab->nfij", windows, net.weights) - 1
    expected = torch.cat([z.clamp(min=0).mean((2, 3)), (-z).clamp(min=0).mean((2, 3))], dim=1)
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x)[:, :3] - net(x)[:, 3:], z.mean((2, 3)))


def test_random_features_have_their_size_and_seed():
    net = RandomConvFeatures(3, seed=7)
    assert net.weights.shape == (256, 3, 3, 3)
    assert (net.biases == -1).all()
    assert torch.equal(net.weights, torch.randn(256, 3, 3, 3, generator=torch.Generator().manual_seed(7)))
    assert torch.equal(net.weights, RandomConvFeatures(3, seed=7).weights)
    assert not torch.equal(net.weights, RandomConvFeatures(3, seed=8).weights)
    x = torch.rand(1, 3, 8, 8)
    assert net(x).shape == (1, 512)  # a batch of one stays a batch
    assert not list(net.parameters())
    twin = RandomConvFeatures(3)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x), net(x))


def test_patches_are_centred_of_unit_norm_and_from_the_images():
    whole = torch.randn(4, 2, 3, 3, dtype=torch.float64)  # of 3 × 3 pixels each image is its only patch
    net = RandomConvFeatures.from_patches(whole, features=40, seed=0, zca=False)
    flat = net.weights.flatten(1)
    assert net.weights.dtype == torch.float64
    torch.testing.assert_close(flat.mean(1), torch.zeros(20, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(flat.norm(dim=1), torch.ones(20, dtype=torch.float64))
    candidates = whole.flatten(1) - whole.flatten(1).mean(1, keepdim=True)
    candidates = F.normalize(candidates)
    nearest = torch.cdist(flat, candidates).min(1)
    assert nearest.values.max() < 1e-6
    assert set(nearest.indices.tolist()) == {0, 1, 2, 3}


def test_patches_lie_anywhere_in_an_image():
    ramp = torch.arange(16.0).view(1, 4, 4)
    bright = ramp + 100 * (ramp == 15)  # only patches at the last row and column see the bright corner
    net = RandomConvFeatures.from_patches([bright], features=80, seed=0, zca=False)
    corner = net.weights[:, 0, 2, 2] > 0.9
    assert 0 < corner.sum() < 40


def test_flat_patches_do_not_divide_by_zero():
    net = RandomConvFeatures.from_patches(torch.ones(3, 1, 5, 5), features=8, seed=0)
    assert (net.weights == 0).all()


def test_zca_filters_are_the_published_formula():
    whole = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    plain = RandomConvFeatures.from_patches(whole, features=60, seed=1, zca=False).weights.flatten(1).numpy()
    e, v = np.linalg.eigh(plain.T @ plain / 30)
    z = v @ np.diag((e + 0.01) ** -0.5) @ v.T
    found = RandomConvFeatures.from_patches(whole, features=60, seed=1, zca_bias=0.01).weights.flatten(1)
    np.testing.assert_allclose(found.numpy(), plain @ z @ z.T, atol=1e-9)


def test_zca_whitens():
    patches = torch.randn(200, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    patches -= patches.mean(0)
    squared = zca_squared(patches, 1e-3)
    values, vectors = torch.linalg.eigh(patches.T @ patches / 200)
    root = vectors @ torch.diag((values + 1e-3) ** -0.5) @ vectors.T
    torch.testing.assert_close(root @ root.T, squared)
    whitened = patches @ root
    covariance = vectors.T @ (whitened.T @ whitened / 200) @ vectors
    torch.testing.assert_close(covariance, torch.diag(values / (values + 1e-3)), atol=1e-8, rtol=0)


def test_random_features_refuse():
    with pytest.raises(ValueError, match="features=511"):
        RandomConvFeatures(3, features=511)
    with pytest.raises(ValueError, match="in_channels=0"):
        RandomConvFeatures(0)
    with pytest.raises(ValueError, match="at least 3 pixels"):
        RandomConvFeatures(3, features=2)(torch.rand(1, 3, 2, 5))
    with pytest.raises(ValueError, match="empty"):
        RandomConvFeatures.from_patches([])
    with pytest.raises(ValueError, match="zca_bias=0"):
        RandomConvFeatures.from_patches(torch.rand(2, 3, 4, 4), zca_bias=0)
    with pytest.raises(ValueError, match="at least 3 × 3"):
        RandomConvFeatures.from_patches(torch.rand(2, 3, 4, 2))
