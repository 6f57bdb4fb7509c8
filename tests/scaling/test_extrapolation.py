"""Extrapolation scores: each predictor against what it is, and what was held out really being held out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from landform.scaling import PowerLaw, extrapolation_score, fit_power_law

N = np.geomspace(1e3, 1e7, 9)


def test_on_its_own_law_each_form_is_exact() -> None:
    score = extrapolation_score(N, PowerLaw(2.0, 1e4, 0.4)(N), N[6])
    assert abs(score["power+const"].error).max() < 1e-9
    assert abs(score["power"].error).min() > 0.01
    score = extrapolation_score(N, PowerLaw(0.0, 1e9, 0.1)(N), N[6])
    assert abs(score["power"].error).max() < 1e-9
    score = extrapolation_score(N, 5 - 0.2 * np.log(N), N[6])
    assert abs(score["log-linear"].error).max() < 1e-9
    score = extrapolation_score(N, np.r_[9:2:-1, 3, 3], N[6])
    assert score["last value"].error.tolist() == [0, 0]
    assert not score["last value"].covered.any()


def test_intervals_and_errors() -> None:
    rng = np.random.default_rng(1)
    y = PowerLaw(2.0, 1e4, 0.4)(N) * np.exp(0.01 * rng.standard_normal(9))
    score = extrapolation_score(N, y, N[5], delta=0.01)
    assert list(score) == ["power+const", "power", "log-linear", "last value"]
    for each in score.values():
        np.testing.assert_array_equal(each.x, N[6:])
        np.testing.assert_array_equal(each.error, each.prediction.value - y[6:])
    ours = score["power+const"].prediction
    np.testing.assert_array_equal(ours, fit_power_law(N[:6], y[:6], "power+const", delta=0.01).predict(N[6:]))
    assert score["power+const"].covered.tolist() == ((ours.low <= y[6:]) & (y[6:] <= ours.high)).tolist()
    line = stats.linregress(np.log(N[:6]), y[:6])
    np.testing.assert_allclose(
        score["log-linear"].prediction.value, line.intercept + line.slope * np.log(N[6:]), rtol=1e-9
    )
    # Student's interval for a new point of a straight line.
    t = np.log(N[:6])
    rest = y[:6] - line.intercept - line.slope * t
    far = (np.log(N[8]) - t.mean()) ** 2 / ((t - t.mean()) ** 2).sum()
    half = stats.t.ppf(0.975, 4) * np.sqrt((rest @ rest) / 4 * (1 + 1 / 6 + far))
    assert score["log-linear"].prediction.high[2] - score["log-linear"].prediction.value[2] == pytest.approx(half)


def test_what_is_held_out_changes_no_prediction() -> None:
    y = PowerLaw(2.0, 1e4, 0.4)(N) * np.exp(0.01 * np.random.default_rng(1).standard_normal(9))
    other = y.copy()
    other[6:] *= 7
    scores = [extrapolation_score(N, losses, N[5]).values() for losses in (y, other)]
    for a, b in zip(*scores, strict=True):
        np.testing.assert_array_equal(a.prediction, b.prediction)


def test_seeds_may_stand_as_points() -> None:
    x = np.tile(N, 3)
    y = PowerLaw(2.0, 1e4, 0.4)(x) * np.exp(0.01 * np.random.default_rng(1).standard_normal(27))
    score = extrapolation_score(x, y, N[6])
    assert score["power+const"].error.shape == (6,)
    assert score["last value"].prediction.value[0] == pytest.approx(y[x == N[6]].mean())


def test_bad_arguments_are_named() -> None:
    y = PowerLaw(2.0, 1e4, 0.4)(N)
    with pytest.raises(ValueError, match="nothing is held out"):
        extrapolation_score(N, y, 1e9)
    with pytest.raises(ValueError, match="2 different x"):
        extrapolation_score(N, y, N[1])
    with pytest.raises(ValueError, match="equal vectors"):
        extrapolation_score(N, y[:3], N[5])
    with pytest.raises(ValueError, match="y: must be positive"):
        extrapolation_score(N, -y, N[5])
