"""Accuracy over episodes with its interval, and metrics of frozen embeddings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from landform.losses.episodic import episode_logits
from landform.metrics import episode_accuracy, intra_inter_ratio, nearest_neighbour_purity


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_accuracy_and_interval_are_those_of_the_episodes():
    logits, labels = randn(40, 6, 3), torch.randint(3, (40, 6), generator=torch.Generator().manual_seed(1))
    each = [np.mean([max(range(3), key=row.__getitem__) == y for row, y in zip(e.tolist(), ys, strict=True)])
            for e, ys in zip(logits, labels.tolist(), strict=True)]  # fmt: skip
    mean, ci95 = episode_accuracy(logits, labels)
    assert mean == pytest.approx(np.mean(each), abs=1e-12)
    assert ci95 == pytest.approx(1.96 * np.std(each) / math.sqrt(40), abs=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Queries that are right with probability 0.7: of 400 intervals about 95 % hold 0.7."""
    right = torch.rand(400, 100, 10, generator=torch.Generator().manual_seed(0)) < 0.7
    logits = torch.stack([right.double(), 1 - right.double()], -1)
    found = [episode_accuracy(one, torch.zeros(10, dtype=torch.long)) for one in logits]
    covered = np.mean([abs(mean - 0.7) < ci95 for mean, ci95 in found])
    assert 0.91 < covered < 0.98


def test_constant_embeddings_are_right_by_one_in_n():
    labels = torch.arange(5).repeat_interleave(4)
    accuracy = episode_accuracy(episode_logits(torch.ones(10, 5 * 5, 8), 5, 1), labels)
    assert accuracy == (pytest.approx(0.2), pytest.approx(0))


def test_ratio_and_purity_are_what_loops_over_points_give():
    x, y = randn(14, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 9])
    apart = [[math.dist(a, b) for b in x.tolist()] for a in x.tolist()]
    nearest = [min(apart[i][j] for j in range(14) if y[j] != y[i]) for i in range(14)]
    intra = [np.mean([apart[i][j] for j in range(14) if j != i and y[j] == y[i]]) for i in range(13)]
    assert intra_inter_ratio(x, y) == pytest.approx(np.mean(nearest) / np.mean(intra), rel=1e-12)
    for k in (1, 3, 13):
        own = []
        for i in range(14):
            order = sorted((apart[i][j], j) for j in range(14) if j != i)[:k]
            own.append(np.mean([bool(y[j] == y[i]) for _, j in order]))
        assert nearest_neighbour_purity(x, y, k) == pytest.approx(np.mean(own), abs=1e-12)


def test_the_ratio_keeps_its_value_in_any_unit_and_grows_with_the_gap():
    x, y = randn(30, 4), torch.arange(3).repeat_interleave(10)
    turn = torch.linalg.qr(randn(4, 4, seed=2))[0]
    assert intra_inter_ratio(5 * x @ turn + 3, y) == pytest.approx(intra_inter_ratio(x, y), rel=1e-10)
    apart = x + 10 * torch.eye(3, 4, dtype=torch.float64)[y]
    assert intra_inter_ratio(apart, y) > 3 * intra_inter_ratio(x, y)
    assert nearest_neighbour_purity(apart, y, 9) == 1


@pytest.mark.parametrize(
    ("function", "arguments", "match"),
    [
        (episode_accuracy, (torch.zeros(3, 4), torch.zeros(4)), "logits of shape"),
        (episode_accuracy, (torch.zeros(3, 4, 2), torch.zeros(3)), r"labels of shape \(3,\)"),
        (episode_accuracy, (torch.zeros(1, 4, 2), torch.zeros(4)), "one episode"),
        (episode_accuracy, (torch.full((2, 4, 2), math.nan), torch.zeros(4)), "NaN"),
        (intra_inter_ratio, (torch.rand(4, 2), torch.zeros(4)), "two classes"),
        (intra_inter_ratio, (torch.rand(4, 2), torch.arange(4)), "one with two points"),
        (intra_inter_ratio, (torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([0, 0, 1])), "coincide"),
        (intra_inter_ratio, (torch.rand(4, 2) / 0, torch.tensor([0, 0, 1, 1])), "NaN or infinite"),
        (nearest_neighbour_purity, (torch.rand(4, 2), torch.zeros(3)), "labels of shape"),
        (nearest_neighbour_purity, (torch.rand(4, 2), torch.zeros(4), 4), r"k=4: must be in 1\.\.3"),
    ],
)
def test_what_cannot_be_measured_is_refused(function, arguments, match):
    with pytest.raises(ValueError, match=match):
        function(*arguments)
