"""Balls: the projection is exact in every arithmetic, idempotent and nearest; steps and samples follow their norm."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from landform.attacks import L2Ball, LinfBall

DTYPES = (torch.float32, torch.float64)


def points(seed: int, dtype: torch.dtype, spread: float, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs in [0, 1], among them the ends and the smallest numbers, and points around them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, size, dtype=dtype, generator=generator)
    x[0, :5] = torch.tensor([0.0, 1.0, torch.finfo(dtype).smallest_normal, 1e-30, 0.5], dtype=dtype)
    x[1] = x[1] ** 8
    return x, x + spread * torch.randn(x.shape, dtype=dtype, generator=generator)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    eps=st.floats(1e-7, 2.0),
    spread=st.sampled_from([1e-8, 1e-3, 0.1, 1.0, 30.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_linf_projection_is_exact(seed, eps, spread, dtype):
    x, z = points(seed, dtype, spread)
    found = LinfBall(eps).project(z, x)
    assert found.dtype == dtype
    assert ((found >= 0) & (found <= 1)).all()
    # as a checker would in x's dtype, by tensors and by numbers, and in the reals
    assert ((found - x).abs() <= eps).all()
    assert (found - x).abs().max().item() <= eps
    assert all(
        abs(Fraction(a) - Fraction(b)) <= Fraction(eps)
        for a, b in zip(found.flatten().tolist(), x.flatten().tolist(), strict=True)
    )
    torch.testing.assert_close(LinfBall(eps).project(found, x), found, rtol=0, atol=0)
    # no further inside than rounding asks for
    plain = torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
    torch.testing.assert_close(found, plain, rtol=0, atol=4 * torch.finfo(dtype).eps * max(1, eps))


def test_linf_bounds_need_rounding_inwards():
    """The naive clip leaves the ball for about every other number: the property above has something to find."""
    x, eps = torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)), 0.1
    naive = torch.clamp(x + 1, max=x + eps)
    assert ((naive.double() - x.double()) > eps).float().mean() > 0.2
    found = LinfBall(eps).project(x + 1, x, hi=2.0)
    assert ((found.double() - x.double()) <= eps).all()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    eps=st.floats(1e-7, 5.0),
    spread=st.sampled_from([1e-8, 1e-3, 0.1, 1.0, 30.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_l2_projection_is_exact(seed, eps, spread, dtype):
    x, z = points(seed, dtype, spread)
    ball = L2Ball(eps)
    found = ball.project(z, x)
    assert ((found >= 0) & (found <= 1)).all()
    delta = found - x
    assert delta.norm(dim=1).max().item() <= eps
    assert delta.square().sum(1).sqrt().max().item() <= eps
    assert (found.double() - x.double()).norm(dim=1).max().item() <= eps
    assert torch.equal(ball.project(found, x), found)


def test_l2_projection_is_exact_for_large_images():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 224, 224, generator=generator)
    z = x + torch.randn(x.shape, generator=generator)
    for eps in (0.01, 0.5, 3.0):
        delta = L2Ball(eps).project(z, x) - x
        assert delta.flatten(1).norm(dim=1).max().item() <= eps
        assert delta.square().sum((1, 2, 3)).sqrt().max().item() <= eps
        # all of the radius but what [0, 1] takes: an unclipped projection is as long as it may be
        free = L2Ball(eps).project(z, x, -9.0, 9.0) - x
        assert free.flatten(1).norm(dim=1).min().item() >= eps * (1 - 1e-3)


def test_l2_projection_is_the_formula(batch):
    x, _ = batch
    z = x + torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    delta = z - x
    scale = (0.7 / delta.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
    expected = (x + delta * scale).clamp(0, 1)
    torch.testing.assert_close(L2Ball(0.7).project(z, x), expected, rtol=0, atol=1e-13)
    near = x + 1e-3 * delta
    assert torch.equal(L2Ball(0.7).project(near, x), near.clamp(0, 1))


def test_steps_are_of_norm_one_and_zeros_stay(batch):
    g = batch[0] - 0.5
    g[1] = 0
    g[2, 0, 0, 0] = 0
    assert torch.equal(LinfBall(0.1).step(g), g.sign())
    assert LinfBall(0.1).step(g)[2, 0, 0, 0] == 0
    lengths = L2Ball(0.1).step(g).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0, 1, 1]).double(), rtol=0, atol=1e-9)


def test_samples_are_uniform_in_the_ball():
    x = torch.full((4000, 3), 0.5, dtype=torch.float64)
    offset = LinfBall(0.2).sample(x, torch.Generator().manual_seed(0)) - x
    assert stats.kstest(offset.flatten(), "uniform", (-0.2, 0.4)).pvalue > 0.01
    offset = L2Ball(0.2).sample(x, torch.Generator().manual_seed(0)) - x
    volume = (offset.norm(dim=1) / 0.2) ** 3  # the share of the ball's volume within
    assert volume.max() <= 1 + 1e-12
    assert stats.kstest(volume, "uniform").pvalue > 0.01
    # by Archimedes, each coordinate of a uniform direction in three dimensions is uniform
    direction = offset / offset.norm(dim=1, keepdim=True)
    assert stats.kstest(direction[:, 1], "uniform", (-1, 2)).pvalue > 0.01


def test_samples_follow_their_generator():
    x = torch.rand(3, 5)
    for ball in (LinfBall(0.1), L2Ball(0.1)):
        first = ball.sample(x, torch.Generator().manual_seed(3))
        assert torch.equal(first, ball.sample(x, torch.Generator().manual_seed(3)))
        assert not torch.equal(first, ball.sample(x, torch.Generator().manual_seed(4)))
        assert first.dtype == torch.float32


@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_radii_are_refused(ball, eps):
    with pytest.raises(ValueError, match="eps="):
        ball(eps)
