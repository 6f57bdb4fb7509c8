"""Images and pairs as tokens, for the models that read everything as text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor


def image_tokens(images: Float[Tensor, "n channels height width"], levels: int = 256) -> Int64[Tensor, "n pixels"]:
    """Images in [0, 1] as tokens 0 … levels − 1: row by row, in each pixel channel by channel.

    A value v is the level floor(v · levels), and 1 the last one.

    Raises:
        TypeError, ValueError: images that are not floating point, of another shape, or outside [0, 1]; fewer than 2
            levels.

    >>> image_tokens(torch.tensor([[[[0.0, 0.3], [0.6, 1.0]]]]), levels=4)
    tensor([[0, 1, 2, 3]])
    """
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; must be floating point in [0, 1]")
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; must be (n, channels, height, width)")
    if levels < 2:
        raise ValueError(f"levels={levels}: must be at least 2")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images: values must lie in [0, 1]")
    return (images * levels).long().clamp(max=levels - 1).permute(0, 2, 3, 1).flatten(1)


@dataclass(frozen=True, eq=False)
class ConditionalPairs:
    """A context and a target, one after the other, as the sequences of one model that learns both P(target) and
    P(target | context).

    The tokens of contexts keep their numbers 0 … context_vocab − 1, those of targets follow, then one that begins the
    target, and last the blank, which stands for every token of a context that the model is not shown.

    Arguments:
        context: ``(n, c)`` tokens below ``context_vocab``.
        target: ``(n, t)`` tokens below ``target_vocab``.

    Attributes:
        vocab: the number of tokens in all: context_vocab + target_vocab + 2.
        scored: t; a run that is given it (``LanguageRun(..., scored=pairs.scored)``) learns the targets alone.

    Raises:
        TypeError, ValueError: tokens that are not integers, tables of other shapes or lengths, or tokens out of range.

    >>> pairs = ConditionalPairs(torch.tensor([[0, 1, 1]]), torch.tensor([[2]]), context_vocab=2, target_vocab=3)
    >>> pairs.given()
    tensor([[0, 1, 1, 5, 4]])
    >>> pairs.alone()
    tensor([[6, 6, 6, 5, 4]])
    """

    context: Int[Tensor, "n c"]
    target: Int[Tensor, "n t"]
    context_vocab: int
    target_vocab: int

    def __post_init__(self) -> None:
        for name, tokens, vocab in (
            ("context", self.context, self.context_vocab),
            ("target", self.target, self.target_vocab),
        ):
            if tokens.is_floating_point() or tokens.dtype == torch.bool:
                raise TypeError(f"{name}: must be integers, not {tokens.dtype}")
            if tokens.ndim != 2 or not tokens.numel():
                raise ValueError(f"{name} has shape {tuple(tokens.shape)}; must be a table (n, tokens)")
            if int(tokens.min()) < 0 or int(tokens.max()) >= vocab:
                raise ValueError(f"{name}: tokens must be 0 … {vocab - 1}")
        if len(self.context) != len(self.target):
            raise ValueError(f"{len(self.context)} contexts, but {len(self.target)} targets")

    @property
    def vocab(self) -> int:
        return self.context_vocab + self.target_vocab + 2

    @property
    def scored(self) -> int:
        return self.target.shape[1]

    def given(self) -> Int64[Tensor, "n c+1+t"]:
        """Sequences with their contexts, whose last ``scored`` tokens have the loss L(target | context)."""
        return self._after(self.context.long())

    def alone(self) -> Int64[Tensor, "n c+1+t"]:
        """Sequences with blank contexts, whose last ``scored`` tokens have the loss L(target)."""
        return self._after(torch.full_like(self.context, self.vocab - 1, dtype=torch.int64))

    def _after(self, context: Tensor) -> Tensor:
        begin = torch.full_like(self.target[:, :1], self.vocab - 2, dtype=torch.int64)
        return torch.cat([context, begin, self.target.long() + self.context_vocab], dim=1)
