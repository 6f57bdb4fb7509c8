"""The catalogue of papers: complete, well-formed, in order, and quick to read."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from landform import catalog
from landform.catalog import AREAS, Paper, UnknownPaper, paper, papers, parse

# Sheets on machinery that several papers share; they describe no paper.
MACHINERY = {"many-models", "procedural-scenes", "federated-protocol"}

ENTRY = """
[some-paper]
title = "Some paper"
area = "search"
venue = "ICLR"
year = 2022
arxiv = "2110.08616"
code = "owner/repo"
claim = "One thing is better than another."
"""


@pytest.fixture(scope="module")
def sheets() -> dict[str, str]:
    """What was noted down of each paper, by slug; the test is skipped where the notes are missing."""
    folder = Path(os.environ.get("LANDFORM_PAPERS", Path(__file__).parents[2] / "shared" / "papers"))
    found = {p.stem: p.read_text(encoding="utf-8") for p in folder.glob("*.md") if p.stem not in MACHINERY}
    if not found:
        pytest.skip("the notes on the papers are not there (looked in LANDFORM_PAPERS or ../shared/papers)")
    return found


def test_all_papers_are_there_once() -> None:
    everything = papers()
    assert len(everything) == 61
    for distinct in ("slug", "title", "arxiv", "claim"):
        assert len({getattr(p, distinct) for p in everything}) == 61, distinct


def test_slugs_titles_and_identifiers_are_those_of_the_notes(sheets: dict[str, str]) -> None:
    assert {p.slug for p in papers()} == set(sheets)
    for p in papers():
        assert sheets[p.slug].startswith(f"# {p.title}\n")
        source = sheets[p.slug].split("\n## ", 1)[0]
        assert p.arxiv is not None
        assert re.search(rf"\b{re.escape(p.arxiv)}\b", source), p.slug
        assert p.code is None or p.code in source, p.slug


def test_papers_stand_by_area_then_slug_and_every_area_is_used() -> None:
    places = [(AREAS.index(p.area), p.slug) for p in papers()]
    assert places == sorted(places)
    assert {p.area for p in papers()} == set(AREAS)
    assert [p for area in AREAS for p in papers(area)] == list(papers())


@pytest.mark.parametrize("entry", papers(), ids=lambda p: p.slug)
def test_entry_is_well_formed(entry: Paper) -> None:
    assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.arxiv or "")
    # A preprint does not come after the paper's publication.
    assert 2000 + int((entry.arxiv or "")[:2]) <= entry.year <= 2026
    assert not re.search(r"\d{4}", entry.venue), "the year stands in a field of its own"
    assert 40 <= len(entry.claim) <= 300
    assert entry.claim.endswith(".")
    assert not re.search(r"[.!?]\s|\n", entry.claim), "one sentence on one line"
    assert entry.claim[0].isupper()
    assert paper(entry.slug) is entry


def test_known_facts() -> None:
    gradsign = paper("gradsign")
    assert (gradsign.arxiv, gradsign.venue, gradsign.year) == ("2110.08616", "ICLR", 2022)
    assert (gradsign.area, gradsign.code) == ("search", "cmu-catalyst/GradSign")
    assert paper("scaling-laws-autoregressive").code is None
    with pytest.raises(FrozenInstanceError):
        gradsign.year = 1999  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "close"),
    [("gradsgn", "gradsign"), ("Meta_DMoE", "meta-dmoe"), ("three-regime", "three-regime-pruning")],
)
def test_unknown_paper_suggests_close_ones(wrong: str, close: str) -> None:
    with pytest.raises(UnknownPaper) as raised:
        paper(wrong)
    message = str(raised.value)
    assert repr(wrong) in message
    assert close in message
    assert "`landform list` shows all" in message


def test_unknown_paper_that_resembles_none() -> None:
    with pytest.raises(ValueError, match="`landform list` shows all") as raised:
        paper("zzz\nzzz")
    assert "mean" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_unknown_area_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'nonsense'") as raised:
        papers("nonsense")
    assert all(area in str(raised.value) for area in AREAS)


def test_has_study_looks_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meta_dmoe.py").write_text("raise RuntimeError('a study must not be imported to be listed')")
    (tmp_path / "gradsign").mkdir()
    monkeypatch.setattr(catalog, "STUDIES", tmp_path)
    assert [p.slug for p in papers() if p.has_study] == ["meta-dmoe"]


def test_every_study_belongs_to_a_paper() -> None:
    files = {p.stem for p in catalog.STUDIES.glob("*.py") if not p.name.startswith("_")}
    assert files == {p.slug.replace("-", "_") for p in papers() if p.has_study}


def test_listing_imports_nothing_heavy() -> None:
    script = (
        "import sys; from landform.catalog import papers; print(sum(p.has_study for p in papers()) >= 0);"
        "print(*sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines() == ["True", ""]


def test_parse_reads_an_entry() -> None:
    assert parse(ENTRY) == {
        "some-paper": Paper(
            slug="some-paper",
            title="Some paper",
            area="search",
            venue="ICLR",
            year=2022,
            arxiv="2110.08616",
            code="owner/repo",
            claim="One thing is better than another.",
        )
    }


def test_a_paper_without_an_arxiv_identifier_has_a_source() -> None:
    entry = parse(ENTRY.replace('arxiv = "2110.08616"', 'source = "https://doi.org/10.1/2"'))["some-paper"]
    assert (entry.arxiv, entry.source) == (None, "https://doi.org/10.1/2")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            'area = "search"',
            'area = "serach"',
            r"\[some-paper\]: area = 'serach' must be one of landscape, .*, science",
        ),
        ('venue = "ICLR"\n', "", r"\[some-paper\]: the field 'venue' is missing"),
        ('venue = "ICLR"', 'venue = " "', r"\[some-paper\]: venue = ' ' must be a line of text"),
        ('title = "Some paper"', "title = 3", r"\[some-paper\]: title = 3 must be a line of text"),
        ("year = 2022", 'year = "2022"', r"\[some-paper\]: year = '2022' must be a year"),
        ("year = 2022", "year = true", r"\[some-paper\]: year = True must be a year"),
        ("year = 2022", "year = 22", r"\[some-paper\]: year = 22 must be a year"),
        ("2110.08616", "2110.08616v2", r"\[some-paper\]: arxiv = '2110.08616v2' must be an arXiv identifier"),
        ("2110.08616", "2113.08616", r"arxiv = '2113.08616' must be"),
        ("2110.08616", "2110.8616", r"arxiv = '2110.8616' must be"),
        ('arxiv = "2110.08616"\n', "", r"\[some-paper\]: give one of arxiv and source"),
        (
            "year = 2022",
            'year = 2022\nsource = "https://doi.org/10.1/2"',
            r"\[some-paper\]: give one of arxiv and source",
        ),
        ("owner/repo", "https://github.com/owner/repo", r"\[some-paper\]: code = .* must be a GitHub owner/repository"),
        (
            "year = 2022",
            "year = 2022\nauthors = []",
            r"\[some-paper\]: unknown field 'authors'; allowed are area, arxiv",
        ),
        ("year = 2022", 'year = 2022\nslug = "other"', r"\[some-paper\]: unknown field 'slug'"),
        ("[some-paper]", "[Some_Paper]", r"slug = 'Some_Paper' must be lower-case words joined by hyphens"),
        ("[some-paper]", "stray = 1\n[some-paper]", r"\[stray\]: 1 stands outside any paper's table"),
        ("[some-paper]", "[some-paper", r"catalog.toml: .*line 2"),
    ],
)
def test_a_malformed_catalogue_is_refused(old: str, new: str, complaint: str) -> None:
    assert old in ENTRY
    with pytest.raises(ValueError, match=complaint):
        parse(ENTRY.replace(old, new))


def test_a_repeated_slug_is_refused() -> None:
    with pytest.raises(ValueError, match="some-paper"):
        parse(ENTRY + ENTRY)


@pytest.mark.parametrize("slug", [entry.slug for entry in papers() if entry.has_study])
def test_the_component_of_a_paper_with_a_study_is_there(slug: str) -> None:
    component = paper(slug).component
    assert component is not None
    assert importlib.import_module(component).__all__
