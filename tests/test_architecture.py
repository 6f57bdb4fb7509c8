"""The layout shows the architecture: imports run downward only, and the command line answers without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import landform

ROOT = Path(landform.__file__).parent
LAYERS = [
    {"catalog", "claims"},
    {"data"},
    {"models", "losses", "optim", "training", "metrics"},
    {
        "landscape",
        "scaling",
        "search",
        "compress",
        "shift",
        "attacks",
        "meta",
        "federated",
        "unlearn",
        "flows",
        "science",
    },
    {"study"},
    {"studies"},
    {"lab"},
    {"terminal"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_areas(path: Path) -> set[str]:
    """The landform areas that a module imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "landform" else [base]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("landform.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    area = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if area == "__init__":
        assert imported_areas(path) == set()
        return
    for other in imported_areas(path) - {area, "__version__"}:
        assert LEVEL[other] <= LEVEL[area], f"{area} must not import {other}"
        assert not (area == "studies" and other == "lab"), "no study imports the laboratory"
        # A catalogue entry and the words of a study stand alone, so that listing papers stays instant.
        assert area not in {"catalog", "claims"}, f"{area} must import nothing of landform"


def test_every_area_has_a_level() -> None:
    areas = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert areas - {"__init__"} <= set(LEVEL)


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["show", "gradsign"], ["--help"]])
def test_the_command_line_does_not_import_torch(command: list[str]) -> None:
    code = (
        "import sys; from landform.cli import main\n"
        f"sys.argv = ['landform', *{command!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
