"""Distances between sets of points, against closed forms and brute force."""

from __future__ import annotations

import builtins
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linprog

from landform.metrics.transport import feature_correlation_r, rbf_mmd2, transport_plan, wasserstein_distance


@pytest.fixture
def sets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (7, 5))


@pytest.mark.parametrize("p", [1, 2])
def test_distance_of_a_shifted_set_is_the_shift(sets, p):
    a = sets[0]
    shift = torch.tensor([3.0, 0.0, -4.0])
    assert wasserstein_distance(a, a, p) == 0
    assert wasserstein_distance(a, (a + shift).flip(0), p) == pytest.approx(5, abs=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_distance_is_the_best_of_all_matchings(sets, p):
    a, b = sets[0][:5], sets[1]
    best = min(
        np.mean([float((a[i] - b[j]).norm()) ** p for i, j in enumerate(order)])
        for order in itertools.permutations(range(5))
    )
    assert wasserstein_distance(a, b, p) == pytest.approx(best ** (1 / p), abs=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_sets_of_different_sizes_solve_the_linear_programme(sets, p):
    pytest.importorskip("ot")
    a, b = sets
    n, m = len(a), len(b)
    costs = (torch.cdist(a, b) ** p).numpy()
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    solved = linprog(
        costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)]
    ).fun
    assert wasserstein_distance(a, b, p) == pytest.approx(solved ** (1 / p), abs=1e-9)
    assert wasserstein_distance(a, b, p) == pytest.approx(wasserstein_distance(b, a, p), abs=1e-12)
    assert wasserstein_distance(a, b, 1) < wasserstein_distance(a, b, 2)


@pytest.mark.parametrize("sizes", [(6, 6), (6, 4)])
def test_a_plan_has_uniform_marginals(sets, sizes):
    if sizes[0] != sizes[1]:
        pytest.importorskip("ot")
    a, b = torch.randn(sizes[0], 2), torch.randn(sizes[1], 2)
    plan = transport_plan(a, b)
    whole = np.zeros(sizes)
    np.add.at(whole, (plan.rows, plan.columns), plan.mass)
    np.testing.assert_allclose(whole.sum(1), 1 / sizes[0], atol=1e-12)
    np.testing.assert_allclose(whole.sum(0), 1 / sizes[1], atol=1e-12)


def test_in_one_dimension_the_plan_sorts():
    a, b = torch.randn(20, 1), torch.randn(20, 1)
    plan = transport_plan(a, b)
    assert torch.equal(a[plan.rows, 0].argsort(), b[plan.columns, 0].argsort())


def test_mmd_by_its_definition(sets):
    a, b = sets

    def kernel(x, y, gamma):
        return np.mean([math.exp(-gamma * float((u - v).square().sum())) for u in x for v in y])

    expected = np.mean([kernel(a, a, g) + kernel(b, b, g) - 2 * kernel(a, b, g) for g in (2, 1, 0.5, 0.1, 0.01, 0.005)])
    assert rbf_mmd2(a, b) == pytest.approx(expected, abs=1e-14)
    assert rbf_mmd2(a, a.flip(0)) == pytest.approx(0, abs=1e-15)
    assert rbf_mmd2(b, a) == pytest.approx(expected, abs=1e-14)
    assert rbf_mmd2(a, b, gammas=(0.5,)) == pytest.approx(
        kernel(a, a, 0.5) + kernel(b, b, 0.5) - 2 * kernel(a, b, 0.5), abs=1e-14
    )


def test_feature_correlation_as_pandas_has_it():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(30, 5))
    b[:, 1] += b[:, 0]
    upper = np.triu(np.ones((5, 5), dtype=bool), k=1)
    first, second = (pd.Series(pd.DataFrame(x).corr().to_numpy()[upper]) for x in (a, b))
    assert feature_correlation_r(a, b) == pytest.approx(first.corr(second), abs=1e-12)
    assert feature_correlation_r(a, -3 * a + 2) == pytest.approx(1)
    constant = a.copy()
    constant[:, 4] = 1  # as though the feature were not there
    assert feature_correlation_r(constant, b) == pytest.approx(feature_correlation_r(a[:, :4], b[:, :4]), abs=1e-12)


@pytest.mark.parametrize("measure", [wasserstein_distance, rbf_mmd2, feature_correlation_r])
@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        (torch.zeros(4), torch.zeros(4, 3), "a has shape"),
        (torch.zeros(4, 3), torch.zeros(0, 3), "b has shape"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "features"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 3), "a holds"),
    ],
)
def test_sets_that_cannot_be_compared_are_named(measure, a, b, match):
    with pytest.raises(ValueError, match=match):
        measure(a, b)


def test_options_that_cannot_be_are_named():
    a = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="p=3"):
        wasserstein_distance(a, a, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gammas"):
        rbf_mmd2(a, a, gammas=())
    with pytest.raises(ValueError, match="3 features"):
        feature_correlation_r(a, a)


def test_without_pot_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "ot":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"landform\[transport\]"):
        wasserstein_distance(torch.zeros(3, 2), torch.zeros(4, 2))
    assert wasserstein_distance(torch.zeros(3, 2), torch.ones(3, 2), 1) == pytest.approx(math.sqrt(2))
