"""Partitions: disjoint and complete, reproducible, and as unequal as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from landform.federated import (
    PartitionStats,
    partition_by_group,
    partition_dirichlet,
    partition_iid,
    partition_packages,
    partition_quantity,
    partition_shards,
)

Y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
Partition = Callable[[NDArray[np.int64], int], list[NDArray[np.int64]]]

COMPLETE: dict[str, Partition] = {
    "iid": lambda y, seed: partition_iid(y, 7, rng=seed),
    "dirichlet": lambda y, seed: partition_dirichlet(y, 7, 0.5, rng=seed),
    "balanced": lambda y, seed: partition_dirichlet(y, 8, 0.3, balanced=True, rng=seed),
    "shards": lambda y, seed: partition_shards(y, 7, rng=seed),
    "quantity": lambda y, seed: partition_quantity(y, 7, 1.0, rng=seed),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_every_sample_has_one_client_and_the_seed_says_which(name: str) -> None:
    parts, again, other = (COMPLETE[name](Y, seed) for seed in (3, 3, 4))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(Y)))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other, strict=True))


def test_iid_is_even() -> None:
    assert sorted(len(part) for part in partition_iid(Y, 7, rng=0)) == [85, 85, 86, 86, 86, 86, 86]


@pytest.mark.parametrize("balanced", [False, True])
def test_dirichlet_goes_from_one_class_a_client_to_equal_mixtures(balanced: bool) -> None:
    def stats(alpha: float) -> PartitionStats:
        parts = partition_dirichlet(Y, 5, alpha, min_size=1, balanced=balanced, rng=1)
        return PartitionStats(Y, parts)

    many, few = stats(1e6), stats(1e-3)
    assert many.mean_total_variation < 0.03
    assert many.effective_classes.min() > 9.9
    # five clients share ten classes: two each where every class has one client
    assert few.effective_classes.mean() < 3.2
    if not balanced:
        assert ((few.counts > 0).sum(0) <= 2).all()
    else:
        assert few.sizes.tolist() == [120] * 5


def test_dirichlet_cuts_classes_by_the_drawn_shares() -> None:
    """The class sizes are those of an independent draw from the same generator, cut at floors."""
    rng = np.random.default_rng(5)
    shares = rng.dirichlet(np.full(4, 2.0), size=10)
    expected = np.diff(np.floor(np.cumsum(shares, 1) * 60 + 1e-9).astype(int), axis=1, prepend=0)
    counts = PartitionStats(Y, partition_dirichlet(Y, 4, 2.0, min_size=1, rng=5)).counts
    assert np.array_equal(counts, expected.T)


def test_dirichlet_gives_every_client_enough_or_says_why_not() -> None:
    assert min(len(part) for part in partition_dirichlet(Y, 20, 0.1, min_size=5, rng=0)) >= 5
    with pytest.raises(ValueError, match=r"alpha=0.01, clients=60, min_size=10.*1,000"):
        partition_dirichlet(Y, 60, 0.01, rng=0)


def test_shards_hold_few_labels() -> None:
    parts = partition_shards(Y, 10, 2, rng=0)
    assert [len(part) for part in parts] == [60] * 10
    # 20 shards of 30 from classes of 60: no shard has two labels
    assert max(len(np.unique(Y[part])) for part in parts) == 2


def test_packages_are_of_two_labels_and_end_when_labels_run_out() -> None:
    y = np.repeat(np.arange(6), [100, 100, 100, 70, 35, 20])
    parts = partition_packages(y, rng=2)
    counts = PartitionStats(y, parts).counts
    assert all(sorted(row[row > 0]) == [35, 35] for row in counts)
    left = np.bincount(y)[:5] - counts.sum(0)[:5]
    assert (left >= 35).sum() < 2
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    capped = partition_packages(y, max_per_label=40, rng=2)
    assert np.bincount(y[np.concatenate(capped)]).max() == 35


def test_quantity_skews_sizes_alone() -> None:
    stats = PartitionStats(Y, partition_quantity(Y, 6, 0.5, rng=0))
    assert stats.sizes.max() > 3 * stats.sizes.min()
    assert stats.sizes.min() >= 10


def test_groups_are_clients() -> None:
    groups = np.array([3, 1, 3, 2, 1])
    assert [part.tolist() for part in partition_by_group(groups)] == [[1, 4], [3], [0, 2]]


def test_stats_of_a_known_partition() -> None:
    y = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    stats = PartitionStats(y, [np.array([0, 1, 3, 4]), np.array([2, 5, 6, 7])])
    assert stats.counts.tolist() == [[2, 2], [1, 3]]
    assert stats.total_variation == pytest.approx([0.125, 0.125])
    assert stats.mean_total_variation == pytest.approx(0.125)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert stats.effective_classes == pytest.approx([2.0, np.exp(entropy)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partition_iid(Y, 0, rng=0), "clients=0"),
        (lambda: partition_iid(Y[:3], 4, rng=0), "clients=4: 3 samples"),
        (lambda: partition_dirichlet(Y, 5, 0.0, rng=0), "alpha=0.0"),
        (lambda: partition_dirichlet(Y, 5, float("nan"), rng=0), "alpha=nan"),
        (lambda: partition_dirichlet(Y, 5, 1.0, min_size=200, rng=0), "min_size=200"),
        (lambda: partition_quantity(Y, 5, -1.0, rng=0), "alpha=-1.0"),
        (lambda: partition_shards(Y, 300, 3, rng=0), "shards=3"),
        (lambda: partition_packages(Y, 11, rng=0), "labels_per_client=11"),
        (lambda: partition_packages(Y, samples_per_package=0, rng=0), "samples_per_package=0"),
        (lambda: partition_iid(Y.reshape(2, -1), 2, rng=0), r"labels.*\(2, 300\)"),
        (lambda: PartitionStats(Y, [np.array([1]), np.array([], dtype=int)]), "client 1 has no samples"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
