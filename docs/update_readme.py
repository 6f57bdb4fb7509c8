"""Write README's table of methods anew, from the kept results in docs/results.

python docs/update_readme.py
"""

from __future__ import annotations

from pathlib import Path

from landform.catalog import papers
from landform.lab.discover import load_study
from landform.lab.kept import opened
from landform.lab.report.pages import date, environment, judged
from landform.lab.store import Store

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- The table is written by docs/update_readme.py. -->\n", "<!-- End of the table. -->\n"


def table(store: Store) -> str:
    """The methods with what was measured of them at the laptop preset, and on which machines."""
    lines = [
        "| paper | component | headline claim | effect and 95 % interval | verdict | all claims |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    machines = set()
    for paper in papers():
        run = next((run for run in store.runs(paper.slug) if not run.overrides), None)
        if run is None:
            continue
        study, records, trials = load_study(paper.slug), store.records(run), store.trials(run)
        claims = [judged(claim, records, study, run.preset) for claim in study.claims]
        headline = claims[0]
        against = f" ({headline.finding.note.split(',')[0]})" if headline.finding and headline.finding.note else ""
        supported = sum(claim.outcome == "supported" for claim in claims)
        address = f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else paper.source
        cells = (
            f"[{paper.slug}]({address})",
            f"`{paper.component}`",
            headline.claim,
            f"{headline.effect} {headline.interval}{against}",
            f"**{headline.outcome}**",
            f"{supported} of {len(claims)} supported",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        facts = environment(trials["environment"])
        machines.add(
            f"{date(trials['finished'].max())} on {facts['cpu']}, Python {facts['python']}, torch {facts['torch']}, "
            f"landform {facts['landform']}"
        )
    return "\n".join([*lines, "", f"Measured: {'; '.join(sorted(machines))}.", ""])


def updated(readme: str) -> str:
    """The README with its table replaced."""
    with opened(RESULTS) as store:
        measured = table(store)
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"README.md lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{measured}\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
