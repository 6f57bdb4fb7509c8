"""Entropy and redundancy screens: a stream by hand, the telescoped product, limits, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from landform.shift import EntropyScreen, RedundancyScreen, softmax_entropy

K = 5


def stream(batches: int = 6, size: int = 8, scale: float = 3.0, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(size, K, generator=generator, dtype=torch.float64) for _ in range(batches)]


def entropy(z: torch.Tensor) -> list[float]:
    """By the definition, sample by sample."""
    return [-sum(p * math.log(p) for p in row) for row in z.softmax(1).tolist()]


def test_entropy_is_the_definition():
    (z,) = stream(1)
    torch.testing.assert_close(softmax_entropy(z), torch.tensor(entropy(z), dtype=torch.float64), rtol=1e-12, atol=0)
    assert softmax_entropy(torch.zeros(1, 7)).item() == pytest.approx(math.log(7))
    assert softmax_entropy(torch.tensor([[1e4, 0.0]])).item() == 0
    assert softmax_entropy(z.half()).dtype == torch.float32
    assert torch.autograd.gradcheck(softmax_entropy, z.requires_grad_())


@pytest.mark.parametrize(
    ("logits", "error"),
    [(torch.zeros(3), ValueError), (torch.zeros(3, 1), ValueError), (torch.zeros(3, 4).long(), TypeError)],
)
def test_what_are_no_logits_is_refused(logits, error):
    with pytest.raises(error, match="logits"):
        softmax_entropy(logits)


@pytest.mark.parametrize("lam", [1.0, 0.7])
@pytest.mark.parametrize("warm_up", [None, 8, 9, 20])
def test_a_stream_is_screened_as_by_hand(warm_up, lam):
    batches = stream()
    screen = EntropyScreen(K, high=0.5, low=0.1, warm_up=warm_up, lam=lam)
    total, seen, reference, kept = 0.0, 0, None, 0
    for z in batches:
        h = entropy(z)
        total, seen = total + sum(h), seen + len(h)
        if reference is None and seen >= (warm_up or 8):
            reference = total / seen
        bar = 0.5 * math.log(K)
        if reference is not None:
            bar *= total / seen / reference * lam
        expected = [0.1 * math.log(K) < value < bar for value in h]
        assert screen(z).tolist() == expected
        kept += sum(expected)
        assert screen.threshold == pytest.approx(bar, rel=1e-12)
        assert screen.mean_entropy == pytest.approx(total / seen, rel=1e-12)
        assert (screen.kept, screen.seen) == (kept, seen)
    assert 0 < kept < seen


def test_the_threshold_telescopes():
    """The paper's recursion E_t = E_(t−1) M_t / M_(t−1) is E_0 M_t / M_1."""
    screen = EntropyScreen(K)
    bar = first = previous = None
    for number, z in enumerate(stream(10)):
        screen(z * (1 + number / 4))
        mean = screen.mean_entropy
        if first is None:
            bar, first = screen.e_max, mean
        else:
            bar *= mean / previous
        previous = mean
        assert screen.threshold == pytest.approx(bar, rel=1e-12)
        assert screen.threshold * first == pytest.approx(screen.e_max * mean, rel=1e-12)
    assert screen.threshold < 0.95 * screen.e_max


def test_a_constant_or_static_stream_keeps_its_threshold():
    screen = EntropyScreen(K)
    (z,) = stream(1)
    for _ in range(5):
        screen(z[torch.randperm(8)])
        assert screen.threshold == pytest.approx(0.4 * math.log(K), rel=1e-12)
    static = EntropyScreen(K, dynamic=False, lam=0.5)
    for batch in stream():
        static(batch)
        assert static.threshold == 0.4 * math.log(K)


def test_the_lost_and_the_certain_are_rejected():
    logits = torch.stack([torch.zeros(K), 100 * torch.eye(K)[0], torch.tensor([4.0, 0.0, 0.0, 0.0, 0.0])])
    assert EntropyScreen(K)(logits).tolist() == [False, False, True]
    certain = EntropyScreen(K)
    certain(1e4 * torch.eye(K))  # a mean entropy of 0 is no reference to fall from
    assert certain.threshold == certain.e_max


def test_before_the_first_sample():
    screen = EntropyScreen(10, high=0.3, low=0.1)
    assert math.isnan(screen.mean_entropy)
    assert screen.threshold == 0.3 * math.log(10)
    assert not len(screen(torch.zeros(0, 10)))
    assert screen.seen == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"low": 0.4}, "low=0.4, high=0.4"),
        ({"low": -0.1}, "low=-0.1"),
        ({"high": math.nan}, "high=nan"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"warm_up": 0}, "warm_up=0"),
        ({"lam": 0.0}, r"lam=0\.0"),
    ],
)
def test_impossible_entropy_screens_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        EntropyScreen(**{"num_classes": K, **arguments})


def test_logits_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 5\)"):
        EntropyScreen(K)(torch.zeros(3, 4))
    screen = EntropyScreen(K)
    with pytest.raises(ValueError, match="NaN"):
        screen(torch.full((3, K), math.nan))
    assert screen.seen == 0


def test_redundancy_is_screened_as_by_hand():
    screen = RedundancyScreen(0.6)
    mean = None
    counts = []
    for z in stream(8):
        p = z.softmax(1).tolist()
        if mean is None:
            expected, kept = [True] * len(p), p
        else:
            norm = math.sqrt(sum(v * v for v in mean))
            cosines = [
                sum(a * b for a, b in zip(mean, row, strict=False)) / norm / math.sqrt(sum(v * v for v in row))
                for row in p
            ]
            expected = [abs(c) < 0.6 for c in cosines]
            kept = [row for row, keep in zip(p, expected, strict=False) if keep]
        assert screen(z).tolist() == expected
        counts.append(len(kept))
        if kept:
            average = [sum(column) / len(kept) for column in zip(*kept, strict=False)]
            mean = average if mean is None else [0.9 * m + 0.1 * a for m, a in zip(mean, average, strict=False)]
        torch.testing.assert_close(screen.mean, torch.tensor(mean, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    assert counts[0] == 8
    assert 0 < sum(counts[1:]) < 56


def test_a_batch_without_new_samples_leaves_the_mean():
    screen = RedundancyScreen(0.1)
    assert not len(screen(torch.zeros(0, K)))
    assert screen.mean is None
    screen(torch.tensor([[9.0, 0, 0, 0, 0]]))
    before = screen.mean
    assert screen(torch.tensor([[9.0, 0, 0, 0, 0], [8.0, 0, 0, 0, 0]])).tolist() == [False, False]
    assert torch.equal(screen.mean, before)


@pytest.mark.parametrize(
    ("arguments", "match"), [((0,), "margin=0"), ((1.5,), r"margin=1\.5"), ((0.1, 1.0), "momentum")]
)
def test_impossible_redundancy_screens_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        RedundancyScreen(*arguments)
    screen = RedundancyScreen(0.5)
    screen(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(B, 3\)"):
        screen(torch.zeros(2, 4))
