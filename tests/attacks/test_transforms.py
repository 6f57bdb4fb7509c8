"""Transforms: shapes and kernels, and gradients through them against autograd on the whole composition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from landform.attacks import DiverseInput, InputGradient, ScaleInvariant, TranslationInvariant
from landform.attacks.transforms import transformed


@pytest.mark.parametrize("size", [1, 3, 5, 15])
def test_the_kernel_is_a_normal_density(size):
    kernel = TranslationInvariant(size).kernel
    density = stats.norm.pdf(np.linspace(-3, 3, size)) if size > 1 else np.ones(1)
    expected = np.outer(density, density)
    np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=0, atol=1e-15)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-14)
    assert torch.equal(kernel, kernel.T)
    assert torch.allclose(kernel, kernel.flip(0))


def test_smoothing_is_a_convolution_of_each_channel(batch):
    g = batch[0] - 0.5
    torch.testing.assert_close(TranslationInvariant(1)(g), g, rtol=0, atol=1e-15)
    smooth = TranslationInvariant(3)
    found, kernel = smooth(g), smooth.kernel
    padded = F.pad(g, [1] * 4)
    by_hand = sum(kernel[i, j] * padded[:, :, i : i + 6, j : j + 6] for i in range(3) for j in range(3))
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-14)


def test_diverse_inputs_are_shrunk_and_padded():
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(2, 3, 20, 20)
    diverse = DiverseInput(p=1.0, smallest=0.5, generator=generator)
    sides, corners = set(), set()
    for _ in range(400):
        views = diverse(x)
        assert views.shape == x.shape
        rows, columns = (views[0, 0].sum(dim) > 0 for dim in (1, 0))
        assert rows.sum() == columns.sum()
        block = (rows[:, None] & columns).float()  # of ones among zeros
        torch.testing.assert_close(views, block.expand_as(views))
        sides.add(int(rows.sum()))
        corners.add((int(rows.nonzero()[0]), int(columns.nonzero()[0])))
    assert sides == set(range(10, 21))
    assert len(corners) > 50
    unchanged = sum(torch.equal(DiverseInput(p=0.3, smallest=0.5, generator=generator)(x), x) for _ in range(1000))
    # with p = 0.3, and the full size once in 11 times
    assert abs(unchanged / 1000 - (0.7 + 0.3 / 11)) < 0.05


def test_gradients_go_through_all_transforms_in_order(model, batch):
    x, y = batch
    diverse = DiverseInput(p=1.0, smallest=0.5)
    smooth = TranslationInvariant(3)
    gradient = transformed(InputGradient(model), [ScaleInvariant(3), diverse, smooth])
    diverse.generator = torch.Generator().manual_seed(1)
    found = gradient(x, y)
    diverse.generator = torch.Generator().manual_seed(1)
    leaf = x.clone().requires_grad_()
    loss = F.cross_entropy(model(diverse(torch.cat([leaf, leaf / 2, leaf / 4]))), y.repeat(3), reduction="sum") / 3
    (whole,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(found, smooth(whole), rtol=0, atol=1e-14)


def test_no_transforms_are_no_work(model):
    gradient = InputGradient(model)
    assert transformed(gradient, []) is gradient


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TranslationInvariant(4), "kernel_size=4"),
        (lambda: TranslationInvariant(0), "kernel_size=0"),
        (lambda: DiverseInput(p=1.5), r"p=1\.5"),
        (lambda: DiverseInput(smallest=0.0), "smallest=0"),
        (lambda: ScaleInvariant(0), "copies=0"),
        (lambda: TranslationInvariant(3)(torch.rand(3, 4)), "must be images"),
        (lambda: DiverseInput()(torch.rand(3, 4)), "must be images"),
    ],
)
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match):
        make()
