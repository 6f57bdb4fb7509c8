"""A split of a dataset: inputs, targets, and what is known of each sample, all in memory as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """One part (train, validation, test) of a dataset.

    Arguments:
        x: the inputs, samples first. Images are float32 ``(N, C, H, W)`` in [0, 1], tables float32 ``(N, D)``, and text
            is its bytes, uint8 ``(N,)``.
        y: the targets ``(N,)``: int64 class numbers, float32 where the target is a quantity, and the next byte, uint8,
            for text.
        classes: what the class numbers mean; empty where ``y`` is a quantity.
        fields: integer metadata of each sample, ``(N,)`` each, such as the typeface of a glyph.
        names: what the integers of each field mean, by field. For tables ``names["columns"]`` are x's columns, and for
            text ``names["file"]`` are the files in their order.

    Raises:
        ValueError: lengths that differ, or a class or field number without a name.
        TypeError: a field that is not of integers.

    >>> import torch
    >>> split = Split(torch.rand(3, 2), torch.tensor([0, 1, 0]), classes=("cat", "dog"))
    >>> split
    Split(x: float32 (3, 2), y: int64 (3,), 2 classes)
    >>> split[split.y == 0].x.shape
    torch.Size([2, 2])
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...] = ()
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x.ndim == 0:
            raise ValueError("x is a scalar; its first dimension must be the samples")
        if self.y.shape != self.x.shape[:1]:
            raise ValueError(f"y has shape {tuple(self.y.shape)}, but x has {len(self.x)} samples: ({len(self.x)},)")
        if self.classes:
            _check_numbers("y", self.y, len(self.classes))
        for name, values in self.fields.items():
            if values.shape != self.x.shape[:1]:
                raise ValueError(f"field {name!r} has shape {tuple(values.shape)}, but x has {len(self.x)} samples")
            if values.is_floating_point() or values.is_complex():
                raise TypeError(f"field {name!r} is {values.dtype}; fields hold integers")
            if name in self.names:
                _check_numbers(f"field {name!r}", values, len(self.names[name]))

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        x, y = (f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in (self.x, self.y))
        fields = f", fields: {', '.join(self.fields)}" if self.fields else ""
        return f"Split(x: {x}, y: {y}, {len(self.classes)} classes{fields})"

    def __getitem__(self, index: Tensor | slice | NDArray[np.integer | np.bool_] | Sequence[int]) -> Split:
        """The samples at ``index``: a tensor of positions or of booleans, or a slice."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.x.device)
            if index.ndim != 1:
                raise TypeError(f"index has shape {tuple(index.shape)}; a Split is indexed with a vector or a slice")
            if not len(index):
                index = index.long()
        fields = {name: values[index] for name, values in self.fields.items()}
        return replace(self, x=self.x[index], y=self.y[index], fields=fields)

    def to(self, device: str | torch.device) -> Split:
        """The same samples on ``device``."""
        fields = {name: values.to(device) for name, values in self.fields.items()}
        return replace(self, x=self.x.to(device), y=self.y.to(device), fields=fields)


def _check_numbers(what: str, numbers: Tensor, count: int) -> None:
    """Refuse numbers outside 0 … count - 1."""
    if not len(numbers):
        return
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= count:
        found = low if low < 0 else high
        raise ValueError(f"{what} holds {found}, but there are {count} names: 0 … {count - 1} are allowed")


def merge(*splits: Split) -> Split:
    """All samples of several splits of one dataset, in order, as one :class:`Split`.

    Raises:
        ValueError: no split, or splits that differ in sample shape, dtype, classes, fields or names.
    """
    if not splits:
        raise ValueError("merge() needs at least one split")
    first = splits[0]
    for number, other in enumerate(splits[1:], start=2):
        for what, ours, theirs in (
            ("classes", first.classes, other.classes),
            ("fields", sorted(first.fields), sorted(other.fields)),
            ("names", dict(first.names), dict(other.names)),
            ("sample shape", tuple(first.x.shape[1:]), tuple(other.x.shape[1:])),
            ("dtype of x and y", (first.x.dtype, first.y.dtype), (other.x.dtype, other.y.dtype)),
        ):
            if ours != theirs:
                raise ValueError(f"splits 1 and {number} cannot be merged: their {what} differ: {ours} and {theirs}")
    return replace(
        first,
        x=torch.cat([s.x for s in splits]),
        y=torch.cat([s.y for s in splits]),
        fields={name: torch.cat([s.fields[name] for s in splits]) for name in first.fields},
    )


def standardise(train: Split, *others: Split) -> tuple[Split, ...]:
    """Tables with every column centred and scaled by the mean and standard deviation it has in ``train``.

    x_j -> (x_j - mean_j) / sd_j with sd^2 the mean squared deviation, computed in float64. A column that is constant in
    ``train`` carries nothing that could be learned and becomes 0 everywhere.

    Raises:
        ValueError: an empty training table, something that is not a table, or tables of different widths.

    >>> train = Split(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1]))
    >>> standardise(train)[0].x
    tensor([[-1., 0.], [ 1., 0.]])
    """
    for number, split in enumerate((train, *others), start=1):
        if split.x.ndim != 2 or not split.x.is_floating_point():
            raise ValueError(f"split {number} has x of {split.x.dtype} {tuple(split.x.shape)}; a table is float (N, D)")
        if split.x.shape[1] != train.x.shape[1]:
            raise ValueError(f"split {number} has {split.x.shape[1]} columns, the training split {train.x.shape[1]}")
    if not len(train):
        raise ValueError("the training split is empty: it has no mean")
    x = train.x.double()
    mean, sd = x.mean(dim=0), x.std(dim=0, correction=0)
    weight = torch.where(x.amax(dim=0) > x.amin(dim=0), 1 / sd, 0.0)
    return tuple(replace(s, x=((s.x.double() - mean) * weight).to(s.x.dtype)) for s in (train, *others))


def holdout(groups: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of a training and a test part, stratified: of every group the same fraction is held out.

    A group of n members gives ``round(fraction * n)`` of them to the test part, but keeps at least one member on each
    side where it has two; a group of one stays in the training part. Both results are sorted.

    Raises:
        ValueError: a fraction outside (0, 1).
    """
    if not isinstance(fraction, float) or not 0 < fraction < 1:
        raise ValueError(f"test_fraction={fraction!r}: must lie between 0 and 1, both excluded")
    shuffled = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))
    order = shuffled[groups[shuffled].argsort(stable=True)]
    _, member, sizes = groups.unique(return_inverse=True, return_counts=True)
    held = (fraction * sizes).round().long().clamp(min=1)
    held = torch.minimum(held, sizes - 1)
    rank = torch.arange(len(groups)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    test = torch.zeros(len(groups), dtype=torch.bool)
    test[order] = rank < held[member[order]]
    return (~test).nonzero().squeeze(1), test.nonzero().squeeze(1)


def divide(whole: Split, fraction: float, seed: int) -> dict[str, Split]:
    """The train and test parts of ``whole``: stratified by class, or simply at random where y is a quantity."""
    groups = whole.y if whole.classes else torch.zeros(len(whole), dtype=torch.int64)
    train, test = holdout(groups, fraction, seed)
    return {"train": whole[train], "test": whole[test]}


def check_count(name: str, value: object, least: int) -> None:
    """Refuse an option ``name`` that is not a whole number of at least ``least``."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {least}")


def first_of(count: int, limit: int | None, seed: int) -> Tensor:
    """Positions of ``limit`` samples of ``count``: the first of a permutation that ``seed`` draws; all when None."""
    if limit is None:
        return torch.arange(count)
    check_count("limit", limit, 1)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit]


def limited(splits: Mapping[str, Split], limit: int | None, seed: int) -> dict[str, Split]:
    """At most ``limit`` samples of each split."""
    if limit is None:
        return dict(splits)
    return {name: split[first_of(len(split), limit, seed)] for name, split in splits.items()}
