"""Bootstrap intervals: what they cover, against closed forms and an independent bootstrap."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats

from landform.scaling import PowerLaw, bootstrap_fit, fit_power_law

N = np.geomspace(1e3, 1e6, 7)
TRUTH = PowerLaw(2.0, 500.0, 0.4)
WITH_CONSTANT = partial(fit_power_law, form="power+const", delta=0.01, n_starts=8)
PLAIN = partial(fit_power_law, form="power", loss="squared_log")


def losses(seed: int, seeds: int = 1, noise: float = 0.01, law: PowerLaw = TRUTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(law(N)[:, None] * np.exp(noise * rng.standard_normal((len(N), seeds))))


@pytest.mark.parametrize(
    ("unit", "sizes", "seeds", "datasets", "least"), [("seed", 7, 4, 200, 180), ("residual", 14, 1, 100, 85)]
)
def test_intervals_of_the_exponent_cover_it(unit: Any, sizes: int, seeds: int, datasets: int, least: int) -> None:
    """At 1 % noise 95 % intervals hold the truth in 90 to 99 % of data sets; those of few residuals, in a bit less."""
    x = np.geomspace(1e3, 1e6, sizes)
    covered = 0
    for number in range(datasets):
        shape = (sizes, seeds) if unit == "seed" else (sizes,)
        noise = 0.01 * np.random.default_rng(number).standard_normal(shape)
        y = (TRUTH(x) * np.exp(noise).T).T
        low, high = bootstrap_fit(WITH_CONSTANT, (x, y), unit, B=80, seed=number).interval("alpha")
        covered += low <= TRUTH.alpha <= high
    assert least <= covered <= 0.99 * datasets


@pytest.mark.parametrize("unit", ["seed", "residual", "pair"])
def test_the_spread_is_that_of_least_squares(unit: Any) -> None:
    """Without a constant the estimate is linear in ln y, and its standard error has a closed form."""
    law = PowerLaw(0.0, 1e8, 0.2)
    x = np.geomspace(1e3, 1e6, 40)
    rng = np.random.default_rng(0)
    shape = (40, 3) if unit == "seed" else (40,)
    y = (law(x) * np.exp(0.01 * rng.standard_normal(shape)).T).T
    boot = bootstrap_fit(PLAIN, (x, y), unit, B=400)
    t = np.log(x) - np.log(x).mean()
    rest = boot.fit.residuals
    scale = np.sqrt((rest @ rest) / (len(rest) - 2))
    assert scale == pytest.approx(0.01, rel=0.3)
    expected = scale / np.sqrt((t**2).sum() * (3 if unit == "seed" else 1))
    assert boot.samples[:, 2].std() == pytest.approx(expected, rel=0.15)
    assert boot.fit.parameters[2] == pytest.approx(0.2, abs=4 * expected)


def test_few_seeds_are_not_taken_for_certainty() -> None:
    """Two seeds a size: the plain bootstrap's spread would be too small by a factor of sqrt(2)."""
    law = PowerLaw(0.0, 1e8, 0.2)
    spread = [
        bootstrap_fit(PLAIN, (N, losses(number, seeds=2, law=law)), B=100, seed=number).samples[:, 2].std()
        for number in range(30)
    ]
    t = np.log(N) - np.log(N).mean()
    assert np.sqrt(np.mean(np.square(spread))) == pytest.approx(0.01 / np.sqrt(2 * (t**2).sum()), rel=0.12)


def test_bca_is_the_one_of_scipy() -> None:
    """Pairs of a plain power law, so that scipy's own BCa bootstrap can do the same."""
    x = np.geomspace(1e3, 1e6, 30)
    rng = np.random.default_rng(3)
    y = PowerLaw(0.0, 1e8, 0.2)(x) * np.exp(0.05 * rng.exponential(size=30) * np.log(x) / 10)
    ours = bootstrap_fit(PLAIN, (x, y), "pair", B=4000)

    def exponent(x: np.ndarray, y: np.ndarray) -> float:
        return float(-np.polyfit(np.log(x), np.log(y), 1)[0])

    theirs = stats.bootstrap(
        (x, y), exponent, paired=True, vectorized=False, n_resamples=4000, method="BCa", random_state=0
    ).confidence_interval
    width = theirs.high - theirs.low
    bca = ours.interval("alpha", kind="bca")
    assert bca.low == pytest.approx(theirs.low, abs=0.08 * width)
    assert bca.high == pytest.approx(theirs.high, abs=0.08 * width)
    assert bca != ours.interval("alpha")


def test_samples_are_joint_and_reproducible() -> None:
    data = (N, losses(0, seeds=3))
    a, b = (bootstrap_fit(WITH_CONSTANT, data, B=100, seed=5) for _ in range(2))
    np.testing.assert_array_equal(a.samples, b.samples)
    assert a.samples.shape == (100 - a.failed, 3)
    assert stats.spearmanr(a.samples[:, 0], a.samples[:, 2]).statistic > 0.8
    assert "alpha" in repr(a)
    low, high = a.law_interval([1e4, 1e8])
    assert (low < high).all()
    assert (high - low)[1] > (high - low)[0], "less is known beyond the data"
    narrow, wide = a.interval("alpha", 0.5), a.interval("alpha", 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_data_without_a_law_have_no_bootstrap() -> None:
    y = 2 + 0.5 * np.random.default_rng(2).random((7, 4))
    y[0] += 0.1
    with pytest.raises(ValueError, match=r"does not fall|have no fit"):
        bootstrap_fit(PLAIN, (N, y), B=50)


def test_bad_arguments_are_named() -> None:
    y = losses(0, seeds=3)
    for data, unit, named in [
        ((N, y[:, 0]), "seed", r"unit='seed' needs \(7, seeds\)"),
        ((N, y), "residual", r"unit='residual' needs \(7,\)"),
        ((N, y[:, :1]), "seed", "one seed a point"),
        ((N[:3], y[:3, 0]), "residual", "leave no residuals"),
        ((N, y), "batch", "unit='batch'"),
    ]:
        with pytest.raises(ValueError, match=named):
            bootstrap_fit(WITH_CONSTANT, data, unit)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="B=1"):
        bootstrap_fit(WITH_CONSTANT, (N, y), B=1)
    boot = bootstrap_fit(WITH_CONSTANT, (N, y), B=10)
    with pytest.raises(ValueError, match="name='beta': must be one of L_inf, x_0, alpha"):
        boot.interval("beta")
    with pytest.raises(ValueError, match="level=95"):
        boot.interval("alpha", level=95)
    with pytest.raises(ValueError, match="kind='normal'"):
        boot.interval("alpha", kind="normal")  # type: ignore[arg-type]
