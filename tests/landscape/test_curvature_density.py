"""Stochastic Lanczos quadrature and Hutchinson's trace, against exact spectra."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landform.landscape import CurvatureOperator, hutchinson_trace, near_zero_fraction, spectral_density, split_spectrum


def network() -> CurvatureOperator:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    return CurvatureOperator(model, "ce", (torch.randn(30, 6).double(), torch.arange(30) % 4))


def test_moments_are_those_of_the_spectrum() -> None:
    operator = network()
    dense = operator.to_dense()
    found = spectral_density(operator, steps=20, probes=100)
    assert found.nodes.shape == found.weights.shape == (100, 20)
    assert torch.allclose(found.weights.sum(1), torch.ones(100, dtype=torch.float64), rtol=0, atol=1e-12)
    size = len(dense)
    for power in (1, 2):
        exact = float(torch.linalg.matrix_power(dense, power).trace()) / size
        each = (found.weights * found.nodes**power).sum(1)
        assert abs(float(each.mean()) - exact) < 3 * float(each.std()) / math.sqrt(100)
        assert found.mean(lambda t, power=power: t**power) == pytest.approx(float(each.mean()), rel=1e-12)  # type: ignore[misc]


def test_one_probe_is_exact_for_a_diagonal_matrix() -> None:
    """Every vector of signs has the same share of each eigenvector."""
    eigenvalues = torch.tensor([9.0, 4.0, 4.0, 1.0, 1.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    found = spectral_density(torch.diag(eigenvalues), probes=3, sigma=0.3, grid=torch.linspace(-5, 12, 401))
    assert found.mean(torch.exp) == pytest.approx(float(eigenvalues.exp().mean()), rel=1e-12)
    assert found.mean(lambda t: (t.abs() < 1.5).double()) == pytest.approx(0.5, abs=1e-12)
    shape = torch.distributions.Normal(eigenvalues[:, None], 0.3).log_prob(found.grid).exp().mean(0)
    assert torch.allclose(found.density, shape, rtol=0, atol=1e-12)
    assert found.weights[:, 5:].abs().max() == 0  # five distinct eigenvalues take five of eight steps


@pytest.mark.parametrize("arguments", [{}, {"sigma": 0.002, "probes": 1}, {"grid": 500, "steps": 10}])
def test_density_integrates_to_one_over_its_own_grid(arguments: dict[str, Any]) -> None:
    found = spectral_density(network(), **arguments)
    assert len(found.grid) == arguments.get("grid", 10_000)
    assert torch.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-12)
    assert (found.density >= 0).all()


def test_defaults_of_steps_probes_and_width() -> None:
    found = spectral_density(torch.diag(torch.linspace(0, 1, 300).double()))
    assert found.nodes.shape == (4, 80)
    low, high = found.nodes.min(), found.nodes.max()
    sigma = 0.01 * float(high - low)
    assert found.grid[0] == pytest.approx(float(low) - 5 * sigma)
    assert found.grid[-1] == pytest.approx(float(high) + 5 * sigma)
    heights = found.weights / (4 * sigma * math.sqrt(2 * math.pi))
    place = found.grid[5000]
    expected = (heights * torch.exp(-0.5 * ((place - found.nodes) / sigma) ** 2)).sum()
    assert found.density[5000] == pytest.approx(float(expected), rel=1e-5)
    assert spectral_density(network().to_dense()[:20, :20]).nodes.shape == (4, 20)


def test_a_spectrum_of_one_value_has_a_density() -> None:
    for constant in (0.0, 2.0):
        found = spectral_density(constant * torch.eye(7), probes=2)
        assert torch.trapezoid(found.density, found.grid) == pytest.approx(1)
        assert found.mean(lambda t: t) == pytest.approx(constant)


def test_density_is_reproducible_and_its_arguments_are_checked() -> None:
    matrix = network().to_dense()
    first, again = spectral_density(matrix), spectral_density(matrix, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.density, again.density)
    for bad in (
        {"steps": 0},
        {"probes": 0},
        {"sigma": 0.0},
        {"sigma": math.nan},
        {"grid": 1},
        {"grid": torch.zeros(3, 3)},
        {"grid": torch.zeros(1)},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            spectral_density(matrix, **bad)  # type: ignore[arg-type]


def test_trace_of_a_diagonal_matrix_is_exact() -> None:
    eigenvalues = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, stderr = hutchinson_trace(torch.diag(eigenvalues))
    assert mean == pytest.approx(float(eigenvalues.sum()), rel=1e-12)
    assert stderr == pytest.approx(0, abs=1e-13)


def test_trace_is_covered_by_its_interval_and_has_the_known_variance() -> None:
    matrix = network().to_dense()
    exact = float(matrix.trace())
    estimates = [
        hutchinson_trace(matrix, 50, tol=0.0, generator=torch.Generator().manual_seed(seed)) for seed in range(200)
    ]
    covered = np.mean([abs(mean - exact) < 1.96 * stderr for mean, stderr in estimates])
    assert 0.9 < covered < 0.99
    variance = 2 * float(matrix.fill_diagonal_(0).square().sum()) / 50
    assert np.mean([stderr**2 for _, stderr in estimates]) == pytest.approx(variance, rel=0.1)


def test_trace_stops_at_its_tolerance() -> None:
    class Counted:
        shape, dtype, products = (40, 40), torch.float64, 0
        matrix = torch.diag(torch.linspace(1, 2, 40).double()) + 0.001 * (1 - torch.eye(40).double())

        def matvec(self, v: Tensor) -> Tensor:
            self.products += 1
            return self.matrix @ v

    exact, loose = Counted(), Counted()
    hutchinson_trace(exact, 60, tol=0.0)
    mean, stderr = hutchinson_trace(loose, 60)
    assert exact.products == 60
    assert loose.products == 10
    assert stderr <= 1e-3 * mean
    with pytest.raises(ValueError, match="probes=1"):
        hutchinson_trace(exact, 1)
    with pytest.raises(ValueError, match="tol=-1"):
        hutchinson_trace(exact, tol=-1)


def test_gap_rule_by_hand() -> None:
    eigenvalues = [0.4, 10.0, 8.0, 6.0, 0.3, 0.2, 0.1, -0.05, 0.01, 0.0001]
    found = split_spectrum(eigenvalues, n_classes=3)
    assert (found.count, found.gap) == (3, pytest.approx(15))
    assert found.outliers.tolist() == [10, 8, 6]
    assert found.bulk.tolist() == [0.4, 0.3, 0.2, 0.1, 0.01, 0.0001, -0.05]
    # The ratio of 100 between the last two positive values lies beyond 2K: for more classes it would be the gap.
    assert split_spectrum(eigenvalues, n_classes=5).count == 8


@pytest.mark.parametrize(
    ("eigenvalues", "count"),
    [
        ([5.0, 3.0, 0.0, 0.0, 0.0], 2),
        ([5.0, 3.0, 1e-17, -1e-18, -1e-17], 2),
        ([5.0, 3.0, 1e-17, 1e-25, 1e-40], 2),
        ([5.0, 3.0, -0.1, -2.0, -3.0], 2),
        ([5.0, 0.1], 1),
    ],
)
def test_gap_rule_where_eigenvalues_end_in_rounding(eigenvalues: list[float], count: int) -> None:
    assert split_spectrum(torch.tensor(eigenvalues, dtype=torch.float64), n_classes=4).count == count


def test_edge_rule_by_hand() -> None:
    bulk = np.linspace(0.01, 1, 100)
    eigenvalues = np.concatenate([[50, 40, 30, 2.5, 1.9], bulk, -bulk])
    found = split_spectrum(eigenvalues, n_classes=2, rule="edge")  # without the 4 largest the edge is 0.96
    edge = np.quantile(np.append(bulk, 1.9), 0.95)
    assert found.count == int((eigenvalues > 2 * edge).sum()) == 4
    assert split_spectrum(eigenvalues, n_classes=2, rule="edge", factor=1.5).count == 5
    nothing = split_spectrum(bulk, n_classes=2, rule="edge")
    assert (nothing.count, nothing.gap, len(nothing.bulk)) == (0, 1.0, 100)


def test_reading_a_spectrum_checks_its_arguments() -> None:
    for eigenvalues, arguments, match in (
        ([1.0, 2.0], {"n_classes": 1}, "n_classes=1"),
        ([1.0, 2.0], {"n_classes": 2, "rule": "eye"}, "'gap', 'edge'"),
        ([1.0, 2.0], {"n_classes": 2, "factor": 0.5}, r"factor=0\.5"),
        ([1.0], {"n_classes": 2}, "must have two"),
        ([-1.0, 0.0], {"n_classes": 2}, "one positive"),
        ([1.0, math.nan], {"n_classes": 2}, "not finite"),
        ([[1.0]], {"n_classes": 2}, "vector"),
        ([1.0, 2.0], {"n_classes": 2, "rule": "edge"}, "no edge"),
    ):
        with pytest.raises(ValueError, match=match):
            split_spectrum(eigenvalues, **arguments)  # type: ignore[arg-type]


def test_near_zero_fraction() -> None:
    assert near_zero_fraction([-10.0, 1.0, 0.0099, 0.01, 0.0]) == pytest.approx(2 / 5)
    assert near_zero_fraction(torch.tensor([2.0, 0.5]), rel=0.5) == 0.5
    assert near_zero_fraction([0.0, 0.0]) == 1
    with pytest.raises(ValueError, match="rel=0"):
        near_zero_fraction([1.0], rel=0)
    with pytest.raises(ValueError, match="at least one"):
        near_zero_fraction([])
