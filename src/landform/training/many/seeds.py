"""Streams of random numbers that belong to one model each, so that any model can be reproduced alone."""

from __future__ import annotations

from typing import Literal

import torch

_USES = {"init": 0x243F6A88, "order": 0x85A308D3, "shared": 0x13198A2E}

Use = Literal["init", "order", "shared"]


def seed_stream(seed: int, model: int, use: Use = "order") -> torch.Generator:
    """The generator of model number ``model`` in a population named by ``seed``.

    Two models of a population never share a stream, nor do a model's initialisation ("init") and the order of its data
    ("order"). An order that all models share is drawn from ("shared", model 0).

    Raises:
        ValueError: a negative seed or model, or an unknown use.

    >>> torch.equal(torch.rand(3, generator=seed_stream(0, 7)), torch.rand(3, generator=seed_stream(0, 7)))
    True
    """
    return torch.Generator().manual_seed(stream_seed(seed, model, use))


def stream_seed(seed: int, model: int, use: Use) -> int:
    """The 32 bits that seed a stream: PyTorch's CPU generator uses no more.

    For a given seed and use, a bijection of the model's number, so that no two models can collide.
    """
    if seed < 0 or model < 0:
        raise ValueError(f"seed={seed}, model={model}: must be zero or more")
    if use not in _USES:
        raise ValueError(f"use={use!r}: must be one of {', '.join(map(repr, _USES))}")
    start = _scramble(_scramble(seed & 0xFFFFFFFF) ^ (seed >> 32) & 0xFFFFFFFF) ^ _USES[use]
    return _scramble(start + model & 0xFFFFFFFF)


def _scramble(bits: int) -> int:
    """A bijection of 32-bit numbers that flips about half of the bits when one changes (MurmurHash3's finaliser)."""
    bits ^= bits >> 16
    bits = bits * 0x85EBCA6B & 0xFFFFFFFF
    bits ^= bits >> 13
    bits = bits * 0xC2B2AE35 & 0xFFFFFFFF
    return bits ^ bits >> 16
