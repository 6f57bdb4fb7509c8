"""Verdicts: what stored records say of a claim.

Only records with role ``"reported"`` are judged; those of the tuning seeds do no more than choose the baseline that a
``Better`` with several is held against. Arms are compared in pairs: within a seed, a condition and a unit, so that
what they share cancels. A sample is then one number a seed (the mean over its conditions, every one of which must have
been measured) or one a unit, and its mean has Student's interval.

Values are oriented where arms are compared: an effect is positive where ``arm`` is better, whichever way the metric
points, and is in the metric's unit. A run that diverged (NaN, or infinite on the bad side) is worse than any that did
not; :func:`landform.lab.statistics.student_interval` says what that does to an interval. Nothing is dropped unsaid:
the note of a finding tells of every seed or value that was left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landform.claims import Better, Claim, Correlates, Equivalent, Finding, Grows, Holds, Over, Trend, Verdict, decide
from landform.lab.statistics import bootstrap_interval, spearman, student_interval

Array = NDArray[np.float64]

COLUMNS = ("arm", "metric", "value", "x", "unit", "setting", "seed", "role")
"""The columns of every run's records; any other is a condition."""

FEWEST_UNITS = 5
"""With fewer units even a perfect order comes by chance in more than 2.5 % of cases (1/4! = 4.2 %, 1/5! = 0.8 %)."""


def judge(
    claim: Claim,
    records: pd.DataFrame,
    *,
    minimise: Collection[str] = (),
    tune_by: str | None = None,
    verdict: bool = True,
) -> Finding:
    """What the records say of a claim: effect, 95 % interval, verdict.

    Arguments:
        claim: one of the forms of :mod:`landform.claims`.
        records: one row a record, with the columns ``COLUMNS`` and one for each condition.
        minimise: the metrics of which less is better.
        tune_by: the metric that chooses the best of several baselines where the tuning seeds lack the claim's own, as
            when test data is left alone while tuning.
        verdict: False where none may be given, as for the smoke preset.

    Raises:
        ValueError: the claim names an arm, a metric, a condition or a value of one that was not recorded, or no seed
            (or unit) has all that it needs. The message says what there is.
        TypeError: not a claim.
    """
    finding = _weigh(claim, Evidence.of(records, minimise, tune_by))
    return finding if verdict else replace(finding, verdict=None)


@dataclass(frozen=True)
class Evidence:
    """Records made ready: ``cell`` numbers the combination of conditions, and missing text is the empty string."""

    records: pd.DataFrame
    minimise: Collection[str]
    tune_by: str | None
    conditions: tuple[str, ...]

    @classmethod
    def of(cls, records: pd.DataFrame, minimise: Collection[str], tune_by: str | None) -> Evidence:
        missing = [name for name in COLUMNS if name not in records.columns]
        if missing:
            raise ValueError(f"records lack the columns {missing}; they have {list(records.columns)}")
        conditions = tuple(str(name) for name in records.columns if name not in COLUMNS)
        values = records["value"].to_numpy(np.float64)
        bad = np.where(records["metric"].isin(list(minimise)), np.inf, -np.inf)
        ready = records.assign(
            value=np.where(np.isnan(values), bad, values),
            missing=np.isnan(values),
            diverged=np.isnan(values) | (values == bad),
            unit=_text(records["unit"]),
            setting=_text(records["setting"]),
            cell=_numbered(records, conditions),
        )
        return cls(ready, minimise, tune_by, conditions)

    def select(
        self,
        metrics: Sequence[str],
        arms: Sequence[str] | None,
        at: Mapping[str, Any],
        *,
        along_x: bool = False,
        role: str = "reported",
    ) -> pd.DataFrame:
        """The records of these metrics and arms (all arms where None) under the conditions ``at``."""
        found = self.records[self.records["role"] == role]
        if found.empty:
            raise ValueError(f"there are no {role} records")
        for name, value in at.items():
            if name not in self.conditions:
                raise ValueError(f"unknown condition {name!r}; recorded: {_listed(self.conditions)}")
            matches = found[name].map(lambda recorded, value=value: recorded == value).astype(bool)
            if not matches.any():
                raise ValueError(f"condition {name}={value!r} was not recorded; recorded: {_listed(found[name])}")
            found = found[matches]
        for metric in metrics:
            if metric not in set(found["metric"]):
                raise ValueError(f"unknown metric {metric!r}; recorded: {_listed(found['metric'])}")
        found = found[found["metric"].isin(metrics)]
        for arm in arms or ():
            if arm not in set(found["arm"]):
                raise ValueError(f"unknown arm {arm!r} for {_listed(metrics)}; recorded: {_listed(found['arm'])}")
        found = found[found["arm"].isin(arms)] if arms else found
        placed = found["x"].notna()
        if not (placed == along_x).any():
            raise ValueError(f"{_listed(metrics)} was recorded {'without' if along_x else 'only along'} an x")
        return found[placed == along_x]

    def sign(self, metric: str) -> int:
        """-1 for a metric of which less is better."""
        return -1 if metric in self.minimise else 1


