"""Robust fits of power laws to measured losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import optimize, stats

from landform.scaling.laws import PowerLaw, TwoTermLaw, positive
from landform.scaling.robust import Curve, huber_moments, log_gradient

Array = Float[np.ndarray, "..."]
Form = Literal["power", "power+const", "two-term"]
Loss = Literal["huber_log", "squared_log"]
Bounds = Mapping[str, tuple[float, float]]

LEAST_EXPONENT = 1e-6
"""An exponent no larger than this is that of losses that do not fall."""
ROUNDING = 1e-13
"""Residuals below this are rounding."""
BOUNDED = {"power": ("alpha",), "power+const": ("L_inf", "alpha"), "two-term": ("E", "a", "b")}


class Prediction(NamedTuple):
    """Losses, and the interval for one new measurement of each."""

    value: Array
    low: Array
    high: Array


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class PowerLawFit:
    """What :func:`fit_power_law` found.

    Attributes:
        law: a :class:`PowerLaw` or :class:`TwoTermLaw`.
        residuals: ``(n,)``, ln(fitted) − ln(measured).
    """

    form: Form
    x: Float[np.ndarray, "n columns"]
    y: Float[np.ndarray, " n"]
    curve: Curve
    theta: Float[np.ndarray, " k"]
    centre: Float[np.ndarray, " columns"]

    def __repr__(self) -> str:
        known = "" if self.form == "power" else f", constant_identified={self.constant_identified}"
        return f"PowerLawFit({self.law}{known})"

    @cached_property
    def law(self) -> PowerLaw | TwoTermLaw:
        c, u, alpha = self.theta[0], self.theta[1::2], self.theta[2::2]
        if self.form == "two-term":
            (A, G), (a, b) = np.exp(u + alpha * self.centre).tolist(), alpha.tolist()
            return TwoTermLaw(E=float(c), A=A, a=a, G=G, b=b)
        return PowerLaw(L_inf=float(c), x_0=math.exp(self.centre[0] + u[0] / alpha[0]), alpha=float(alpha[0]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the law's parameters, in their order."""
        return tuple(field.name for field in fields(self.law))

    @property
    def parameters(self) -> Float[np.ndarray, " k"]:
        """The law's parameters, in the order of ``names``."""
        return np.array(astuple(self.law))

    @cached_property
    def residuals(self) -> Float[np.ndarray, " n"]:
        return self.curve.residuals(self.theta)

    @property
    def degrees_of_freedom(self) -> int:
        """Points less parameters that were fitted."""
        return len(self.y) - int(self.curve.free.sum())

    @cached_property
    def scale(self) -> float:
        """The standard deviation of ln y about the law, sqrt(Σ w r²/(n − k)); infinite without degrees of freedom."""
        if not self.degrees_of_freedom:
            return math.inf
        squares = float((self.curve.weights * self.residuals**2).sum())
        return max(math.sqrt(squares / self.degrees_of_freedom), ROUNDING)

    @cached_property
    def covariance(self) -> Float[np.ndarray, "k k"]:
        """Of the estimated parameters in the order of ``names``: that of least squares, times the loss of efficiency of
        the Huber loss under normal errors. Zero for a parameter that was fixed.

        It is the curvature at the best fit, and holds where the constant is identified; else use
        :func:`bootstrap_fit`.
        """
        change = np.zeros((len(self.theta), len(self.theta)))
        change[0, 0] = 1
        for j in range(1, len(self.theta), 2):
            u, alpha, t = self.theta[j], self.theta[j + 1], self.centre[j // 2]
            if self.form == "two-term":
                change[j, j : j + 2] = np.exp(u + alpha * t) * np.array([1, t])
            else:
                assert isinstance(self.law, PowerLaw)
                change[j, j : j + 2] = self.law.x_0 * np.array([1 / alpha, -u / alpha**2])
            change[j + 1, j + 1] = 1
        return change @ self._covariance @ change.T

    @cached_property
    def _covariance(self) -> Float[np.ndarray, "k k"]:
        """Of theta."""
        free = self.curve.free
        whole = np.zeros((len(free), len(free)))
        if self.scale == math.inf:
            whole[np.ix_(free, free)] = np.diag(np.full(free.sum(), math.inf))
            return whole
        jacobian = np.sqrt(self.curve.weights)[:, None] * log_gradient(self.theta, self.curve.t)[:, free]
        slope, squared = huber_moments(self.curve.delta, self.scale)
        # Columns may be almost parallel, or all but 0: the pseudo-inverse of the scaled ones.
        size = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300)
        inverse = np.linalg.pinv((jacobian / size).T @ (jacobian / size), rcond=1e-14, hermitian=True)
        whole[np.ix_(free, free)] = squared / slope**2 * inverse / np.outer(size, size)
        return whole

    def predict(self, x: ArrayLike, interval: float = 0.95) -> Prediction:
        """The losses at ``x``, each with the interval in which one new measurement of it falls with that probability.

        On the logarithm, by the delta method: ± t sqrt(g' Cov g + scale²), g the gradient of the fitted ln y by the
        parameters and t Student's quantile with n − k degrees of freedom.

        Raises:
            ValueError: an interval outside (0, 1); x that is not positive, or of another shape than was fitted.
        """
        if not 0 < interval < 1:
            raise ValueError(f"interval={interval}: must lie between 0 and 1")
        value = self.law(x)
        columns = positive("x", x).reshape(-1, self.x.shape[1])
        gradient = log_gradient(self.theta, np.log(columns) - self.centre)
        if self.scale == math.inf:
            return Prediction(value, np.zeros_like(value), np.full_like(value, math.inf))
        variance = ((gradient @ self._covariance) * gradient).sum(1) + self.scale**2
        half = stats.t.ppf((1 + interval) / 2, self.degrees_of_freedom) * np.sqrt(variance)
        half = half.reshape(value.shape)
        with np.errstate(over="ignore"):
            return Prediction(value, value * np.exp(-half), value * np.exp(half))

    def constant_interval(self, level: float = 0.95) -> Interval:
        """All constants that the data do not reject: with the other parameters fitted anew for each, the criterion

            F(c) = 2 (E psi'/E psi²) (cost(c) − cost(best))

        stays below the ``level`` quantile of F with 1 and n − k degrees of freedom (profile likelihood; the factor is
        1/scale² · 2 for least squares). Without degrees of freedom that is every constant, up to infinity.

        Raises:
            ValueError: a law without a constant, or a level outside (0, 1).
        """
        if self.form == "power":
            raise ValueError("form='power' has no constant")
        if not 0 < level < 1:
            raise ValueError(f"level={level}: must lie between 0 and 1")
        low, high = float(self.curve.lower[0]), float(self.curve.upper[0])
        best = float(self.theta[0])
        if not self.curve.free[0]:
            return Interval(best, best)
        if self.scale == math.inf:
            return Interval(low, high)
        limit = float(stats.f.ppf(level, 1, self.degrees_of_freedom))
        precision = 1e-7 * float(self.y.min())

        def beyond(c: float) -> float:
            return self._evidence_against(c) - limit

        # Above every measured loss the law only gets worse; double the distance until it is bad enough.
        step = max(float(self.y.min()) - best, 1e-3 * float(self.y.min()))
        reach = best + step
        while beyond(reach) < 0 and reach < min(high, 1e3 * self.y.max()):
            step *= 2
            reach += step
        reach = min(reach, high)
        return Interval(
            low if beyond(low) <= 0 else optimize.brentq(beyond, low, best, xtol=precision),
            reach if beyond(reach) <= 0 else optimize.brentq(beyond, best, reach, xtol=precision),
        )

    def _evidence_against(self, constant: float) -> float:
        """How much worse the law is with this constant, in units of F."""
        fixed = ~self.curve.free
        fixed[0] = True
        start = self.theta.copy()
        start[0] = constant
        # At the measured level of reducible loss, so that the others need not come from far.
        rest = np.maximum(np.exp(self.curve.log_y) - constant, 1e-6)
        start[1] += float(np.log(np.median(rest)) - np.log(np.median(self.curve.terms(self.theta).sum(1))))
        tries = [self.curve.refine(start, fixed), self.curve.refine(np.r_[constant, self.theta[1:]], fixed)]
        cost = min(float(self.curve.cost(theta)) for theta in tries)
        slope, squared = huber_moments(self.curve.delta, self.scale)
        return 2 * slope / squared * (cost - float(self.curve.cost(self.theta)))

    @cached_property
    def constant_identified(self) -> bool:
        """Whether the data say what the constant is: a law without one fits worse than chance allows (its 95 % interval
        leaves out 0), and the interval is narrower than the reducible loss left at the last point, or than a tenth of
        that at the first.

        Over less than about a decade of reducible loss a larger constant and a larger exponent fit as well as smaller
        ones; what is extrapolated then rests on the form of the law.
        """
        if self.form == "power":
            return False
        low, high = self.constant_interval()
        reducible = self.curve.terms(self.theta).sum(-1)
        return low > 0 and high - low < max(reducible.min(), reducible.max() / 10)

    def refit(self, x: ArrayLike, y: ArrayLike) -> PowerLawFit:
        """The same kind of fit of other data, sought from this one alone: what a bootstrap needs a thousand times.

        All points weigh alike.
        """
        columns, y = _points(self.form, x, y)
        t = np.log(columns) - self.centre
        curve = replace(self.curve, t=t, log_y=np.log(y), weights=np.ones(len(y)))
        return _checked(PowerLawFit(self.form, columns, y, curve, curve.refine(self.theta), self.centre))


