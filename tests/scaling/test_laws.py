"""The laws against numerical minimisation and round trips."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from landform.scaling import PowerLaw, TwoTermLaw

LAWS = [TwoTermLaw(1.69, 406.4, 0.34, 410.7, 0.28), TwoTermLaw(0.5, 3.0, 0.7, 80.0, 0.2)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("compute", [1e15, 5.76e23])
@pytest.mark.parametrize("flops", [6.0, 10.0])
def test_the_allocation_is_the_numerical_minimum(law: TwoTermLaw, compute: float, flops: float) -> None:
    def loss(log_n: float) -> float:
        n = np.exp(log_n)
        return float(law.A / n**law.a + law.G / (compute / (flops * n)) ** law.b)

    best = minimize_scalar(loss, bounds=(1, np.log(compute)), method="bounded", options={"xatol": 1e-12})
    size, tokens, value = law.allocate(compute, flops)
    assert np.log(size) == pytest.approx(best.x, abs=1e-6)
    assert flops * size * tokens == pytest.approx(compute, rel=1e-12)
    assert value - law.E == pytest.approx(best.fun, rel=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_the_best_size_and_loss_are_powers_of_compute(law: TwoTermLaw) -> None:
    C = np.geomspace(1e15, 1e24, 5)
    size, _, loss = law.allocate(C)
    assert law.beta == law.b / (law.a + law.b)
    np.testing.assert_allclose(np.diff(np.log(size)) / np.diff(np.log(C)), law.beta, rtol=1e-10)
    exponent = -law.a * law.b / (law.a + law.b)
    np.testing.assert_allclose(np.diff(np.log(loss - law.E)) / np.diff(np.log(C)), exponent, rtol=1e-6)


def test_values_and_their_inverse() -> None:
    law = PowerLaw(L_inf=2.2, x_0=63.0, alpha=0.13)
    assert law(63.0) == pytest.approx(3.2)
    x = np.array([[1e3, 1e6], [1e9, 1.0]])
    np.testing.assert_allclose(law.needed(law(x)), x, rtol=1e-9)
    assert TwoTermLaw(1.0, 8.0, 3.0, 3.0, 1.0)([2.0, 3.0]) == 3.0


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"alpha=0\.0: must be positive"):
        PowerLaw(1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"L_inf=-1\.0: must be zero or more"):
        PowerLaw(-1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="G=inf"):
        TwoTermLaw(1.0, 1.0, 0.5, float("inf"), 0.5)
    with pytest.raises(ValueError, match=r"above L_inf=2\.0"):
        PowerLaw(2.0, 1.0, 0.5).needed(2.0)
    with pytest.raises(ValueError, match="x: must be positive"):
        PowerLaw(2.0, 1.0, 0.5)([1.0, 0.0])
    with pytest.raises(ValueError, match="last axis"):
        LAWS[0]([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="compute: must be positive"):
        LAWS[0].allocate(0.0)
