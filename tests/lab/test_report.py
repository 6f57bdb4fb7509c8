"""The report as files: what every page says, that nothing in it can act, and that nobody's files are lost."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from report_sample import HEADLINE, HOSTILE, STUDIES, Config, add_run, load_sample, make_store, measure, run_key

from landform.catalog import papers
from landform.claims import Finding
from landform.lab.errors import LabError, UsageError
from landform.lab.identity import RunKey, plain
from landform.lab.report import pages as pages_module
from landform.lab.report import site as site_module
from landform.lab.report import write_report
from landform.lab.report.drawing import Drawn, NotDrawn, draw
from landform.lab.report.marks import interval_plot, interval_text, number, share_bar
from landform.lab.report.pages import command, entries, summarise
from landform.lab.store import Store
from landform.study import Arrays, Study


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "results.sqlite")


@pytest.fixture
def store(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(pages_module, "load_study", load_sample)
    with Store(database) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch, Store(database) as opened:
        patch.setattr(pages_module, "load_study", load_sample)
        return write_report(opened, tmp_path_factory.mktemp("site") / "report").parent


class Page(HTMLParser):
    """The tags, attributes and visible words of a page, as a browser would understand it."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(site: Path, name: str = "studies/gradsign.html") -> Page:
    return Page(site / name)


# The index


def test_the_index_has_every_paper_with_its_claim_and_area(site: Path) -> None:
    index = page(site, "index.html")
    assert len(papers()) == 61
    for paper in papers():
        assert " ".join(paper.title.split()) in index.text
        assert " ".join(paper.claim.split()) in index.text
        assert paper.slug in index.text
    areas = {attributes["data-area"] for attributes in index.all("section") if "data-area" in attributes}
    assert areas == {paper.area for paper in papers()} | {"outside the catalogue"}
    assert sum("paper" in (item.get("class") or "") for item in index.all("li")) == 62


def test_the_index_counts_outcomes(site: Path) -> None:
    index = page(site, "index.html")
    counts = {b["data-outcome"]: int(b["data-count"] or 0) for b in index.all("button") if "data-outcome" in b}
    items = [item["data-outcome"] for item in index.all("li") if "data-outcome" in item]
    assert counts == {outcome: items.count(outcome) for outcome in counts}
    assert counts == {"supported": 2, "contradicted": 1, "inconclusive": 1, "none": 2, "unrun": 56}


def test_a_paper_that_was_run_links_to_its_page_and_shows_its_effect(site: Path) -> None:
    index = page(site, "index.html")
    links = {a["href"] for a in index.all("a")}
    assert {f"studies/{slug}.html" for slug in (*STUDIES, "my-own-study")} <= links
    assert "studies/metaformer.html" not in links
    source = (site / "index.html").read_text(encoding="utf-8")
    row = source[source.index("studies/gradsign.html") :]
    row = row[: row.index("</li>")]
    assert "Supported" in row
    assert re.search(r"<b>\+0\.0482</b> <span class=\"ends\">\[\+0\.0406, \+0\.0558\]", row)


def test_an_empty_store_makes_an_index_of_papers_not_run(tmp_path: Path) -> None:
    with Store(tmp_path / "empty.sqlite", create=True) as empty:
        index = write_report(empty, tmp_path / "out")
    assert index == tmp_path / "out" / "index.html"
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == []
    assert Page(index).text.count("Not run") == 61


# A study's page


def test_the_primary_claim_is_first_and_every_claim_is_judged(site: Path) -> None:
    text = page(site).text
    claims = [str(claim) for claim in STUDIES["gradsign"].claims]
    places = [text.index(" ".join(claim.split())) for claim in claims]
    assert places == sorted(places)
    assert "against synflow, the best of 3 baselines on the tuning seeds" in text
    assert "Could not be judged: unknown metric 'recall'" in text
    for words in ("Supported", "Contradicted", "Inconclusive", "No verdict", "95 % interval"):
        assert words in text


def test_the_page_has_reading_records_config_environment_and_command(site: Path) -> None:
    text = page(site).text
    for words in (
        "The gain is real but small",
        "grad_norm 0.4 0.1 0.675 [0.657, 0.693] 8",
        "loss less is better",
        "Recorded along a curve, for the figure: curve, time",
        "landform run gradsign --preset laptop",
        "pretrained no",
        "widths 64, 64",
        "cpu A processor <of> some kind",
        "Trials: 20 done",
    ):
        assert words in text


