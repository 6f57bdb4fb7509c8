"""Claims: what would make a paper wrong, in one of a few forms.

A claim only says *what* is claimed. ``landform.lab.verdicts`` estimates its effect and interval from stored records.
``at`` restricts a claim to one value of a condition, as in ``at={"noise": 0.4}``; without it a seed's value is the mean
over its conditions. ``over`` says what is resampled: ``"seed"``, or ``"unit"`` (architectures, models, clients,
episodes); in ``Trend`` it names the condition along which an effect changes, and the seeds are what is resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Over = Literal["seed", "unit"]
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
    """Supported when [low, high] lies strictly inside (at_least, at_most), contradicted when wholly outside it."""
    if low > at_least and high < at_most:
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


@dataclass(frozen=True)
class Better(_Scope):
    """``arm`` beats every arm of ``than`` on ``metric`` by more than ``by`` (in the metric's own unit)."""

    metric: str
    arm: str
    than: str | tuple[str, ...]
    by: float = 0.0
    over: Over = "seed"

    @property
    def baselines(self) -> tuple[str, ...]:
        return (self.than,) if isinstance(self.than, str) else tuple(self.than)

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

    @property
    def arm(self) -> str:
        return self.a

    def __str__(self) -> str:
        return self.says or f"{self.a} and {self.b} are within {self.within:g} on {self.metric}{self.where}"


@dataclass(frozen=True)
class Correlates(_Scope):
    """Spearman's rank correlation of the metrics ``x`` and ``y`` over units is more than ``at_least``.

    Pairs are formed by unit within an arm (or over all arms when ``arm`` is None). With ``over="seed"`` there is one
    correlation a seed; with ``over="unit"`` values are averaged over seeds first and the units are resampled.
    """

    x: str
    y: str
    at_least: float = 0.0
    arm: str | None = None
    over: Over = "seed"

    @property
    def metric(self) -> str:
        return f"{self.x} ~ {self.y}"

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

    def __str__(self) -> str:
        what = f"{self.metric} of {self.arm}"
        if self.than:
            what = f"the advantage of {self.arm} over {self.than} in {self.metric}"
        return self.says or f"{what} {'rises' if self.sign > 0 else 'falls'} with {self.over}{self.where}"


@dataclass(frozen=True)
class Grows(_Scope):
    """``metric`` of ``arm`` grows as ``with_`` to the power ``exponent``, give or take ``within`` (log-log slope).

    ``with_`` names a condition, or ``"x"`` for the records' own abscissa.
    """

    metric: str
    with_: str
    exponent: float
    within: float = 0.1
    arm: str | None = None

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

    def __str__(self) -> str:
        low = f"≥ {self.at_least:g}" if self.at_least > -math.inf else ""
        high = f"≤ {self.at_most:g}" if self.at_most < math.inf else ""
        of = f" of {self.arm}" if self.arm else ""
        return self.says or f"{self.metric}{of} {' and '.join(filter(None, (low, high)))} everywhere{self.where}"


Claim = Better | Equivalent | Correlates | Trend | Grows | Holds
