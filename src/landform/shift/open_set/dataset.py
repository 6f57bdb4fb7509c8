"""A dataset seen through an open-set split: known samples with new class numbers, and unknown samples without any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from landform.data import Split
from landform.shift.open_set.splits import OpenSetSplit


class UnlabelledSamples(Dataset[Any]):
    """The inputs of a dataset at ``indices``; its labels stay behind."""

    def __init__(self, dataset: Split | Dataset[tuple[Any, Any]], indices: Int[Tensor, " n"]) -> None:
        self._dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        return _input(self._dataset, int(self.indices[position]))


class OpenSetDataset(Dataset[tuple[Any, int]]):
    """The known samples of a dataset as (x, y) with y in 0 … K − 1, and its unknown samples, x alone, by group.

    Made by :meth:`wrap`. What is known is trained or tested on through this dataset itself, an ordinary map-style one;
    ``unknown["hard"]`` is a dataset of inputs. No label of an unknown sample can be reached through either.

    Attributes:
        split: the classes.
        indices, labels: (n,) positions of the known samples in the dataset that was wrapped, and their new labels.
        unknown: a dataset of inputs for each group, with the ``indices`` of its samples.
    """

    def __init__(
        self,
        dataset: Split | Dataset[tuple[Any, Any]],
        split: OpenSetSplit,
        indices: Int[Tensor, " n"],
        labels: Int[Tensor, " n"],
        unknown: Mapping[str, Int[Tensor, " m"]],
    ) -> None:
        self._dataset = dataset
        self.split = split
        self.indices = indices
        self.labels = labels
        self.unknown = {name: UnlabelledSamples(dataset, rows) for name, rows in unknown.items()}

    @classmethod
    def wrap(
        cls,
        dataset: Split | Dataset[tuple[Any, Any]],
        split: OpenSetSplit,
        balance: bool = False,
        *,
        seed: int = 0,
    ) -> OpenSetDataset:
        """Divide a dataset's samples by class; samples of classes outside the split are left out.

        Arguments:
            dataset: a :class:`landform.data.Split`, or a map-style dataset of (x, label). Labels are read from its
                ``targets`` where there are some, and else from every sample.
            balance: subsample at random the larger of the two, known or unknown samples (of all groups together), to
                the size of the smaller, as the classical benchmarks are tested.
            seed: draws that subsample.

        Raises:
            ValueError: a known class without samples, a split whose unknown classes are another dataset's, or one
                whose classes are not numbers.

        >>> digits = Split(torch.rand(6, 4), torch.tensor([3, 1, 2, 3, 0, 1]), classes=("0", "1", "2", "3"))
        >>> wrapped = OpenSetDataset.wrap(digits, OpenSetSplit([3, 1], {"rest": [0, 2]}))
        >>> wrapped.labels, wrapped.indices, wrapped.unknown["rest"].indices
        (tensor([0, 1, 0, 1]), tensor([0, 1, 3, 5]), tensor([2, 4]))
        """
        if split.foreign:
            raise ValueError(
                "split: its unknown classes are another dataset's; wrap each dataset with a split of its own"
            )
        if not all(isinstance(c, int) for c in split.classes):
            raise ValueError(f"split: has classes such as {split.classes[0]!r}; to wrap a dataset they must be numbers")
        y = _labels(dataset)
        places = (y.unsqueeze(1) == torch.tensor(split.known)).nonzero()
        indices, labels = places[:, 0], places[:, 1]
        if missing := sorted(set(range(len(split.known))) - set(labels.tolist())):
            raise ValueError(f"known class {split.known[missing[0]]!r} has no sample in the dataset")
        unknown = {
            name: torch.isin(y, torch.tensor(classes)).nonzero().squeeze(1) for name, classes in split.unknown.items()
        }
        if balance:
            generator = torch.Generator().manual_seed(seed)
            size = min(len(indices), sum(map(len, unknown.values())))
            kept = torch.randperm(len(indices), generator=generator)[:size].sort().values
            indices, labels = indices[kept], labels[kept]
            pool = torch.cat(list(unknown.values()))
            drawn = pool[torch.randperm(len(pool), generator=generator)[:size]]
            unknown = {name: rows[torch.isin(rows, drawn)] for name, rows in unknown.items()}
        return cls(dataset, split, indices, labels, unknown)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return _input(self._dataset, int(self.indices[position])), int(self.labels[position])


def _input(dataset: Split | Dataset[tuple[Any, Any]], index: int) -> Any:
    return dataset.x[index] if isinstance(dataset, Split) else dataset[index][0]


def _labels(dataset: Split | Dataset[tuple[Any, Any]]) -> Int[Tensor, " n"]:
    if isinstance(dataset, Split):
        if dataset.y.is_floating_point():
            raise ValueError("dataset: its targets are quantities; an open-set split needs classes")
        return dataset.y.cpu()
    if hasattr(dataset, "targets"):
        return torch.as_tensor(dataset.targets).long()
    return torch.tensor([int(dataset[i][1]) for i in range(len(dataset))])  # type: ignore[arg-type]