@singledispatch
def _weigh(claim: object, evidence: Evidence) -> Finding:
    raise TypeError(f"{claim!r} is no claim; the forms are in landform.claims")


@_weigh.register
def _(claim: Better, evidence: Evidence) -> Finding:
    frame = evidence.select((claim.metric,), (claim.arm, *claim.baselines), claim.at)
    if len(claim.baselines) == 1:
        return _compare(claim, frame, claim.arm, claim.baselines[0], evidence)
    best = _best_when_tuning(claim, frame, evidence)
    if best is not None:
        found = _compare(claim, frame, claim.arm, best, evidence)
        why = f"against {best}, the best of {len(claim.baselines)} baselines on the tuning seeds"
    else:
        each = [(base, _compare(claim, frame, claim.arm, base, evidence)) for base in claim.baselines]
        base, found = min(each, key=lambda one: _hardness(one[1]))
        why = f"against {base}, the hardest of {len(each)} baselines; the claim must hold against every one"
    return replace(found, note=_joined((why, found.note)))


@_weigh.register
def _(claim: Equivalent, evidence: Evidence) -> Finding:
    frame = evidence.select((claim.metric,), (claim.a, claim.b), claim.at)
    return _compare(claim, frame, claim.a, claim.b, evidence)


@_weigh.register
def _(claim: Correlates, evidence: Evidence) -> Finding:
    frame = evidence.select((claim.x, claim.y), claim.arm and (claim.arm,), claim.at)
    if claim.over == "seed":
        table = _mean(frame, ["seed", "cell", "arm", "unit", "metric"]).unstack("metric")
        pairs = table.dropna()
        if pairs.empty:
            raise ValueError(f"no seed has both {claim.x!r} and {claim.y!r} of one unit in one arm")
        rho = pairs.groupby(["seed", "cell"]).apply(
            lambda rows: float(spearman(rows[claim.x].to_numpy(), rows[claim.y].to_numpy()))
        )
        sample, notes = _complete(rho.rename("value").reset_index(), "seed", frame)
        if np.isnan(sample).any():
            notes.append("the correlation is undefined on a seed where a metric has one and the same value throughout")
        return _finding(claim, sample, [*notes, _unpaired(table, pairs)], "correlations")
    table = _mean(frame, ["arm", "unit", "cell", "metric"]).unstack("metric")
    pairs = table.dropna()
    wide = pairs.unstack("cell")
    whole = wide.dropna()
    left_out = f"{len(wide) - len(whole)} units left out: not measured under every condition"
    notes = [_unpaired(table, pairs), left_out if len(whole) < len(wide) else ""]
    if whole.empty:
        raise ValueError(f"no unit has both {claim.x!r} and {claim.y!r} under every condition in one arm")
    cells = whole.columns.get_level_values("cell").unique()
    columns = [whole[metric, cell].to_numpy(np.float64) for cell in cells for metric in (claim.x, claim.y)]

    def mean_correlation(*columns: Array, axis: int = -1) -> Array:
        each = [spearman(x, y, axis) for x, y in zip(columns[::2], columns[1::2], strict=True)]
        return np.asarray(np.mean(each, axis=0))

    if len(whole) < FEWEST_UNITS:
        effect = float(mean_correlation(*columns))
        notes.append(f"{len(whole)} units are too few for an interval: it takes {FEWEST_UNITS}")
        return Finding(effect, math.nan, math.nan, len(whole), None, _joined(notes))
    interval, how = bootstrap_interval(columns, mean_correlation)
    verdict = decide(interval.low, interval.high, *claim.region)
    return Finding(*interval, len(whole), verdict, _joined([f"{how} over units", *notes]))


