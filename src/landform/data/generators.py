"""Streams of random numbers, one for each purpose."""

from __future__ import annotations

import numpy as np
import torch


def generator_of(seed: int, *purpose: str | int) -> torch.Generator:
    """The generator of a seed for a purpose, such as ``generator_of(3, "order", 32)``.

    Seed and purpose are hashed together: what is drawn for one purpose tells nothing of what is drawn for another, and
    drawing more for one changes no other.

    Raises:
        ValueError: a seed or a number that is negative.

    >>> torch.equal(torch.rand(2, generator=generator_of(0, "data")), torch.rand(2, generator=generator_of(0, "data")))
    True
    >>> torch.equal(torch.rand(2, generator=generator_of(0, "data")), torch.rand(2, generator=generator_of(0, "init")))
    False
    """
    words = [seed, *(int.from_bytes(p.encode(), "little") if isinstance(p, str) else p for p in purpose)]
    if min(words) < 0:
        raise ValueError(f"seed={seed}, purpose={purpose}: numbers must be zero or more")
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))
