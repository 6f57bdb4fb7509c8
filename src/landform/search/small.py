"""A space of small image classifiers that train in a second, for architecture search without a download."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}


@dataclass(frozen=True)
class SmallArchitecture:
    """A multi-layer perceptron where ``kernel`` is 0, else a convolutional network with kernels of that side.

    ``depth`` layers of ``width`` units or channels, each with the activation; all but the first are bridged by a skip
    connection if ``skip``; then a linear classifier. A convolutional network averages 2 × 2 pixels after its first
    layer. There is no normalisation, so that samples do not meet.

    >>> network = SmallArchitecture(kernel=3, depth=2, width=8, activation="relu", skip=True).build((1, 8, 8), 10)
    >>> sum(p.numel() for p in network.parameters())
    1954
    """

    kernel: int
    depth: int
    width: int
    activation: str
    skip: bool

    def __post_init__(self) -> None:
        if self.kernel < 0 or (self.kernel and self.kernel % 2 == 0):
            raise ValueError(f"kernel={self.kernel}: must be 0 for a perceptron, or odd")
        if self.depth < 1 or self.width < 1:
            raise ValueError(f"depth={self.depth}, width={self.width}: must be at least 1")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r}: must be one of {', '.join(ACTIVATIONS)}")

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """A network of this architecture for images (channels, height, width), as PyTorch initialises it."""
        channels, height, width = shape
        activation, block = ACTIVATIONS[self.activation], _Residual if self.skip else nn.Sequential
        hidden: Callable[[], nn.Module]
        if self.kernel:
            conv = partial(nn.Conv2d, out_channels=self.width, kernel_size=self.kernel, padding=self.kernel // 2)
            stem = [conv(channels), activation(), nn.AvgPool2d(2)]
            hidden, features = partial(conv, self.width), self.width * (height // 2) * (width // 2)
        else:
            stem = [nn.Flatten(), nn.Linear(channels * height * width, self.width), activation()]
            hidden, features = partial(nn.Linear, self.width, self.width), self.width
        blocks = [block(hidden(), activation()) for _ in range(self.depth - 1)]
        return nn.Sequential(*stem, *blocks, nn.Flatten(), nn.Linear(features, classes))


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


SMALL_SPACE = tuple(
    SmallArchitecture(*decisions)
    for decisions in itertools.product((0, 1, 3), (1, 2, 3, 4), (8, 16, 32), tuple(ACTIVATIONS), (False, True))
)
"""216 of them: perceptrons and kernels 1 and 3, depth 1–4, width 8–32, three activations, with and without skips."""
