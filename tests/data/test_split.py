"""Splits: indexing, merging, stratified holding out, standardising."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landform.data import Split, merge, standardise
from landform.data.split import divide, first_of, holdout


def example(n: int = 6) -> Split:
    return Split(
        torch.arange(2.0 * n).view(n, 2),
        torch.arange(n) % 3,
        ("a", "b", "c"),
        fields={"place": torch.arange(n) % 2},
        names={"place": ("here", "there")},
    )


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([4, 0, 0]),
        torch.tensor([True, False, False, True, False, True]),
        np.array([1, 2]),
        [5, 3],
        slice(1, 4),
        slice(None, None, 2),
    ],
    ids=lambda index: type(index).__name__,
)
def test_indexing_takes_every_part_alike(index):
    split = example()
    taken = split[index]
    rows = np.arange(6)[index if isinstance(index, slice) else np.asarray(index)]
    assert taken.x.tolist() == [[2.0 * i, 2.0 * i + 1] for i in rows]
    assert taken.y.tolist() == [i % 3 for i in rows]
    assert taken.fields["place"].tolist() == [i % 2 for i in rows]
    assert (taken.classes, taken.names) == (split.classes, split.names)


def test_an_empty_index_gives_an_empty_split():
    assert len(example()[[]]) == 0
    assert len(example()[torch.zeros(6, dtype=torch.bool)]) == 0


def test_one_number_is_no_index_and_so_a_split_does_not_iterate():
    with pytest.raises(TypeError, match="vector or a slice"):
        example()[2]
    with pytest.raises(TypeError, match="vector or a slice"):
        list(example())


def test_a_split_refuses_parts_that_do_not_fit():
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"y has shape \(2,\), but x has 3 samples"):
        Split(x, y[:2])
    with pytest.raises(ValueError, match="scalar"):
        Split(torch.tensor(1.0), y)
    with pytest.raises(ValueError, match="y holds 2, but there are 2 names"):
        Split(x, y, ("a", "b"))
    with pytest.raises(ValueError, match="y holds -1"):
        Split(x, y - 1, ("a", "b", "c"))
    with pytest.raises(ValueError, match="field 'f' has shape"):
        Split(x, y, fields={"f": torch.tensor([1])})
    with pytest.raises(TypeError, match=r"field 'f' is torch.float32"):
        Split(x, y, fields={"f": torch.zeros(3)})
    with pytest.raises(ValueError, match="field 'f' holds 2, but there are 1 names"):
        Split(x, y, fields={"f": y}, names={"f": ("only",)})


def test_merging_the_pieces_gives_the_whole():
    split = example()
    whole = merge(split[:2], split[2:3], split[3:])
    assert torch.equal(whole.x, split.x)
    assert torch.equal(whole.y, split.y)
    assert torch.equal(whole.fields["place"], split.fields["place"])


def test_merging_refuses_splits_of_different_data():
    split = example()
    with pytest.raises(ValueError, match="at least one"):
        merge()
    with pytest.raises(ValueError, match=r"splits 1 and 2 .* classes differ"):
        merge(split, Split(split.x, split.y, ("a", "b", "x"), split.fields, split.names))
    with pytest.raises(ValueError, match="sample shape differ"):
        merge(split, Split(split.x[:, :1], split.y, split.classes, split.fields, split.names))
    with pytest.raises(ValueError, match="fields differ"):
        merge(split, Split(split.x, split.y, split.classes, {}, split.names))
    with pytest.raises(ValueError, match="dtype of x and y differ"):
        merge(split, Split(split.x.double(), split.y, split.classes, split.fields, split.names))


@given(st.lists(st.integers(-3, 5), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_holding_out_divides_every_group_alike(groups, fraction, seed):
    train, test = holdout(torch.tensor(groups), fraction, seed)
    assert sorted(train.tolist() + test.tolist()) == list(range(len(groups)))
    assert train.tolist() == sorted(train.tolist())
    for group in set(groups):
        n = groups.count(group)
        held = sum(groups[i] == group for i in test.tolist())
        assert held == (0 if n == 1 else min(max(round(fraction * n), 1), n - 1))


def test_holding_out_depends_on_the_seed_and_is_random_within_groups():
    groups = torch.zeros(1000, dtype=torch.int64)
    first, again, other = (holdout(groups, 0.5, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Under a uniform choice the mean position is 499.5 with a standard deviation of 9.1.
    assert abs(first.double().mean() - 499.5) < 40


@pytest.mark.parametrize("fraction", [0, 0.0, 1.0, -0.1, 1.5, float("nan"), "half"])
def test_a_fraction_outside_0_and_1_is_refused(fraction):
    with pytest.raises(ValueError, match="test_fraction"):
        holdout(torch.zeros(4), fraction, 0)


def test_quantities_are_divided_without_strata():
    whole = Split(torch.zeros(10, 1), torch.arange(10.0))
    parts = divide(whole, 0.3, 0)
    assert (len(parts["train"]), len(parts["test"])) == (7, 3)
    assert sorted(merge(*parts.values()).y.tolist()) == list(range(10))


def test_a_smaller_limit_keeps_a_part_of_what_a_greater_one_keeps():
    assert torch.equal(first_of(100, 10, seed=3), first_of(100, 50, seed=3)[:10])
    assert torch.equal(first_of(5, None, seed=3), torch.arange(5))
    assert sorted(first_of(5, 99, seed=3).tolist()) == list(range(5))
    for limit in (0, -1, 2.5, "3"):
        with pytest.raises(ValueError, match="limit="):
            first_of(5, limit, 0)


def test_standardising_uses_the_training_split_alone():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(250, 3, generator=generator) * torch.tensor([1e-3, 1.0, 1e4]) + torch.tensor([5.0, 0.0, -2e4])
    train, test = Split(x[:200], torch.zeros(200)), Split(x[200:], torch.zeros(50))
    done, other = standardise(train, test)
    x = train.x.double().numpy()
    mean, sd = x.mean(axis=0), np.sqrt(((x - x.mean(axis=0)) ** 2).mean(axis=0))
    np.testing.assert_allclose(done.x.numpy(), (x - mean) / sd, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.x.numpy(), (test.x.double().numpy() - mean) / sd, rtol=1e-6, atol=1e-6)
    assert done.x.dtype == torch.float32


def test_a_column_constant_in_training_becomes_zero_everywhere():
    # 0.1 is no binary fraction: its mean over many rows differs from it by rounding.
    train = Split(torch.tensor([[0.1, 1.0]] * 333 + [[0.1, 2.0]]), torch.zeros(334))
    test = Split(torch.tensor([[0.7, 1.0]]), torch.zeros(1))
    done, other = standardise(train, test)
    assert done.x[:, 0].eq(0).all()
    assert other.x[:, 0].eq(0).all()
    assert done.x.isfinite().all()


def test_standardising_refuses_what_is_no_table():
    table = Split(torch.ones(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="split 1 has x of"):
        standardise(Split(torch.ones(2, 1, 4, 4), torch.zeros(2)))
    with pytest.raises(ValueError, match="split 2 has 2 columns, the training split 3"):
        standardise(table, Split(torch.ones(2, 2), torch.zeros(2)))
    with pytest.raises(ValueError, match="empty"):
        standardise(table[:0])