def test_failed_trials_are_told_with_their_tracebacks(site: Path) -> None:
    text = page(site, "studies/ldr-losses.html").text
    assert "Trials: 14 done, 2 failed" in text
    assert "seed 2, noise = 0.4 Traceback … RuntimeError: loss is not finite <script>" in text
    assert "[−0.1374, −0.1208] 7" in text


def test_a_figure_that_cannot_be_drawn_is_told_and_the_rest_is_there(site: Path) -> None:
    text = page(site, "studies/fedka.html").text
    assert "The figure could not be drawn from the stored records. ZeroDivisionError: no records of that arm" in text
    assert "in broken_figure" in text
    assert "Supported" in text
    assert not page(site, "studies/fedka.html").all("img")


def test_a_smoke_run_has_no_verdict(site: Path) -> None:
    text = page(site, "studies/neural-collapse.html").text
    assert "No verdict smoke preset" in text
    assert "far too small for a verdict" in text
    assert "Supported" not in text


def test_a_study_that_cannot_be_loaded_keeps_its_records(site: Path) -> None:
    text = page(site, "studies/my-own-study.html").text
    assert "The study could not be loaded, so its claims are not judged here: the study of my-own-study" in text
    assert "grad_norm" in text


def test_a_study_whose_file_fails_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "load_study", lambda slug: {}["not there"])
    (entry,) = [entry for entry in entries(store) if entry.paper.slug == "gradsign"]
    assert entry.unloaded == "KeyError: 'not there'"
    assert entry.runs[0].judged == ()


def test_runs_are_ordered_and_those_of_earlier_code_marked(
    store: Store, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "draw", lambda *parts: NotDrawn(""))
    (entry,) = [entry for entry in entries(store) if entry.paper.slug == "gradsign"]
    shown = [(run.key.preset, dict(run.key.overrides).get("gain"), run.outdated) for run in entry.runs]
    assert shown == [
        ("laptop", None, False),
        ("laptop", 0.0, False),
        ("laptop", 0.5, True),
        ("smoke", None, False),
    ]
    text = page(site).text
    assert text.count("Ran with earlier code") == 1
    assert "laptop preset with data = folder:/my data, gain = 0, widths = 8, 16" in text


def test_paper_runs_come_first_and_one_without_a_verdict_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "load_study", load_sample)
    monkeypatch.setattr(pages_module, "draw", lambda *parts: NotDrawn(""))
    study = STUDIES["uba-schedule"]
    with Store(tmp_path / "store.sqlite", create=True) as store:
        add_run(store, study, run_key(study, "laptop"), 3)
        add_run(store, study, run_key(study, "paper"), 1)
        (entry,) = [entry for entry in entries(store) if entry.runs]
        assert [run.key.preset for run in entry.runs] == ["laptop", "paper"]
        add_run(store, study, run_key(study, "paper"), 3)
        (entry,) = [entry for entry in entries(store) if entry.runs]
        assert [run.key.preset for run in entry.runs] == ["paper", "laptop"]


def test_commands_repeat_the_run() -> None:
    study = STUDIES["gradsign"]
    overrides = {"data": "folder:/my data", "widths": (8, 16), "pretrained": True, "fails_on": None, "gain": 1e-05}
    run = RunKey(
        study="gradsign",
        preset="laptop",
        config=plain(Config()),
        overrides=overrides,
        fingerprint="f",
        device="cuda:1",
    )
    trials = pd.DataFrame({"role": ["reported"] * 3 + ["tuning"], "seed": [0, 1, 1, 9]})
    assert command(run, trials, study) == (
        "landform run gradsign --preset laptop --set 'data=folder:/my data' --set widths=8,16 --set pretrained=true"
        " --set fails_on=none --set gain=1e-05 --seeds 2 --device cuda:1"
    )
    whole = pd.DataFrame({"role": ["reported"] * 8, "seed": range(8)})
    assert (
        command(RunKey(study="gradsign", preset="laptop", config={}, overrides={}, fingerprint="f"), whole, study)
        == "landform run gradsign --preset laptop"
    )


def test_commands_are_understood_by_the_command_lines_own_reader() -> None:
    """What ``--set`` makes of each argument is the value that the run had."""
    from landform.lab.overrides import typed_overrides

    changed = Config(data="a=b, c", noise=1e-7, widths=(8,), pretrained=True, fails_on=3)
    overrides = {name: value for name, value in plain(changed).items() if value != plain(Config())[name]}
    texts = {name: pages_module._argument(value) for name, value in overrides.items()}
    assert typed_overrides(Config(fails_on=1), texts) == changed
    assert typed_overrides(Config(fails_on=1), {"fails_on": pages_module._argument(None)}).fails_on is None


# Summaries, numbers and marks


