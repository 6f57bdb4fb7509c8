"""How a run looks in a terminal: a bar for each study while it runs, and a table of findings at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from landform.lab.identity import TrialKey
from landform.lab.runner import Ending, Observer, RunResult

VERDICT_STYLES = {"supported": "green", "contradicted": "red", "inconclusive": "yellow"}


class Bar(Observer):
    """One study's line of progress. A trial under way counts by its fraction."""

    def __init__(self, progress: Progress, study: str) -> None:
        self.display = progress
        self.study = study
        self.task: TaskID = progress.add_task(study, total=None, note="")
        self.fractions: dict[TrialKey, float] = {}
        self.settled = 0
        self.waits = False

    def planned(self, total: int) -> None:
        self.display.update(self.task, total=total)

    def progress(self, trial: TrialKey, fraction: float, note: str) -> None:
        self.fractions[trial] = fraction
        self.show(f"seed {trial.seed} {note}")

    def retrying(self, trial: TrialKey, reason: str) -> None:
        self.say(f"seed {trial.seed} is begun again: {reason}")

    def finished(self, trial: TrialKey, status: Ending, seconds: float, error: str | None) -> None:
        self.settled += 1
        self.fractions.pop(trial, None)
        self.show("")
        if status == "failed":
            reason = (error or "for an unknown reason").strip().splitlines()[-1]
            self.say(f"[red]seed {trial.seed} failed:[/] {escape(reason)}")

    def waiting(self, trials: int, holder: str) -> None:
        if not self.waits:
            self.waits = True
            self.say(f"the other {trials} trials are being computed by {escape(holder)}; waiting for them")

    def say(self, text: str) -> None:
        self.display.console.print(f"{self.study}: {text}")

    def show(self, note: str) -> None:
        done = self.settled + sum(self.fractions.values())
        self.display.update(self.task, completed=done, note=escape(note))


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on standard error, so that standard output holds results alone."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:.0f}/{task.total} trials"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def print_findings(results: Sequence[RunResult], store: Path) -> None:
    """Print each study with its seconds, and its claims with effects, intervals and verdicts.

    Every study has columns of its own widths, so that one long interval does not squeeze the claims of all.
    """
    console = Console()
    for result in results:
        table = Table(header_style="bold", expand=True, box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(f"{result.study}, {result.seconds:.0f} seconds", ratio=1)
        for name in ("effect", "95 % interval", "n"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for claim, finding in result.findings:
            verdict = finding.verdict or "no verdict"
            style = VERDICT_STYLES.get(verdict, "dim")
            table.add_row(
                escape(str(claim)),
                _number(finding.effect),
                "—" if math.isnan(finding.low) else f"[{_number(finding.low)}, {_number(finding.high)}]",
                str(finding.n),
                f"[{style}]{verdict}[/]",
            )
        console.print(table)
    for result in results:
        trials = result.trials
        if result.preset == "smoke":
            console.print(f"{result.study}: the smoke preset shows that the study runs; it never gives a verdict.")
        if trials.failed:
            console.print(
                f"[red]{result.study}: {trials.failed} of {trials.total} trials failed[/]; the report has why."
            )
    console.print(f"Records are in {escape(str(store))}; `landform report` draws them.", soft_wrap=True)


def run_document(store: Path, results: Sequence[RunResult]) -> dict[str, Any]:
    """What ``landform run --json`` prints. A number that does not exist, or is infinite, is null."""
    return {
        "store": str(store),
        "runs": [
            {
                "study": result.study,
                "preset": result.preset,
                "trials": {
                    "total": result.trials.total,
                    "done": result.trials.done,
                    "cached": result.trials.cached,
                    "failed": result.trials.failed,
                },
                "claims": [
                    {
                        "claim": str(claim),
                        "metric": claim.metric,
                        "arm": claim.arm,
                        "effect": _finite(finding.effect),
                        "low": _finite(finding.low),
                        "high": _finite(finding.high),
                        "n": finding.n,
                        "verdict": finding.verdict,
                        "note": finding.note,
                    }
                    for claim, finding in result.findings
                ],
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }


def _number(value: float) -> str:
    return "—" if math.isnan(value) else f"{value:+.3g}".replace("-", "−", 1)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
