"""The twelve-layer residual encoder of few-shot learning."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from landform.models.mlp import check_sizes


class Block(nn.Module):
    """pool(leaky(three convolutions of x + shortcut of x))."""

    def __init__(self, channels: int, width: int, leaky: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (channels, width, width):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(leaky)]
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.out = nn.Sequential(nn.LeakyReLU(leaky), nn.MaxPool2d(2))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        return self.out(self.residual(x) + self.shortcut(x))


class ResNet12(nn.Sequential):
    """The residual encoder of few-shot learning: four blocks of three 3 × 3 convolutions, then the mean over positions.

    A block is pool(leaky(three convolutions + shortcut)): each convolution without bias and with batch normalisation, a
    leaky ReLU after the first two and after the sum, the shortcut a 1 × 1 convolution with batch normalisation in every
    block, and a max-pooling that halves the image. Convolutions are initialised after He (fan-out). No DropBlock.

    Source: the code of arXiv 2305.09062.

    Arguments:
        channels: of the blocks; the last is the size of the embedding.
        leaky: slope of the leaky ReLU for negative inputs.
        in_channels: colours of the images.

    Raises:
        ValueError: no channels, or sizes below 1.

    >>> import torch
    >>> ResNet12(channels=(4, 8, 8, 16))(torch.randn(2, 3, 80, 80)).shape
    torch.Size([2, 16])
    """

    def __init__(
        self, channels: Sequence[int] = (64, 128, 256, 512), leaky: float = 0.1, *, in_channels: int = 3
    ) -> None:
        if not channels:
            raise ValueError("channels: a network needs at least one block")
        check_sizes(in_channels=in_channels, out_features=channels[-1], widths=channels)
        before = (in_channels, *channels[:-1])
        blocks = [Block(a, b, leaky) for a, b in zip(before, channels, strict=True)]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")
