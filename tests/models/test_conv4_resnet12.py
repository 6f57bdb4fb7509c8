"""The encoders of few-shot learning: their sizes, and what they compute, step by step."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landform.models import Conv4, ResNet12


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_conv4_is_four_blocks_and_a_mean():
    torch.manual_seed(0)
    net = Conv4(6, in_channels=1).double().eval()
    x = randn(2, 1, 37, 33)
    h = x
    for block in list(net)[:4]:
        conv, norm = block[0], block[1]
        h = F.conv2d(h, conv.weight, conv.bias, padding=1)
        h = (h - norm.running_mean.view(-1, 1, 1)) / (norm.running_var.view(-1, 1, 1) + norm.eps).sqrt()
        h = F.max_pool2d(h.clamp(min=0), 2)
    torch.testing.assert_close(net(x), h.mean((2, 3)), rtol=1e-12, atol=1e-12)
    # 9·(3·64) + 3 · 9·64² weights, 4·64 biases, 4·128 of batch normalisation
    assert sum(p.numel() for p in Conv4().parameters()) == 9 * 3 * 64 + 3 * 9 * 64**2 + 4 * 64 * 3


def test_resnet12_has_the_released_shape():
    net = ResNet12()
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == [3, 3, 3, 1] * 4
    assert all(m.bias is None for m in convolutions)
    widths = (3, 64, 128, 256, 512)
    size = sum(9 * a * b + 2 * 9 * b * b + a * b + 4 * 2 * b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in net.parameters()) == size
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 512)
    # He's initialisation by fan-out, for the default slope 0.01 of the released call
    weight = convolutions[-2].weight
    assert float(weight.detach().std()) == pytest.approx((2 / (1 + 0.01**2) / (9 * 512)) ** 0.5, rel=0.01)


def test_a_block_of_resnet12_adds_its_shortcut_before_the_last_activation():
    torch.manual_seed(0)
    net = ResNet12((4,), 0.2, in_channels=2).double().eval()
    block, x = net[0], randn(2, 2, 8, 8)
    conv1, norm1, _, conv2, norm2, _, conv3, norm3 = block.residual
    h = F.leaky_relu(norm1(conv1(x)), 0.2)
    h = norm3(conv3(F.leaky_relu(norm2(conv2(h)), 0.2)))
    h = F.leaky_relu(h + block.shortcut[1](block.shortcut[0](x)), 0.2)
    torch.testing.assert_close(net(x), F.max_pool2d(h, 2).mean((2, 3)), rtol=1e-12, atol=1e-12)


def test_impossible_sizes_are_refused():
    for make in (lambda: Conv4(0), lambda: ResNet12(()), lambda: ResNet12((4, 0))):
        with pytest.raises(ValueError, match=r"widths|channels|out_features"):
            make()
