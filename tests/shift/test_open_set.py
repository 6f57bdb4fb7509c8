"""Open-set scores, class splits, the datasets made of them, and the closed-open correlation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from landform import data, shift
from landform.shift import (
    OpenSetDataset,
    OpenSetSplit,
    auroc,
    character_split,
    class_split,
    closed_open_correlation,
    energy_score,
    entropy_score,
    look_alikes,
    max_logit_score,
    max_softmax_score,
    openness,
    read_semantic_shift_splits,
    read_small_splits,
)
from landform.shift.open_set.look_alikes import HOMOGLYPHS

SCORES = [max_logit_score, max_softmax_score, energy_score, entropy_score]


def test_everything_is_in_the_area():
    assert set(shift.open_set.__all__) <= set(shift.__all__)
    assert {"OpenSetMetrics", "oscr"} <= set(shift.__all__)


# Scores.


def test_scores_are_their_formulas():
    z = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = z.exp() / z.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(max_logit_score(z), z.max(-1).values)
    torch.testing.assert_close(max_softmax_score(z), p.max(-1).values)
    torch.testing.assert_close(energy_score(z, 2.0), 2 * (z / 2).exp().sum(-1).log())
    torch.testing.assert_close(entropy_score(z), (p * p.log()).sum(-1))
    torch.testing.assert_close(energy_score(1000 * z), max_logit_score(1000 * z), rtol=1e-3, atol=1.0)
    assert entropy_score(torch.tensor([[0.0, 1e4]])) == 0  # without NaN from 0 log 0


def test_a_constant_moves_the_maximum_logit_and_not_the_softmax():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    moved = z + torch.randn(40, 1, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(max_softmax_score(moved), max_softmax_score(z))
    assert (max_logit_score(moved).argsort() != max_logit_score(z).argsort()).any()


def test_a_temperature_reorders_the_softmax_and_not_the_maximum_logit():
    z = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(max_logit_score(z / 3).argsort(), max_logit_score(z).argsort())
    assert not torch.equal(max_softmax_score(z / 3).argsort(), max_softmax_score(z).argsort())


@pytest.mark.parametrize("score", SCORES)
def test_confident_logits_score_higher(score):
    assert auroc(score(5 * torch.eye(4)), score(0.1 * torch.eye(4))) == 1
    with pytest.raises(TypeError, match=r"torch\.int64"):
        score(torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(3, 0\)"):
        score(torch.zeros(3, 0))


def test_energy_needs_a_temperature():
    with pytest.raises(ValueError, match="temperature=0"):
        energy_score(torch.zeros(1, 2), 0)


# Splits.


def test_openness():
    assert openness(6, 0) == 0
    assert openness(20, 180) == pytest.approx(1 - math.sqrt(40 / 220))
    assert OpenSetSplit([0, 1], {"a": [2], "b": [3, 4]}).openness == openness(2, 3)
    with pytest.raises(ValueError, match="n_known=0"):
        openness(0, 3)


@pytest.mark.parametrize(
    ("known", "unknown", "match"),
    [
        ([], {"a": [1]}, "known is empty"),
        ([0], {}, "needs a group"),
        ([0], {"a": []}, "needs a group"),
        ([0, 1, 0], {"a": [2]}, "known names 0 twice"),
        ([0], {"a": [2], "b": [3, 2]}, "unknown names 2 twice"),
        ([0, 3], {"a": [2], "b": [3]}, "class 3 is both"),
    ],
)
def test_splits_that_cannot_be(known, unknown, match):
    with pytest.raises(ValueError, match=match):
        OpenSetSplit(known, unknown)


def test_drawn_splits():
    split = class_split(10, 6, seed=3)
    assert split == class_split(10, 6, seed=3) != class_split(10, 6, seed=4)
    assert len(split.known) == 6
    assert sorted(split.classes) == list(range(10))
    for n_known in (0, 10):
        with pytest.raises(ValueError, match=f"n_known={n_known}"):
            class_split(10, n_known, seed=0)


def test_the_published_small_splits(shared_data):
    splits = read_small_splits(shared_data("open-set-recognition") / "small_benchmark_splits.json")
    assert {name: len(each) for name, each in splits.items()} == dict.fromkeys(
        ("mnist", "svhn", "cifar-10-10", "tinyimagenet", "cifar-10-100-10", "cifar-10-100-50"), 5
    )
    sizes = {name: {(len(s.known), len(s.unknown["unknown"])) for s in each} for name, each in splits.items()}
    assert sizes["mnist"] == sizes["svhn"] == sizes["cifar-10-10"] == {(6, 4)}
    assert sizes["tinyimagenet"] == {(20, 180)}
    assert sizes["cifar-10-100-10"] == {(4, 10)}
    assert sizes["cifar-10-100-50"] == {(4, 50)}
    assert splits["mnist"][0].known == [2, 4, 5, 9, 8, 3]
    assert all(s.foreign for s in splits["cifar-10-100-50"])


def test_the_semantic_shift_benchmark(shared_data):
    splits = read_semantic_shift_splits(shared_data("open-set-recognition") / "semantic_shift_benchmark_splits.json")
    sizes = {name: (len(s.known), *(len(g) for g in s.unknown.values())) for name, s in splits.items()}
    assert sizes["cub"] == (100, 32, 34, 34)
    assert sizes["fgvc_aircraft"] == (50, 20, 17, 13)
    assert sizes["stanford_cars"] == (98, 76, 15, 7)
    assert sizes["imagenet"][1:] == (1000, 1000)
    assert sizes["imagenet_winter21"][1:] == (1000, 980)
    assert set(splits["cub"].classes) == set(range(200))


def test_files_that_hold_no_splits(tmp_path):
    path = tmp_path / "splits.json"
    for read in (read_small_splits, read_semantic_shift_splits):
        with pytest.raises(FileNotFoundError, match=r"splits\.json"):
            read(path)
    path.write_text("[1")
    with pytest.raises(ValueError, match="is no JSON"):
        read_small_splits(path)
    path.write_text(json.dumps({"mnist": [["a"]]}))
    with pytest.raises(ValueError, match="no lists of class numbers under 'mnist'"):
        read_small_splits(path)
    with pytest.raises(ValueError, match="Semantic Shift"):
        read_semantic_shift_splits(path)


# Look-alikes.


def test_look_alikes_are_mutual():
    letters = [chr(c) for c in [*range(0x41, 0x5B), *range(0x61, 0x7B)]]
    alike = {c: set(look_alikes(c, letters)) for c in letters}
    assert alike["o"] == {"O", "Q"}
    assert alike["b"] == {"d", "p", "q"}
    assert {"I", "l"} <= alike["i"]
    assert alike["A"] == set()
    assert all(a in alike[b] for a in letters for b in alike[a])


def test_character_splits_know_what_is_hard():
    glyphs = data.load("glyphs:latin,greek,cyrillic,math,arrows")["train"].classes
    split = character_split(glyphs, seed=1)
    assert split == character_split(glyphs, seed=1) != character_split(glyphs, seed=2)
    known = {glyphs[i] for i in split.known}
    groups = {name: {glyphs[i] for i in classes} for name, classes in split.unknown.items()}
    assert len(known) == 20
    assert len(groups["look-alike"] | groups["letter"]) == 20
    assert len(groups["far"]) == 20
    assert all(look_alikes(c, sorted(known)) for c in groups["look-alike"])
    assert not any(look_alikes(c, sorted(known)) for c in groups["letter"])
    assert all(c.isascii() for c in known | groups["look-alike"] | groups["letter"])
    assert not any(c.isascii() for c in groups["far"])
    with pytest.raises(ValueError, match="n_letters=60"):
        character_split(glyphs, 20, 60, seed=0)
    with pytest.raises(ValueError, match="n_known=40"):
        character_split(glyphs, 40, 40, seed=0)


def test_no_far_letter_is_drawn_like_a_latin_one():
    """In every typeface, over which slanted forms differ, no Greek or Cyrillic letter left is a Latin one's image."""
    whole = data.merge(*data.load("glyphs:latin,greek,cyrillic", typefaces="DejaVu Sans,DejaVu Serif").values())
    latin = whole.names["script"].index("latin")
    for typeface in range(2):
        here = whole[whole.fields["typeface"] == typeface]
        images = here.x.flatten(1)
        ours, theirs = images[here.fields["script"] == latin], here.fields["script"] != latin
        distance = torch.cdist(images[theirs], ours).amin(1) / images[theirs].norm(dim=1)
        alike = {here.classes[y] for y, d in zip(here.y[theirs], distance, strict=True) if d < 0.05}
        assert alike  # the test can fail: Cyrillic А is drawn as Latin A
        assert alike <= set(HOMOGLYPHS)


