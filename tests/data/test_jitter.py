"""Affine jitter against scipy's affine transform, closed forms, and its own limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from landform.data import affine_jitter
from landform.data import jitter as module
from landform.data.jitter import warp


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_scipy(image: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The same map by scipy, which wants the inverse, and coordinates as (row, column) from a corner."""
    swap = np.array([[0, 1], [1, 0]])
    inverse = swap @ np.linalg.inv(matrix) @ swap
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - inverse @ (centre + shift[::-1])
    return ndimage.affine_transform(image, inverse, offset, order=1, mode="grid-constant", cval=0.0)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (8, 8), (7, 12), (12, 7)])
def test_warp_is_scipys_affine_transform(height, width):
    x = torch.rand(5, 2, height, width, generator=seeded(), dtype=torch.float64)
    matrix = torch.eye(2, dtype=torch.float64) + 0.4 * torch.randn(5, 2, 2, generator=seeded(1), dtype=torch.float64)
    shift = 2 * torch.randn(5, 2, generator=seeded(2), dtype=torch.float64)
    moved = warp(x, matrix, shift)
    for n in range(5):
        for channel in range(2):
            expected = by_scipy(x[n, channel].numpy(), matrix[n].numpy(), shift[n].numpy())
            np.testing.assert_allclose(moved[n, channel].numpy(), expected, atol=1e-12)


def test_each_amount_does_what_its_name_says(monkeypatch):
    """Read the maps that are asked for, and set them beside their equations with the draws at both ends."""
    asked = {}
    monkeypatch.setattr(module, "warp", lambda x, matrix, shift: asked.update(matrix=matrix, shift=shift) or x)
    x = torch.zeros(4000, 1, 10, 20)

    affine_jitter(x, rotation=30, generator=seeded())
    angle = torch.atan2(asked["matrix"][:, 0, 1], asked["matrix"][:, 0, 0]).rad2deg()
    assert torch.allclose(asked["matrix"] @ asked["matrix"].mT, torch.eye(2, dtype=torch.float64).expand(4000, 2, 2))
    assert -30 <= angle.min() < -29.9
    assert 29.9 < angle.max() <= 30
    assert angle.std().item() == pytest.approx(30 / math.sqrt(3), rel=0.03)

    affine_jitter(x, scale=0.2, generator=seeded())
    size = asked["matrix"][:, 0, 0]
    assert torch.equal(asked["matrix"], torch.diag_embed(torch.stack([size, size], 1)))
    assert 0.8 <= size.min() < 0.801
    assert 1.199 < size.max() <= 1.2

    affine_jitter(x, shear=0.3, generator=seeded())
    assert asked["matrix"][:, [0, 1, 1], [0, 0, 1]].eq(torch.tensor([1.0, 0, 1])).all()
    assert -0.3 <= asked["matrix"][:, 0, 1].min() < -0.299

    affine_jitter(x, shift=0.1, generator=seeded())
    # A tenth of the width of 20 and of the height of 10.
    assert torch.allclose(asked["shift"].abs().amax(0), torch.tensor([2.0, 1.0], dtype=torch.float64), rtol=0.01)

    affine_jitter(x, rotation=30, scale=0.2, shear=0.3, generator=seeded())
    # det A = s^2, and A's first column is s (cos a, -sin a), whatever the shear.
    first = asked["matrix"][:, :, 0].square().sum(1)
    assert torch.allclose(torch.linalg.det(asked["matrix"]), first, atol=1e-12)
    assert 0.64 <= first.min() < 0.645


def test_a_positive_angle_turns_counter_clockwise_to_the_eye(monkeypatch):
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 7] = 1  # right of the centre
    monkeypatch.setattr(module.torch, "rand", lambda *size, **_: torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]]).double())
    turned = affine_jitter(x, rotation=90)
    assert turned[0, 0, 1, 4].item() == pytest.approx(1, abs=1e-6)  # above it


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_no_amount_is_the_identity(dtype, tolerance):
    x = torch.rand(3, 2, 28, 17, generator=seeded(), dtype=dtype)
    y = affine_jitter(x, generator=seeded())
    assert y is not x
    assert torch.equal(y, x)
    # And the general way tends to it.
    nearly = affine_jitter(x, rotation=1e-300, generator=seeded())
    assert nearly.dtype == dtype
    assert (nearly - x).abs().max() < tolerance


def test_every_image_has_draws_of_its_own_from_the_generator():
    x = torch.rand(1, 1, 16, 16, generator=seeded()).expand(3, -1, -1, -1)
    amounts = {"rotation": 20, "scale": 0.1, "shear": 0.1, "shift": 0.1}
    first, again, other = (affine_jitter(x, **amounts, generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first[0], first[1])


def test_images_are_done_in_chunks_without_a_seam(monkeypatch):
    x = torch.rand(11, 1, 6, 6, generator=seeded())
    whole = affine_jitter(x, rotation=30, generator=seeded())
    monkeypatch.setattr(module, "CHUNK", 4)
    assert torch.equal(affine_jitter(x, rotation=30, generator=seeded()), whole)
    assert affine_jitter(x[:0], rotation=30).shape == (0, 1, 6, 6)


def test_nonsense_is_refused_by_name():
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="rotation=-1"):
        affine_jitter(x, rotation=-1)
    with pytest.raises(ValueError, match=r"scale=1.0.*below 1"):
        affine_jitter(x, scale=1.0)
    with pytest.raises(ValueError, match="shift=nan"):
        affine_jitter(x, shift=float("nan"))
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 4\)"):
        affine_jitter(x[0])
    with pytest.raises(TypeError, match=r"torch.uint8"):
        affine_jitter(x.to(torch.uint8))
    with pytest.raises(ValueError, match=r"must be \(2, 2, 2\) and \(2, 2\)"):
        warp(x, torch.eye(2), torch.zeros(2))
