"""The bigram language against autograd, brute-force sums, and SGD run on it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from landform.data import BigramLanguage, bigram_language


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def language() -> BigramLanguage:
    return bigram_language(7, 0.43, 0.5, seed=1)


def test_rows_are_of_the_kinds_asked_for() -> None:
    for fraction, certain in ((0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)):
        language = bigram_language(20, fraction, 0.5, seed=3)
        assert int(language.deterministic.sum()) == certain
        assert (language.entropies[language.deterministic] == 0).all()
        assert (language.entropies[~language.deterministic] > 0).all()
        torch.testing.assert_close(language.transitions.sum(-1), torch.ones(20, dtype=torch.float64))
    again, other = bigram_language(20, seed=3), bigram_language(20, seed=4)
    assert torch.equal(again.transitions, bigram_language(20, seed=3).transitions)
    assert not torch.equal(again.transitions, other.transitions)
    # Dirichlet(a, ..., a): the expected sum of squares is (a + 1)/(V a + 1).
    wide = bigram_language(400, 0.0, 0.5, seed=0).transitions
    assert float((wide**2).sum(-1).mean()) == pytest.approx(1.5 / 201, rel=0.02)


def test_stationary_frequencies_are_those_of_a_long_text() -> None:
    for fraction in (0.0, 0.5, 0.9, 1.0):
        language = bigram_language(12, fraction, 0.5, seed=2, frequencies="stationary")
        pi = language.frequencies
        torch.testing.assert_close(pi @ language.transitions, pi, rtol=0, atol=1e-10)
        assert (pi[~language.deterministic] > 0).all()
    # With every row certain there is one cycle through all of them.
    assert sorted(language.transitions.argmax(-1).tolist()) == list(range(12))
    torch.testing.assert_close(pi, torch.full((12,), 1 / 12, dtype=torch.float64), rtol=0, atol=1e-10)


def test_samples_have_the_joint_distribution(language: BigramLanguage) -> None:
    count = 200_000
    first, following = language.sample(count, generator())
    table = torch.zeros(7, 7, dtype=torch.float64)
    table.index_put_((first, following), torch.tensor(1.0, dtype=torch.float64), accumulate=True)
    joint = language.frequencies[:, None] * language.transitions
    assert ((table / count - joint).abs() < 5 * (joint * (1 - joint) / count).sqrt() + 1e-12).all()
    assert torch.equal(first, language.sample(count, generator())[0])


def test_loss_is_the_expected_cross_entropy(language: BigramLanguage) -> None:
    logits = torch.randn(2, 7, 7, generator=generator(), dtype=torch.float64)
    expected = [
        sum(
            float(language.frequencies[i] * language.transitions[i, j] * F.cross_entropy(table[i], torch.tensor(j)))
            for i in range(7)
            for j in range(7)
        )
        for table in logits
    ]
    assert language.loss(logits).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_optimum_is_the_entropy() -> None:
    language = bigram_language(7, 0.0, 2.0, seed=1)
    log_p = language.transitions.log()
    mean = float((language.frequencies * language.entropies).sum())
    assert float(language.loss(log_p)) == pytest.approx(mean, abs=1e-12)
    assert language.entropy == pytest.approx(mean, abs=1e-14)
    assert float(language.excess_loss(log_p + 3.0).total) == pytest.approx(0, abs=1e-12)
    mixed = bigram_language(7, 0.43, 2.0, seed=1)
    assert float(mixed.loss(mixed.transitions.clamp_min(1e-30).log())) == pytest.approx(mixed.entropy, abs=1e-12)


def test_gradient_and_hessian_are_those_of_autograd(language: BigramLanguage) -> None:
    logits = torch.randn(7, 7, generator=generator(2), dtype=torch.float64, requires_grad=True)
    (by_autograd,) = torch.autograd.grad(language.loss(logits), logits)
    torch.testing.assert_close(language.gradient(logits), by_autograd, rtol=0, atol=1e-14)
    whole = torch.autograd.functional.hessian(language.loss, logits).reshape(49, 49)
    expected = torch.linalg.eigvalsh(whole)
    torch.testing.assert_close(
        language.hessian_eigenvalues(logits.detach()).flatten().sort().values, expected, rtol=0, atol=1e-13
    )


def test_deterministic_rows_flatten_as_they_are_learnt(language: BigramLanguage) -> None:
    row = int(language.deterministic.nonzero()[0])
    curvature, slope = [], []
    for certainty in (5.0, 10.0, 20.0):
        logits = certainty * language.transitions
        curvature.append(float(language.hessian_eigenvalues(logits)[row].max()))
        slope.append(float(language.gradient(logits)[row].norm()))
    assert curvature[0] > 100 * curvature[1] > 10_000 * curvature[2]
    assert slope[2] > 0
    uncertain = int((~language.deterministic).nonzero()[0])
    at_optimum = language.hessian_eigenvalues(language.transitions.clamp_min(1e-30).log())
    assert float(at_optimum[uncertain].max()) > 0.01


def test_the_covariance_of_gradients_is_the_hessian(language: BigramLanguage) -> None:
    row = int((~language.deterministic).nonzero()[0])
    p = language.transitions[row]
    pairs = torch.eye(7, dtype=torch.float64)
    gradients = p - pairs  # of the row, for each next token j, at the optimum
    covariance = language.frequencies[row] * torch.einsum("j,ja,jb->ab", p, gradients, gradients)
    expected = torch.linalg.eigvalsh(covariance)
    logits = language.transitions.clamp_min(1e-300).log()
    torch.testing.assert_close(language.hessian_eigenvalues(logits)[row], expected, rtol=0, atol=1e-14)


def test_excess_is_split_by_kind(language: BigramLanguage) -> None:
    logits = torch.randn(3, 7, 7, generator=generator(4), dtype=torch.float64)
    excess = language.excess_loss(logits)
    share = float(language.frequencies[language.deterministic].sum())
    torch.testing.assert_close(
        excess.total, share * excess.deterministic + (1 - share) * excess.stochastic, rtol=1e-12, atol=0
    )
    log_q = logits[1].log_softmax(-1)
    kl = [F.kl_div(log_q[i], language.transitions[i], reduction="sum") for i in range(7)]
    certain = [float(k) for i, k in enumerate(kl) if language.deterministic[i]]
    assert float(excess.deterministic[1]) == pytest.approx(sum(certain) / len(certain), rel=1e-10)
    assert language.excess_loss(logits.float()).total.dtype == torch.float64
    assert math.isnan(float(bigram_language(7, 0.0, seed=0).excess_loss(logits).deterministic[0]))


def test_stationary_excess_by_formula_and_approximation() -> None:
    language = bigram_language(64, 0.5, 0.5, seed=0)
    uncertain = language.transitions[~language.deterministic]
    eigenvalues = torch.cat([torch.linalg.eigvalsh((torch.diag(p) - torch.outer(p, p)) / 64) for p in uncertain])
    for eta in (8.0, 64.0):
        expected = float((eigenvalues / (2 - eta * eigenvalues)).sum()) * eta / 128
        assert language.stationary_excess(eta, 64) == pytest.approx(expected, rel=1e-9)
    trace = float((1 - (uncertain**2).sum(-1)).sum()) / 64
    assert language.stationary_excess(1e-3, 64) == pytest.approx(1e-3 / 256 * trace, rel=1e-4)
    # 0.119 and 0.238 nats on each stochastic row, give or take the draw of the rows.
    assert language.stationary_excess(32.0, 64) / 0.5 == pytest.approx(0.119, rel=0.03)


def test_sgd_settles_at_the_stationary_excess() -> None:
    # Many copies of a small language, at a rate where the quadratic approximation holds to a few per cent.
    language = bigram_language(4, 0.0, 5.0, seed=0)
    copies, batch, eta, random = 300, 16, 1.0, generator(5)
    logits = language.transitions.log().expand(copies, 4, 4).clone()
    found = []
    for step in range(220):
        first, following = language.sample(copies * batch, random)
        counts = torch.zeros(copies, 4, 4, dtype=torch.float64)
        copy = torch.arange(copies).repeat_interleave(batch)
        counts.index_put_((copy, first, following), torch.tensor(1 / batch, dtype=torch.float64), accumulate=True)
        logits -= eta * (counts.sum(-1, keepdim=True) * logits.softmax(-1) - counts)
        if step >= 100 and step % 10 == 0:
            found.append(float(language.excess_loss(logits).total.mean()))
    assert sum(found) / len(found) == pytest.approx(language.stationary_excess(eta, batch), rel=0.06)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bigram_language(1), "V"),
        (lambda: bigram_language(8, 1.5), "deterministic_fraction"),
        (lambda: bigram_language(8, 0.5, 0.0), "concentration"),
        (lambda: bigram_language(8, 0.5, 0.5, frequencies="zipf"), "frequencies"),  # type: ignore[arg-type]
        (lambda: BigramLanguage(torch.ones(3, 3), torch.ones(3) / 3), "transitions"),
        (lambda: BigramLanguage(torch.eye(3), torch.ones(3)), "frequencies"),
        (lambda: BigramLanguage(torch.eye(3), torch.ones(2) / 2), "shape|must be"),
        (lambda: bigram_language(8).loss(torch.zeros(8, 7)), "logits"),
        (lambda: bigram_language(8).stationary_excess(0.0, 4), "eta"),
        (lambda: bigram_language(8).stationary_excess(1e4, 4), "settle"),
        (lambda: bigram_language(8).stationary_excess(1.0, 0), "batch_size"),
        (lambda: bigram_language(8).sample(0, generator()), "count"),
    ],
)
def test_bad_values_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
