"""The command line as its users meet it: what it prints, its exit status, and one clear line for every mistake."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from landform.cli import main

QUICK = ["run", "gradsign", "--preset", "smoke", "--seeds", "1", "--workers", "0"]


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Landform = Callable[..., Ended]


@pytest.fixture
def landform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Landform:
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["landform", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Ended(int(end.value.code or 0), captured.out, captured.err)

    return run


def test_list_has_every_paper(landform: Landform) -> None:
    ended = landform("list", "--json")
    papers = json.loads(ended.out)
    assert ended.status == 0
    assert len(papers) == 61
    assert {"slug", "title", "arxiv", "venue", "year", "area", "code", "claim", "study"} <= papers[0].keys()
    assert {paper["slug"] for paper in papers if paper["study"]} >= {"gradsign", "ensloss", "uba-schedule"}


def test_list_of_one_area(landform: Landform) -> None:
    assert {paper["area"] for paper in json.loads(landform("list", "--area", "losses", "--json").out)} == {"losses"}
    assert "ensloss" in landform("list", "--area", "losses").out


def test_show(landform: Landform) -> None:
    ended = landform("show", "gradsign")
    assert ended.status == 0
    for fact in ("2110.08616", "ICLR", "2022", "cmu-catalyst/GradSign", "landform run gradsign"):
        assert fact in ended.out
    assert json.loads(landform("show", "gradsign", "--json").out)["arxiv"] == "2110.08616"


MISTAKES = [
    (["list", "--area", "astrology"], ["astrology", "losses"]),
    (["show", "gradsing"], ["gradsing", "gradsign"]),
    (["run"], ["--all"]),
    (["run", "gradsign", "--all"], ["--all"]),
    (["run", "gradsing"], ["gradsing", "gradsign"]),
    (["run", "pamc"], ["pamc", "does not exist yet"]),
    (["run", "gradsign", "pamc"], ["pamc"]),
    (["run", "gradsign", "--preset", "huge"], ["huge", "smoke", "laptop", "paper"]),
    (["run", "gradsign", "--engine", "steam"], ["steam", "local", "ray"]),
    (["run", "gradsign", "--address", "127.0.0.1:6379"], ["address", "--engine ray"]),
    (["run", "gradsign", "--engine", "ray", "--address", "127.0.0.1:1"], ["address", "127.0.0.1:1"]),
    (["run", "gradsign", "--engine", "ray", "--workers", "0"], ["workers", "0"]),
    (["run", "gradsign", "--devices", "0"], ["devices", "0"]),
    (["run", "gradsign", "--nodes", "2"], ["nodes", "torchrun"]),
    (["run", "gradsign", "--strategy", "telepathy"], ["strategy", "telepathy", "ddp"]),
    (["run", "gradsign", "--precision", "16-mixed"], ["precision", "16-mixed", "bf16-mixed"]),
    (["run", "gradsign", "--devices", "2", "--engine", "ray"], ["--devices", "--engine ray"]),
    (["run", "gradsign", "--devices", "2", "--device", "mps"], ["mps", "cuda"]),
    (["run", "gradsign", "--set", "architecture=6"], ["architecture", "architectures"]),
    (["run", "gradsign", "--set", "architectures=six"], ["architectures", "six", "whole number"]),
    (["run", "gradsign", "--set", "architectures=-6"], ["architectures", "-6"]),
    (["run", "gradsign", "--set", "architectures"], ["architectures", "KEY=VALUE"]),
    (["run", "gradsign", "--set", "data=digits", "--set", "data=glyphs"], ["data", "twice"]),
    (["run", "gradsign", "--seeds", "0"], ["seeds", "0"]),
    (["run", "gradsign", "--seeds", "-3"], ["seeds", "-3"]),
    (["run", "gradsign", "--seeds", "many"], ["seeds"]),
    (["run", "gradsign", "--workers", "-1"], ["workers", "-1"]),
    (["run", "gradsign", "--device", "abacus"], ["abacus", "cpu"]),
    (["run", "gradsign", "--store", "missing/store.sqlite"], ["missing"]),
    (["report"], ["landform.sqlite"]),
    (["report", "--store", "missing.sqlite"], ["missing.sqlite"]),
    (["data", "--out", "missing/worlds.png"], ["missing"]),
    (["data", "--out", "worlds.txt"], ["worlds.txt", "PNG"]),
    (["frobnicate"], ["frobnicate"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda part: " ".join(part))
def test_a_mistake_ends_in_one_clear_line(
    landform: Landform, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    ended = landform(*arguments)
    assert ended.status == 2
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1
    for word in words:
        assert word in ended.err
    assert not list(tmp_path.iterdir()), "nothing may be written"


def test_a_file_that_is_no_store_is_left_alone(landform: Landform, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = other.read_bytes()
    for path in (notes, other):
        for command in (QUICK, ["report"]):
            ended = landform(*command, "--store", str(path))
            assert ended.status == 2
            assert path.name in ended.err
            assert len(ended.err.strip().splitlines()) == 1
    assert notes.read_text() == "my notes"
    assert other.read_bytes() == before


def test_run_prints_exactly_one_json_document(landform: Landform, tmp_path: Path) -> None:
    first = landform(*QUICK, "--json")
    assert first.status == 0, first.err
    document = json.loads(first.out)
    (run,) = document["runs"]
    trials = run["trials"]
    assert document["store"] == "landform.sqlite"
    assert (run["study"], run["preset"]) == ("gradsign", "smoke")
    assert trials["done"] == trials["total"] > 0
    assert trials["cached"] == trials["failed"] == 0
    assert run["seconds"] > 0
    for claim in run["claims"]:
        assert {"claim", "metric", "arm", "effect", "low", "high", "n", "verdict"} <= claim.keys()

    again = json.loads(landform(*QUICK, "--json").out)["runs"][0]
    assert again["trials"] == trials | {"done": 0, "cached": trials["total"]}
    assert again["claims"] == run["claims"]

    fresh = json.loads(landform(*QUICK, "--json", "--fresh").out)["runs"][0]
    assert fresh["trials"] == trials
    assert fresh["claims"] == run["claims"]

    assert landform("report").status == 0
    assert "gradsign" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_a_run_prints_its_claims_as_a_table(landform: Landform) -> None:
    ended = landform(*QUICK)
    assert ended.status == 0
    for word in ("gradsign", "effect", "95 % interval", "no verdict", "landform report"):
        assert word in ended.out


def test_a_failed_trial_fails_the_run(landform: Landform) -> None:
    ended = landform(*QUICK, "--set", "data=folder:nowhere", "--json")
    trials = json.loads(ended.out)["runs"][0]["trials"]
    assert ended.status == 1
    assert trials["failed"] == trials["total"]
    assert "nowhere" in ended.err


def test_data_draws_a_contact_sheet(landform: Landform, tmp_path: Path) -> None:
    ended = landform("data")
    assert ended.status == 0
    assert "digits" in ended.out
    assert (tmp_path / "worlds.png").read_bytes().startswith(b"\x89PNG")
