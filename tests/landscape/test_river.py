"""River valleys against autograd, simulation, numerical optimisation and the definition of a river."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize

from landform.landscape.river import (
    RiverValley,
    is_valley_shaped,
    optimal_decay,
    optimal_rates,
    river_valley,
    valley_depth,
)
from landform.optim.schedules import WSDS, CyclicCosine, WarmupStableDecay, sum_of_lr


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sgd(rate: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


@pytest.fixture
def curved() -> RiverValley:
    return river_valley("curved", dim_hill=2, curvatures=[30.0, 50.0], slope=0.7, amplitude=0.9, omega=0.6)


def test_loss_by_hand() -> None:
    valley = river_valley("curved", dim_hill=2, curvatures=[2.0, 4.0], slope=3.0, amplitude=2.0, omega=0.5)
    w = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64)
    c = 2 * math.sin(0.5)
    hill = (2 * (0.5 - c) ** 2 + 4 * (-1 - c) ** 2) / 2
    x, found = valley.project(w)
    assert (float(x), float(found)) == pytest.approx((1.0, hill), rel=1e-14)
    assert float(valley.loss(w)) == pytest.approx(hill - 3, rel=1e-14)
    assert valley.river(1.0).tolist() == pytest.approx([1, c, c], rel=1e-14)
    assert river_valley("straight", amplitude=7.0).river(torch.tensor([1.0, 2.0])).tolist() == [[1, 0], [2, 0]]


def test_defaults_are_the_published_valley() -> None:
    valley = river_valley("curved")
    assert (valley.dim_hill, valley.curvatures.tolist(), valley.slope) == (1, [50.0], 1.0)
    assert (valley.amplitude, valley.omega, valley.noise) == (1.0, 0.5, 0.0)


def test_gradient_and_hessian_are_those_of_autograd(curved: RiverValley) -> None:
    points = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    for w in points:
        gradient = torch.autograd.functional.jacobian(curved.loss, w)
        torch.testing.assert_close(curved.grad(w), gradient, rtol=1e-12, atol=1e-12)
        hessian = torch.autograd.functional.hessian(curved.loss, w)
        torch.testing.assert_close(curved.hessian(w), hessian, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(curved.grad(points)[3], curved.grad(points[3]))
    assert curved.hessian(points).shape == (5, 3, 3)


# ---- the river


def test_gradient_flow_falls_into_the_river_and_follows_it() -> None:
    errors, misalignments = [], []
    for h in (50.0, 200.0):
        valley = river_valley("curved", curvatures=h)
        start = valley.river(0.0) + torch.tensor([0.0, 0.05], dtype=torch.float64)
        path = valley.gradient_flow(start, 6.0, steps=int(12 * h))
        misalignments.append(float(valley.misalignment(path[-1])))
        # From where it has fallen in, it follows the projected flow.
        fallen = len(path) // 6
        river = valley.projected_flow(path[fallen], 5.0, steps=400)
        errors.append(float((river[-1] - path[-1]).norm()))
        time = float(valley.river_time(path[-1, 0]) - valley.river_time(path[fallen, 0]))
        assert time == pytest.approx(5, abs=1 / h)
    assert float(valley.misalignment(start)) > 0.5
    assert misalignments[1] < misalignments[0] / 3 < 0.01
    assert errors[1] < errors[0] / 3 < 0.02


def test_a_straight_river_is_exact() -> None:
    valley = river_valley("straight", dim_hill=3, slope=0.5)
    assert float(valley.misalignment(valley.river(2.0))) == pytest.approx(0, abs=1e-15)
    assert float(valley.misalignment(torch.tensor([0.0, 1.0, 0.0, 0.0]))) > 0.9
    flow = valley.projected_flow(valley.river(1.0), 3.0, steps=5)
    torch.testing.assert_close(flow[-1], valley.river(2.5))


def test_time_along_the_river_is_the_integral(curved: RiverValley) -> None:
    for x in (-4.0, 0.3, 7.0):
        integral = quad(lambda u: (1 + 2 * (0.9 * 0.6 * math.cos(0.6 * u)) ** 2) / 0.7, 0, x)[0]
        assert float(curved.river_time(x)) == pytest.approx(integral, rel=1e-10)
    solved = solve_ivp(
        lambda _, x: 0.7 / (1 + 2 * (0.54 * np.cos(0.6 * x)) ** 2), (0, 20), [0.0], rtol=1e-10, atol=1e-12
    )
    assert float(curved.river_progress(20.0)) == pytest.approx(solved.y[0, -1], rel=1e-8)
    times = torch.tensor([-3.0, 0.0, 5.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(curved.river_time(curved.river_progress(times)), times, rtol=1e-12, atol=1e-12)


def test_slow_gradient_descent_on_a_curved_valley_keeps_the_rivers_time() -> None:
    valley = river_valley("curved", curvatures=200.0)
    etas = WSDS(sgd(2e-3), [1500, 3000], 30).values() * 2e-3
    end = valley.sgd(valley.river(0.0), etas)[-1]
    assert float(end[0]) == pytest.approx(float(valley.river_progress(etas.sum())), abs=0.03)
    assert float(valley.project(end)[1]) < 1e-3


# ---- SGD in a straight valley


def test_progress_depends_on_the_sum_of_rates_alone() -> None:
    valley = river_valley("straight", dim_hill=2, slope=1.3)
    first = CyclicCosine(sgd(0.01), [100, 300], 10)
    second = WarmupStableDecay(sgd(0.01 * sum_of_lr(first) / sum_of_lr(WarmupStableDecay(sgd(0.01), 300, 40))), 300, 40)
    ends = []
    for schedule in (first, second):
        etas = schedule.values() * schedule.base_lrs[0]
        path = valley.sgd(torch.zeros(3), etas)
        ends.append(float(path[-1, 0]))
        torch.testing.assert_close(valley.expected_progress(etas), path[:, 0], rtol=1e-12, atol=1e-12)
    assert ends[0] == pytest.approx(ends[1], rel=1e-12)
    assert ends[0] == pytest.approx(1.3 * sum_of_lr(first), rel=1e-12)


def test_simulated_moments_are_the_exact_ones() -> None:
    valley = river_valley("straight", dim_hill=3, curvatures=[5.0, 20.0, 60.0], noise=0.8)
    etas = WSDS(sgd(0.02), [60, 120], 5, 0.3, "cycle").values() * 0.02
    runs = 20_000
    path = valley.sgd(torch.zeros(runs, 4), etas, generator())
    exact = valley.sgd_moments(etas)
    assert exact.shape == (121, 3)
    squares = path[..., 1:] ** 2
    error = (squares.mean(1) - exact) / (squares.std(1) / math.sqrt(runs) + 1e-12)
    assert float(error.abs().max()) < 5
    torch.testing.assert_close(valley.expected_hill_loss(etas), (exact * valley.curvatures).sum(-1) / 2)
    # x has no noise, and independent runs may have rates of their own.
    assert float(path[-1, :, 0].std()) < 1e-12
    both = valley.sgd_moments(torch.tensor(np.stack([etas, etas / 2])))
    torch.testing.assert_close(both[0], exact)
    torch.testing.assert_close(both[1], valley.sgd_moments(etas / 2))


def test_stationary_hill_loss_within_three_standard_errors() -> None:
    valley = river_valley("straight", dim_hill=2, curvatures=[10.0, 50.0], noise=1.0)
    for eta in (0.005, 0.02, 0.035):
        steps, runs = 400, 4000
        path = valley.sgd(torch.zeros(runs, 3), [eta] * steps, generator(1))
        _, hill = valley.project(path[-1])
        expected = sum(eta / (2 * (2 - eta * h)) for h in (10.0, 50.0))
        assert valley.stationary_hill_loss(eta) == pytest.approx(expected, rel=1e-14)
        assert abs(float(hill.mean()) - expected) < 3 * float(hill.std()) / math.sqrt(runs)
        moments = valley.sgd_moments([eta] * 2000)
        torch.testing.assert_close(moments[-1], valley.stationary_moments(eta), rtol=1e-6, atol=0)
    assert valley.stationary_hill_loss(1e-6) == pytest.approx(1e-6 * 2 / 4, rel=1e-4)


def test_too_high_a_rate_diverges() -> None:
    valley = river_valley("straight", noise=1.0)
    assert float(valley.sgd_moments([0.0401] * 20_000)[-1]) > 1e6
    assert float(valley.sgd_moments([0.0399] * 20_000)[-1]) < 10
    with pytest.raises(ValueError, match="to settle"):
        valley.stationary_hill_loss(0.04)


# ---- the best decay


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_no_rates_beat_the_optimal_ones(steps: int) -> None:
    h, noise, eta = 3.0, 0.7, 0.25
    valley = river_valley("straight", curvatures=h, noise=noise)
    start = valley.stationary_moments(eta)
    rates, moments = optimal_rates(h, noise, float(start), steps)

    def after(etas: np.ndarray) -> float:
        return float(valley.sgd_moments(etas, start)[-1, 0])

    best = min(
        (minimize(after, x0, tol=1e-12) for x0 in (np.full(steps, eta / 2), np.full(steps, 0.1))), key=lambda r: r.fun
    )
    assert float(moments[-1]) == pytest.approx(best.fun, rel=1e-9)
    np.testing.assert_allclose(rates, best.x, rtol=1e-3)
    np.testing.assert_allclose(valley.sgd_moments(rates, start)[:, 0], moments, rtol=1e-12)


def test_the_optimal_decay_is_the_inverse_shape() -> None:
    h, eta = 3.0, 0.25
    rates = optimal_decay(eta, h, 12)
    np.testing.assert_allclose(1 / rates - 1 / rates[0], h * np.arange(12), rtol=1e-12)
    assert float(rates[0]) == pytest.approx(eta / 2)
    valley = river_valley("straight", curvatures=h, noise=0.7)
    greedy, _ = optimal_rates(h, 0.7, float(valley.stationary_moments(eta)), 12)
    torch.testing.assert_close(rates, greedy, rtol=1e-12, atol=0)
    # A WSD decay of the inverse shape with the matching floor has these rates, one update on and from 2/eta down.
    ratio = 1 / (1 + eta * h * 12 / 2)
    shape = WarmupStableDecay(sgd(eta / 2), 24, decay=0.5, min_ratio=ratio).values()[12:] * eta / 2
    np.testing.assert_allclose(shape, rates, rtol=1e-12)


# ---- profiles


@pytest.mark.parametrize(
    ("profile", "depth", "valley"),
    [
        ([2.0, 1.0, 1.5], 0.5, True),
        ([1.5, 1.0, 2.0], 0.5, True),
        ([2.0, 1.8, 1.5], 0.0, False),
        ([1.0, 1.0, 1.0], 0.0, False),
        ([1.0, 3.0, 1.5], 0.0, False),
        ([1.0, 1.6, 0.2, 1.5], 0.8, False),
    ],
)
def test_what_is_a_valley(profile: list[float], depth: float, valley: bool) -> None:
    assert valley_depth(profile) == pytest.approx(depth)
    assert is_valley_shaped(profile) is valley
    assert is_valley_shaped(torch.tensor(profile), tolerance=0.6) is (depth > 0.6 and profile[1] < 1.6 + 0.6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: river_valley("bent"), "kind"),  # type: ignore[arg-type]
        (lambda: river_valley(dim_hill=0), "dim_hill"),
        (lambda: river_valley(dim_hill=2, curvatures=[1.0, 2.0, 3.0]), "curvatures"),
        (lambda: river_valley(curvatures=-1.0), "curvatures"),
        (lambda: river_valley(curvatures=math.nan), "curvatures"),
        (lambda: river_valley(slope=0.0), "slope"),
        (lambda: river_valley(omega=math.inf), "omega"),
        (lambda: river_valley(amplitude=math.nan), "amplitude"),
        (lambda: river_valley(noise=-1.0), "noise"),
        (lambda: river_valley().loss(torch.zeros(3)), "last axis"),
        (lambda: river_valley().sgd(torch.zeros(2), []), "etas"),
        (lambda: river_valley("curved").sgd_moments([0.1]), "straight"),
        (lambda: river_valley("curved").expected_progress([0.1]), "straight"),
        (lambda: river_valley("curved").stationary_moments(0.01), "straight"),
        (lambda: river_valley().projected_flow(torch.zeros(2), 0.0), "time"),
        (lambda: river_valley().gradient_flow(torch.zeros(2), 1.0, steps=0), "steps"),
        (lambda: optimal_rates(1.0, 0.0, 1.0, 3), "noise"),
        (lambda: optimal_rates(1.0, 1.0, 1.0, 0), "steps"),
        (lambda: optimal_decay(2.0, 1.0, 3), "settle"),
        (lambda: optimal_decay(0.1, 1.0, 0), "steps"),
        (lambda: valley_depth([1.0, 2.0]), "profile"),
        (lambda: is_valley_shaped([1.0, math.nan, 2.0]), "finite"),
    ],
)
def test_bad_values_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
