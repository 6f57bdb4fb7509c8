"""Losses of attacks: their formulas on numbers worked out by hand, and their invariances."""

from __future__ import annotations

import pytest
import torch

from landform.attacks import dlr_loss, margin_loss, targeted_dlr_loss


def test_by_hand():
    z = torch.tensor([[4.0, 1.0, 3.0, -2.0], [0.0, 5.0, 2.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([0, 2])
    torch.testing.assert_close(margin_loss(z, y), torch.tensor([-1.0, 3.0]).double())
    # −(4 − 3)/(4 − 1), −(2 − 5)/(5 − 1)
    torch.testing.assert_close(dlr_loss(z, y), torch.tensor([-1 / 3, 3 / 4], dtype=z.dtype), rtol=0, atol=1e-11)
    # −(4 − (−2))/(4 − (1 − 2)/2), −(2 − 0)/(5 − (1 + 0)/2)
    expected = torch.tensor([-6 / 4.5, -2 / 4.5], dtype=z.dtype)
    torch.testing.assert_close(targeted_dlr_loss(z, y, torch.tensor([3, 0])), expected, rtol=0, atol=1e-11)


def test_dlr_is_invariant_to_scale_and_shift():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    y, t = torch.randint(6, (2, 20), generator=generator)
    for a, b in ((0.01, 3.0), (50.0, -7.0)):
        torch.testing.assert_close(dlr_loss(a * z + b, y), dlr_loss(z, y), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(targeted_dlr_loss(a * z + b, y, t), targeted_dlr_loss(z, y, t), rtol=1e-8, atol=1e-8)


def test_gradients():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    y, t = torch.randint(6, (2, 5), generator=generator)
    for loss in (margin_loss, dlr_loss, lambda z, y: targeted_dlr_loss(z, y, t)):
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, y), z)


def test_too_few_classes():
    with pytest.raises(ValueError, match="at least 3 classes"):
        dlr_loss(torch.rand(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="at least 4 classes"):
        targeted_dlr_loss(torch.rand(2, 3), torch.tensor([0, 1]), torch.tensor([1, 0]))
