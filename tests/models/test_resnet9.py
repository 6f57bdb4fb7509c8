"""ResNet-9: its size and outputs against the layers written out with plain functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landform.models import ResNet9


def test_has_the_published_layers() -> None:
    """The sum over the layers of the released network, with its batch normalisations."""
    convolutions = [(3, 64, 9), (64, 128, 25), *[(128, 128, 9)] * 2, (128, 256, 9), *[(256, 256, 9)] * 2, (256, 128, 9)]
    expected = sum(i * o * k + 2 * o for i, o, k in convolutions) + 128 * 10
    assert sum(p.numel() for p in ResNet9().parameters()) == expected


def test_computes_what_its_layers_say() -> None:
    torch.manual_seed(0)
    net = ResNet9(widths=(4, 6, 8, 5)).double().eval()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        norm.running_mean.normal_()

    def block(x: torch.Tensor, number: int, stride: int = 1, padding: int = 1) -> torch.Tensor:
        norm = norms[number]
        out = F.conv2d(x, layers[number].weight, None, stride, padding)
        return F.relu(F.batch_norm(out, norm.running_mean, norm.running_var, norm.weight, norm.bias, False))

    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    h = block(block(x, 0), 1, stride=2, padding=2)
    h = h + block(block(h, 2), 3)
    h = F.max_pool2d(block(h, 4), 2)
    h = h + block(block(h, 5), 6)
    h = block(h, 7, padding=0).amax((2, 3))
    expected = 0.2 * h @ net.head.weight.T
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)
    assert net.head.bias is None


def test_refuses() -> None:
    with pytest.raises(ValueError, match="widths"):
        ResNet9(widths=(4, 4, 4))
    with pytest.raises(ValueError, match="out_features=0"):
        ResNet9(out_features=0)
