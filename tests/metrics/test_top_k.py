"""Top-k accuracy against a sort, scikit-learn's, and hand-worked cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from landform.metrics import top_k_accuracy


def batch(classes: int = 6, size: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, classes, generator=generator), torch.randint(classes, (size,), generator=generator)


def test_agrees_with_scikit_learn() -> None:
    logits, target = batch()
    ours = top_k_accuracy(logits, target, range(1, 7))
    assert ours[-1] == 1
    theirs = [top_k_accuracy_score(target, logits, k=k, labels=range(6)) for k in range(1, 6)]
    assert ours[:5].tolist() == pytest.approx(theirs, rel=1e-14)
    balanced = top_k_accuracy(logits, target, [1], balanced=True)
    assert balanced.item() == pytest.approx(balanced_accuracy_score(target, logits.argmax(1)), rel=1e-14)


def test_balanced_is_the_mean_over_the_classes_that_occur() -> None:
    logits, target = batch()
    target = torch.where(target == 5, 0, target)
    each = [top_k_accuracy(logits[target == k], target[target == k], (1, 3)) for k in range(5)]
    torch.testing.assert_close(top_k_accuracy(logits, target, (1, 3), balanced=True), torch.stack(each).mean(0))


def test_many_models_are_a_loop() -> None:
    logits = torch.stack([batch(seed=seed)[0] for seed in range(3)])
    target = batch()[1]
    for balanced in (False, True):
        together = top_k_accuracy(logits, target, (1, 2), balanced=balanced)
        alone = torch.stack([top_k_accuracy(each, target, (1, 2), balanced=balanced) for each in logits])
        torch.testing.assert_close(together, alone, rtol=1e-14, atol=0)


def test_of_equal_scores_the_lower_class_comes_first() -> None:
    logits = torch.zeros(4, 4)
    target = torch.arange(4)
    assert top_k_accuracy(logits, target, (1, 2, 3, 4)).tolist() == [0.25, 0.5, 0.75, 1.0]
    assert top_k_accuracy(logits, torch.zeros(4, dtype=torch.long)).tolist() == [1.0]


@pytest.mark.parametrize(
    ("logits", "target", "ks", "error", "says"),
    [
        (torch.zeros(3, 2), torch.zeros(2).long(), (1,), ValueError, "shape"),
        (torch.zeros(0, 2), torch.zeros(0).long(), (1,), ValueError, "at least one"),
        (torch.zeros(3, 2), torch.zeros(3), (1,), TypeError, "integer"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), (1,), TypeError, "floating"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), (1,), ValueError, "0 to 2"),
        (torch.zeros(3, 2), torch.zeros(3).long(), (3,), ValueError, "ks="),
        (torch.zeros(3, 2), torch.zeros(3).long(), (0,), ValueError, "ks="),
        (torch.full((3, 2), math.nan), torch.zeros(3).long(), (1,), ValueError, "NaN"),
    ],
)
def test_bad_arguments_are_named(
    logits: torch.Tensor, target: torch.Tensor, ks: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        top_k_accuracy(logits, target, ks)
