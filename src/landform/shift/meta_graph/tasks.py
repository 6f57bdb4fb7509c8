"""Tasks of controlled shift, made of subsets: other contexts in the test, and rare combinations in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from landform.shift.meta_graph.collection import SubsetCollection

Ids = Int[Tensor, " n"]


@dataclass(frozen=True)
class DomainShiftTask:
    """Tell class 0 from class 1, which is learned in the contexts ``pair`` and tested in another; items by number.

    Class 0 in its k-th context and class 1 in its k-th together are the training domain k. The test has class 1 alone.
    """

    pair: tuple[str, ...]
    train: Ids
    train_labels: Ids
    train_domains: Ids
    test: Ids
    test_labels: Ids


def domain_shift_task(
    collection: SubsetCollection,
    class_a: Sequence[str],
    class_b_pairs: Sequence[Sequence[str]],
    test: str,
    seed: int,
) -> list[DomainShiftTask]:
    """A task for each pair of contexts that class 1 may be learned in, all of one test and of one size.

    Test items are in no training set, by number: subsets overlap. So are items of both classes. An item of two
    contexts of one class is given to one of them by chance. Every (domain, class) keeps as many items as the smallest
    of all the pairs has, drawn by chance, so that pairs differ in context and not in number; class 0's are the same
    throughout.

    Arguments:
        collection: has all the subsets that are named.
        class_a: class 0's contexts, one for each training domain.
        class_b_pairs: class 1's contexts in each task, as many.
        test: class 1's context in the test.
        seed: of what is drawn.

    Raises:
        KeyError: an unknown subset.
        ValueError: no pairs, pairs of another length than ``class_a``, a pair that has the test context, or a subset
            of which nothing is left.

    Source: arXiv 2202.06523, section 4.1. That all pairs have one size is ours.
    """
    pairs = [tuple(pair) for pair in class_b_pairs]
    if not pairs or not class_a or any(len(pair) != len(class_a) for pair in pairs):
        raise ValueError(f"class_b_pairs={pairs}: must be at least one, of {len(class_a)} contexts as class_a has")
    for pair in pairs:
        if test in pair or len(set(pair)) < len(pair):
            raise ValueError(f"class_b_pairs: {pair} must be different contexts, and none the test's, {test!r}")
    held_out = collection[test]
    every_a = frozenset().union(*(collection[name] for name in class_a))
    every_b = frozenset().union(*(collection[name] for pair in pairs for name in pair))
    generator = torch.Generator().manual_seed(seed)
    cells_a = _apart(collection, tuple(class_a), held_out | every_b, generator)
    cells_b = [_apart(collection, pair, held_out | every_a, generator) for pair in pairs]
    size = min(len(cell) for cells in (cells_a, *cells_b) for cell in cells)
    tested = torch.tensor(sorted(held_out - every_a), dtype=torch.long)
    if not len(tested):
        raise ValueError(f"test={test!r}: all its items are of class 0 too")
    domains = torch.arange(len(class_a)).repeat_interleave(size).repeat(2)
    labels = torch.arange(2).repeat_interleave(size * len(class_a))
    return [
        DomainShiftTask(
            pair,
            torch.cat([cell[:size] for cell in (*cells_a, *cells)]),
            labels,
            domains,
            tested,
            torch.ones_like(tested),
        )
        for pair, cells in zip(pairs, cells_b, strict=True)
    ]


def _apart(
    collection: SubsetCollection, names: tuple[str, ...], excluded: frozenset[int], generator: torch.Generator
) -> list[Ids]:
    """Each subset's items in random order; one that is in several is in one of them alone, by chance."""
    members = collection.merge({"all": names})["all"] - excluded
    items = torch.tensor(sorted(members), dtype=torch.long)
    has = torch.stack([torch.isin(items, torch.tensor(list(collection[name]))) for name in names])
    lots = torch.where(has, torch.rand(has.shape, generator=generator), -1.0)
    owner = lots.argmax(0) if len(items) else items
    cells = []
    for k, name in enumerate(names):
        own = items[owner == k]
        if not len(own):
            raise ValueError(f"{name!r}: no item is left that is neither in the test nor of the other class")
        cells.append(own[torch.randperm(len(own), generator=generator)])
    return cells


@dataclass(frozen=True)
class SubpopulationTask:
    """Training items of which a minority is rare, and a balanced test; group = 2 class + (1 if minority)."""

    train: Ids
    train_labels: Ids
    train_groups: Ids
    test: Ids
    test_labels: Ids
    test_groups: Ids


def subpopulation_task(
    groups: Mapping[str, tuple[Iterable[int], Iterable[int]]],
    total: int = 1700,
    minority_fraction: float = 0.12,
    test_per_group: int = 144,
    seed: int = 42,
) -> SubpopulationTask:
    """Of each class a share of its minority and the rest of its majority; every group alike in the test.

    A class of k gives total/k items, m = round(minority_fraction · total/k) of them from its minority. After a shuffle
    by ``seed``, ``test_per_group`` items of each group are held out, and of what follows the first m of the minority
    are taken and the first m of total/k of the majority dropped: at one seed a smaller minority is part of a larger,
    and the test is the same.

    Arguments:
        groups: class → (majority items, minority items), as ``{"cat": (indoor, outdoor), "dog": (outdoor, indoor)}``.
        total: training items, a multiple of the number of classes.
        minority_fraction: in [0, 1].
        test_per_group: at least 1.

    Raises:
        ValueError: an argument out of range, an item that is in two groups, or a group with too few.

    Source: arXiv 2202.06523, section 4.2; sizes and order as released.

    >>> groups = {"cat": (range(0, 40), range(40, 60)), "dog": (range(100, 140), range(140, 160))}
    >>> subpopulation_task(groups, total=40, minority_fraction=0.1, test_per_group=10).train_groups.bincount().tolist()
    [18, 2, 18, 2]
    """
    if not groups or total < 1 or total % len(groups):
        raise ValueError(f"total={total}: must be a positive multiple of the number of classes, {len(groups)}")
    if not 0 <= minority_fraction <= 1:
        raise ValueError(f"minority_fraction={minority_fraction}: must lie in [0, 1]")
    if test_per_group < 1:
        raise ValueError(f"test_per_group={test_per_group}: must be at least 1")
    share = total // len(groups)
    minority = round(minority_fraction * share)
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    taken: set[int] = set()
    for name, sides in groups.items():
        if len(sides) != 2:
            raise ValueError(f"groups: {name!r} has {len(sides)} sets of items, must be (majority, minority)")
        for side, ids, first, last in (("majority", sides[0], minority, share), ("minority", sides[1], 0, minority)):
            items = torch.tensor(sorted(set(ids)), dtype=torch.long)
            if taken & set(items.tolist()):
                raise ValueError(f"groups: an item of the {side} of {name!r} is in another group too")
            taken |= set(items.tolist())
            if len(items) < test_per_group + last:
                raise ValueError(
                    f"groups: the {side} of {name!r} has {len(items)} items, must have {test_per_group + last}"
                )
            items = items[torch.randperm(len(items), generator=generator)]
            test.append(items[:test_per_group])
            train.append(items[test_per_group + first : test_per_group + last])

    def numbered(parts: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        group = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
        return torch.cat(parts), group // 2, group

    return SubpopulationTask(*numbered(train), *numbered(test))
