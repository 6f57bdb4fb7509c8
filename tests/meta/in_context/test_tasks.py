"""Families of tasks: their distribution, and that a task is a function of its number alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from landform.meta import TaskAugmentation


def test_gaussian_projections_have_variance_one_over_dim_and_keep_norms_on_average():
    A, _ = TaskAugmentation(None, 12, 3, seed=0).sample(3000)
    assert A.dtype == torch.float32
    entries = A.double().flatten()
    n = len(entries)
    assert abs(entries.mean()) < 4 * (1 / 12 / n) ** 0.5
    assert abs(12 * entries.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((12 * entries.square()).square().mean() - 3) < 4 * (96 / n) ** 0.5  # the normal's fourth moment
    x = torch.randn(12, generator=torch.Generator().manual_seed(1)).double()
    norms = (A.double() @ x).square().sum(1)
    assert abs(norms.mean() - x.square().sum()) < 3 * norms.std() / len(norms) ** 0.5


def test_orthogonal_projections_keep_every_norm_and_are_uniform():
    A, _ = TaskAugmentation(None, 3, 2, seed=0, projection="orthogonal").sample(2000)
    assert torch.allclose(A.double() @ A.double().mT, torch.eye(3).double().expand(2000, 3, 3), atol=3e-7)
    # Of a uniform orthogonal matrix the trace has mean 0 and variance 1; Householder's Q alone has another mean.
    trace = A.double().diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.mean()) < 4 / 2000**0.5
    assert abs(trace.square().mean() - 1) < 4 * (2 / 2000) ** 0.5


def test_identity_projection_and_no_permutation_are_the_base_task():
    A, perm = TaskAugmentation(5, 4, 3, seed=0, projection="identity", permute=False).sample(6)
    assert torch.equal(A, torch.eye(4).expand(6, 4, 4))
    assert torch.equal(perm, torch.arange(3).expand(6, 3))


def test_permutations_are_uniform():
    _, perm = TaskAugmentation(None, 1, 3, seed=3).sample(6000)
    for order in itertools.permutations(range(3)):
        share = (perm == torch.tensor(order)).all(1).double().mean()
        assert abs(share - 1 / 6) < 4 * (5 / 36 / 6000) ** 0.5


@pytest.mark.parametrize("projection", ["gaussian", "orthogonal"])
def test_a_task_is_the_same_to_the_bit_in_any_batch(projection):
    tasks = TaskAugmentation(50, 5, 4, seed=2, projection=projection)
    A, perm = tasks.tasks(range(50))
    again = TaskAugmentation(50, 5, 4, seed=2, projection=projection)
    again.sample(7)
    for k in (0, 17, 49):
        alone = again.tasks([k])
        assert torch.equal(alone[0][0], A[k])
        assert torch.equal(alone[1][0], perm[k])
    other, _ = TaskAugmentation(50, 5, 4, seed=3, projection=projection).tasks(range(50))
    assert not torch.isclose(A, other).flatten(1).all(1).any()


def test_seen_tasks_are_n_and_unseen_ones_none_of_them():
    tasks = TaskAugmentation(6, 3, 3, seed=0)
    known, _ = tasks.tasks(range(6))
    seen, _ = tasks.sample(300)
    unseen, _ = tasks.sample(300, "unseen")

    def known_among(A):
        return (A[:, None] == known).all(-1).all(-1)

    assert known_among(seen).any(1).all()
    assert known_among(seen).any(0).all()
    assert not known_among(unseen).any()
    assert len(unseen.flatten(1).unique(dim=0)) == 300
    assert not torch.equal(tasks.tasks([0])[0], tasks.tasks([0], "unseen")[0])


def test_to_look_at_unseen_tasks_does_not_change_the_training():
    one, two = (TaskAugmentation(None, 3, 3, seed=0) for _ in range(2))
    two.sample(10, "unseen")
    assert torch.equal(one.sample(4)[0], two.sample(4)[0])


def test_a_share_of_each_seen_batch_has_the_fixed_permutation_and_random_projections():
    tasks = TaskAugmentation(None, 3, 8, seed=0, fixed_permutation_fraction=0.75)
    A, perm = tasks.sample(40)
    fixed = (perm == torch.arange(8)).all(1)
    assert fixed[:30].all()
    assert not fixed[30:].any()
    assert len(A.flatten(1).unique(dim=0)) == 40
    _, unseen = tasks.sample(40, "unseen")
    assert not (unseen == torch.arange(8)).all(1).any()
    plain_A, plain = TaskAugmentation(None, 3, 8, seed=0).sample(40)
    assert torch.equal(plain_A, A)
    assert torch.equal(plain[30:], perm[30:])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_tasks": 0}, "n_tasks=0"),
        ({"dim": 0}, "dim=0"),
        ({"n_classes": 1.5}, "n_classes=1.5"),
        ({"projection": "uniform"}, "projection='uniform'.*gaussian"),
        ({"fixed_permutation_fraction": 1.2}, "fixed_permutation_fraction=1.2"),
        ({"fixed_permutation_fraction": float("nan")}, "fixed_permutation_fraction=nan"),
    ],
)
def test_impossible_families_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        TaskAugmentation(**{"n_tasks": 4, "dim": 3, "n_classes": 2, "seed": 0, **change})


def test_impossible_draws_are_refused():
    tasks = TaskAugmentation(4, 3, 2, seed=0)
    with pytest.raises(ValueError, match="split='test'"):
        tasks.sample(3, "test")
    with pytest.raises(ValueError, match="batch=0"):
        tasks.sample(0)
    with pytest.raises(ValueError, match=r"seen task numbers, 0 … 3"):
        tasks.tasks([4])