def test_summary_rows_are_means_over_seeds_with_students_interval() -> None:
    blank = {"x": None, "unit": None, "setting": None, "metric": "m", "role": "reported"}
    records = pd.DataFrame(
        [{**blank, "arm": "a", "seed": seed, "value": value} for seed, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0])]
        + [{**blank, "arm": "b", "seed": 0, "value": value, "unit": u} for u, value in (("p", 1.0), ("q", 2.0))]
        + [{**blank, "arm": "a", "seed": 9, "value": 100.0, "role": "tuning"}]
        + [{**blank, "arm": "c", "seed": seed, "value": value} for seed, value in enumerate([1.0, math.nan])]
        + [{**blank, "arm": "a", "seed": 0, "value": 1.0, "x": 2.0, "metric": "curve"}]
    )
    found = summarise(records)
    assert [(row.arm, row.mean, row.interval, row.n) for row in found.metrics["m"]] == [
        ("a", "3.0", "[1.0, 5.0]", 5),
        ("b", "1.5", "—", 1),
        ("c", "undefined", "[−∞, ∞]", 2),
    ]
    assert found.curves == ("curve",)
    assert not found.tuned


@pytest.mark.parametrize(
    ("value", "spread", "signed", "text"),
    [
        (0.12345, 0.0123, False, "0.123"),
        (0.12345, 0.00123, True, "+0.1235"),
        (-0.5, 0.2, True, "−0.50"),
        (12.3456, math.nan, False, "12.35"),
        (3.0, math.nan, False, "3"),
        (1234567.0, math.nan, False, "1.23×10⁶"),
        (-93375.0, 220797.0, True, "−90\u202f000"),
        (2.5e-9, math.nan, False, "2.5×10⁻⁹"),
        (2.5e-9, 1e-10, False, "2.5×10⁻⁹"),
        (-1e-9, 0.01, True, "0.000"),
        (0.0, math.nan, True, "0"),
        (math.inf, math.nan, True, "+∞"),
        (-math.inf, 1.0, False, "−∞"),
        (math.nan, 1.0, False, "undefined"),
    ],
)
def test_numbers_have_the_digits_that_they_deserve(value: float, spread: float, signed: bool, text: str) -> None:
    assert number(value, spread, signed=signed) == text


def test_intervals_in_words() -> None:
    assert interval_text(0.0123, 0.0456) == "[0.012, 0.046]"
    assert interval_text(-math.inf, math.inf, signed=True) == "[−∞, +∞]"
    assert interval_text(math.nan, math.nan) == "—"


def plotted(low: float, effect: float, high: float, region: tuple[float, float]) -> ET.Element:
    return ET.fromstring(interval_plot(Finding(effect, low, high, 5, None), region, 'a "quoted" <word>', ticks=True))


def part(svg: ET.Element, kind: str) -> list[dict[str, str]]:
    return [element.attrib for element in svg if element.attrib.get("class") == kind]


def test_an_interval_lies_over_the_claimed_side_as_the_verdict_says() -> None:
    svg = plotted(0.01, 0.02, 0.03, (0.0, math.inf))
    (claimed,), (reach,), (bound,) = part(svg, "claimed"), part(svg, "reach"), part(svg, "bound")
    left, right = float(claimed["x"]), float(claimed["x"]) + float(claimed["width"])
    assert left == float(bound["x1"]) < float(reach["x1"]) < float(reach["x2"]) < right == 240
    assert float(part(svg, "effect")[0]["cx"]) == pytest.approx((float(reach["x1"]) + float(reach["x2"])) / 2, abs=0.1)
    svg = plotted(-0.03, -0.02, -0.01, (0.0, math.inf))
    assert float(part(svg, "reach")[0]["x2"]) < float(part(svg, "claimed")[0]["x"])
    svg = plotted(-0.02, 0.0, 0.02, (-0.1, 0.1))
    assert [len(part(svg, kind)) for kind in ("bound", "tick", "cap")] == [2, 2, 2]
    assert svg.attrib["aria-label"] == 'a "quoted" <word>'


def test_an_interval_without_ends_reaches_the_edges() -> None:
    svg = plotted(-math.inf, 1.0, math.inf, (0.0, math.inf))
    assert (part(svg, "reach")[0]["x1"], part(svg, "reach")[0]["x2"]) == ("0.0", "240.0")
    assert part(svg, "cap") == []
    svg = plotted(math.nan, 1.0, math.nan, (0.0, math.inf))
    assert part(svg, "reach") == []
    assert interval_plot(Finding(math.nan, -math.inf, math.inf, 5, None), (0, math.inf), "") == ""
    assert "circle" in interval_plot(Finding(0.0, 0.0, 0.0, 5, None), (0, math.inf), "")


