"""The four-block convolutional encoder of few-shot learning."""

from __future__ import annotations

from torch import nn

from landform.models.mlp import check_sizes


def conv_block(in_channels: int, width: int) -> nn.Sequential:
    """A 3 × 3 convolution, batch normalisation, ReLU, and max-pooling that halves the image."""
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))


class Conv4(nn.Sequential):
    """Four blocks of convolution, batch normalisation, ReLU and pooling, then the mean over positions.

    Source: Vinyals et al., arXiv 1606.04080, section 4.1; with the global average pool of the code of arXiv 2305.09062.

    Arguments:
        width: filters of each block, and the size of the embedding.
        in_channels: colours of the images, which are at least 16 × 16.

    Raises:
        ValueError: sizes below 1.

    >>> import torch
    >>> Conv4(width=8)(torch.randn(5, 3, 84, 84)).shape
    torch.Size([5, 8])
    """

    def __init__(self, width: int = 64, *, in_channels: int = 3) -> None:
        check_sizes(in_channels=in_channels, out_features=width, widths=(width,))
        blocks = [conv_block(channels, width) for channels in (in_channels, width, width, width)]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
