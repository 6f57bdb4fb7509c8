"""The papers: what each one is called, where it appeared, and what it claims, read from ``catalog.toml``.

Only the standard library is imported, so that listing the papers stays instant.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

AREAS = (
    "landscape",
    "training",
    "scaling",
    "losses",
    "contrastive",
    "search",
    "compression",
    "shift",
    "robustness",
    "federated",
    "meta-learning",
    "unlearning",
    "generative",
    "benchmarks",
    "science",
)

CATALOG = Path(__file__).with_name("catalog.toml")
STUDIES = Path(__file__).with_name("studies")

# What each text field must look like, as a regular expression and in words.
LINE = (r"\S(.*\S)?", "a line of text")
FORMS = {
    "slug": (r"[a-z0-9]+(-[a-z0-9]+)*", "lower-case words joined by hyphens"),
    "title": LINE,
    "area": ("|".join(AREAS), f"one of {', '.join(AREAS)}"),
    "venue": LINE,
    "claim": LINE,
    # Four digits after the point up to 2014, five since.
    "arxiv": (
        r"(0[7-9]|1[0-4])(0[1-9]|1[0-2])\.\d{4}|(1[5-9]|[2-9]\d)(0[1-9]|1[0-2])\.\d{5}",
        "an arXiv identifier such as 2110.08616, without a version",
    ),
    "source": (r"https://\S+", "an https:// address"),
    "code": (r"[\w.-]+/[\w.-]+", "a GitHub owner/repository"),
    "component": (r"landform(\.[a-z_]+)+", "a module of landform"),
}
OPTIONAL = {"arxiv", "source", "code", "component"}


class UnknownPaper(ValueError):
    """No paper of that slug is in the catalogue."""


@dataclass(frozen=True)
class Paper:
    """A paper of the catalogue.

    ``area`` is one of :data:`AREAS`. ``claim`` says in one sentence what the paper claims. ``arxiv`` is an arXiv
    identifier; a paper without one has its address in ``source`` instead. ``code`` is the authors' code as a GitHub
    owner/repository, None where none is public. ``component`` is the module of landform that holds the method, once
    there is one.
    """

    slug: str
    title: str
    area: str
    venue: str
    year: int
    claim: str
    arxiv: str | None = None
    source: str | None = None
    code: str | None = None
    component: str | None = None

    @property
    def has_study(self) -> bool:
        """Whether the paper can be run: its file is there. It is not imported, for that would load torch."""
        return (STUDIES / f"{self.slug.replace('-', '_')}.py").is_file()


def papers(area: str | None = None) -> tuple[Paper, ...]:
    """All papers, or those of one area, by area and then by slug.

    >>> [paper.slug for paper in papers("unlearning")]
    ['datamodel-matching']

    Raises:
        ValueError: an area that is none of :data:`AREAS`.
    """
    if area is None:
        return tuple(_catalogue().values())
    if area not in AREAS:
        raise ValueError(f"area={area!r}: allowed are {', '.join(AREAS)}")
    return tuple(paper for paper in _catalogue().values() if paper.area == area)


def paper(slug: str) -> Paper:
    """The paper of that slug.

    >>> paper("gradsign").arxiv
    '2110.08616'

    Raises:
        UnknownPaper: no paper has that slug; the message suggests those that resemble it.
    """
    catalogue = _catalogue()
    if slug not in catalogue:
        close = difflib.get_close_matches(str(slug).lower().replace("_", "-"), catalogue, n=3, cutoff=0.5)
        suggestion = f"did you mean {' or '.join(close)}? " if close else ""
        raise UnknownPaper(f"there is no paper {slug!r}: {suggestion}`landform list` shows all")
    return catalogue[slug]


@cache
def _catalogue() -> dict[str, Paper]:
    return parse(CATALOG.read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, Paper]:
    """The papers that a catalogue's TOML describes, one table a paper, by slug and in the file's order.

    Raises:
        ValueError: the text is no TOML, repeats a slug, or has a field that is missing, unknown or malformed; the
            message names the paper, the field and what is allowed.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{CATALOG.name}: {error}") from error
    return {slug: _entry(slug, table) for slug, table in tables.items()}


def _entry(slug: str, table: Any) -> Paper:
    where = f"{CATALOG.name}, [{slug}]"
    if not isinstance(table, dict):
        raise ValueError(f"{where}: {table!r} stands outside any paper's table")
    known = {field.name for field in fields(Paper)} - {"slug"}
    if unknown := table.keys() - known:
        raise ValueError(f"{where}: unknown field {min(unknown)!r}; allowed are {', '.join(sorted(known))}")
    if missing := known - OPTIONAL - table.keys():
        raise ValueError(f"{where}: the field {min(missing)!r} is missing")
    if ("arxiv" in table) == ("source" in table):
        raise ValueError(f"{where}: give one of arxiv and source; source is for papers without an arXiv identifier")
    entry = {"slug": slug, **table}
    for name, value in entry.items():
        if name == "year":
            if type(value) is not int or not 1950 <= value < 2100:
                raise ValueError(f"{where}: year = {value!r} must be a year such as 2022")
        else:
            pattern, words = FORMS[name]
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                raise ValueError(f"{where}: {name} = {value!r} must be {words}")
    return Paper(**entry)