def fit_power_law(
    x: ArrayLike,
    y: ArrayLike,
    form: Form = "power",
    *,
    weights: ArrayLike | None = None,
    loss: Loss = "huber_log",
    delta: float = 1e-3,
    bounds: Bounds | None = None,
    n_starts: int = 64,
) -> PowerLawFit:
    """Fit a law to losses ``y`` measured at ``x``.

        power:        L(x) = (x_0/x)^alpha
        power+const:  L(x) = L_inf + (x_0/x)^alpha
        two-term:     L(N, D) = E + A/N^a + G/D^b,  x = (N, D)

    What is minimised is Σ w huber(ln L(x) − ln y): squares up to ``delta``, absolute errors beyond, so that neither
    large losses nor a failed run decide. Power + constant starts from a grid of constants, for each of which a weighted
    line through ln(y − c) gives the rest (variable projection); two terms start from a grid of exponents, for each of
    which the rest is linear. The best ten starts are refined in all parameters (Levenberg–Marquardt).

    Arguments:
        x: ``(n,)`` or, of two terms, ``(n, 2)``: sizes, tokens or compute, in any unit.
        y: ``(n,)``, the losses. Several at one x (seeds) may stand as so many points.
        weights: ``(n,)``, how much each point counts: inverse variances of ln y, up to a factor.
        loss: "huber_log", or "squared_log" for plain least squares of the logarithms.
        delta: the size of an error of ln y beyond which it counts no more than in proportion.
        bounds: least and greatest value of the constant (L_inf, E) and of exponents (alpha, a, b), by name; both equal
            fix it. Constants are never below 0, exponents always positive.
        n_starts: the size of the grid.

    Raises:
        TypeError, ValueError: data that are not positive and finite, or too few (as many different x as parameters are
            needed), losses that do not fall along x, or an option out of its range, by name.

    Source: the laws are those of arXiv 2010.14701, eq. 1.1, the loss that of arXiv 2203.15556, section 3.3.

    >>> N = np.array([1e3, 1e4, 1e5, 1e6])
    >>> fit_power_law(N, 2 + (300 / N) ** 0.25, form="power+const").parameters.round(6).tolist()
    [2.0, 300.0, 0.25]
    """
    if form not in get_args(Form):
        raise ValueError(f"form={form!r}: must be one of {get_args(Form)}")
    if loss not in get_args(Loss):
        raise ValueError(f"loss={loss!r}: must be one of {get_args(Loss)}")
    if not delta > 0:
        raise ValueError(f"delta={delta}: must be positive")
    if isinstance(n_starts, bool) or not isinstance(n_starts, int | np.integer):
        raise TypeError(f"n_starts={n_starts!r}: must be an int")
    if n_starts < 1:
        raise ValueError(f"n_starts={n_starts}: must be at least 1")
    columns, y = _points(form, x, y)
    weight = np.ones(len(y)) if weights is None else positive("weights", weights)
    if weight.shape != y.shape:
        raise ValueError(f"weights have shape {weight.shape}, but y has {y.shape}")
    lower, upper = _bounds(form, columns.shape[1], bounds)
    free = int((lower < upper).sum())
    different = len(np.unique(columns, axis=0))
    if different < free:
        raise ValueError(f"x: {different} different values; {form!r} has {free} parameters to fit and needs as many")
    logs = np.log(columns)
    centre = logs.mean(0)
    curve = Curve(
        logs - centre, np.log(y), weight / weight.mean(), math.inf if loss == "squared_log" else delta, lower, upper
    )
    return _checked(PowerLawFit(form, columns, y, curve, curve.search(n_starts), centre))


