"""Power-law fits: exact data, ordinary least squares, general-purpose optimisers, and what their intervals cover."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from landform.scaling import PowerLaw, TwoTermLaw, fit_power_law
from landform.scaling.robust import huber_moments

N = np.geomspace(1e4, 1e9, 12)
# Published L(N) and L(C) of arXiv 2010.14701 (constant, scale, exponent).
SIZE_LAWS = [(3.12, 8.0e1, 0.24), (2.64, 2.8e2, 0.22), (2.20, 6.3e1, 0.13), (3.99, 2.7e4, 0.13), (0.28, 1.1e4, 0.16)]
COMPUTE_LAWS = [(3.13, 1.8e-8, 0.19), (2.21, 3.6e-9, 0.10), (4.09, 6.1e-7, 0.11), (0.95, 2.2e-5, 0.14)]


def noisy(law: Any, x: np.ndarray, noise: float, seed: int = 0) -> np.ndarray:
    return np.asarray(law(x) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(x))))


@pytest.mark.parametrize("truth", SIZE_LAWS)
@pytest.mark.parametrize("loss", ["huber_log", "squared_log"])
def test_exact_size_laws_are_found(truth: tuple[float, float, float], loss: Any) -> None:
    fit = fit_power_law(N, PowerLaw(*truth)(N), "power+const", loss=loss)
    np.testing.assert_allclose(fit.parameters, truth, rtol=1e-9)
    assert fit.constant_identified
    assert abs(fit.residuals).max() < 1e-12


@pytest.mark.parametrize("truth", COMPUTE_LAWS)
def test_exact_compute_laws_are_found(truth: tuple[float, float, float]) -> None:
    C = np.geomspace(1e-9, 1e1, 9)
    np.testing.assert_allclose(fit_power_law(C, PowerLaw(*truth)(C), "power+const").parameters, truth, rtol=1e-9)


@pytest.mark.parametrize(("x_0", "alpha"), [(1.47e14, 0.070), (3.47e8, 0.048)])
def test_exact_laws_without_a_constant(x_0: float, alpha: float) -> None:
    y = (x_0 / N) ** alpha
    plain = fit_power_law(N, y, "power")
    assert plain.law == PowerLaw(0.0, plain.law.x_0, plain.law.alpha)
    np.testing.assert_allclose(plain.parameters[1:], (x_0, alpha), rtol=1e-9)
    free = fit_power_law(N, y, "power+const")
    np.testing.assert_allclose(free.parameters, (0, x_0, alpha), rtol=1e-6, atol=1e-7)
    assert not free.constant_identified


def test_an_exact_law_of_size_and_data_is_found() -> None:
    truth = TwoTermLaw(E=1.69, A=406.4, a=0.34, G=410.7, b=0.28)
    x = np.stack(np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 1e12, 5)), -1).reshape(-1, 2)
    fit = fit_power_law(x, truth(x), "two-term")
    np.testing.assert_allclose(fit.parameters, (1.69, 406.4, 0.34, 410.7, 0.28), rtol=1e-8)
    assert fit.names == ("E", "A", "a", "G", "b")


@pytest.mark.parametrize("loss", ["huber_log", "squared_log"])
def test_without_a_constant_it_is_least_squares_in_log_log(loss: Any) -> None:
    y = noisy(PowerLaw(0.0, 1e5, 0.3), N, 0.05)
    slope, intercept = np.polyfit(np.log(N), np.log(y), 1)
    # No residual is beyond a large delta.
    fit = fit_power_law(N, y, "power", loss=loss, delta=10.0)
    assert fit.law.alpha == pytest.approx(-slope, rel=1e-9)
    assert math.log(fit.law.x_0) == pytest.approx(intercept / -slope, rel=1e-9)
    fixed = fit_power_law(N, y, "power+const", loss=loss, delta=10.0, bounds={"L_inf": (0, 0)})
    np.testing.assert_allclose(fixed.parameters, fit.parameters, rtol=1e-9)
    # ... and so are its covariance and its interval for a new measurement.
    design = np.column_stack([np.ones_like(N), np.log(N)])
    rest = np.log(y) - design @ np.linalg.lstsq(design, np.log(y), rcond=None)[0]
    variance = (rest @ rest) / (len(N) - 2)
    inverse = np.linalg.inv(design.T @ design)
    assert fit.covariance[2, 2] == pytest.approx(variance * inverse[1, 1], rel=1e-6)
    row = np.array([1, math.log(1e11)])
    half = stats.t.ppf(0.975, len(N) - 2) * math.sqrt(variance * (1 + row @ inverse @ row))
    prediction = fit.predict(1e11)
    assert math.log(prediction.high / prediction.value) == pytest.approx(half, rel=1e-6)
    assert math.log(prediction.value / prediction.low) == pytest.approx(half, rel=1e-6)


def test_weights_are_repetitions() -> None:
    x, y = N[:6], noisy(PowerLaw(2.0, 1e4, 0.4), N[:6], 0.01)
    counts = np.array([1, 3, 1, 2, 1, 1])
    weighted = fit_power_law(x, y, "power+const", weights=counts, delta=0.01)
    repeated = fit_power_law(np.repeat(x, counts), np.repeat(y, counts), "power+const", delta=0.01)
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=1e-6)


@pytest.mark.parametrize("delta", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_general_optimiser_finds_a_better_fit(delta: float, seed: int) -> None:
    x = np.geomspace(1e3, 1e6, 9)
    y = noisy(PowerLaw(1.2, 500.0, 0.25), x, 0.01, seed)
    t = np.log(x) - np.log(x).mean()

    def cost(p: np.ndarray) -> float:
        r = np.log(np.maximum(p[0] + np.exp(p[1] - p[2] * t), 1e-12)) - np.log(y)
        return float(np.where(abs(r) <= delta, r**2 / 2, delta * (abs(r) - delta / 2)).sum())

    fit = fit_power_law(x, y, "power+const", delta=delta)
    ours = cost(fit.theta)
    assert ours == pytest.approx(float(fit.curve.cost(fit.theta)), rel=1e-12)
    found = optimize.differential_evolution(
        cost, [(0, y.min()), (-5, 3), (0.01, 2)], seed=seed, tol=1e-12, maxiter=3000, polish=True
    )
    assert ours <= found.fun * (1 + 1e-6)


def test_one_failed_run_does_not_decide() -> None:
    truth = PowerLaw(2.0, 1e4, 0.3)
    y = noisy(truth, N, 0.001)
    y[8] *= 1.3
    robust, squares = (fit_power_law(N, y, "power+const", loss=loss) for loss in ("huber_log", "squared_log"))
    assert robust.law.L_inf == pytest.approx(2.0, abs=0.02)
    assert abs(squares.law.L_inf - 2.0) > 0.1


def test_equivariance() -> None:
    truth = PowerLaw(2.0, 1e4, 0.3)
    y = noisy(truth, N, 0.01)
    fit = fit_power_law(N, y, "power+const")
    scaled = fit_power_law(1000 * N, y, "power+const")
    np.testing.assert_allclose(scaled.parameters, fit.parameters * (1, 1000, 1), rtol=1e-6)
    order = np.random.default_rng(0).permutation(len(N))
    np.testing.assert_allclose(fit_power_law(N[order], y[order], "power+const").parameters, fit.parameters, rtol=1e-6)
    # A shift of the losses is one of the constant for exact data: residuals are relative to the loss.
    exact, shifted = (fit_power_law(N, truth(N) + c, "power+const").parameters for c in (0.0, 0.7))
    np.testing.assert_allclose(shifted, exact + np.array([0.7, 0, 0]), rtol=1e-9)
    # Losses in other units: the exponent stays.
    bits = fit_power_law(N, y / math.log(2), "power+const")
    assert bits.law.L_inf == pytest.approx(fit.law.L_inf / math.log(2), rel=1e-6)
    assert bits.law.alpha == pytest.approx(fit.law.alpha, rel=1e-6)


def test_covariance_is_the_scatter_of_estimates() -> None:
    truth, noise = PowerLaw(2.0, 1e4, 0.3), 0.002
    fits = [fit_power_law(N, noisy(truth, N, noise, seed), "power+const", delta=0.002) for seed in range(150)]
    scatter = np.cov(np.array([fit.parameters for fit in fits]).T)
    claimed = np.mean([fit.covariance for fit in fits], axis=0)
    np.testing.assert_allclose(np.sqrt(np.diag(claimed)), np.sqrt(np.diag(scatter)), rtol=0.15)
    # A larger constant goes with a larger exponent.
    for matrix in (scatter, claimed):
        assert matrix[0, 2] / math.sqrt(matrix[0, 0] * matrix[2, 2]) > 0.8


@pytest.mark.parametrize("delta", [1e-3, 1.0])
def test_intervals_cover(delta: float) -> None:
    truth, beyond = PowerLaw(2.0, 1e4, 0.3), 1e10
    rng = np.random.default_rng(0)
    predicted = constants = 0
    for seed in range(80):
        fit = fit_power_law(N, noisy(truth, N, 0.005, seed), "power+const", delta=delta, n_starts=8)
        low, high = fit.constant_interval()
        constants += low <= truth.L_inf <= high
        assert low <= fit.law.L_inf <= high
        new = truth(beyond) * math.exp(0.005 * rng.standard_normal())
        prediction = fit.predict(beyond)
        predicted += prediction.low <= new <= prediction.high
    # 76 of 80 are expected, with a standard deviation of 2.
    assert 70 <= predicted <= 80
    assert 70 <= constants <= 80


def test_huber_moments_are_expectations() -> None:
    for delta, scale in [(1e-3, 0.01), (0.01, 0.01), (0.1, 0.01)]:
        r = scale * stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
        slope, squared = huber_moments(delta, scale)
        assert slope == pytest.approx((abs(r) <= delta).mean(), rel=1e-3)
        assert squared == pytest.approx((r.clip(-delta, delta) ** 2).mean(), rel=1e-3)
    slope, squared = huber_moments(1e-6, 1.0)
    assert squared / slope**2 == pytest.approx(math.pi / 2, rel=1e-4)
    assert huber_moments(math.inf, 3.0) == (1.0, 9.0)


def test_the_constant_is_identified_where_it_can_be() -> None:
    truth = PowerLaw(1.0, 1e4, 0.5)
    x = np.geomspace(1e4, 1e8, 8)
    wide = fit_power_law(x, noisy(truth, x, 0.003), "power+const")
    assert wide.constant_identified
    assert wide.constant_interval().low > 0.9
    x = np.geomspace(1e3, 5e3, 5)  # losses fall from 4.2 to 2.4: far less than a decade of reducible loss
    narrow = fit_power_law(x, noisy(truth, x, 0.01), "power+const")
    assert not narrow.constant_identified
    assert narrow.constant_interval().low == 0
    exact = fit_power_law(x[:3], truth(x[:3]), "power+const")
    assert not exact.constant_identified, "as many parameters as points: nothing is left to judge by"
    assert exact.predict(1e5).high == math.inf
    assert "constant_identified=False" in repr(exact)


def test_bounds_hold() -> None:
    y = noisy(PowerLaw(2.0, 1e4, 0.3), N, 0.01)
    assert fit_power_law(N, y, "power+const", bounds={"L_inf": (0.5, 1.8)}).law.L_inf == 1.8
    assert fit_power_law(N, y, "power+const", bounds={"alpha": (0.5, 1.0)}).law.alpha == 0.5
    fixed = fit_power_law(N, y, "power+const", bounds={"L_inf": (1.9, 1.9)})
    assert fixed.law.L_inf == 1.9
    assert fixed.constant_interval() == (1.9, 1.9)
    assert fixed.covariance[0, 0] == 0
    x = np.stack(np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 1e12, 5)), -1).reshape(-1, 2)
    law = TwoTermLaw(1.69, 406.4, 0.34, 410.7, 0.28)
    bound = fit_power_law(x, law(x), "two-term", bounds={"b": (0.3, 1), "E": (0, 1.6)}).law
    assert isinstance(bound, TwoTermLaw)
    assert (bound.b, bound.E) == (0.3, 1.6)


def test_refit_finds_what_a_whole_search_finds() -> None:
    fit = fit_power_law(N, noisy(PowerLaw(2.0, 1e4, 0.3), N, 0.01), "power+const", delta=0.01)
    y = noisy(PowerLaw(2.0, 1e4, 0.3), N, 0.01, seed=9)
    np.testing.assert_allclose(
        fit.refit(N, y).parameters, fit_power_law(N, y, "power+const", delta=0.01).parameters, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"form": "cubic"}, ValueError, "form='cubic'"),
        ({"loss": "l1"}, ValueError, "loss='l1'"),
        ({"delta": 0}, ValueError, "delta=0"),
        ({"n_starts": 0}, ValueError, "n_starts=0"),
        ({"n_starts": 2.5}, TypeError, "n_starts=2.5"),
        ({"x": [1, 2, 3, -4]}, ValueError, "x: must be positive"),
        ({"y": [4, 3, math.nan, 2]}, ValueError, "y: must be positive"),
        ({"y": [4, 3, 2]}, ValueError, r"y has shape \(3,\)"),
        ({"x": [[1, 2]] * 4}, ValueError, "x has shape"),
        ({"form": "two-term"}, ValueError, "two-term"),
        ({"weights": [1, 1, 1]}, ValueError, "weights have shape"),
        ({"weights": [1, 1, 1, 0]}, ValueError, "weights: must be positive"),
        ({"x": [1, 1, 2, 2]}, ValueError, "2 different values"),
        ({"y": [1, 2, 3, 4]}, ValueError, "does not fall"),
        ({"bounds": {"x_0": (0, 1)}}, ValueError, "'x_0'"),
        ({"bounds": {"alpha": (0.5, 0.2)}}, ValueError, "alpha"),
        ({"bounds": {"L_inf": (-1, 2)}}, ValueError, "L_inf"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], named: str) -> None:
    arguments: dict[str, Any] = {"x": [1, 2, 3, 4], "y": [4, 3, 2.5, 2], "form": "power+const"} | change
    with pytest.raises(error, match=named):
        fit_power_law(**arguments)


def test_bad_questions_are_named() -> None:
    fit = fit_power_law(N, PowerLaw(2.0, 1e4, 0.3)(N), "power+const")
    for interval in (0, 1):
        with pytest.raises(ValueError, match=f"interval={interval}"):
            fit.predict(1e5, interval=interval)
        with pytest.raises(ValueError, match=f"level={interval}"):
            fit.constant_interval(interval)
    with pytest.raises(ValueError, match="x: must be positive"):
        fit.predict(-1)
    with pytest.raises(ValueError, match="no constant"):
        fit_power_law(N, PowerLaw(0.0, 1e4, 0.3)(N), "power").constant_interval()
