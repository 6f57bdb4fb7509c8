"""Noisy labels: flip rates, maps, masks and seeds; and datasets that yield their index."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from landform.data import IndexedDataset, cyclic_label_noise, pair_label_noise, uniform_label_noise

PAIRS = [(0, 1), (2, 3), (5, 4)]
KINDS: dict[str, Callable[..., Any]] = {
    "uniform": lambda labels, level, generator=None: uniform_label_noise(labels, level, 7, generator=generator),
    "cyclic": lambda labels, level, generator=None: cyclic_label_noise(labels, level, 7, generator=generator),
    "pairs": lambda labels, level, generator=None: pair_label_noise(
        labels, level, PAIRS, num_classes=7, generator=generator
    ),
}
N = 20_000


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels() -> torch.Tensor:
    return torch.randint(7, (N,), generator=rng(9))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.3, 0.9])
def test_flip_rate(kind: str, level: float) -> None:
    clean = labels()
    before = clean.clone()
    noisy, corrupted = KINDS[kind](clean, level, rng())
    assert torch.equal(clean, before)
    assert torch.equal(corrupted, noisy != clean)
    share = {"uniform": 6 / 7, "cyclic": 1.0, "pairs": (clean < 6).double().mean().item()}[kind] * level
    assert corrupted.double().mean().item() == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / N))


def test_uniform_noise_is_uniform_and_independent_of_the_label() -> None:
    noisy, _ = uniform_label_noise(torch.full((N,), 3), 1.0, 7, generator=rng())
    counts = torch.bincount(noisy, minlength=7).double()
    assert (counts - N / 7).abs().max() < 4 * math.sqrt(N / 7 * 6 / 7)


def test_cyclic_noise_goes_to_the_next_class() -> None:
    clean = labels()
    noisy, corrupted = cyclic_label_noise(clean, 0.5, 7, generator=rng())
    assert torch.equal(noisy[corrupted], (clean[corrupted] + 1) % 7)


def test_pairs_are_involutions() -> None:
    clean = labels()
    once, corrupted = pair_label_noise(clean, 1.0, PAIRS, num_classes=7)
    assert torch.equal(corrupted, clean != 6)
    twice, _ = pair_label_noise(once, 1.0, PAIRS, num_classes=7)
    assert torch.equal(twice, clean)
    assert torch.unique(torch.stack([clean, once]), dim=1).T.tolist() == [
        [0, 1], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4], [6, 6]
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_levels_zero_and_one_and_seeds(kind: str) -> None:
    clean = labels()
    assert torch.equal(KINDS[kind](clean, 0.0)[0], clean)
    first, again, other = (KINDS[kind](clean, 0.4, rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_keep_their_dtype(kind: str, dtype: torch.dtype) -> None:
    noisy, _ = KINDS[kind](labels().to(dtype), 0.4, rng())
    assert noisy.dtype == dtype
    assert torch.equal(noisy.long(), KINDS[kind](labels(), 0.4, rng())[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "level", "error", "says"),
    [
        (torch.tensor([0, 7]), 0.5, ValueError, "labels contain 7"),
        (torch.tensor([0, -1]), 0.5, ValueError, "labels contain -1"),
        (torch.tensor([0.0, 1.0]), 0.5, TypeError, "integers"),
        (torch.tensor([[0, 1]]), 0.5, ValueError, "shape"),
        (torch.tensor([0, 1]), 1.5, ValueError, "level=1.5"),
        (torch.tensor([0, 1]), math.nan, ValueError, "level=nan"),
    ],
)
def test_bad_arguments_are_named(
    kind: str, given: torch.Tensor, level: float, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        KINDS[kind](given, level)


@pytest.mark.parametrize("pairs", [[(0, 1), (1, 2)], [(0, 7)], [(3, 3)], [(-1, 2)]])
def test_bad_pairs_are_named(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="pairs"):
        pair_label_noise(torch.tensor([0, 1]), 0.5, pairs, num_classes=7)


def test_an_index_survives_subsets_and_shuffling() -> None:
    whole = IndexedDataset(TensorDataset(torch.arange(10.0), torch.arange(10) % 2))
    loader = DataLoader(Subset(whole, [1, 4, 7, 8]), batch_size=3, shuffle=True, generator=rng())
    seen = []
    for x, y, index in loader:
        assert torch.equal(x, index.double().to(x))
        assert torch.equal(y, index % 2)
        seen += index.tolist()
    assert sorted(seen) == [1, 4, 7, 8]
    assert whole[-1][2] == 9


def test_bad_datasets_are_named() -> None:
    with pytest.raises(TypeError, match="dataset is a int"):
        IndexedDataset(3)
    with pytest.raises(ValueError, match="item 0 is no pair"):
        IndexedDataset([1, 2])[0]
    with pytest.raises(IndexError, match="index=2"):
        IndexedDataset([(1, 2), (3, 4)])[2]
