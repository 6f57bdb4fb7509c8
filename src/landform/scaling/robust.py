"""Fitting constant + Σ_j exp(u_j − alpha_j t_j) to positive numbers: least absolute error where it is large, least
squares where it is small."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.optimize import leastsq, nnls

Array = Float[np.ndarray, "..."]

REFINED = 10
"""How many of the starts are refined."""
TOLERANCE = 1e-15
SMALLEST = 1e-300
LARGEST_LOG = 690.0


@dataclass(frozen=True)
class Curve:
    """y = c + Σ_j exp(u_j − alpha_j t_j) at n points, whose parameters are theta = (c, u_1, alpha_1, u_2, alpha_2, …).

    Residuals are ln y_hat − ln y. Their Huber losses, r²/2 up to ``delta`` and delta |r| − delta²/2 beyond, are summed
    with the points' ``weights``.

    Arguments:
        t: ``(n, terms)``, logarithms of what the curve depends on.
        log_y, weights: ``(n,)``.
        lower, upper: of theta; equal where a parameter is fixed.
    """

    t: Float[np.ndarray, "n terms"]
    log_y: Float[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"]
    delta: float
    lower: Float[np.ndarray, " k"]
    upper: Float[np.ndarray, " k"]

    @property
    def free(self) -> Bool[np.ndarray, " k"]:
        return self.lower < self.upper

    def terms(self, theta: Array) -> Array:
        """``(…, n, terms)`` for theta ``(…, k)``."""
        return np.exp(np.minimum(theta[..., None, 1::2] - theta[..., None, 2::2] * self.t, LARGEST_LOG))

    def residuals(self, theta: Array) -> Array:
        """``(…, n)`` for theta ``(…, k)``; a curve that is not positive somewhere is very far off there."""
        y = theta[..., None, 0] + self.terms(theta).sum(-1)
        return np.log(np.maximum(y, SMALLEST)) - self.log_y

    def cost(self, theta: Array) -> Array:
        """The sum of the Huber losses."""
        size = np.abs(self.residuals(theta))
        inside = np.minimum(size, self.delta)
        return (self.weights * (inside * size - inside**2 / 2)).sum(-1)

    def refine(self, start: Float[np.ndarray, " k"], fixed: Bool[np.ndarray, " k"] | None = None) -> Array:
        """The parameters to which Levenberg–Marquardt leads from ``start``, within the bounds.

        The Huber loss is the half square of sign(r) sqrt(2 huber(r)), so that MINPACK's least squares minimises it. A
        parameter that leaves its bounds is set to the nearer one, and the others are fitted anew.
        """
        moving = self.free if fixed is None else ~fixed
        theta = np.clip(start, self.lower, self.upper)
        while moving.any():
            theta = self._descend(theta, moving)
            outside = (theta < self.lower) | (theta > self.upper)
            theta = np.clip(theta, self.lower, self.upper)
            if not outside.any():
                break
            moving = moving & ~outside
        return theta

    def _descend(self, theta: Float[np.ndarray, " k"], moving: Bool[np.ndarray, " k"]) -> Array:
        """Levenberg–Marquardt on the parameters that move, without bounds."""
        root = np.sqrt(self.weights)

        def whole(part: Array) -> Array:
            point = theta.copy()
            point[moving] = part
            return point

        def residuals(part: Array) -> Array:
            r = self.residuals(whole(part))
            size = np.abs(r)
            inside = np.minimum(size, self.delta)
            return root * np.copysign(np.sqrt(inside * (2 * size - inside)), r)

        def jacobian(part: Array) -> Array:
            point = whole(part)
            size = np.abs(self.residuals(point))
            inside = np.minimum(size, self.delta)
            bent = np.sqrt(np.maximum(inside * (2 * size - inside), SMALLEST))
            slope = np.where(size > self.delta, self.delta / bent, 1.0) if self.delta < math.inf else 1.0
            return (root * slope)[:, None] * log_gradient(point, self.t)[:, moving]

        # Full output, so that steps which have become as small as rounding are no matter for a warning.
        found, *_ = leastsq(
            residuals, theta[moving], Dfun=jacobian, full_output=True, xtol=TOLERANCE, ftol=TOLERANCE, gtol=TOLERANCE
        )
        return whole(found)

    def search(self, n_starts: int) -> Array:
        """The best parameters to which the best few of ``n_starts`` starts lead."""
        starts = self._starts_of_one(n_starts) if self.t.shape[1] == 1 else self._starts_of_several(n_starts)
        starts = np.clip(starts, self.lower, self.upper)
        best = starts[np.argsort(self.cost(starts), kind="stable")[:REFINED]]
        refined = np.array([self.refine(start) for start in best])
        return refined[np.argmin(self.cost(refined))]

    def _starts_of_one(self, n_starts: int) -> Float[np.ndarray, "starts k"]:
        """Variable projection: for each constant of a grid that closes in on the least y, the line that fits
        ln(y − c) on t best, weighted as errors of ln y are."""
        y, t = np.exp(self.log_y), self.t[:, 0]
        low = self.lower[0]
        high = max(low, min(self.upper[0], y.min() * (1 - 1e-6)))
        count = n_starts if high > low else 1
        c = (high - (high - low) * np.geomspace(1, 1e-4, count))[:, None]
        rest = np.maximum(y - c, 1e-9 * y)
        w = self.weights * (rest / y) ** 2
        w /= w.sum(1, keepdims=True)
        z = np.log(rest)
        t_mean, z_mean = (w * t).sum(1, keepdims=True), (w * z).sum(1, keepdims=True)
        slope = (w * (t - t_mean) * (z - z_mean)).sum(1) / (w * (t - t_mean) ** 2).sum(1)
        alpha = np.clip(-slope, self.lower[2], self.upper[2])
        return np.stack([c[:, 0], z_mean[:, 0] + alpha * t_mean[:, 0], alpha], axis=1)

    def _starts_of_several(self, n_starts: int) -> Float[np.ndarray, "starts k"]:
        """For exponents on a grid the rest is linear: non-negative least squares of the relative errors."""
        y, terms = np.exp(self.log_y), self.t.shape[1]
        grid = np.geomspace(0.05, 2, max(2, round(n_starts ** (1 / terms))))
        axes = [np.unique(np.clip(grid, self.lower[2 * j + 2], self.upper[2 * j + 2])) for j in range(terms)]
        root = np.sqrt(self.weights)
        starts = []
        for alpha in itertools.product(*axes):
            columns = np.column_stack([np.ones_like(y), np.exp(-self.t * np.array(alpha))])
            # Where the constant has a least value, that much is taken off first.
            target = np.maximum(y - self.lower[0], 0) / y
            sizes, _ = nnls(columns * (root / y)[:, None], root * target)
            theta = np.empty(1 + 2 * terms)
            theta[0] = sizes[0] + self.lower[0]
            theta[1::2] = np.log(np.maximum(sizes[1:], 1e-6 * y.min()))
            theta[2::2] = alpha
            starts.append(theta)
        return np.array(starts)


def log_gradient(theta: Float[np.ndarray, " k"], t: Float[np.ndarray, "n terms"]) -> Float[np.ndarray, "n k"]:
    """Derivatives of ln(c + Σ_j exp(u_j − alpha_j t_j)) by the parameters."""
    terms = np.exp(np.minimum(theta[1::2] - theta[2::2] * t, LARGEST_LOG))
    y = np.maximum(theta[0] + terms.sum(1, keepdims=True), SMALLEST)
    gradient = np.empty((len(t), len(theta)))
    gradient[:, :1] = 1 / y
    gradient[:, 1::2] = terms / y
    gradient[:, 2::2] = -t * terms / y
    return gradient


def huber_moments(delta: float, scale: float) -> tuple[float, float]:
    """E psi' and E psi² for r ~ N(0, scale²), psi(r) = r cut off at ± delta.

    An M-estimator's variance is (E psi²/(E psi')²)/scale² times that of least squares: 1 for a large delta, pi/2 for a
    small one, which is that of least absolute deviations.
    """
    if delta == math.inf:
        return 1.0, scale**2
    k = delta / scale
    inside = 2 * stats.norm.cdf(k) - 1
    squared = inside - 2 * k * stats.norm.pdf(k) + 2 * k**2 * stats.norm.sf(k)
    return float(inside), float(scale**2 * squared)
