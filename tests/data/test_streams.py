"""Streams: which images come under which corruption, in what order, and where adaptation begins anew."""

from __future__ import annotations

import pytest
import torch

from landform.data import CorruptionStream, Split, corrupt

KINDS = ("gaussian_noise", "fog", "contrast")


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.rand(23, 1, 8, 8, generator=generator), torch.arange(23))


def stream(split: Split, order: str, **changes: int) -> CorruptionStream:
    return CorruptionStream(split, KINDS, **{"severity": 2, "batch_size": 5, "order": order, "seed": 4} | changes)


@pytest.mark.parametrize("order", ["episodic", "continual", "mixed"])
def test_every_image_comes_once_under_every_corruption(split, order):
    source = stream(split, order)
    found = list(source)
    assert len(found) == len(source)
    pairs = [p for b in found for p in zip(b.index.tolist(), b.corruption.tolist(), strict=True)]
    assert sorted(pairs) == [(i, k) for i in range(23) for k in range(3)]
    for batch in found:
        assert torch.equal(batch.y, batch.index)
        for x, index, kind in zip(batch.x, batch.index, batch.corruption, strict=True):
            expected = corrupt(split.x[index : index + 1], KINDS[kind], 2, seed=4, index=[int(index)])
            assert torch.equal(x, expected[0])
    again = list(source)
    assert all(torch.equal(a.x, b.x) and a.fresh == b.fresh for a, b in zip(found, again, strict=True))
    other = list(stream(split, order, seed=5))
    assert not torch.equal(found[0].index, other[0].index)


def test_where_adaptation_begins_anew(split):
    fresh = {order: [b.fresh for b in stream(split, order)] for order in ("episodic", "continual", "mixed")}
    assert [i for i, f in enumerate(fresh["episodic"]) if f] == [0, 5, 10]
    assert [i for i, f in enumerate(fresh["continual"]) if f] == [0]
    assert [i for i, f in enumerate(fresh["mixed"]) if f] == [0]


def test_a_continual_stream_has_the_episodes_batches(split):
    for a, b in zip(stream(split, "episodic"), stream(split, "continual"), strict=True):
        assert torch.equal(a.x, b.x)
        assert len(a.corruption.unique()) == 1
    mixed = list(stream(split, "mixed"))
    assert len(mixed) == 14
    assert sum(len(b.corruption.unique()) > 1 for b in mixed) > 10


def test_severity_0_is_the_clean_images_in_the_same_order(split):
    for clean, foul in zip(stream(split, "episodic", severity=0), stream(split, "episodic"), strict=True):
        assert torch.equal(clean.x, split.x[clean.index])
        assert torch.equal(clean.index, foul.index)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"order": "random"}, "order='random'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"severity": 7}, "severity=7"),
        ({"corruptions": ()}, "empty"),
        ({"corruptions": ("rain",)}, "rain"),
    ],
)
def test_impossible_streams_are_refused(split, change, match):
    with pytest.raises(ValueError, match=match):
        CorruptionStream(split, **change)


def test_an_empty_split_is_refused(split):
    with pytest.raises(ValueError, match="empty"):
        CorruptionStream(split[:0])
