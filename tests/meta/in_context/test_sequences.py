"""Sequences: against a plain loop, without replacement, and that labels come one position late."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from landform.meta import MixedSampler, SequenceSampler, TaskAugmentation, sequence_batch, shift_labels
from landform.meta.in_context.sequences import distinct


@pytest.fixture
def base():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(30, 2, 2, generator=generator, dtype=torch.float64), torch.randint(3, (30,), generator=generator)
    )


@pytest.fixture
def given(base):
    A, perm = TaskAugmentation(None, 4, 3, seed=1).sample(5)
    return A.double(), perm


def test_examples_are_projected_and_relabelled(base, given):
    A, perm = given
    x, y = sequence_batch(base, A, perm, 12, generator=torch.Generator().manual_seed(4))
    assert x.dtype == torch.float64
    images, labels = base.tensors
    for task in range(5):
        projected = torch.stack([A[task] @ image.flatten() for image in images])
        used = []
        for t in range(12):
            distance = (projected - x[task, t]).norm(dim=1)
            i = int(distance.argmin())
            assert distance[i] < 1e-12
            assert int(y[task, t]) == int(perm[task, labels[i]])
            used.append(i)
        assert len(set(used)) == 12


def test_without_projection_and_permutation_a_whole_sequence_is_the_base_data(base):
    A, perm = torch.eye(4).repeat(2, 1, 1), torch.arange(3).repeat(2, 1)
    x, y = sequence_batch(base, A, perm, 30, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([base.tensors[0].flatten(1), base.tensors[1].unsqueeze(1)], 1)
    for task in range(2):
        found = torch.cat([x[task], y[task].unsqueeze(1)], 1)
        assert torch.equal(found[found[:, 0].argsort()], rows[rows[:, 0].argsort()])
    assert not torch.equal(x[0], x[1])


def test_permuted_labels_are_permuted_in_targets_and_one_hots(base, given):
    A, perm = given
    turn = torch.tensor([2, 0, 1])
    x, y = sequence_batch(base, A, perm, 8, generator=torch.Generator().manual_seed(0))
    x2, y2 = sequence_batch(base, A, turn[perm], 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, x2)
    assert torch.equal(turn[y], y2)
    assert torch.equal(shift_labels(y, 3), shift_labels(y2, 3)[:, :, turn])


def test_a_class_subset_is_numbered_in_its_order(base):
    A, perm = torch.eye(4).double().repeat(1, 1, 1), torch.tensor([[1, 0]])
    x, y = sequence_batch(base, A, perm, 10, class_subset=(2, 0), generator=torch.Generator().manual_seed(0))
    images, labels = base.tensors
    for t in range(10):
        i = int((images.flatten(1) - x[0, t]).norm(dim=1).argmin())
        assert {2: 1, 0: 0}[int(labels[i])] == int(y[0, t])


def test_the_label_before_is_shown_and_nothing_at_first():
    y = torch.tensor([[0, 2, 1], [1, 1, 0]])
    shifted = shift_labels(y, 3)
    assert torch.equal(shifted[:, 0], torch.zeros(2, 3))  # no label, not label 0
    assert torch.equal(shifted[:, 1:].argmax(2), y[:, :-1])
    assert torch.equal(shifted[:, 1:].sum(2), torch.ones(2, 2))


@pytest.mark.parametrize(("n", "length"), [(5, 3), (30, 3)])
def test_rows_of_different_numbers_are_uniform(n, length):
    rows = distinct(n, 40_000, length, torch.Generator().manual_seed(0))
    assert (rows.sort(dim=1).values.diff(dim=1) > 0).all()
    for place in range(length):  # each place is uniform, also given the place before
        counts = rows[:, place].bincount(minlength=n).double()
        assert ((counts - 40_000 / n).square() / (40_000 / n)).sum() < n - 1 + 5 * (2 * (n - 1)) ** 0.5
    pairs = (n * rows[:, 0] + rows[:, length - 1]).bincount(minlength=n * n).double().view(n, n)
    expected = 40_000 / (n * (n - 1))
    off = pairs[~torch.eye(n, dtype=torch.bool)]
    assert ((off - expected).square() / expected).sum() < len(off) + 5 * (2 * len(off)) ** 0.5


def test_samplers_give_inputs_previous_labels_and_targets_and_repeat(base):
    def sampler(seed):
        tasks = TaskAugmentation(7, 4, 3, seed=0)
        return SequenceSampler(base, tasks, 6, generator=torch.Generator().manual_seed(seed))

    x, prev_y, y = sampler(0)(4)
    assert x.shape == (4, 6, 4)
    assert torch.equal(prev_y, shift_labels(y, 3).double())
    assert torch.equal(x, sampler(0)(4)[0])
    assert not torch.equal(x, sampler(1)(4)[0])


def test_mixed_batches_have_each_sources_share(base):
    plain = TaskAugmentation(None, 4, 3, seed=0, projection="identity", permute=False)
    random = TaskAugmentation(None, 4, 3, seed=0)
    domain, tasks = (SequenceSampler(base, family, 5, generator=torch.Generator()) for family in (plain, random))
    x, _, y = MixedSampler((domain, tasks), (0.3, 0.7))(10)
    images = base.tensors[0].flatten(1)
    from_domain = (x[:, :, None] - images).norm(dim=3).amin(2) < 1e-9
    assert from_domain.all(1).tolist() == [True] * 3 + [False] * 7
    assert y.shape == (10, 5)
    assert len(MixedSampler((domain, tasks, tasks), (1 / 3, 1 / 3, 1 / 3))(10)[0]) == 10


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"length": 31}, ValueError, "length=31.*30"),
        ({"length": 0}, ValueError, "length=0"),
        ({"class_subset": (0, 1)}, ValueError, "class_subset.*3 different"),
        ({"class_subset": (0, 1, 1)}, ValueError, "class_subset.*3 different"),
        ({"perm": torch.tensor([[0, 0, 1]])}, ValueError, "perm: every row"),
        ({"perm": torch.tensor([[0, 1]])}, ValueError, r"labels \[2\]"),
        ({"perm": torch.tensor([[0.0, 1.0, 2.0]])}, TypeError, "perm"),
        ({"perm": torch.tensor([[0, 1, 2], [0, 1, 2]])}, ValueError, "perm has shape"),
        ({"A": torch.eye(3)[None]}, ValueError, r"A has shape.*\(batch, 4, 4\)"),
        ({"A": torch.eye(4, dtype=torch.long)[None]}, TypeError, "A: is torch.int64"),
        ({"A": torch.full((1, 4, 4), torch.nan)}, ValueError, "not finite"),
        ({"base": [1, 2]}, TypeError, "base: must be a TensorDataset"),
    ],
)
def test_what_does_not_fit_is_refused(base, change, error, match):
    good = {"base": base, "A": torch.eye(4)[None], "perm": torch.tensor([[0, 1, 2]]), "length": 5}
    with pytest.raises(error, match=match):
        sequence_batch(**{**good, **change})


def test_wrong_labels_and_shares_are_refused():
    with pytest.raises(ValueError, match="y holds 0 … 3"):
        shift_labels(torch.tensor([[0, 3]]), 3)
    with pytest.raises(TypeError, match="y have dtype"):
        shift_labels(torch.tensor([[0.0, 1.0]]), 3)
    with pytest.raises(ValueError, match="y has shape"):
        shift_labels(torch.tensor([0, 1]), 3)
    for shares in [(0.5, 0.6), (1.5, -0.5), (1.0,)]:
        with pytest.raises(ValueError, match="shares="):
            MixedSampler((lambda n: n, lambda n: n), shares)