def test_shares_are_in_proportion() -> None:
    bar = ET.fromstring(share_bar([("supported", 1), ("none", 0), ("unrun", 3)], "words"))
    assert [(p.attrib["class"], float(p.attrib["x"]), float(p.attrib["width"])) for p in bar] == [
        ("part supported", 0, 247),
        ("part unrun", 250, 747),
    ]


# Nothing in it can act, and nothing is fetched


@pytest.mark.parametrize("name", ["index.html", *(f"studies/{slug}.html" for slug in (*STUDIES, "my-own-study"))])
def test_what_the_store_says_is_escaped_and_nothing_comes_from_elsewhere(site: Path, name: str) -> None:
    found = page(site, name)
    source = (site / name).read_text(encoding="utf-8")
    assert HOSTILE not in source
    assert len(found.all("script")) == (name == "index.html")
    for tag, attributes in found.tags:
        assert not any(attribute.startswith("on") or attribute == "style" for attribute in attributes), tag
        assert tag not in {"iframe", "object", "embed", "link", "base"}
        for attribute in ("src", "srcset"):
            assert "//" not in (attributes.get(attribute) or "")
    for image in found.all("img"):
        assert image["alt"]
        assert (site / name).parent.joinpath(image["src"] or "").is_file()
    for a in found.all("a"):
        assert re.match(r"https://|#|\.\./|studies/", a["href"] or "")
        if not (a["href"] or "").startswith(("https://", "#")):
            assert (site / name).parent.joinpath(a["href"] or "").is_file()


@pytest.mark.parametrize("name", ["index.html", "studies/gradsign.html"])
def test_the_policy_admits_only_the_pages_own_style_and_script(site: Path, name: str) -> None:
    source = (site / name).read_text(encoding="utf-8")
    (policy,) = [m["content"] for m in page(site, name).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"unsafe|http|\*|data:", policy)
    for tag in ("style", "script"):
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL):
            assert f"{tag}-src 'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy


def test_headings_descend_and_every_table_has_a_head(site: Path) -> None:
    for name in ("index.html", "studies/gradsign.html", "studies/ldr-losses.html"):
        found = page(site, name)
        levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert len(found.all("thead")) == len(found.all("table"))
        ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for _, attributes in found.tags:
            assert attributes.get("aria-labelledby") in {None, *ids}


# Figures