@_weigh.register
def _(claim: Trend, evidence: Evidence) -> Finding:
    arms = (claim.arm, claim.than) if claim.than else (claim.arm,)
    frame = evidence.select((claim.metric,), arms, claim.at, along_x=claim.over == "x")
    frame, line = _abscissa(frame, claim.over, evidence)
    keys = ["seed", "cell", "t", "unit"] if line == "cell" else ["seed", "cell", line, "t", "unit"]
    note = ""
    if claim.than:
        points, note = _differences(frame, keys, claim.arm, claim.than, evidence.sign(claim.metric))
    else:
        points = _mean(frame, keys).rename("value").reset_index()
    sample, notes = _slopes(points, line, frame, every_t=claim.over != "x")
    return _finding(claim, sample, [note, *notes, _diverged(frame)], "slopes")


@_weigh.register
def _(claim: Grows, evidence: Evidence) -> Finding:
    frame = evidence.select((claim.metric,), claim.arm and (claim.arm,), claim.at, along_x=claim.with_ == "x")
    frame, line = _abscissa(frame, claim.with_, evidence)
    if not (frame["t"] > 0).all():
        raise ValueError(f"a power of {claim.with_} needs positive values, not {_listed(frame['t'])}")
    frame = frame.assign(line=frame.groupby([line, "arm"]).ngroup())
    points = _mean(frame, ["seed", "line", "t"]).rename("value").reset_index()
    positive = points["value"] > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        points = points.assign(t=np.log(points["t"]), value=np.log(points["value"].where(positive, np.nan)))
    sample, notes = _slopes(points, "line", frame, every_t=claim.with_ != "x")
    if not positive.all():
        notes.append(f"no power law: {int((~positive).sum())} values are zero or negative")
    return _finding(claim, sample, [*notes, _diverged(frame)], "exponents")


@_weigh.register
def _(claim: Holds, evidence: Evidence) -> Finding:
    frame = evidence.select((claim.metric,), claim.arm and (claim.arm,), claim.at)
    values = frame["value"].where(~frame["missing"]).to_numpy()
    holds = (values >= claim.at_least) & (values <= claim.at_most)
    with np.errstate(invalid="ignore"):
        room = np.fmin(claim.at_most - values, values - claim.at_least)
    nearest = values[np.argmin(np.where(np.isnan(values), -np.inf, room))]
    note = "the effect is the value nearest to a bound, the interval the range of all"
    if not holds.all():
        note = f"{int((~holds).sum())} of {len(values)} values break the bound; the interval is the range of all"
    verdict: Verdict = "supported" if holds.all() else "contradicted"
    return Finding(float(nearest), float(values.min()), float(values.max()), len(values), verdict, note)


# Pairs and samples.


