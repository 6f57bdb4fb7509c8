"""Studies are found without being imported; one that is missing or broken is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from landform import studies
from landform.lab.discover import load_study, study_slugs
from landform.lab.errors import StudyError, UsageError

GOOD = """
from dataclasses import dataclass
from landform.claims import Better
from landform.study import Study

@dataclass(frozen=True)
class Config:
    n: int = 1

study = Study("{slug}", claims=[Better("m", "a", than="b")], presets={{"smoke": Config()}})
"""
TRIAL = "\n@study.trial\ndef trial(config, seed, run):\n    yield\n"
FIGURE = "\n@study.figure\ndef figure(records, arrays):\n    pass\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(studies, "__path__", [str(tmp_path)])
    (tmp_path / "__init__.py").touch()
    return tmp_path


def test_studies_are_listed_by_their_files(folder: Path) -> None:
    for name in ("b_c", "a"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported')")
    assert study_slugs() == ["a", "b-c"]


def test_a_study_is_loaded(folder: Path) -> None:
    (folder / "whole_toy.py").write_text(GOOD.format(slug="whole-toy") + TRIAL + FIGURE)
    assert load_study("whole-toy").slug == "whole-toy"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (GOOD.format(slug="toy-NAME") + FIGURE, "the study of toy-NAME has no @study.trial"),
        (GOOD.format(slug="toy-NAME") + TRIAL, "the study of toy-NAME has no @study.figure"),
        (GOOD.format(slug="another") + TRIAL + FIGURE, r"has no `study = Study\('toy-NAME'"),
        ("", r"has no `study = Study\('toy-NAME'"),
        ("1 / 0", "toy-NAME cannot be loaded: ZeroDivisionError"),
        (
            "import nothing_of_this_name",
            "toy-NAME cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
    ],
)
def test_a_broken_study_says_what_it_lacks(folder: Path, code: str, says: str, request: pytest.FixtureRequest) -> None:
    name = f"n{abs(hash(request.node.name))}"
    (folder / f"toy_{name}.py").write_text(code.replace("NAME", name))
    with pytest.raises(StudyError, match=says.replace("NAME", name)):
        load_study(f"toy-{name}")


def test_a_paper_without_a_study_is_told_from_no_paper(folder: Path) -> None:
    with pytest.raises(UsageError, match="the study of gradsign does not exist yet; `landform list` shows which do"):
        load_study("gradsign")
    with pytest.raises(UsageError, match="no paper 'gradsgin': did you mean gradsign"):
        load_study("gradsgin")
