"""Scenes in words, from a closed vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from landform.data.scenes.factors import BACKGROUNDS, COLOURS, REGIONS, SHAPES, TEXTURES, Factors, check_factors
from landform.data.split import check_count

_COMMON = ("<pad>", "a", "an", "the", "of", "on", "in", "photo")
_VOCABULARY = (*_COMMON, *SHAPES, *TEXTURES, *COLOURS, *BACKGROUNDS, *REGIONS)
_NUMBERS = {word: number for number, word in enumerate(_VOCABULARY)}


def vocabulary() -> tuple[str, ...]:
    """Every word of captions and of prompts about them, by number; 0 is padding.

    >>> vocabulary()[:2], len(vocabulary())
    (('<pad>', 'a'), 48)
    """
    return _VOCABULARY


def caption(factors: Factors) -> list[str]:
    """Each scene as "a {texture} {colour} {shape} on {background}".

    Raises:
        IndexError: a factor out of range.

    >>> import torch
    >>> caption(Factors(*torch.tensor([[0], [2], [7], [3], [0]])))
    ['a stripes_h white disk on snow']
    """
    check_factors(factors)
    rows = zip(*(values.tolist() for values in factors[:4]), strict=True)
    return [f"a {TEXTURES[t]} {COLOURS[c]} {SHAPES[s]} on {BACKGROUNDS[b]}" for s, t, c, b in rows]


def tokenise(texts: Sequence[str], length: int | None = None) -> Int[Tensor, "texts length"]:
    """The numbers of the texts' words in :func:`vocabulary`, padded with 0 to ``length`` (or to the longest text).

    Raises:
        ValueError: a word outside the vocabulary, or a text that is longer than ``length``.

    >>> tokenise(["a red disk", "disk"])
    tensor([[ 1, 26,  8],
            [ 8,  0,  0]])
    """
    rows = [text.split() for text in texts]
    longest = max((len(words) for words in rows), default=0)
    if length is not None:
        check_count("length", length, 1)
        if longest > length:
            raise ValueError(f"length={length}: the longest text has {longest} words")
    for words in rows:
        for word in words:
            if word not in _NUMBERS or word == "<pad>":
                raise ValueError(f"unknown word {word!r}: the vocabulary is {' '.join(_VOCABULARY[1:])}")
    width = longest if length is None else length
    padded = [[_NUMBERS[word] for word in words] + [0] * (width - len(words)) for words in rows]
    return torch.tensor(padded, dtype=torch.int64).view(len(rows), width)
