"""Residual networks: depths 18 to 152, any widths, with the stem for small or for large images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """relu(shortcut(x) + two 3 × 3 convolutions)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
        )
        self.shortcut = _shortcut(channels, width, stride, norm)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        return torch.relu(self.shortcut(x) + self.residual(x))


class Bottleneck(nn.Module):
    """relu(shortcut(x) + a 1 × 1, a 3 × 3 that strides, and a 1 × 1 convolution that widens fourfold)."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1, bias=False),
            norm(4 * width),
        )
        self.shortcut = _shortcut(channels, 4 * width, stride, norm)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        return torch.relu(self.shortcut(x) + self.residual(x))


def _shortcut(channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    """The identity where shapes allow it, and a strided 1 × 1 convolution where they do not."""
    if stride == 1 and channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride, bias=False), norm(out_channels))


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """A residual network of four stages, each after the first halving the image and, by default, doubling the width.

    Source: He et al., arXiv 1512.03385, table 1, with the stride of a bottleneck in its 3 × 3 convolution. The default
    stem, one 3 × 3 convolution, is the usual one for images of about 32 pixels; ``stem_kernel=7, stem_stride=2,
    stem_pool=True`` is the paper's for 224. Weights start as PyTorch's layers draw them.

    Arguments:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        out_features: classes, or 1 for a binary score.
        in_channels: colours of the image.
        widths: channels of the four stages (times 4 at the output of bottlenecks).
        stem_kernel, stem_stride: of the first convolution.
        stem_pool: whether a 3 × 3 max-pooling of stride 2 follows it.
        norm: makes the normalisation of so many channels, as ``lambda c: nn.GroupNorm(2, c)``.

    Shapes: images (B, in_channels, H, W) to (B, out_features); ``features`` gives the pooled (B, num_features).

    Raises:
        ValueError: an unknown depth, or sizes that are not positive.

    >>> net = ResNet(18, out_features=1, widths=(8, 16, 32, 64))
    >>> net(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        depth: int = 18,
        out_features: int = 10,
        *,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_kernel: int = 3,
        stem_stride: int = 1,
        stem_pool: bool = False,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth}: must be one of {', '.join(map(str, DEPTHS))}")
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths={tuple(widths)}: must be four positive numbers of channels")
        sizes = {"out_features": out_features, "in_channels": in_channels, "stem_stride": stem_stride}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if stem_kernel < 1 or stem_kernel % 2 == 0:
            raise ValueError(f"stem_kernel={stem_kernel}: must be odd and positive")
        block, counts = DEPTHS[depth]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], stem_kernel, stem_stride, padding=stem_kernel // 2, bias=False),
            norm(widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1) if stem_pool else nn.Identity(),
        )
        stages, channels = [], widths[0]
        for number, (width, count) in enumerate(zip(widths, counts, strict=True)):
            blocks = []
            for position in range(count):
                blocks.append(block(channels, width, 2 if number > 0 and position == 0 else 1, norm))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.num_features = channels
        self.head = nn.Linear(channels, out_features)

    def features(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch features"]:
        """The last stage's output, averaged over the image."""
        return self.stages(self.stem(x)).mean((-2, -1))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch out"]:
        return self.head(self.features(x))
