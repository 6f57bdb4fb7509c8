"""Episodes: what is drawn, how often, from where; and what cannot be drawn."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from landform import data
from landform.data import EpisodeSampler, episodes

SIZES = torch.tensor([6, 9, 7, 12, 6])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def labels() -> torch.Tensor:
    """Five classes of unequal sizes, with odd numbers, in mixed order."""
    ordered = torch.tensor([7, -2, 30, 11, 4]).repeat_interleave(SIZES)
    return ordered[torch.randperm(len(ordered), generator=generator(9))]


def test_each_class_appears_k_and_q_times_and_no_item_twice(labels):
    sampler = EpisodeSampler(labels, 3, 2, 4, 500, generator())
    drawn = sampler.sample()
    assert drawn.shape == (500, 3 * 6)
    assert sampler.labels.tolist() == [0, 0, 1, 1, 2, 2] + [0] * 4 + [1] * 4 + [2] * 4
    assert all(len(set(row)) == 18 for row in drawn.tolist())
    of = labels[drawn]
    classes = of[:, :6:2]
    assert torch.equal(of, classes[:, sampler.labels])
    assert all(len(set(row)) == 3 for row in classes.tolist())


def test_the_same_seed_gives_the_same_episodes_however_they_are_drawn(labels, monkeypatch):
    def sampler(seed: int) -> EpisodeSampler:
        return EpisodeSampler(labels, 3, 1, 2, 40, generator(seed))

    drawn = sampler(3).sample()
    assert torch.equal(torch.stack(list(sampler(3))), drawn)
    assert not torch.equal(sampler(4).sample(), drawn)
    again = sampler(3)
    assert torch.equal(again.sample(), drawn)
    assert not torch.equal(again.sample(), drawn)  # a further draw goes on
    monkeypatch.setattr(episodes, "KEYS", 300)  # now in pieces, which iteration shares
    pieces = sampler(3).sample()
    assert pieces.shape == drawn.shape
    assert torch.equal(torch.stack(list(sampler(3))), pieces)


def test_classes_their_order_and_their_items_are_uniform(labels):
    drawn = EpisodeSampler(labels, 2, 1, 2, 20_000, generator()).sample()
    classes = labels.unique(return_inverse=True)[1][drawn[:, :2]]
    pairs = (classes[:, 0] * 5 + classes[:, 1]).bincount(minlength=25).view(5, 5)
    assert (pairs.diagonal() == 0).all()
    assert stats.chisquare(pairs[~torch.eye(5, dtype=torch.bool)]).pvalue > 1e-4
    for place in (0, 3):  # a support and a query position, both of the first class
        for number, size in enumerate(labels.unique(return_counts=True)[1].tolist()):
            items = drawn[classes[:, 0] == number, place if place == 0 else 2].bincount(minlength=len(labels))
            assert (items > 0).sum() == size
            assert stats.chisquare(items[items > 0]).pvalue > 1e-4


def test_without_disjoint_a_query_is_in_the_support_as_often_as_chance_has_it():
    labels = torch.arange(4).repeat_interleave(12)
    drawn = EpisodeSampler(labels, 2, 3, 4, 5000, generator(), disjoint=False).sample()
    support, query = drawn[:, :6].view(-1, 2, 3), drawn[:, 6:].view(-1, 2, 4)
    shared = (support.unsqueeze(3) == query.unsqueeze(2)).any(2).double().mean()
    assert shared == pytest.approx(3 / 12, abs=0.01)  # K / n of a class
    for part in (support, query):
        assert (part.sort(2).values.diff(dim=2) > 0).all()


def test_support_and_query_from_different_domains():
    # Class c in domain d has as many items as the table says; class 3 is only in domain 0.
    counts = dict.fromkeys(itertools.product(range(3), range(3)), 3) | {(3, 0): 5, (2, 2): 1}
    labels = torch.tensor([c for (c, _), n in counts.items() for _ in range(n)])
    domain = torch.tensor([10 * d for (_, d), n in counts.items() for _ in range(n)])
    sampler = EpisodeSampler(labels, 2, 1, 2, 3000, generator(), domain=domain)
    drawn = sampler.sample()
    support, query = domain[drawn[:, :2]], domain[drawn[:, 2:]]
    assert (support == support[:, :1]).all()
    assert (query == query[:, :1]).all()
    assert (support[:, 0] != query[:, 0]).all()
    assert torch.equal(labels[drawn], labels[drawn[:, :2]][:, sampler.labels])
    pairs = torch.stack([support[:, 0], query[:, 0]], 1).unique(dim=0, return_counts=True)
    assert len(pairs[0]) == 6
    assert stats.chisquare(pairs[1]).pvalue > 1e-4
    of_two = (labels[drawn] == 2).any(1)
    assert not of_two[query[:, 0] == 20].any()  # one item there is no query of two
    assert of_two[query[:, 0] != 20].any()
    assert not (labels[drawn] == 3).any()


def test_it_serves_a_data_loader(labels):
    sampler = EpisodeSampler(labels, 3, 1, 2, 5, generator(1))
    loader = DataLoader(TensorDataset(labels), batch_sampler=sampler)
    batches = [batch for (batch,) in loader]
    assert len(loader) == len(batches) == 5
    expected = labels[EpisodeSampler(labels, 3, 1, 2, 5, generator(1)).sample()]
    assert torch.equal(torch.stack(batches), expected)


def test_episodes_of_glyphs_by_script_and_across_typefaces():
    greek = data.load("glyphs:greek?size=8")["train"]
    drawn = EpisodeSampler(greek.y, 5, 1, 3, 50, generator()).sample()
    assert (greek.y[drawn[:, :5]].sort(1).values.diff(dim=1) > 0).all()
    across = EpisodeSampler(greek.y, 5, 1, 1, 50, generator(), domain=greek.fields["typeface"]).sample()
    faces = greek.fields["typeface"][across]
    assert (faces[:, :5] == faces[:, :1]).all()
    assert (faces[:, 5:] != faces[:, :1]).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_way": 6}, r"n_way=6: there are only 5"),
        ({"n_query": 5}, r"class -2 has 6 items.*need 7|class \d+ has 6 items.*need 7"),
        ({"n_shot": 7, "disjoint": False}, r"has 6 items.*need 7"),
        ({"n_way": 0}, "n_way=0"),
        ({"n_shot": 1.5}, r"n_shot=1\.5"),
        ({"n_query": 0}, "n_query=0"),
        ({"n_episodes": 0}, "n_episodes=0"),
        ({"labels": torch.zeros(0, dtype=torch.long)}, "labels of shape"),
        ({"labels": torch.zeros(2, 2, dtype=torch.long)}, "labels of shape"),
        ({"domain": torch.zeros(3, dtype=torch.long)}, "domain has 3 items, but labels have 40"),
        ({"domain": torch.zeros(40, dtype=torch.long)}, "no two of 1 domains share n_way=3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(labels, change, match):
    arguments = {"labels": labels, "n_way": 3, "n_shot": 2, "n_query": 4, "n_episodes": 5, "generator": generator()}
    with pytest.raises(ValueError, match=match):
        EpisodeSampler(**{**arguments, **change})


def test_wrong_dtypes_are_refused(labels):
    for change in ({"labels": labels.double()}, {"domain": labels > 0}):
        with pytest.raises(TypeError, match=r"labels have dtype|domain have dtype"):
            EpisodeSampler(**{"labels": labels, **change}, n_way=2, n_shot=1, n_query=1, n_episodes=1,
                           generator=generator())  # fmt: skip
