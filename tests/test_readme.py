"""README tells what was measured: its table is the one that the kept results give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def update_readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "docs" / "update_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_kept_results(update_readme: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert update_readme.updated(readme) == readme
    assert update_readme.updated(readme.replace("| **", "| **not ")) == readme


def test_a_readme_without_the_marks_is_refused(update_readme: ModuleType) -> None:
    with pytest.raises(SystemExit, match="lacks the lines"):
        update_readme.updated("# landform\n")
