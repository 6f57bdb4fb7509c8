"""The example's loop in plain PyTorch runs as a script, and learns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "sharpness_aware.py"


def test_the_plain_loop_learns() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"([\d.]+)% on the test split\n", done.stdout)
    assert found is not None
    assert float(found[1]) > 90
