"""Markov sources against closed forms: entropies, stationary distributions, and the loss of the exact predictor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from landform.data import MarkovSource, markov_source


def test_entropy_of_a_two_state_chain_is_the_closed_form() -> None:
    p, q = 0.1, 0.4
    source = MarkovSource(torch.tensor([[1 - p, p], [q, 1 - q]], dtype=torch.float64))
    h = lambda r: -(r * math.log(r) + (1 - r) * math.log(1 - r))  # noqa: E731
    assert source.stationary.tolist() == pytest.approx([q / (p + q), p / (p + q)], abs=1e-12)
    assert source.entropy == pytest.approx((q * h(p) + p * h(q)) / (p + q), abs=1e-12)


def test_a_periodic_chain_settles() -> None:
    source = MarkovSource(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert source.stationary.tolist() == pytest.approx([0.5, 0.5])
    assert source.entropy == 0


def test_order_two_is_the_chain_of_pairs() -> None:
    vocab = 4
    source = markov_source(order=2, vocab=vocab, concentration=0.5, seed=3)
    pairs = np.zeros((vocab**2, vocab**2))
    for a in range(vocab):
        for b in range(vocab):
            for c in range(vocab):
                pairs[a * vocab + b, b * vocab + c] = source.transitions[a, b, c]
    values, vectors = np.linalg.eig(pairs.T)
    pi = np.real(vectors[:, np.argmin(abs(values - 1))])
    pi /= pi.sum()
    np.testing.assert_allclose(source.stationary.flatten(), pi, rtol=0, atol=1e-12)
    rows = source.transitions.reshape(-1, vocab).numpy()
    assert source.entropy == pytest.approx(-(pi[:, None] * rows * np.log(rows)).sum(), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_exact_predictor_has_the_entropy_as_its_loss(order: int) -> None:
    source = markov_source(order, vocab=6, concentration=0.4, seed=order)
    text = source.sample(4000, 40, torch.Generator().manual_seed(0))
    losses = source.losses(text)
    assert losses.shape == (4000, 40 - order)
    error = losses.mean(1).std() / math.sqrt(len(text))
    assert abs(losses.mean() - source.entropy) < 4 * error
    assert error < 0.01


def test_samples_are_stationary_from_the_first_token_on() -> None:
    source = markov_source(order=2, vocab=3, concentration=0.5, seed=0)
    text = source.sample(60_000, 5, torch.Generator().manual_seed(1))
    for place in range(4):
        counts = torch.bincount(text[:, place] * 3 + text[:, place + 1], minlength=9) / len(text)
        torch.testing.assert_close(counts.double(), source.stationary.flatten(), rtol=0, atol=0.012)
    triples = torch.bincount(text[:, 0] * 9 + text[:, 1] * 3 + text[:, 2], minlength=27).view(3, 3, 3)
    torch.testing.assert_close(
        (triples / triples.sum(-1, keepdim=True)).double(), source.transitions, rtol=0, atol=0.04
    )


def test_concentration_moves_the_entropy_from_none_to_all() -> None:
    entropies = [markov_source(1, 16, c, seed=0).entropy for c in (1e-3, 0.1, 1.0, 1e4)]
    assert entropies == sorted(entropies)
    assert entropies[0] < 0.1
    assert entropies[-1] == pytest.approx(math.log(16), abs=1e-3)
    # E H of a Dirichlet row: psi(V a + 1) − psi(a + 1).
    digamma = lambda z: float(torch.special.digamma(torch.tensor(z, dtype=torch.float64)))  # noqa: E731
    many = [markov_source(1, 64, 0.3, seed=seed).entropy for seed in range(20)]
    assert np.mean(many) == pytest.approx(digamma(64 * 0.3 + 1) - digamma(1.3), abs=0.03)


def test_the_seed_decides() -> None:
    a, b, c = (markov_source(2, 5, 0.3, seed) for seed in (0, 0, 1))
    assert torch.equal(a.transitions, b.transitions)
    assert not torch.equal(a.transitions, c.transitions)
    first, second = (a.sample(3, 9, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_zipf_weights_are_the_mean_of_the_rows() -> None:
    rows = torch.cat([markov_source(1, 20, 0.5, seed, zipf=1.0).transitions for seed in range(100)])
    weights = 1 / torch.arange(1, 21, dtype=torch.float64)
    torch.testing.assert_close(rows.mean(0), weights / weights.sum(), rtol=0, atol=0.01)
    # The variance of a Dirichlet component with total A: w (1 − w)/(A + 1).
    first = float(weights[0] / weights.sum())
    assert float(rows[:, 0].var()) == pytest.approx(first * (1 - first) / (20 * 0.5 + 1), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"order": 0}, "order=0"),
        ({"vocab": 1}, "vocab=1"),
        ({"concentration": 0.0}, "concentration=0.0"),
        ({"concentration": math.nan}, "concentration=nan"),
        ({"zipf": -1.0}, "zipf=-1.0"),
        ({"order": 5, "vocab": 100}, "a table of"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], named: str) -> None:
    defaults = {"order": 1, "vocab": 4, "concentration": 0.3, "seed": 0}
    with pytest.raises(ValueError, match=named):
        markov_source(**(defaults | arguments))  # type: ignore[arg-type]


def test_bad_tables_and_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="distribution"):
        MarkovSource(torch.tensor([[0.5, 0.6], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="distribution"):
        MarkovSource(torch.tensor([[1.5, -0.5], [0.5, 0.5]]))
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        MarkovSource(torch.full((2, 3), 1 / 3))
    source = markov_source(2, 4, 0.3, seed=0)
    with pytest.raises(ValueError, match="length"):
        source.sample(1, 1, torch.Generator())
    with pytest.raises(ValueError, match="order 2"):
        source.losses(torch.zeros(3, 2, dtype=torch.long))
