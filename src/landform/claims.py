"""Claims: what would make a paper wrong, in one of a few forms.

A claim only says *what* is claimed. ``landform.lab.verdicts`` estimates its effect and interval from stored records.
``at`` restricts a claim to one value of a condition, as in ``at={"noise": 0.4}``; without it a seed's value is the mean
over its conditions. ``over`` says what is resampled: ``"seed"``, or ``"unit"`` (architectures, models, clients,
episodes); in ``Trend`` it names the condition along which an effect changes, and the seeds are what is resampled.
``region`` is the claimed side: the effects for which the claim is true, as the two ends of an open interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Over = Literal["seed", "unit"]
Region = tuple[float, float]
Verdict = Literal["supported", "contradicted", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """What the records say of one claim: an effect, its 95 % interval, and the verdict.

    ``note`` says what a reader must know to read the interval (which baseline it is against, how it was computed).
    ``verdict`` is None where no verdict may be given: the smoke preset, or too few records.
    """

    effect: float
    low: float
    high: float
    n: int
    verdict: Verdict | None
    note: str = ""


def decide(low: float, high: float, at_least: float, at_most: float = math.inf) -> Verdict:
    """Supported when [low, high] lies strictly inside (at_least, at_most), contradicted when wholly outside it.

    A bound that is infinite is no bound. An interval with NaN ends decides nothing.
    """
    if math.isnan(low) or math.isnan(high):
        return "inconclusive"
    if (low > at_least or at_least == -math.inf) and (high < at_most or at_most == math.inf):
        return "supported"
    if high < at_least or low > at_most:
        return "contradicted"
    return "inconclusive"


@dataclass(frozen=True, kw_only=True)
class _Scope:
    says: str = ""
    at: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return "".join(f", {name} = {value}" for name, value in self.at.items())


def _positive(claim: str, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{claim}: {name}={value} must be positive and finite")


def _finite(claim: str, name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{claim}: {name}={value} must be finite")


def _one_of(claim: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{claim}: {name}={value!r} must be one of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True)
class Better(_Scope):
    """``arm`` beats every arm of ``than`` on ``metric`` by more than ``by`` (in the metric's own unit)."""

    metric: str
    arm: str
    than: str | tuple[str, ...]
    by: float = 0.0
    over: Over = "seed"

    def __post_init__(self) -> None:
        if not self.baselines or self.arm in self.baselines:
            raise ValueError(f"Better: than={self.than!r} must name at least one arm, and not {self.arm!r} itself")
        _finite("Better", "by", self.by)
        _one_of("Better", "over", self.over, ("seed", "unit"))

    @property
    def baselines(self) -> tuple[str, ...]:
        return (self.than,) if isinstance(self.than, str) else tuple(self.than)

    @property
    def region(self) -> Region:
        return (self.by, math.inf)

    def __str__(self) -> str:
        margin = f" by more than {self.by:g}" if self.by else ""
        than = self.baselines[0] if len(self.baselines) == 1 else f"the best of {', '.join(self.baselines)}"
        return self.says or f"{self.arm} beats {than} on {self.metric}{margin}{self.where}"


@dataclass(frozen=True)
class Equivalent(_Scope):
    """``a`` and ``b`` differ by less than ``within`` on ``metric``."""

    metric: str
    a: str
    b: str
    within: float
    over: Over = "seed"

    def __post_init__(self) -> None:
        if self.a == self.b:
            raise ValueError(f"Equivalent: a={self.a!r} and b={self.b!r} must be two arms")
        _positive("Equivalent", "within", self.within)
        _one_of("Equivalent", "over", self.over, ("seed", "unit"))

    @property
    def arm(self) -> str:
        return self.a

    @property
    def region(self) -> Region:
        return (-self.within, self.within)

    def __str__(self) -> str:
        return self.says or f"{self.a} and {self.b} are within {self.within:g} on {self.metric}{self.where}"


@dataclass(frozen=True)
class Correlates(_Scope):
    """Spearman's rank correlation of the metrics ``x`` and ``y`` over units is more than ``at_least``.

    Both metrics of a pair are of one unit in one arm; ``arm=None`` takes the pairs of all arms together (where records
    have no unit, the arms themselves are the units). With ``over="seed"`` there is one correlation a seed; with
    ``over="unit"`` values are averaged over seeds first and the units are resampled. Over several conditions the
    correlation is the mean of those within each.
    """

    x: str
    y: str
    at_least: float = 0.0
    arm: str | None = None
    over: Over = "seed"

    def __post_init__(self) -> None:
        if not -1 <= self.at_least < 1:
            raise ValueError(f"Correlates: at_least={self.at_least} must lie in [-1, 1)")
        _one_of("Correlates", "over", self.over, ("seed", "unit"))

    @property
    def metric(self) -> str:
        return f"{self.x} ~ {self.y}"

    @property
    def region(self) -> Region:
        return (self.at_least, math.inf)

    def __str__(self) -> str:
        of = f" of {self.arm}" if self.arm else ""
        return self.says or f"{self.x} and {self.y}{of} correlate by more than {self.at_least:g}{self.where}"


@dataclass(frozen=True)
class Trend(_Scope):
    """``metric`` of ``arm`` (or its advantage over ``than``) rises (sign=+1) or falls (-1) along ``over``.

    ``over`` names a condition, or ``"x"`` for the records' own abscissa; the effect is the least-squares slope. An
    advantage is positive where ``arm`` is better, whichever way the metric points.
    """

    metric: str
    arm: str
    over: str
    sign: Literal[1, -1] = 1
    than: str | None = None

    def __post_init__(self) -> None:
        if self.than == self.arm:
            raise ValueError(f"Trend: than={self.than!r} must be another arm")
        _one_of("Trend", "sign", self.sign, (1, -1))
        if self.over in self.at:
            raise ValueError(f"Trend: at={self.at!r} fixes {self.over!r}, along which the trend runs")

    @property
    def region(self) -> Region:
        return (0.0, math.inf) if self.sign > 0 else (-math.inf, 0.0)

    def __str__(self) -> str:
        what = f"{self.metric} of {self.arm}"
        if self.than:
            what = f"the advantage of {self.arm} over {self.than} in {self.metric}"
        return self.says or f"{what} {'rises' if self.sign > 0 else 'falls'} with {self.over}{self.where}"


@dataclass(frozen=True)
class Grows(_Scope):
    """``metric`` of ``arm`` grows as ``with_`` to the power ``exponent``, give or take ``within`` (log-log slope).

    ``with_`` names a condition, or ``"x"`` for the records' own abscissa. ``arm=None`` averages the exponents of all
    arms.
    """

    metric: str
    with_: str
    exponent: float
    within: float = 0.1
    arm: str | None = None

    def __post_init__(self) -> None:
        _finite("Grows", "exponent", self.exponent)
        _positive("Grows", "within", self.within)
        if self.with_ in self.at:
            raise ValueError(f"Grows: at={self.at!r} fixes {self.with_!r}, along which the metric grows")

    @property
    def region(self) -> Region:
        return (self.exponent - self.within, self.exponent + self.within)

    def __str__(self) -> str:
        of = f" of {self.arm}" if self.arm else ""
        power = f"{self.with_}^{self.exponent:g} (± {self.within:g})"
        return self.says or f"{self.metric}{of} grows as {power}{self.where}"


@dataclass(frozen=True)
class Holds(_Scope):
    """An exact fact: every recorded value of ``metric`` is at most ``at_most`` and at least ``at_least``."""

    metric: str
    at_most: float = math.inf
    at_least: float = -math.inf
    arm: str | None = None

    def __post_init__(self) -> None:
        if not self.at_least <= self.at_most or (self.at_least, self.at_most) == (-math.inf, math.inf):
            raise ValueError(f"Holds: at_least={self.at_least}, at_most={self.at_most} must bound the metric")

    @property
    def region(self) -> Region:
        return (self.at_least, self.at_most)

    def __str__(self) -> str:
        low = f"≥ {self.at_least:g}" if self.at_least > -math.inf else ""
        high = f"≤ {self.at_most:g}" if self.at_most < math.inf else ""
        of = f" of {self.arm}" if self.arm else ""
        return self.says or f"{self.metric}{of} {' and '.join(filter(None, (low, high)))} everywhere{self.where}"


Claim = Better | Equivalent | Correlates | Trend | Grows | Holds
