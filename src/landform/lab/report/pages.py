"""What the pages show: every paper, and of each stored run its findings, figure, tables, and how to repeat it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from landform.catalog import Paper, papers
from landform.claims import Claim, Finding
from landform.lab.discover import load_study
from landform.lab.errors import LabError, StoreError
from landform.lab.fingerprint import study_fingerprint
from landform.lab.identity import RunKey
from landform.lab.report.drawing import Drawn, NotDrawn, draw
from landform.lab.report.marks import half_width, interval_plot, interval_text, number
from landform.lab.statistics import student_interval
from landform.lab.store import Store
from landform.lab.verdicts import COLUMNS, judge

if TYPE_CHECKING:
    import pandas as pd

    from landform.study import Study

OUTCOMES = {
    "supported": "Supported",
    "contradicted": "Contradicted",
    "inconclusive": "Inconclusive",
    "none": "No verdict",
    "unrun": "Not run",
}
"""What may stand on a chip: the verdicts, no verdict (the smoke preset, too few seeds), and no stored run."""

SIGNS = {"supported": "✓", "contradicted": "✕", "inconclusive": "∼", "none": "○", "unrun": "–"}
PRESET_ORDER = ("paper", "laptop", "smoke")


@dataclass(frozen=True)
class Judged:
    """A claim with what the records say of it, in numbers, words and a mark; ``refused`` says why it has no finding."""

    claim: str
    metric: str
    outcome: str
    finding: Finding | None
    effect: str = ""
    interval: str = ""
    plot: Markup | str = ""
    small_plot: Markup | str = ""
    refused: str = ""


@dataclass(frozen=True)
class Failure:
    """A trial that failed."""

    trial: str
    traceback: str


@dataclass(frozen=True)
class Shown:
    """A stored run as its page shows it."""

    key: RunKey
    name: str
    command: str
    when: str
    outdated: bool
    judged: tuple[Judged, ...]
    figure: Drawn | NotDrawn
    caption: str
    summary: Summary
    config: Mapping[str, str]
    environment: Mapping[str, str]
    trials: str
    failures: tuple[Failure, ...]

    @property
    def modified(self) -> bool:
        return bool(self.key.overrides)

    @property
    def headline(self) -> Judged | None:
        return self.judged[0] if self.judged else None

    @property
    def outcome(self) -> str:
        return self.headline.outcome if self.headline else "none"

    @property
    def file(self) -> str:
        """The stem of this run's files."""
        return f"{self.key.study}-{self.key.id[:12]}"


@dataclass(frozen=True)
class Entry:
    """A paper with its stored runs, the one to be shown first at the head."""

    paper: Paper
    runs: tuple[Shown, ...]
    reading: str = ""
    unloaded: str = ""

    @property
    def first(self) -> Shown | None:
        return self.runs[0] if self.runs else None

    @property
    def outcome(self) -> str:
        return self.first.outcome if self.first else "unrun"


@dataclass(frozen=True)
class Row:
    """The mean of a metric for an arm under a condition, with its interval over seeds."""

    arm: str
    condition: tuple[str, ...]
    setting: str
    mean: str
    interval: str
    n: int


@dataclass(frozen=True)
class Summary:
    """The reported records, averaged over seeds, by metric; ``curves`` are the metrics recorded along an x."""

    conditions: tuple[str, ...]
    metrics: Mapping[str, Sequence[Row]]
    minimise: frozenset[str]
    curves: tuple[str, ...]
    tuned: bool


def entries(store: Store) -> list[Entry]:
    """Every paper of the catalogue in its order, and after them stored studies that the catalogue does not know."""
    stored: dict[str, list[RunKey]] = {}
    for run in store.runs():
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", run.study):
            raise StoreError(f"the store {store.path} holds a study of the impossible name {run.study!r}")
        stored.setdefault(run.study, []).append(run)
    known = {paper.slug: paper for paper in papers()}
    strangers = [
        Paper(slug, title=slug, area="outside the catalogue", venue="", year=0, claim="")
        for slug in sorted(stored)
        if slug not in known
    ]
    return [_entry(paper, stored.get(paper.slug, []), store) for paper in (*known.values(), *strangers)]


def _entry(paper: Paper, runs: Sequence[RunKey], store: Store) -> Entry:
    if not runs:
        return Entry(paper, ())
    study, fingerprint, unloaded = None, None, ""
    try:
        study = load_study(paper.slug)
        fingerprint = study_fingerprint(study)
    except Exception as error:  # importing a study runs its file: anything may go wrong in it
        study, unloaded = None, str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
    shown = [_shown(run, store, study, fingerprint) for run in runs]

    # Store.runs has the newest first, and sorting keeps that order where the rest is equal.
    def order(run: Shown) -> tuple[bool, int, bool, bool]:
        rank = PRESET_ORDER.index(run.key.preset) if run.key.preset in PRESET_ORDER else len(PRESET_ORDER)
        return run.outcome == "none", rank, run.modified, run.outdated

    return Entry(paper, tuple(sorted(shown, key=order)), study.reading if study else "", unloaded)


