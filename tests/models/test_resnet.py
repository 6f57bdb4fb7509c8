"""ResNets against the published parameter counts, shapes, and the residual identity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from landform.models.resnet import BasicBlock, Bottleneck, ResNet

IMAGENET: dict[str, Any] = {"out_features": 1000, "stem_kernel": 7, "stem_stride": 2, "stem_pool": True}


def parameters(depth: int, **options: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ResNet(depth, **options).parameters())


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameter_counts_are_the_published_ones(depth: int, count: int) -> None:
    """As listed with the ImageNet weights of torchvision."""
    assert parameters(depth, **IMAGENET) == count


@pytest.mark.parametrize(("depth", "count"), [(18, 11_173_962), (34, 21_282_122), (50, 23_520_842)])
def test_parameter_counts_with_the_small_stem(depth: int, count: int) -> None:
    assert parameters(depth) == count


@pytest.mark.parametrize(("options", "side"), [({}, 4), (IMAGENET, 1), ({"stem_kernel": 7, "stem_stride": 2}, 2)])
def test_stages_halve_the_image(options: dict[str, Any], side: int) -> None:
    net = ResNet(18, **{"widths": (4, 8, 12, 16)} | options)
    x = torch.rand(2, 3, 32, 32)
    assert net.stages(net.stem(x)).shape == (2, 16, side, side)
    assert net.features(x).shape == (2, net.num_features) == (2, 16)
    assert ResNet(50, widths=(4, 8, 12, 16)).num_features == 64


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_without_residual_is_the_rectified_identity(block: type[BasicBlock] | type[Bottleneck]) -> None:
    channels = 4 * block.expansion
    layer = block(channels, 4, 1, nn.BatchNorm2d)
    last = layer.residual[-1]
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    x = torch.randn(2, channels, 5, 5)
    torch.testing.assert_close(layer(x), x.relu())


def test_a_step_lowers_the_loss_and_other_norms_fit() -> None:
    torch.manual_seed(0)
    net = ResNet(18, 1, in_channels=1, widths=(4, 4, 8, 8), norm=lambda c: nn.GroupNorm(2, c))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    x, y = torch.rand(8, 1, 16, 16), torch.arange(8) % 2
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    losses = []
    for _ in range(5):
        loss = nn.functional.binary_cross_entropy_with_logits(net(x).squeeze(1), y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"depth": 20}, "depth=20"),
        ({"widths": (8, 8)}, "widths"),
        ({"out_features": 0}, "out_features=0"),
        ({"stem_kernel": 4}, "stem_kernel=4"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ResNet(**arguments)