def _compare(claim: Better | Equivalent, frame: pd.DataFrame, arm: str, base: str, evidence: Evidence) -> Finding:
    """The paired difference arm - base, oriented so that positive is better."""
    frame = frame[frame["arm"].isin((arm, base))]
    if claim.over == "unit" and (frame["unit"] == "").any():
        raise ValueError(f"records of {claim.metric!r} name no unit, over which the claim is to be judged")
    pairs, note = _differences(frame, ["seed", "cell", "unit"], arm, base, evidence.sign(claim.metric))
    samples = _mean(pairs, [claim.over, "cell"]).rename("value").reset_index()
    sample, notes = _complete(samples, claim.over, frame)
    return _finding(claim, sample, [note, *notes, _diverged(frame), _settings(frame)], "differences")


def _differences(frame: pd.DataFrame, keys: list[str], arm: str, base: str, sign: int) -> tuple[pd.DataFrame, str]:
    table = _mean(frame, [*keys, "arm"]).unstack("arm")
    pairs = table.dropna()
    with np.errstate(invalid="ignore"):
        difference = sign * (pairs[arm].to_numpy() - pairs[base].to_numpy())
    return pd.DataFrame({"value": difference}, index=pairs.index).reset_index(), _unpaired(table, pairs)


def _complete(samples: pd.DataFrame, over: Over, frame: pd.DataFrame, cell: str = "cell") -> tuple[Array, list[str]]:
    """One number a seed (or unit): the mean over its cells, where it has all of them."""
    cells = frame[cell].nunique()
    counts = samples.groupby(over)[cell].nunique()
    whole = counts.index[counts == cells]
    if whole.empty:
        raise ValueError(
            f"no {over} has every value that the claim needs, under all of its {cells} conditions; "
            "restrict the claim with at={...}, or run the rest"
        )
    out = sorted(set(frame[over]) - set(whole))
    notes = [f"{over}s left out, not wholly measured: {_listed(out)}"] if out else []
    return np.asarray(_mean(samples[samples[over].isin(whole)], [over]), np.float64), notes


def _mean(frame: pd.DataFrame, by: list[str]) -> pd.Series[float]:
    """Means of ``value`` in which ∞ and NaN count as arithmetic has them (pandas would leave NaN out)."""
    groups = frame.groupby(by)
    codes = groups.ngroup().to_numpy()
    with np.errstate(invalid="ignore"):
        means = np.bincount(codes, frame["value"].to_numpy()) / np.bincount(codes)
    return pd.Series(means, index=groups.size().index)


def _best_when_tuning(claim: Better, frame: pd.DataFrame, evidence: Evidence) -> str | None:
    """The baseline that is best on the tuning seeds, each with the settings it is reported with; None if unmeasured."""
    tuned = evidence.records[evidence.records["role"] == "tuning"]
    metric = claim.metric if claim.metric in set(tuned["metric"]) else evidence.tune_by
    if metric is None:
        return None
    try:
        tuning = evidence.select((metric,), claim.baselines, claim.at, role="tuning")
    except ValueError:
        return None
    ran = ["arm", "cell", "setting"]
    tuning = tuning.merge(frame[ran].drop_duplicates(), on=ran)
    means = _mean(tuning, ["arm", "cell"]).unstack("cell").reindex(claim.baselines)
    if means.shape[1] < frame["cell"].nunique() or means.isna().to_numpy().any():
        return None
    scores = evidence.sign(metric) * means.to_numpy().mean(axis=1)
    return claim.baselines[int(np.argmax(scores))]


def _hardness(finding: Finding) -> tuple[int, float]:
    """Least first: a baseline that contradicts the claim, then the one whose interval reaches lowest."""
    order = ("contradicted", "inconclusive", "supported")
    rank = order.index(finding.verdict) if finding.verdict else -1
    low = finding.effect if math.isnan(finding.low) else finding.low
    return rank, -math.inf if math.isnan(low) else low


# Slopes.


