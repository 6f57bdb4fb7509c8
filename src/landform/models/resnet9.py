"""A nine-layer residual network for 32-pixel images that trains in few epochs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from landform.models.mlp import check_sizes


class ResNet9(nn.Sequential):
    """The fast residual network of the data-attribution benchmarks on CIFAR-10.

    3×3 convolution; 5×5 convolution of stride 2; a residual pair; 3×3 convolution; halving max-pooling; a residual
    pair; 3×3 convolution without padding; the maximum over the image; a linear layer without bias, whose output is
    multiplied by 0.2. Every convolution is without bias, and followed by batch normalisation and ReLU.

    Source: the released code of arXiv 2410.23232 (after KakaoBrain's entry to DAWNBench).

    Arguments:
        in_channels: colours of the image.
        out_features: classes.
        widths: channels of the first and second convolution, of the third, and of the last.

    Shapes: images (B, in_channels, H, W), of 12 pixels or more, to (B, out_features).

    Raises:
        ValueError: sizes below 1, or widths that are not four.

    >>> import torch
    >>> ResNet9(widths=(4, 8, 8, 4))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, in_channels: int = 3, out_features: int = 10, *, widths: Sequence[int] = (64, 128, 256, 128)
    ) -> None:
        check_sizes(in_channels=in_channels, out_features=out_features, widths=widths)
        if len(widths) != 4:
            raise ValueError(f"widths={tuple(widths)}: must be four numbers of channels")
        first, second, third, last = widths
        super().__init__(
            OrderedDict(
                features=nn.Sequential(
                    _convolution(in_channels, first),
                    _convolution(first, second, kernel=5, stride=2),
                    _Residual(second),
                    _convolution(second, third),
                    nn.MaxPool2d(2),
                    _Residual(third),
                    _convolution(third, last, padding=0),
                    nn.AdaptiveMaxPool2d(1),
                    nn.Flatten(),
                ),
                head=_ScaledLinear(last, out_features),
            )
        )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        return x + self.residual(x)


class _ScaledLinear(nn.Linear):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return 0.2 * super().forward(input)


def _convolution(
    channels: int, width: int, *, kernel: int = 3, stride: int = 1, padding: int | None = None
) -> nn.Sequential:
    padding = kernel // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, padding, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
