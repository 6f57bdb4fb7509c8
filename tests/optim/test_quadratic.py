"""Quadratics against simulation by hand, brute force and the minimax theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from landform.optim.quadratic import (
    chebyshev_residual,
    chebyshev_steps,
    quadratic_problem,
    residual_curve,
    second_moments,
    worst_case_residual,
)
from landform.optim.schedules import lr_factor, uba_factor


def test_chebyshev_steps_are_the_published_reciprocals() -> None:
    mu, L, T = 0.3, 7.0, 9
    t = np.arange(1, T + 1)
    published = 1 / ((L + mu) / 2 - (L - mu) / 2 * np.cos((2 * t - 1) * np.pi / (2 * T)))
    np.testing.assert_allclose(chebyshev_steps(mu, L, T).numpy(), published, rtol=1e-13)
    assert (chebyshev_steps(mu, L, T).diff() < 0).all()
    assert chebyshev_steps(mu, L, 1).item() == pytest.approx(2 / (mu + L))


@pytest.mark.parametrize(("mu", "L", "T"), [(1.0, 10.0, 10), (1.0, 100.0, 30), (0.01, 10.0, 100), (3.0, 4.0, 2)])
def test_chebyshev_residual_is_their_worst_case(mu: float, L: float, T: int) -> None:
    bound = 1 / math.cosh(T * math.acosh((L / mu + 1) / (L / mu - 1)))
    assert chebyshev_residual(mu, L, T) == pytest.approx(bound, rel=1e-11)
    # Both ends of the interval are extrema of the residual, so that any grid with the ends finds the maximum.
    assert worst_case_residual(chebyshev_steps(mu, L, T), mu, L).item() == pytest.approx(bound, rel=1e-9)


def test_published_numbers() -> None:
    assert chebyshev_residual(1.0, 10.0, 10) == pytest.approx(0.00286, abs=5e-6)
    assert chebyshev_residual(1.0, 100.0, 30) == pytest.approx(0.0049, abs=5e-5)


def test_no_steps_beat_chebyshev() -> None:
    mu, L, T = 1.0, 20.0, 3
    rng = np.random.default_rng(0)

    def worst(log_etas: np.ndarray) -> float:
        return float(worst_case_residual(np.exp(log_etas), mu, L, n=4001))

    starts = rng.uniform(-math.log(L), 0, (8, T))
    best = min(minimize(worst, x0, method="Nelder-Mead", options={"maxiter": 600, "fatol": 1e-10}).fun for x0 in starts)
    assert best == pytest.approx(chebyshev_residual(mu, L, T), rel=1e-3)
    assert best >= chebyshev_residual(mu, L, T) * (1 - 1e-6)


def test_extreme_intervals() -> None:
    assert chebyshev_residual(2.0, 2.0, 5) == 0.0
    np.testing.assert_allclose(chebyshev_steps(2.0, 2.0, 3).numpy(), 0.5)
    assert 0 <= chebyshev_residual(1.0, 1.5, 100_000) < 1e-300
    assert chebyshev_residual(1e-12, 1.0, 1) == pytest.approx(1.0, rel=1e-9)


def test_leja_is_a_permutation_whose_partial_products_stay_small() -> None:
    mu, L, T = 1.0, 100.0, 30
    descending, leja = chebyshev_steps(mu, L, T), chebyshev_steps(mu, L, T, order="leja")
    torch.testing.assert_close(leja.sort().values, descending.sort().values)

    def largest_partial(etas: torch.Tensor) -> float:
        grid = torch.linspace(mu, L, 501, dtype=torch.float64)
        return float((1 - etas[:, None] * grid).cumprod(0).abs().max())

    assert largest_partial(leja) < 100  # every first step is an overshoot of at most 1/mu · L
    assert largest_partial(descending) > 1e10


def test_leja_order_by_brute_force() -> None:
    curvature = (1 / chebyshev_steps(1.0, 50.0, 8)).tolist()
    order = [max(curvature)]
    while len(order) < 8:
        left = [c for c in curvature if c not in order]
        order.append(max(left, key=lambda c: math.prod(abs(c - taken) for taken in order)))
    np.testing.assert_allclose(1 / chebyshev_steps(1.0, 50.0, 8, order="leja").numpy(), order, rtol=1e-12)


def test_worst_case_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    etas = rng.uniform(0, 0.4, (2, 3, 6))
    grid = np.linspace(0.5, 4.0, 101)
    brute = np.abs(np.prod(1 - etas[..., None, :] * grid[:, None], axis=-1))
    np.testing.assert_allclose(residual_curve(etas, grid).numpy(), brute, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(worst_case_residual(etas, 0.5, 4.0, n=101).numpy(), brute.max(-1), rtol=1e-12)
    assert residual_curve([0.5], [2.0]).item() == 0.0


def test_partial_products_do_not_overflow() -> None:
    etas = chebyshev_steps(1e-6, 1.0, 2000)
    assert worst_case_residual(etas, 1e-6, 1.0).item() == pytest.approx(chebyshev_residual(1e-6, 1.0, 2000), rel=1e-6)


def test_gradient_descent_with_uba_steps_is_the_product() -> None:
    mu, L, T = 0.1, 4.0, 12
    etas = (
        1 / mu * lr_factor(lambda s: uba_factor(s, 2 * L / mu), np.arange(T), T, eta_min_ratio=mu / L, grid="midpoint")
    )
    problem = quadratic_problem(torch.linspace(mu, L, 9).double(), seed=3)
    x = problem.start.clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1.0)
    for eta in etas:
        optimizer.param_groups[0]["lr"] = eta
        optimizer.zero_grad()
        problem.loss(x).backward()
        optimizer.step()
    expected = residual_curve(etas, problem.spectrum) * problem.start.abs()
    # The iterate grows by up to 1e7 on the way, and float64 keeps the difference to that.
    torch.testing.assert_close(x.detach().abs(), expected, rtol=1e-7, atol=1e-9)


def test_gradient_is_that_of_the_loss() -> None:
    problem = quadratic_problem([0.5, 3.0, 7.0], seed=1)
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(problem.loss(x), x)
    torch.testing.assert_close(problem.gradient(x.detach()), gradient)
    assert problem.condition_number == 14.0


def test_moments_by_hand() -> None:
    moments = second_moments(torch.tensor([2.0]).double(), [0.25, 0.1], 3.0, torch.tensor([4.0]).double())
    first = 0.25 * 4 + 0.0625 * 9
    np.testing.assert_allclose(moments[:, 0].numpy(), [4, first, 0.64 * first + 0.01 * 9], rtol=1e-14)


def test_moments_are_those_of_sampled_runs() -> None:
    problem = quadratic_problem([0.2, 1.0, 5.0], noise=0.7, seed=5)
    etas = torch.linspace(0.3, 0.02, 25)
    runs = 200_000
    generator = torch.Generator().manual_seed(0)
    x = problem.start.expand(runs, 3)
    for eta in etas:
        x = x - eta * (problem.gradient(x) + problem.noise * torch.randn(runs, 3, generator=generator))
    squares = x**2
    error = squares.std(0) / math.sqrt(runs)
    assert ((squares.mean(0) - problem.second_moments(etas)[-1]).abs() < 4 * error).all()
    loss = problem.loss(x)
    assert abs(loss.mean() - problem.expected_loss(etas)[-1]) < 4 * loss.std() / math.sqrt(runs)


def test_stationary_moment() -> None:
    h, eta, sigma = 3.0, 0.2, 0.5
    moments = second_moments(torch.tensor([h]).double(), [eta] * 400, sigma, torch.zeros(1).double())
    assert moments[-1].item() == pytest.approx(eta * sigma**2 / (h * (2 - eta * h)), rel=1e-12)


def test_moments_of_many_runs_are_those_of_each() -> None:
    problem = quadratic_problem([0.2, 1.0, 5.0], noise=0.7)
    etas = torch.rand(4, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 5
    together = problem.expected_loss(etas)
    assert together.shape == (4, 2, 7)
    torch.testing.assert_close(together[3, 1], problem.expected_loss(etas[3, 1]))


def test_start_depends_on_the_seed_alone() -> None:
    same = quadratic_problem([1.0, 2.0], seed=4).start
    torch.testing.assert_close(same, quadratic_problem([5.0, 7.0], noise=1.0, seed=4).start)
    assert not torch.equal(same, quadratic_problem([1.0, 2.0], seed=5).start)


def test_bad_values_are_named() -> None:
    for mu, L in ((0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="mu"):
            chebyshev_steps(mu, L, 3)
        with pytest.raises(ValueError, match="mu"):
            worst_case_residual([0.1], mu, L)
    with pytest.raises(ValueError, match="T=0"):
        chebyshev_residual(1.0, 2.0, 0)
    with pytest.raises(ValueError, match="order"):
        chebyshev_steps(1.0, 2.0, 3, order="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n=1"):
        worst_case_residual([0.1], 1.0, 2.0, n=1)
    with pytest.raises(ValueError, match="etas"):
        worst_case_residual([], 1.0, 2.0)
    with pytest.raises(ValueError, match="etas"):
        worst_case_residual([math.nan], 1.0, 2.0)
    for bad in ([], [[1.0]], [-1.0], [math.inf]):
        with pytest.raises(ValueError, match="spectrum"):
            quadratic_problem(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noise"):
        quadratic_problem([1.0], noise=-0.1)
    with pytest.raises(ValueError, match="start"):
        second_moments(torch.ones(3), [0.1], 0.0, torch.ones(1))
