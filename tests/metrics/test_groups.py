"""Accuracy by group."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from landform.metrics import group_accuracy


def test_group_accuracy_counts_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randint(3, (2, 50), generator=generator)
    group = torch.randint(4, (50,), generator=generator)
    group[group == 1] = 3
    found = group_accuracy(pred, target, group)
    shares = {}
    for g in (0, 2, 3):
        own = [p == t for p, t, k in zip(pred.tolist(), target.tolist(), group.tolist(), strict=True) if k == g]
        shares[g] = sum(own) / len(own)
        assert float(found["per_group"][g]) == pytest.approx(shares[g], abs=1e-15)
    assert found["per_group"][1].isnan()
    assert found["worst"] == pytest.approx(min(shares.values()), abs=1e-15)
    assert found["average"] == pytest.approx(float((pred == target).double().mean()), abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(2), torch.zeros(2).long(), torch.zeros(2).long()), TypeError, "pred"),
        ((torch.zeros(2).long(), torch.zeros(3).long(), torch.zeros(2).long()), ValueError, "target"),
        ((torch.zeros(2).long(), torch.zeros(2).long(), torch.tensor([0, -1])), ValueError, "-1"),
        ((torch.zeros(0).long(),) * 3, ValueError, "at least one"),
    ],
)
def test_bad_groups_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        group_accuracy(*arguments)