def test_figures_are_svg_with_real_text_in_two_styles(site: Path) -> None:
    light, dark = (sorted((site / "figures").glob(f"gradsign-*-{style}.svg")) for style in ("light", "dark"))
    assert len(light) == len(dark) == 4
    text, other = light[0].read_text(encoding="utf-8"), dark[0].read_text(encoding="utf-8")
    words = [element.text for element in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert "test accuracy" in words
    assert "Learning curves" in words
    assert "#fffefb" in text
    assert "#191f1c" not in text
    assert "#191f1c" in other
    assert "#fffefb" not in other


def test_drawing_leaves_matplotlib_as_it_was_and_does_not_pass_on_changes() -> None:
    import matplotlib.pyplot as plt

    seen, settings, backend = [], dict(mpl.rcParams), mpl.get_backend()
    study = Study("s", claims=[HEADLINE], presets={"laptop": Config()})

    @study.figure
    def figure(records: pd.DataFrame, arrays: Arrays) -> object:
        seen.append(list(records["arm"]))
        records["arm"] = "changed"
        return plt.figure(figsize=(3, 2))

    drawn = draw(study, pd.DataFrame({"arm": ["a", "b"]}), Arrays())
    assert isinstance(drawn, Drawn)
    assert (drawn.width, drawn.height) == (288, 192)
    assert seen == [["a", "b"], ["a", "b"]]
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == settings
    assert mpl.get_backend() == backend


def test_a_figure_function_may_fail_in_any_way() -> None:
    import matplotlib.pyplot as plt

    study = Study("s", claims=[HEADLINE], presets={"laptop": Config()})
    assert draw(study, pd.DataFrame(), Arrays()) == NotDrawn("The study has no figure.")

    def none(records: pd.DataFrame, arrays: Arrays) -> None:
        plt.figure()

    def unsaved(records: pd.DataFrame, arrays: Arrays) -> object:
        return arrays["nothing"]

    for function, words, where in (
        (none, "AttributeError", "savefig"),
        (unsaved, "KeyError: \"no array named 'nothing'", "in unsaved"),
    ):
        study.figure(function)
        found = draw(study, pd.DataFrame(), Arrays())
        assert isinstance(found, NotDrawn)
        assert words in found.why
        assert where in found.traceback
    assert plt.get_fignums() == []


def test_what_the_runner_stores_is_what_the_report_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the laboratory's own runner: tuning under two conditions, chosen settings, an environment, a verdict."""
    import lab_toys

    from landform.lab.runner import run_study

    monkeypatch.setattr(pages_module, "load_study", lambda slug: lab_toys.crossed)
    with Store(tmp_path / "store.sqlite", create=True) as store:
        result = run_study(lab_toys.crossed, "laptop", store=store, workers=0)
        index = write_report(store, tmp_path / "out")
        (run,) = next(entry.runs for entry in entries(store) if entry.runs)
    assert run.judged[0].finding == result.findings[0][1]
    assert not run.outdated
    assert run.command == "landform run toy-crossed --preset laptop"
    text = Page(index.parent / "studies" / "toy-crossed.html").text
    assert "good 0 2 1 [1, 1] 2" in text
    assert "good 0.5 1 −0.25 [−0.25, −0.25] 2" in text
    assert "Contradicted" in text
    assert f"python {platform.python_version()}" in text
    assert "The study has no figure." in text


# Folders


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_store_gives_the_same_bytes(store: Store, site: Path, tmp_path: Path) -> None:
    write_report(store, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(site)


@pytest.mark.parametrize("kind", ["file", "full", "inside a file"])
def test_what_is_no_report_is_left_alone(store: Store, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "mine"
    if kind == "full":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    else:
        out.write_text("years of work")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="mine"):
        write_report(store, out / "report" if kind == "inside a file" else out)
    assert contents(tmp_path) == before


def test_an_empty_folder_and_an_earlier_report_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "load_study", load_sample)
    out = tmp_path / "out"
    out.mkdir()
    study = STUDIES["uba-schedule"]
    with Store(tmp_path / "first.sqlite", create=True) as first, Store(tmp_path / "other.sqlite", create=True) as other:
        add_run(first, study, run_key(study, "laptop"), 2)
        write_report(first, out)
        (out / "notes.txt").write_text("mine")
        assert (out / "studies/uba-schedule.html").is_file()
        assert len(list((out / "figures").iterdir())) == 2
        write_report(other, out)
    # The pages that the new report lacks are gone, and what was put beside them is not.
    assert sorted(contents(out)) == [site_module.MANIFEST, "index.html", "notes.txt"]
    assert not (out / "studies").exists()


def test_a_report_that_fails_leaves_the_old_one_and_no_traces(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "draw", lambda *parts: NotDrawn(""))
    with Store(tmp_path / "empty.sqlite", create=True) as empty:
        write_report(empty, tmp_path / "out")
    before = contents(tmp_path / "out")

    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(site_module, "share_bar", fail)
    for out in ("out", "new"):
        with pytest.raises(MemoryError):
            write_report(store, tmp_path / out)
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "new").exists()


def test_a_manifest_cannot_make_us_delete_what_no_report_has(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Store(tmp_path / "empty.sqlite", create=True) as empty:
        write_report(empty, out)
        precious = [tmp_path / "other.html", out / "notes.txt", out / "figures" / "data.csv"]
        for path in precious:
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
        names = ["../other.html", "notes.txt", "figures/data.csv", "studies/../notes.txt", 3, str(precious[0])]
        (out / site_module.MANIFEST).write_text(json.dumps({"files": names}))
        write_report(empty, out)
        (out / site_module.MANIFEST).write_text("no JSON")
        write_report(empty, out)
    assert all(path.read_text() == "mine" for path in precious)


def test_what_a_killed_report_left_does_not_bar_the_next(tmp_path: Path) -> None:
    (tmp_path / "out" / f"{site_module.STAGING}xyz").mkdir(parents=True)
    with Store(tmp_path / "empty.sqlite", create=True) as empty:
        assert write_report(empty, tmp_path / "out").is_file()


def test_a_stored_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    study = STUDIES["uba-schedule"]
    with Store(tmp_path / "bad.sqlite", create=True) as store:
        run = RunKey(study="../../evil", preset="laptop", config=plain(Config()), overrides={}, fingerprint="1")
        add_run(store, study, run, 1)
        with pytest.raises(LabError, match="impossible name"):
            write_report(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_sample_is_measured_the_same_each_time() -> None:
    """The numbers that tests above expect hold only if the sample study is deterministic."""
    from landform.study import Run

    assert list(measure(Config(), 3, Run())) == list(measure(Config(), 3, Run()))
