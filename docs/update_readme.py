"""Write README's table of methods anew, from the kept results in docs/results.

python docs/update_readme.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from landform.lab.kept import opened
from landform.lab.report.pages import Entry, Judged, Shown, entries

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- The table is written by docs/update_readme.py. -->\n", "<!-- End of the table. -->\n"


def table(measured: Sequence[tuple[Entry, Shown, Judged]]) -> str:
    """The methods with what was measured of them, and on which machines."""
    lines = [
        "| paper | component | headline claim | effect and 95 % interval | verdict | all claims |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entry, run, headline in measured:
        against = f" ({headline.finding.note.split(',')[0]})" if headline.finding and headline.finding.note else ""
        supported = sum(judged.outcome == "supported" for judged in run.judged)
        cells = (
            f"[{entry.paper.slug}](https://arxiv.org/abs/{entry.paper.arxiv})"
            if entry.paper.arxiv
            else f"[{entry.paper.slug}]({entry.paper.source})",
            f"`{entry.paper.component}`",
            headline.claim,
            f"{headline.effect} {headline.interval}{against}",
            f"**{headline.outcome}**",
            f"{supported} of {len(run.judged)} supported",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    environments = sorted({environment(run) for _, run, _ in measured})
    return "\n".join([*lines, "", f"Measured: {'; '.join(environments)}.", ""])


def environment(run: Shown) -> str:
    facts = run.environment
    return (
        f"{run.when} on {facts['cpu']}, Python {facts['python']}, torch {facts['torch']}, landform {facts['landform']}"
    )


def updated(readme: str) -> str:
    """The README with its table replaced."""
    with opened(RESULTS) as store:
        measured = [(e, e.first, e.first.headline) for e in entries(store) if e.first and e.first.headline]
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"README.md lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{table(measured)}\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
