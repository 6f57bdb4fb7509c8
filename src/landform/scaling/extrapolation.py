"""Does a law predict? Fit it to small values of x, and hold out the large ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy import stats

from landform.scaling.fit import Prediction, fit_power_law
from landform.scaling.laws import positive

Array = Float[np.ndarray, "..."]
PREDICTORS = ("power+const", "power", "log-linear", "last value")


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """How one predictor did at the held-out points.

    Attributes:
        x, measured: the held-out points.
        prediction: with 95 % intervals; they are NaN for "last value", which gives none.
    """

    x: Float[np.ndarray, " m"]
    measured: Float[np.ndarray, " m"]
    prediction: Prediction

    @property
    def error(self) -> Float[np.ndarray, " m"]:
        """Predicted less measured, in the unit of the loss."""
        return self.prediction.value - self.measured

    @property
    def covered(self) -> Bool[np.ndarray, " m"]:
        """Whether the interval holds what was measured."""
        return (self.prediction.low <= self.measured) & (self.measured <= self.prediction.high)


def extrapolation_score(x: ArrayLike, y: ArrayLike, x_c: float, *, delta: float = 1e-3) -> dict[str, Extrapolation]:
    """Fit every predictor at x ≤ x_c, and compare what each says of x > x_c with what was measured there.

    ============  ==========================================================
    power+const   :func:`fit_power_law` with a constant
    power         the same without one
    log-linear    y = p + q ln x, by least squares
    last value    the mean of y at the largest x that was fitted, ever after
    ============  ==========================================================

    Choose among forms of a law by this, not by how well they fit: with a parameter more, the fit is always better.

    Arguments:
        x, y: ``(n,)``; several seeds may stand as so many points.
        x_c: the largest x that is fitted.
        delta: of the Huber losses, see :func:`fit_power_law`.

    Raises:
        ValueError: nothing held out, or fewer than three different x to fit.
    """
    x, y = positive("x", x), positive("y", y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y have shapes {x.shape} and {y.shape}; they must be equal vectors")
    small, large = x <= x_c, x > x_c
    if not large.any():
        raise ValueError(f"x_c={x_c}: no x is larger, so that nothing is held out")
    if len(np.unique(x[small])) < 3:
        raise ValueError(f"x_c={x_c}: {len(np.unique(x[small]))} different x to fit; it takes 3")
    at = x[large]
    predictions = {
        form: fit_power_law(x[small], y[small], form, delta=delta).predict(at) for form in ("power+const", "power")
    }
    predictions["log-linear"] = _log_linear(x[small], y[small], at)
    last = np.full(len(at), y[small][x[small] == x[small].max()].mean())
    nothing = np.full(len(at), np.nan)
    predictions["last value"] = Prediction(last, nothing, nothing)
    return {name: Extrapolation(at, y[large], predictions[name]) for name in PREDICTORS}


def _log_linear(x: Array, y: Array, at: Array) -> Prediction:
    """The straight line in ln x, with Student's interval for a new measurement."""
    design, row = (np.column_stack([np.ones_like(v), np.log(v)]) for v in (x, at))
    line, *_ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - 2
    variance = ((y - design @ line) ** 2).sum() / freedom
    spread = np.sqrt(variance * (1 + ((row @ np.linalg.inv(design.T @ design)) * row).sum(1)))
    half = stats.t.ppf(0.975, freedom) * spread
    value = row @ line
    return Prediction(value, value - half, value + half)
