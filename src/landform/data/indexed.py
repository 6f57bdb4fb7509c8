"""Samples that know their number."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class IndexedDataset(Dataset[tuple[Any, Any, int]]):
    """A dataset of (x, y) that yields (x, y, index), for losses that keep something for each training sample.

    Wrap the whole training set, and take subsets, shards and shuffled batches of the wrapper: the index stays that of
    the whole.

    Arguments:
        dataset: a map-style dataset of pairs, such as ``torch.utils.data.TensorDataset(split.x, split.y)``.

    Raises:
        TypeError: the dataset has no length or cannot be indexed.
        IndexError: an index outside the dataset.
        ValueError: an item that is no pair (x, y).

    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> whole = IndexedDataset(TensorDataset(torch.rand(4, 2), torch.tensor([0, 1, 0, 1])))
    >>> x, y, index = next(iter(DataLoader(whole, batch_size=3)))
    >>> y, index
    (tensor([0, 1, 0]), tensor([0, 1, 2]))
    """

    def __init__(self, dataset: Any) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(f"dataset is a {type(dataset).__name__}: it must have a length and items")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        place = int(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"index={place}: the dataset has {len(self)} samples")
        place %= len(self)  # an item counted from the end has the number that it has from the start
        item = self.dataset[place]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"item {place} is no pair (x, y) but a {type(item).__name__}")
        return item[0], item[1], place
