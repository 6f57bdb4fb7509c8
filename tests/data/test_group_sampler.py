"""Batches balanced over groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from landform.data import BalancedGroupSampler


def test_each_batch_draws_one_group_of_each_cell() -> None:
    cells = {"a": [range(20), range(20, 25)], "b": [range(100, 103)]}
    sampler = BalancedGroupSampler(cells, per_group=4, iterations=300, generator=torch.Generator().manual_seed(0))
    batches = list(sampler)
    assert len(batches) == len(sampler) == 300
    second = 0
    for batch in batches:
        first, last = batch[:4], batch[4:]
        assert set(first) <= set(range(20)) or set(first) <= set(range(20, 25))
        assert len(set(first)) == 4  # both groups have more than four
        assert len(last) == 4
        assert set(last) <= set(range(100, 103))
        second += first[0] >= 20
    assert 120 < second < 180  # half of 300, within 3.5 standard errors
    counts = torch.tensor([i for batch in batches for i in batch[:4] if i < 20]).bincount(minlength=20)
    assert counts.min() > 10


def test_a_group_of_exactly_per_group_is_drawn_with_replacement() -> None:
    sampler = BalancedGroupSampler(torch.zeros(8, dtype=torch.long), 8, 50)
    assert any(len(set(batch)) < 8 for batch in sampler)


def test_group_numbers_are_cells_and_loaders_take_the_sampler() -> None:
    groups = torch.tensor([7] * 90 + [2] * 6 + [4] * 4)
    sampler = BalancedGroupSampler(groups, per_group=5, iterations=3, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(groups), batch_sampler=sampler)
    for (batch,) in loader:
        assert batch.tolist() == [2] * 5 + [4] * 5 + [7] * 5
    again = BalancedGroupSampler(groups, per_group=5, iterations=3, generator=torch.Generator().manual_seed(1))
    other = BalancedGroupSampler(groups, per_group=5, iterations=3, generator=torch.Generator().manual_seed(1))
    assert list(again) == list(other)


@pytest.mark.parametrize(
    ("groups", "options", "error", "message"),
    [
        ({}, {}, ValueError, "no cells"),
        ({"a": []}, {}, ValueError, "'a' has no group"),
        ({"a": [[]]}, {}, ValueError, "group 0 of 'a'"),
        (torch.zeros(0, dtype=torch.long), {}, ValueError, "groups"),
        (torch.zeros(3), {}, TypeError, "float32"),
        ([0, 1], {"per_group": 0}, ValueError, "per_group=0"),
        ([0, 1], {"iterations": 0}, ValueError, "iterations=0"),
    ],
)
def test_bad_groups_are_refused(groups: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BalancedGroupSampler(groups, **options)