def _shown(run: RunKey, store: Store, study: Study | None, fingerprint: str | None) -> Shown:
    records, trials = store.records(run), store.trials(run)
    figure: Drawn | NotDrawn
    if study is None:
        found: tuple[Judged, ...] = ()
        figure = NotDrawn("Without the study there is no figure.")
    else:
        found = tuple(judged(claim, records, study, run.preset) for claim in study.claims)
        empty = NotDrawn("No trial has finished yet.")
        figure = empty if records.empty else draw(study, records, store.arrays(run))
    failed = trials[trials["status"] == "failed"]
    finished = trials["finished"].dropna()
    return Shown(
        key=run,
        name=_name(run),
        command=command(run, trials, study),
        when=date(finished.max()) if len(finished) else "",
        outdated=fingerprint is not None and fingerprint != run.fingerprint,
        judged=found,
        figure=figure,
        caption=_caption(study),
        summary=summarise(records, study.minimise if study else frozenset()),
        config={name: text(value) for name, value in run.config.items()},
        environment=environment(trials["environment"]),
        trials=_counts(trials),
        failures=tuple(Failure(_trial(row), str(row["traceback"])) for row in failed.to_dict("records")),
    )


def judged(claim: Claim, records: pd.DataFrame, study: Study, preset: str) -> Judged:
    """What the records of a run say of a claim."""
    words = str(claim)
    try:
        finding = judge(claim, records, minimise=study.minimise, tune_by=study.tune_by, verdict=preset != "smoke")
    except ValueError as error:
        return Judged(words, claim.metric, "none", None, refused=str(error))
    outcome = finding.verdict or "none"
    signed = type(claim).__name__ not in {"Holds", "Grows"}
    effect = number(finding.effect, half_width(finding), signed=signed)
    interval = interval_text(finding.low, finding.high, signed=signed)
    described = f"Effect {effect}, 95 % interval {interval}"
    return Judged(
        words,
        claim.metric,
        outcome,
        finding,
        effect,
        interval,
        interval_plot(finding, claim.region, described, ticks=True),
        interval_plot(finding, claim.region, described, width=200),
    )


def summarise(records: pd.DataFrame, minimise: frozenset[str] = frozenset()) -> Summary:
    """Mean and Student's interval over the reported seeds, for each metric, condition and arm."""
    reported = records[records["role"] == "reported"]
    conditions = tuple(str(name) for name in records.columns if name not in COLUMNS)
    placed = reported["x"].notna()
    curves = tuple(dict.fromkeys(reported.loc[placed, "metric"]))
    single = reported[~placed]
    single = single.assign(**{name: single[name].map(text) for name in conditions})
    metrics: dict[str, list[Row]] = {}
    for (metric, *under, arm), cell in single.groupby(["metric", *conditions, "arm"], sort=False):
        # NumPy's mean, unlike that of pandas, does not leave out a run that diverged.
        seeds = [values.to_numpy().mean() for _, values in cell.groupby("seed")["value"]]
        mean, low, high = student_interval(seeds)
        setting = ", ".join(dict.fromkeys(cell["setting"].dropna()))
        shown = number(mean, (high - low) / 2)
        row = Row(str(arm), tuple(map(str, under)), setting, shown, interval_text(low, high), len(seeds))
        metrics.setdefault(str(metric), []).append(row)
    return Summary(conditions, metrics, minimise, curves, bool(single["setting"].notna().any()))


def command(run: RunKey, trials: pd.DataFrame, study: Study | None) -> str:
    """The command line that repeats the run."""
    words = ["landform", "run", run.study, "--preset", run.preset]
    for name, value in run.overrides.items():
        words += ["--set", f"{name}={_argument(value)}"]
    seeds = trials.loc[trials["role"] == "reported", "seed"].nunique()
    if study is not None and run.preset in study.presets and seeds not in (0, study.presets[run.preset].seeds):
        words += ["--seeds", str(seeds)]
    if run.device != "cpu":
        words += ["--device", *run.device.split()]
    return shlex.join(words)


def _argument(value: Any) -> str:
    """A value as ``--set`` reads it."""
    if isinstance(value, tuple | list):
        return ",".join(_argument(item) for item in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def text(value: Any) -> str:
    """A value of a config or condition, for people."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return "none" if math.isnan(value) else str(value).removesuffix(".0")
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, tuple | list):
        return ", ".join(map(text, value)) or "none"
    return str(value)


def _name(run: RunKey) -> str:
    changes = ", ".join(f"{name} = {text(value)}" for name, value in run.overrides.items())
    return (
        f"{run.preset} preset"
        + (f" with {changes}" if changes else "")
        + (f" on {run.device}" if run.device != "cpu" else "")
    )


def _caption(study: Study | None) -> str:
    """The first paragraph of the figure function's docstring."""
    words = (getattr(study.draw, "__doc__", None) or "") if study else ""
    return " ".join(words.strip().split("\n\n")[0].split())


def environment(stored: Iterable[Mapping[str, Any] | None]) -> dict[str, str]:
    """Each fact of the trials' environments; several values where trials of a run differ."""
    facts: dict[str, dict[str, None]] = {}
    for environment in stored:
        for name, value in (environment or {}).items():
            facts.setdefault(str(name), {})[text(value)] = None
    return {name: " · ".join(values) for name, values in facts.items()}


def _counts(trials: pd.DataFrame) -> str:
    counts = trials["status"].value_counts()
    parts = [f"{counts[status]} {status}" for status in ("done", "failed", "running") if status in counts]
    return ", ".join(parts)


def _trial(row: Mapping[Any, Any]) -> str:
    kind = "tuning seed" if row["role"] == "tuning" else "seed"
    own = {"role", "seed", "status", "chosen", "attempts", "started", "finished", "seconds", "traceback", "environment"}
    under = [f"{name} = {text(value)}" for name, value in row.items() if name not in own | {"owner"}]
    return ", ".join([f"{kind} {row['seed']}", *under])


def date(seconds: float) -> str:
    day = datetime.fromtimestamp(seconds, UTC)
    return f"{day.day} {day:%B %Y}"
