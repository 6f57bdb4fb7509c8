"""Batches that are balanced over groups by construction."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler

Cells = Mapping[Hashable, Sequence[Sequence[int]]]


class BalancedGroupSampler(Sampler[list[int]]):
    """A batch sampler: every batch holds as many items of each cell, such as each class in each domain.

    A cell has one group of items or several; each batch draws one of them uniformly, and ``per_group`` items of it:
    without replacement, or with it where the group has no more than ``per_group``. A batch is the cells' items one
    after another, in the cells' order.

    Arguments:
        groups: cell → its groups, each the numbers of its items; groups may overlap. Or a group number for each item
            of the dataset, (n,): each number is then a cell with this one group, in ascending order.
        per_group: items of each cell in a batch.
        iterations: batches in an epoch.
        generator: PyTorch's global one if None.

    Raises:
        TypeError: numbers that are not integers.
        ValueError: no cells, an empty cell or group, or counts below 1.

    Source: arXiv 2202.06523, the released code, where ``per_group`` is 8.

    >>> sampler = BalancedGroupSampler(torch.tensor([0, 0, 0, 1, 1, 1]), per_group=2, iterations=3)
    >>> [sorted(i // 3 for i in batch) for batch in sampler]
    [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    """

    def __init__(
        self,
        groups: Cells | Int[Tensor, " n"] | Sequence[int],
        per_group: int = 8,
        iterations: int = 100,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value in (("per_group", per_group), ("iterations", iterations)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        self.cells = _by_cell(groups) if isinstance(groups, Mapping) else _by_number(torch.as_tensor(groups))
        self.per_group, self.iterations, self.generator = per_group, iterations, generator

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.iterations):
            yield torch.cat([self._draw(groups) for groups in self.cells]).tolist()

    def _draw(self, groups: list[Tensor]) -> Int[Tensor, " per_group"]:
        chosen = groups[0]
        if len(groups) > 1:
            chosen = groups[int(torch.randint(len(groups), (), generator=self.generator))]
        if len(chosen) > self.per_group:
            return chosen[torch.randperm(len(chosen), generator=self.generator)[: self.per_group]]
        return chosen[torch.randint(len(chosen), (self.per_group,), generator=self.generator)]


def _by_cell(cells: Cells) -> list[list[Tensor]]:
    found = []
    for name, groups in cells.items():
        members = [_integers(f"group {k} of {name!r}", torch.as_tensor(group)) for k, group in enumerate(groups)]
        if not members:
            raise ValueError(f"groups: the cell {name!r} has no group")
        found.append(members)
    if not found:
        raise ValueError("groups: there are no cells")
    return found


def _by_number(numbers: Tensor) -> list[list[Tensor]]:
    numbers = _integers("groups", numbers)
    order = numbers.argsort(stable=True)
    return [[part] for part in order.split(numbers.unique(return_counts=True)[1].tolist())]


def _integers(name: str, values: Tensor) -> Int[Tensor, " n"]:
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: has shape {tuple(values.shape)}, must be (n,), at least one item")
    if values.is_floating_point() or values.dtype == torch.bool:
        raise TypeError(f"{name}: is {values.dtype}, must be integers")
    return values.long().cpu()
