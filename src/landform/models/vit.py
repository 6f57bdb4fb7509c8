"""Vision transformers."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landform.models.mlp import check_sizes


class ViT(nn.Sequential):
    """A vision transformer for small images (Dosovitskiy et al., arXiv 2010.11929).

    Patches are embedded linearly, a class token goes before them, learned positions are added, pre-norm blocks of
    attention and of a GELU perceptron four times as wide follow, and the class token's normalised output is classified.
    It has two parts: ``features`` and ``head``.

    Arguments:
        image_size: the side of the images, a multiple of ``patch``.
        patch: the side of a patch.
        in_channels: of the images.
        out_features: numbers in one output.
        width: numbers in a token, a multiple of ``heads``.
        depth: blocks.
        heads: of each attention.

    Raises:
        ValueError: sizes below 1 or that do not divide each other.

    >>> ViT(8, 2, 1, 10)(torch.randn(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    features: nn.Sequential
    head: nn.Linear

    def __init__(
        self,
        image_size: int,
        patch: int,
        in_channels: int,
        out_features: int,
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        check_sizes(
            image_size=image_size, patch=patch, in_channels=in_channels, out_features=out_features, width=width,
            depth=depth, heads=heads,
        )  # fmt: skip
        if image_size % patch:
            raise ValueError(f"patch={patch}: must divide image_size={image_size}")
        if width % heads:
            raise ValueError(f"heads={heads}: must divide width={width}")
        super().__init__()
        tokens = (image_size // patch) ** 2
        blocks = [Block(width, heads) for _ in range(depth)]
        self.features = nn.Sequential(Tokens(in_channels, patch, tokens, width), *blocks, ClassToken(width))
        self.head = nn.Linear(width, out_features)


class Tokens(nn.Module):
    """Images to a class token and a token for each patch, with their positions."""

    def __init__(self, channels: int, patch: int, tokens: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, tokens + 1, width) * 0.02)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens width"]:
        patches = self.embed(x).flatten(2).mT
        return torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1) + self.positions


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        # Written out, as PyTorch's fused attention has no rule for torch.func.vmap.
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
        x = x + self.out((weights @ v).transpose(-3, -2).flatten(-2))
        return x + self.perceptron(x)


class ClassToken(nn.Module):
    """The class token's output, normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width"]:
        return self.norm(x[:, 0])
