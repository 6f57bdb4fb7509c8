"""What several test files need: the optional real data, and one torch thread so that workers of xdist do not fight."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("mnist-t10k")`` is that folder or file of real data; the test is skipped where it is missing."""
    root = Path(os.environ.get("LANDFORM_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"the real data {name!r} is not there (looked in LANDFORM_DATA or ../shared/data)")
        return path

    return find


@pytest.fixture(autouse=True)
def no_figure_outlives_its_test() -> Iterator[None]:
    """What one test draws must not count in another."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