def _points(form: Form, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """The data as ``(n, columns)`` and ``(n,)``."""
    x, y = positive("x", x), positive("y", y)
    if x.ndim != (2 if form == "two-term" else 1) or (x.ndim == 2 and x.shape[1] != 2):
        raise ValueError(f"x has shape {x.shape}; {form!r} needs {'(n, 2)' if form == 'two-term' else '(n,)'}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y has shape {y.shape}, but there are {len(x)} values of x")
    return x.reshape(len(x), -1), y


def _bounds(form: Form, terms: int, bounds: Bounds | None) -> tuple[Array, Array]:
    lower = np.array([0.0] + [-math.inf, LEAST_EXPONENT] * terms)
    upper = np.full(len(lower), math.inf)
    if form == "power":
        upper[0] = 0
    for name, (low, high) in (bounds or {}).items():
        if name not in BOUNDED[form]:
            raise ValueError(f"bounds: {name!r} is not among {', '.join(BOUNDED[form])}, which {form!r} can bound")
        constant = name in ("L_inf", "E")
        if not (0 <= low <= high) or not (constant or high > LEAST_EXPONENT):
            raise ValueError(f"bounds: {name} in ({low}, {high}) must have 0 ≤ low ≤ high, and exponents be positive")
        at = 0 if constant else 4 if name == "b" else 2
        lower[at], upper[at] = max(low, lower[at]), high
    return lower, upper


def _checked(fit: PowerLawFit) -> PowerLawFit:
    if (fit.theta[2::2] <= LEAST_EXPONENT).any():
        raise ValueError("y does not fall along x: no law with a positive exponent fits")
    return fit
