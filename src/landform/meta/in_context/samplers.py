"""Where the sequences of meta-training and meta-testing come from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import TensorDataset

from landform.meta.in_context.sequences import sequence_batch, shift_labels
from landform.meta.in_context.tasks import Family, TaskAugmentation

Sequences = tuple[
    Float[Tensor, "batch length dim"], Float[Tensor, "batch length n_classes"], Int[Tensor, "batch length"]
]
"""Inputs x, the previous labels one-hot, and the targets y."""

Sampler = Callable[[int], Sequences]
"""``sampler(count)``: the next ``count`` sequences."""


@dataclass
class SequenceSampler:
    """Sequences of a family of tasks on one dataset: each is a task of its own, on examples of its own.

    Arguments:
        base: inputs and labels. Give training and testing different examples, or memory passes for learning.
        tasks: the family.
        length: examples a sequence.
        split: "seen" or "unseen" tasks.
        class_subset: see :func:`sequence_batch`.
        generator: draws the examples, on the CPU.

    >>> base = TensorDataset(torch.randn(50, 4), torch.arange(50) % 3)
    >>> sampler = SequenceSampler(base, TaskAugmentation(None, 4, 3, seed=0), 10)
    >>> [tuple(part.shape) for part in sampler(2)]
    [(2, 10, 4), (2, 10, 3), (2, 10)]
    """

    base: TensorDataset
    tasks: TaskAugmentation
    length: int
    split: Family = "seen"
    class_subset: Sequence[int] | None = None
    generator: torch.Generator | None = None

    def __call__(self, count: int) -> Sequences:
        projections, permutations = self.tasks.sample(count, self.split, self.base.tensors[0].device)
        x, y = sequence_batch(
            self.base, projections, permutations, self.length, self.class_subset, generator=self.generator
        )
        return x, shift_labels(y, self.tasks.n_classes).to(x), y


@dataclass
class MixedSampler:
    """Batches that mix several sources: domain data beside random tasks, for learning that is general and specific.

    Arguments:
        samplers: sources whose sequences have the same shape.
        shares: the part of each batch that each gives. Counts are rounded so that they add up to the batch.

    Raises:
        ValueError: no source, another number of shares than of sources, or shares that are not zero or more with a
            sum of 1.

    Source: arXiv 2212.04458, section 5.3 (domain-specific and general learning).
    """

    samplers: Sequence[Sampler]
    shares: Sequence[float]

    def __post_init__(self) -> None:
        if not self.samplers or len(self.samplers) != len(self.shares):
            raise ValueError(
                f"shares={self.shares}: there are {len(self.samplers)} samplers; need one of each for each"
            )
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"shares={self.shares}: must be zero or more, with a sum of 1")

    def __call__(self, count: int) -> Sequences:
        bounds = [round(count * sum(self.shares[:k])) for k in range(len(self.shares))] + [count]
        counts = [after - before for before, after in itertools.pairwise(bounds)]
        parts = [sampler(some) for sampler, some in zip(self.samplers, counts, strict=True) if some]
        x, prev_y, y = zip(*parts, strict=True)
        return torch.cat(x), torch.cat(prev_y), torch.cat(y)
