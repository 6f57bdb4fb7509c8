"""The convolutional network of open-set recognition on small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from landform.models.mlp import check_sizes


class VGG32(nn.Sequential):
    """Nine 3 × 3 convolutions without pooling, for colour images of about 32 × 32 pixels.

    Three blocks: channel dropout of 0.2 (the first on the image itself), then three convolutions, the last with stride
    2, each without bias and followed by batch normalisation and leaky ReLU (slope 0.2). Channels are 64, 64, 128, then
    128 throughout; the last convolution gives ``dim``. Global average pooling makes the feature vector, and the head
    is linear without bias, so that a logit holds nothing but the feature. Convolutions start as N(0, 0.05²),
    normalisation scales as N(1, 0.02²), the head as PyTorch does by default.

    It has two parts, ``features`` (B, dim) and ``head``. Grey images are to be repeated to three channels.

    Raises:
        ValueError: sizes below 1.

    Source: arXiv 2110.06207, appendix; Neal et al., "Open Set Learning with Counterfactual Images" (2018).

    >>> import torch
    >>> VGG32(6)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 6])
    """

    features: nn.Sequential
    head: nn.Linear

    def __init__(self, num_classes: int, dim: int = 128) -> None:
        check_sizes(num_classes=num_classes, dim=dim)
        layers: list[nn.Module] = []
        channels = 3
        for block in ((64, 64, 128), (128, 128, 128), (128, 128, dim)):
            layers.append(nn.Dropout2d(0.2))
            for width, stride in zip(block, (1, 1, 2), strict=True):
                convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
                normalisation = nn.BatchNorm2d(width)
                nn.init.normal_(convolution.weight, 0.0, 0.05)
                nn.init.normal_(normalisation.weight, 1.0, 0.02)
                layers += [convolution, normalisation, nn.LeakyReLU(0.2)]
                channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(
            OrderedDict(features=nn.Sequential(*layers), head=nn.Linear(channels, num_classes, bias=False))
        )