def _abscissa(frame: pd.DataFrame, over: str, evidence: Evidence) -> tuple[pd.DataFrame, str]:
    """Adds ``t``, the abscissa, and says which column numbers the lines that are fitted along it."""
    if over == "x":
        return frame.assign(t=frame["x"].to_numpy(np.float64)), "cell"
    if over not in evidence.conditions:
        raise ValueError(f"unknown condition {over!r}; recorded: {_listed(evidence.conditions)}, or 'x'")
    t = pd.to_numeric(frame[over], errors="coerce").to_numpy(np.float64)
    if not np.isfinite(t).all():
        raise ValueError(f"a slope along {over!r} needs numbers, not {_listed(frame[over])}")
    if len(set(t)) < 2:
        raise ValueError(f"a slope along {over!r} needs at least two values of it, not {_listed(t)}")
    rest = [name for name in evidence.conditions if name != over]
    return frame.assign(t=t, rest=_numbered(frame, rest)), "rest"


def _slopes(points: pd.DataFrame, line: str, frame: pd.DataFrame, *, every_t: bool) -> tuple[Array, list[str]]:
    """One slope a seed: the mean over its lines of the least-squares slope, Σ (t − t̄) y / Σ (t − t̄)²."""
    points = _mean(points, ["seed", line, "t"]).rename("value").reset_index()
    if every_t:
        whole = points.groupby(["seed", line])["t"].transform("size") == frame["t"].nunique()
        points = points[whole]
    rows = [
        (seed, number, _slope(rows["t"].to_numpy(), rows["value"].to_numpy()))
        for (seed, number), rows in points.groupby(["seed", line])
    ]
    slopes = pd.DataFrame(rows, columns=["seed", line, "value"])
    sample, notes = _complete(slopes, "seed", frame, line)
    if np.isnan(sample).any():
        notes.append("the slope is undefined on a seed with fewer than two points, or with runs that diverged")
    return sample, notes


def _slope(t: Array, y: Array) -> float:
    centred = t - t.mean()
    spread = float(centred @ centred)
    if not spread or np.isnan(y).any():
        return math.nan
    infinite = np.isinf(y)
    if infinite.any():  # the limit for runs that diverged to ±c, c → ∞
        pull = float(centred[infinite] @ np.sign(y[infinite]))
        return math.copysign(math.inf, pull) if pull else math.nan
    return float(centred @ (y - y.mean())) / spread


# Findings and the words of their notes.


def _finding(claim: Claim, sample: Array, notes: Iterable[str], what: str) -> Finding:
    interval = student_interval(sample)
    n = len(sample)
    verdict = decide(interval.low, interval.high, *claim.region) if n > 1 else None
    extra = []
    if n == 1:
        extra.append("one sample gives no interval")
    elif np.isfinite(sample).all() and np.ptp(sample) == 0:
        extra.append(f"all {n} {what} are equal: the interval is a point")
    return Finding(*interval, n, verdict, _joined((*extra, *notes)))


def _unpaired(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    missing = len(table) - len(pairs)
    return f"{missing} of {len(table)} values left out: without a partner" if missing else ""


def _diverged(frame: pd.DataFrame) -> str:
    count = int(frame["diverged"].sum())
    return f"{count} of {len(frame)} values diverged and count as worse than any other" if count else ""


def _settings(frame: pd.DataFrame) -> str:
    several = frame.groupby(["arm", "cell"])["setting"].nunique()
    arms = sorted(set(several.index[several > 1].get_level_values("arm")))
    return f"nothing was tuned: the mean over all settings of {_listed(arms)}" if arms else ""


def _numbered(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series[int]:
    """A number for each combination of values, which may be of any kind, in the columns ``names``."""
    texts = pd.Series("", index=frame.index)
    for name in names:
        texts = texts + "\0" + frame[name].map(repr)
    return pd.Series(pd.factorize(texts)[0], index=frame.index)


def _text(column: pd.Series[Any]) -> pd.Series[str]:
    return column.where(column.notna(), "").astype(str)


def _listed(values: Iterable[Any]) -> str:
    unique = list(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in values))
    shown = ", ".join(unique[:12])
    return shown + (f" and {len(unique) - 12} more" if len(unique) > 12 else "")


def _joined(notes: Iterable[str]) -> str:
    return "; ".join(note for note in notes if note)
