"""How sure a fit is: the same fit of resampled data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats

from landform.scaling.fit import Interval
from landform.scaling.laws import positive

Array = Float[np.ndarray, "..."]
Unit = Literal["seed", "residual", "pair"]
Kind = Literal["percentile", "bca"]

MOST_FAILED = 0.1


class Fitted(Protocol):
    """A fit that can be bootstrapped, such as :class:`PowerLawFit`."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def parameters(self) -> Array: ...
    @property
    def law(self) -> Callable[[Any], Array]: ...
    def refit(self, x: Any, y: Any, /) -> Fitted:
        """The same kind of fit of other data; ValueError where there is none."""


@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap:
    """Joint samples of a fit's parameters.

    Attributes:
        fit: of the data themselves.
        samples: ``(B, k)``, the parameters of each resampled fit, in the order of ``fit.names``. They are joint: a
            large constant comes with a large exponent.
        laws: the law of each sample.
        failed: how many resampled data sets had no fit (losses that did not fall); they are left out.
    """

    fit: Fitted
    samples: Float[np.ndarray, "B k"]
    laws: tuple[Callable[[Any], Array], ...]
    failed: int
    x: Array
    y: Array

    def __repr__(self) -> str:
        each = (f"{name} {low:.4g} … {high:.4g}" for name in self.fit.names for low, high in [self.interval(name)])
        return f"Bootstrap({len(self.samples)} samples; 95 % intervals: {', '.join(each)})"

    def interval(self, name: str, level: float = 0.95, kind: Kind = "percentile") -> Interval:
        """In which the parameter ``name`` lies.

        "percentile": between the (1 − level)/2 and (1 + level)/2 quantiles of the samples. "bca": between those that
        correct for bias and for a spread that changes with the parameter (Efron 1987), with the acceleration from fits
        that leave one point out.

        Raises:
            ValueError: an unknown parameter or kind, or a level outside (0, 1).
        """
        if name not in self.fit.names:
            raise ValueError(f"name={name!r}: must be one of {', '.join(self.fit.names)}")
        column = self.fit.names.index(name)
        return self._between(self.samples[:, column], self.fit.parameters[column], column, level, kind)

    def law_interval(self, x: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
        """In which the law's value lies at each x: percentiles over the samples. A new measurement scatters more."""
        _check_level(level)
        values = np.array([law(x) for law in self.laws])
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def _between(self, samples: Array, estimate: float, column: int, level: float, kind: Kind) -> Interval:
        _check_level(level)
        if kind not in get_args(Kind):
            raise ValueError(f"kind={kind!r}: must be one of {get_args(Kind)}")
        ends = np.array([(1 - level) / 2, (1 + level) / 2])
        if kind == "bca":
            # The share of samples below the estimate, ties half, kept off 0 and 1.
            below = ((samples < estimate).sum() + (samples == estimate).sum() / 2 + 0.5) / (len(samples) + 1)
            bias = stats.norm.ppf(below)
            pull = self._left_out[:, column].mean() - self._left_out[:, column]
            spread = (pull**2).sum() ** 1.5
            acceleration = (pull**3).sum() / (6 * spread) if spread > 0 else 0.0
            z = bias + stats.norm.ppf(ends)
            ends = stats.norm.cdf(bias + z / (1 - acceleration * z))
        low, high = np.quantile(samples, ends)
        return Interval(float(low), float(high))

    @cached_property
    def _left_out(self) -> Float[np.ndarray, "n k"]:
        """The parameters without each of the points."""
        fits = _fits(self.fit, ((np.delete(self.x, i, axis=0), np.delete(self.y, i)) for i in range(len(self.y))))
        return np.array([fit.parameters for fit in fits if fit is not None])


def bootstrap_fit(
    fit: Callable[[Any, Any], Fitted],
    data: tuple[ArrayLike, ArrayLike],
    unit: Unit = "seed",
    B: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Fit ``data`` and ``B`` resampled versions of them.

    Arguments:
        fit: what fits, such as ``partial(fit_power_law, form="power+const")``. Each resampled fit is sought from the
            fit of the data (its ``refit``).
        data: (x, y). For "seed" y is ``(n, seeds)``: several independent runs at each x; for the others ``(n,)``.
        unit: what is independent. "seed" draws the runs anew within each x, "residual" the residuals of the
            logarithms about the fit, "pair" whole points. Points of one learning curve are not independent: give one
            a run.
        B: how many.
        seed: draws them.

    Deviations are enlarged by sqrt(m/(m − 1)), m the seeds at one x ("seed"), or by sqrt(n/(n − k)) ("residual"): so
    many too small are those about a mean, or a fit, of the same few values.

    Raises:
        ValueError: y of the wrong shape for the unit, a single seed, fewer points than parameters, B below 2, or more
            than a tenth of the resampled data without a fit.

    >>> from functools import partial
    >>> from landform.scaling import fit_power_law
    >>> N = np.array([1e3, 1e4, 1e5, 1e6])[:, None]
    >>> losses = (2 + (300 / N) ** 0.25) * np.exp(0.002 * np.random.default_rng(0).standard_normal((4, 3)))
    >>> boot = bootstrap_fit(partial(fit_power_law, form="power+const"), (N[:, 0], losses), B=200)
    >>> low, high = boot.interval("L_inf")
    >>> low < 2 < high
    True
    """
    x, y = positive("x", data[0]), positive("y", data[1])
    if unit not in get_args(Unit):
        raise ValueError(f"unit={unit!r}: must be one of {get_args(Unit)}")
    if y.ndim != (2 if unit == "seed" else 1) or len(y) != len(x):
        needed = f"({len(x)}, seeds)" if unit == "seed" else f"({len(x)},)"
        raise ValueError(f"y has shape {y.shape}; unit={unit!r} needs {needed}")
    if unit == "seed" and y.shape[1] < 2:
        raise ValueError("y has one seed a point, which says nothing of the spread; use unit='residual'")
    if B < 2:
        raise ValueError(f"B={B}: must be at least 2")
    rng = np.random.default_rng(seed)
    if unit == "seed":
        seeds = y.shape[1]
        logs = np.log(y)
        centre = logs.mean(1, keepdims=True)
        away = (logs - centre) * np.sqrt(seeds / (seeds - 1))
        x, y = np.repeat(x, seeds, axis=0), y.ravel()
        found = fit(x, y)
        draws = (
            (x, np.exp(centre + np.take_along_axis(away, rng.integers(seeds, size=away.shape), axis=1)).ravel())
            for _ in range(B)
        )
    elif unit == "residual":
        found = fit(x, y)
        freedom = len(y) - len(found.parameters)
        if freedom < 1:
            raise ValueError(f"{len(y)} points leave no residuals about a fit of {len(found.parameters)} parameters")
        level = np.log(found.law(x))
        away = np.log(y) - level
        away = (away - away.mean()) * np.sqrt(len(y) / freedom)
        draws = ((x, np.exp(level + rng.choice(away, len(away)))) for _ in range(B))
    else:
        found = fit(x, y)
        places = (rng.integers(len(y), size=len(y)) for _ in range(B))
        draws = ((x[place], y[place]) for place in places)
    fits = [each for each in _fits(found, draws) if each is not None]
    failed = B - len(fits)
    if failed > MOST_FAILED * B:
        raise ValueError(f"{failed} of {B} resampled data sets have no fit: the data do not say that there is a law")
    samples = np.array([each.parameters for each in fits])
    return Bootstrap(found, samples, tuple(each.law for each in fits), failed, x, y)


def _fits(start: Fitted, data: Iterator[tuple[Array, Array]]) -> Iterator[Fitted | None]:
    """Each fit, or None where there is none."""
    for x, y in data:
        try:
            yield start.refit(x, y)
        except ValueError:
            yield None


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must lie between 0 and 1")
