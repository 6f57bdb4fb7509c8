"""Tasks made of subsets: sizes, disjointness, balance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from landform.shift import SubsetCollection, domain_shift_task, subpopulation_task

COLLECTION = SubsetCollection(
    {
        "cat(sofa)": range(60),
        "cat(bed)": range(40, 100),  # 40 to 59 are in both
        "dog(cabinet)": range(100, 160),
        "dog(bed)": range(150, 200),
        "dog(boat)": range(200, 240),
        "dog(surf)": range(235, 300),
        "dog(shelf)": [*range(95, 105), *range(290, 320)],  # five cats, and dogs of two training contexts
    }
)
PAIRS = [("dog(cabinet)", "dog(bed)"), ("dog(boat)", "dog(surf)")]


def tasks(seed: int = 0) -> list[Any]:
    return domain_shift_task(COLLECTION, ("cat(sofa)", "cat(bed)"), PAIRS, "dog(shelf)", seed)


def test_domain_shift_tasks_keep_their_parts_apart() -> None:
    found = tasks()
    assert [task.pair for task in found] == PAIRS
    for task in found:
        train = task.train.tolist()
        assert len(set(train)) == len(train)
        assert not set(train) & COLLECTION["dog(shelf)"]
        assert set(task.test.tolist()) == COLLECTION["dog(shelf)"] - set(range(95, 100))
        assert task.test_labels.tolist() == [1] * len(task.test)
        for label, names in enumerate((("cat(sofa)", "cat(bed)"), task.pair)):
            for domain, name in enumerate(names):
                cell = task.train[(task.train_labels == label) & (task.train_domains == domain)]
                assert set(cell.tolist()) <= COLLECTION[name]
        counts = (2 * task.train_labels + task.train_domains).bincount()
        assert counts.tolist() == [counts[0]] * 4
    near, far = found
    assert len(near.train) == len(far.train)
    size = len(near.train) // 2
    assert torch.equal(near.train[:size], far.train[:size])  # class 0 is the same


def test_domain_shift_tasks_are_as_large_as_they_can_be() -> None:
    # dog(boat) has 35 items of its own; five it shares with dog(surf) may fall to either.
    assert 35 <= len(tasks()[0].train) // 4 <= 40


def test_domain_shift_tasks_follow_the_seed() -> None:
    assert torch.equal(tasks(3)[0].train, tasks(3)[0].train)
    assert not torch.equal(tasks(3)[0].train, tasks(4)[0].train)


@pytest.mark.parametrize(
    ("pairs", "test", "error", "message"),
    [
        ([("dog(bed)", "dog(nowhere)")], "dog(shelf)", KeyError, "nowhere"),
        (PAIRS, "dog(moon)", KeyError, "moon"),
        ([("dog(bed)",)], "dog(shelf)", ValueError, "2 contexts"),
        ([], "dog(shelf)", ValueError, "at least one"),
        ([("dog(bed)", "dog(shelf)")], "dog(shelf)", ValueError, "none the test's"),
        ([("dog(bed)", "dog(bed)")], "dog(shelf)", ValueError, "different"),
        ([("dog(bed)", "dog(dup)")], "dog(shelf)", ValueError, r"dog\(dup\)"),
    ],
)
def test_domain_shift_tasks_refuse(pairs: Any, test: str, error: type[Exception], message: str) -> None:
    collection = SubsetCollection({**COLLECTION.members, "dog(dup)": COLLECTION["dog(shelf)"]})
    with pytest.raises(error, match=message):
        domain_shift_task(collection, ("cat(sofa)", "cat(bed)"), pairs, test, 0)


GROUPS = {"cat": (range(994), range(1000, 1294)), "dog": (range(2000, 2994), range(3000, 3294))}


@pytest.mark.parametrize("m", [100, 50, 10])
def test_subpopulation_sizes_are_the_released_ones(m: int) -> None:
    task = subpopulation_task(GROUPS, 1700, m / 850)
    assert len(task.train) == 1700
    assert task.train_groups.bincount().tolist() == [850 - m, m, 850 - m, m]
    assert task.test_groups.bincount().tolist() == [144] * 4
    assert torch.equal(task.train_labels, task.train_groups // 2)
    assert torch.equal(task.test_labels, task.test_groups // 2)
    assert len(set(task.train.tolist()) | set(task.test.tolist())) == 1700 + 576
    for ids, groups in ((task.train, task.train_groups), (task.test, task.test_groups)):
        assert torch.equal(ids // 1000, groups)  # as GROUPS are numbered


def test_the_default_shares_of_the_paper() -> None:
    sizes = [
        int(subpopulation_task(GROUPS, minority_fraction=p).train_groups.bincount()[1]) for p in (0.12, 0.06, 0.01)
    ]
    assert sizes == [102, 51, 8]


def test_smaller_minorities_are_nested_and_the_test_is_the_same() -> None:
    few, many = (subpopulation_task(GROUPS, 1700, m / 850, seed=1) for m in (10, 100))
    assert torch.equal(few.test, many.test)
    assert set(few.train[few.train_groups == 1].tolist()) <= set(many.train[many.train_groups == 1].tolist())
    assert set(many.train[many.train_groups == 0].tolist()) <= set(few.train[few.train_groups == 0].tolist())
    assert not torch.equal(few.test, subpopulation_task(GROUPS, seed=2).test)


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        (GROUPS, {"total": 1701}, "total=1701"),
        (GROUPS, {"minority_fraction": 1.5}, "minority_fraction=1.5"),
        (GROUPS, {"test_per_group": 0}, "test_per_group=0"),
        (GROUPS, {"minority_fraction": 0.2}, "minority of 'cat' has 294"),
        (GROUPS, {"total": 1720}, "majority of 'cat' has 994"),
        ({"cat": (range(900), range(890, 1300))}, {"total": 700}, "in another group"),
        ({"cat": (range(900),)}, {"total": 700}, "has 1 sets"),
    ],
)
def test_subpopulations_refuse(groups: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subpopulation_task(groups, **options)
