"""An edit changes the fingerprint of the studies that depend on it, and of no other."""

from __future__ import annotations

import textwrap
from pathlib import Path

import lab_toys
import pytest

from landform.lab.fingerprint import fingerprint, study_fingerprint
from landform.study import Study

FILES = {
    "landform/__init__.py": "",
    "landform/study.py": "from landform.claims import Better\nclass Study: pass",
    "landform/claims.py": "class Better: pass",
    "landform/lab/__init__.py": "",
    "landform/lab/runner.py": "x = 1",
    "landform/losses/__init__.py": """
        from landform.losses.hinge import Hinge
        from landform.losses.focal import Focal as FocalLoss
        from .deep import *
        from . import extra
        __all__ = ["Hinge", "FocalLoss"]
        """,
    "landform/losses/hinge.py": "class Hinge: pass",
    "landform/losses/focal.py": "from landform.losses.base import Base\nclass Focal(Base): pass",
    "landform/losses/base.py": "class Base: pass",
    "landform/losses/deep.py": "def deep(): pass",
    "landform/losses/extra.py": "def more(): pass",
    "landform/losses/unused.py": "x = 1",
    "landform/data/__init__.py": "from landform.data.uris import load\nfrom landform.data.split import Split",
    "landform/data/uris.py": "LOADERS = {'digits': 'landform.data.digits:digits'}\ndef load(uri): pass",
    "landform/data/split.py": "class Split: pass",
    "landform/data/digits.py": "def digits(): pass",
    "landform/optim/__init__.py": "RATE = 0.1\nfrom landform.optim.sam import SAM",
    "landform/optim/sam.py": "class SAM: pass",
    "landform/studies/__init__.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        write(tmp_path / name, text)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def of(root: Path) -> str:
    return fingerprint("landform.studies.toy", root / "landform/studies/toy.py", {"landform": root / "landform"})


def counts(root: Path, study: str) -> set[str]:
    """The modules whose edit changes the fingerprint of ``study``."""
    write(root / "landform/studies/toy.py", study)
    before = of(root)
    found = set()
    for name in FILES:
        path = root / name
        old = path.read_text()
        path.write_text(old + "\nadded = 12345\n")
        if of(root) != before:
            found.add(name.removeprefix("landform/").removesuffix(".py"))
        path.write_text(old)
        assert of(root) == before
    return found


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("x = 1", set()),
        ("from landform.study import Study", {"study"}),
        ("import landform.study", {"study"}),
        ("import landform.losses.hinge as h", {"losses/hinge"}),
        # Through what a package passes on, only the module that defines the name counts.
        ("from landform.losses import Hinge", {"losses/hinge"}),
        ("from landform.losses import FocalLoss", {"losses/focal", "losses/base"}),
        ("from landform.losses import deep\ndeep()", {"losses/deep"}),
        ("from landform.losses import extra", {"losses/extra"}),
        ("from landform.losses import unused", {"losses/unused"}),
        ("from landform.losses.focal import Focal", {"losses/focal", "losses/base"}),
        ("from landform import losses\nlosses.Hinge()\nlosses.extra.more()", {"losses/hinge", "losses/extra"}),
        ("import landform.losses as l\nl.FocalLoss", {"losses/focal", "losses/base"}),
        # What is only known when it runs counts whole.
        (
            "from landform import losses\ngetattr(losses, 'Hin' + 'ge')",
            {"losses/__init__", "losses/hinge", "losses/focal", "losses/base", "losses/deep", "losses/extra"},
        ),
        ("from landform.optim import RATE", {"optim/__init__", "optim/sam"}),
        ("from landform.data import load", {"data/uris", "data/digits"}),
        ("from landform import data\ndata.load('digits')", {"data/uris", "data/digits"}),
        ("from landform.data import Split", {"data/split"}),
        # Imports inside functions count; those for type checkers do not, nor does what runs and judges.
        ("def f():\n    from landform.losses import Hinge", {"losses/hinge"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from landform.losses import Hinge", set()),
        ("from landform.lab.runner import x\nfrom landform.claims import Better", set()),
        ("from importlib import import_module\nimport_module('landform.losses.hinge')", {"losses/hinge"}),
        ("from ..losses import Hinge\nfrom ..losses.deep import deep", {"losses/hinge", "losses/deep"}),
        ("import numpy as np\nfrom landform.nothing import x", set()),
    ],
)
def test_an_edit_counts_where_it_is_used(root: Path, study: str, expected: set[str]) -> None:
    assert counts(root, study) == expected


CODE = """
from landform.losses import Hinge

def trial(n: int = 3):
    return n + 1
"""


def test_comments_docstrings_and_layout_do_not_count(root: Path) -> None:
    write(root / "landform/studies/toy.py", CODE)
    before = of(root)
    same = '''"""Words."""
from landform.losses import Hinge  # why

def trial(
    n: int = 3,
):
    """More words."""

    return (n + 1)
'''
    write(root / "landform/studies/toy.py", same)
    write(root / "landform/losses/hinge.py", 'class Hinge:\n    """Words."""\n    pass  # nothing')
    assert of(root) == before


@pytest.mark.parametrize(
    ("old", "new"), [("n + 1", "n + 2"), ("n + 1", "n + 1.0"), ("= 3", "= True"), ("trial", "try_"), ("n + 1", "'n'")]
)
def test_code_counts(root: Path, old: str, new: str) -> None:
    write(root / "landform/studies/toy.py", CODE)
    before = of(root)
    write(root / "landform/studies/toy.py", CODE.replace(old, new))
    assert of(root) != before


def test_modules_that_import_each_other_come_to_an_end(root: Path) -> None:
    write(root / "landform/losses/base.py", "from landform.losses.focal import Focal\nfrom landform.losses import no")
    write(root / "landform/studies/toy.py", "from landform.losses import FocalLoss")
    assert of(root) == of(root)


def test_a_study_from_elsewhere_has_a_fingerprint() -> None:
    first = study_fingerprint(lab_toys.study)
    assert len(first) == 64
    assert first == study_fingerprint(lab_toys.crossed)


def test_a_trial_that_is_in_no_file_has_none() -> None:
    made: dict[str, Study] = {"study": Study("toy", claims=lab_toys.study.claims, presets=lab_toys.study.presets)}
    exec("@study.trial\ndef trial(config, seed, run): yield", made)
    with pytest.raises(Exception, match="must be a function in a file"):
        study_fingerprint(made["study"])
