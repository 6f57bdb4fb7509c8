"""Small convolutional networks."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from landform.models.mlp import Activation, check_sizes, make_activation


class ConvNet(nn.Sequential):
    """A plain convolutional network for small images, 8×8 to 32×32.

    One block for each width: convolution (same padding), normalisation, activation. Every block but the first halves
    the resolution by its stride. Then the mean over positions, and a linear layer. It has two parts: ``features``,
    whose output is the pooled vector, and ``head``. Layers are initialised as PyTorch does by default.

    Arguments:
        in_channels: of the images.
        out_features: numbers in one output.
        widths: channels of each block.
        kernel: the side of the filters, odd.
        norm: ``"group"`` (samples stay independent; as many groups as divide both the width and ``groups``),
            ``"batch"``, or None. Convolutions have a bias only where no normalisation follows.
        groups: the most groups of group normalisation.
        activation: a name (``relu``, ``tanh``, ``gelu``, …), or a callable that makes a module.

    Raises:
        ValueError: no widths, sizes below 1, an even kernel, or an unknown name.

    >>> import torch
    >>> ConvNet(1, 10, widths=(8, 16))(torch.randn(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    features: nn.Sequential
    head: nn.Linear

    def __init__(
        self,
        in_channels: int,
        out_features: int,
        *,
        widths: Sequence[int] = (16, 32, 64),
        kernel: int = 3,
        norm: Literal["group", "batch"] | None = "group",
        groups: int = 8,
        activation: Activation = "relu",
    ) -> None:
        if not widths:
            raise ValueError("widths: a convolutional network needs at least one block")
        check_sizes(in_channels=in_channels, out_features=out_features, widths=widths, kernel=kernel, groups=groups)
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: must be odd, so that the padding is the same on both sides")
        if norm not in ("group", "batch", None):
            raise ValueError(f"norm={norm!r}: must be 'group', 'batch' or None")
        layers: list[nn.Module] = []
        channels = in_channels
        for k, width in enumerate(widths):
            layers.append(
                nn.Conv2d(channels, width, kernel, stride=2 if k else 1, padding=kernel // 2, bias=norm is None)
            )
            if norm == "group":
                layers.append(nn.GroupNorm(math.gcd(width, groups), width))
            elif norm == "batch":
                layers.append(nn.BatchNorm2d(width))
            layers.append(make_activation(activation))
            channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(OrderedDict(features=nn.Sequential(*layers), head=nn.Linear(channels, out_features)))