# Datasets.


def images(n=60, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    return data.Split(torch.arange(n, dtype=torch.float32).unsqueeze(1), y, tuple("abcde"[:classes]))


@pytest.mark.parametrize("kind", ["split", "targets", "plain"])
def test_known_samples_are_relabelled_and_unknown_ones_have_no_label(kind):
    source = images()
    dataset = source if kind == "split" else TensorDataset(source.x, source.y)
    if kind == "targets":
        dataset.targets = source.y.tolist()
    split = OpenSetSplit([3, 1], {"hard": [0], "easy": [4]})
    wrapped = OpenSetDataset.wrap(dataset, split)
    assert len(wrapped) == ((source.y == 3) | (source.y == 1)).sum()
    assert set(wrapped.labels.tolist()) == {0, 1}
    for i in range(len(wrapped)):
        x, y = wrapped[i]
        assert split.known[y] == source.y[int(x)]
    for name, group in wrapped.unknown.items():
        rows = [int(group[i]) for i in range(len(group))]
        assert {int(source.y[row]) for row in rows} == set(split.unknown[name])
        assert rows == group.indices.tolist()
    inputs, labels = next(iter(DataLoader(wrapped, batch_size=4)))
    assert inputs.shape == (4, 1)
    assert labels.dtype == torch.int64
    assert next(iter(DataLoader(wrapped.unknown["hard"], batch_size=4))).shape == (4, 1)


@pytest.mark.parametrize("known", [[3, 1], [0, 1, 2, 3]])
def test_balance_takes_as_many_of_both(known):
    source = images(200)
    split = OpenSetSplit(known, {"a": [4]} if len(known) == 4 else {"a": [0, 2], "b": [4]})
    whole, wrapped = (OpenSetDataset.wrap(source, split, balance=b, seed=1) for b in (False, True))
    counts = [len(wrapped), sum(map(len, wrapped.unknown.values()))]
    assert counts == [min(len(whole), sum(map(len, whole.unknown.values())))] * 2
    assert set(wrapped.indices.tolist()) <= set(whole.indices.tolist())
    assert all(split.known[y] == source.y[int(x)] for x, y in wrapped)
    other = OpenSetDataset.wrap(source, split, balance=True, seed=2)
    assert [g.indices.tolist() for g in [wrapped, *wrapped.unknown.values()]] != [
        g.indices.tolist() for g in [other, *other.unknown.values()]
    ]


def test_datasets_that_cannot_be_wrapped():
    source = images(classes=4)
    with pytest.raises(ValueError, match="known class 9 has no sample"):
        OpenSetDataset.wrap(source, OpenSetSplit([0, 9], {"a": [1]}))
    with pytest.raises(ValueError, match="another dataset's"):
        OpenSetDataset.wrap(source, OpenSetSplit([0], {"a": [0]}, foreign=True))
    with pytest.raises(ValueError, match="must be numbers"):
        OpenSetDataset.wrap(source, OpenSetSplit(["n01"], {"a": ["n02"]}))
    with pytest.raises(ValueError, match="quantities"):
        OpenSetDataset.wrap(data.Split(source.x, source.x[:, 0]), OpenSetSplit([0], {"a": [1]}))


# The correlation.


def test_closed_open_correlation_has_fishers_interval():
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(0.2, 0.9, 20)
    aurocs = 0.5 + 0.4 * accuracy + 0.05 * rng.normal(size=20)
    found = closed_open_correlation(accuracy, aurocs)
    a, b = accuracy - accuracy.mean(), aurocs - aurocs.mean()
    r = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
    half = stats.norm.ppf(0.975) / math.sqrt(17)
    assert found == pytest.approx((r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), 20))
    assert closed_open_correlation(accuracy, 100 * aurocs).r == pytest.approx(r)
    assert math.isnan(closed_open_correlation(accuracy, np.ones(20)).r)
    with pytest.raises(ValueError, match="at least 4"):
        closed_open_correlation([1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="NaN"):
        closed_open_correlation([1, 2, 3, np.nan], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="level=1"):
        closed_open_correlation([1, 2, 3, 4], [1, 2, 3, 4], level=1)
