"""What all of the user's own data share: where they lie, what their parts are called, and which samples are taken."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from landform.data.split import first_of, holdout

HELD_OUT = 0.25

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "t10k"),
}
SPLIT_OF = {word: name for name, words in NAMES.items() for word in words}


def existing(scheme: str, rest: str) -> Path:
    """The path after the colon of a URI, which must be there."""
    if not rest:
        raise ValueError(f"{scheme}: needs a path after the colon, as in {scheme}:PATH")
    path = Path(rest).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{scheme}:{rest}: there is no {path}")
    return path


def split_in(name: str) -> str | None:
    """The split that a file's or folder's name speaks of as one of its words (``train-00000``), if it does."""
    for word in re.split(r"[^a-z0-9]+", name.lower()):
        if word in SPLIT_OF:
            return SPLIT_OF[word]
    return None


@dataclass(frozen=True)
class Pick:
    """The samples of one split: positions ``index`` in the part of the source called ``part``."""

    part: str
    index: Tensor


def arrange(
    targets: Mapping[str, Tensor], *, classes: bool, test_fraction: float | None, limit: int | None, seed: int
) -> dict[str, Pick]:
    """Choose the samples of each split from the targets of each part of a source, before anything else is read.

    Where there is a training part and no test part, ``test_fraction`` (a quarter when None) of the training part is
    held out as the test split, of every class alike. ``limit`` then keeps so many samples of each split.

    Raises:
        ValueError: a part without samples; ``test_fraction`` where the source has a test part, or no training part.
    """
    for part, target in targets.items():
        if not len(target):
            raise ValueError(f"the {part} part is empty")
    picks = {part: Pick(part, torch.arange(len(target))) for part, target in targets.items()}
    if "train" in targets and "test" not in targets:
        target = targets["train"]
        groups = target if classes else torch.zeros(len(target), dtype=torch.int64)
        train, test = holdout(groups, HELD_OUT if test_fraction is None else test_fraction, seed)
        picks |= {"train": Pick("train", train), "test": Pick("train", test)}
    elif test_fraction is not None:
        raise ValueError(
            f"test_fraction={test_fraction}: the source has the parts {', '.join(_in_order(targets))}; "
            "a test split is only taken from a training part that stands without one"
        )
    chosen = {}
    for name in _in_order(picks):
        part, index = picks[name].part, picks[name].index
        chosen[name] = Pick(part, index[first_of(len(index), limit, seed)])
    return chosen


def _in_order(names: Collection[str]) -> list[str]:
    """Train, validation, test, and then what is called otherwise."""
    return [*(name for name in NAMES if name in names), *(name for name in names if name not in NAMES)]


def extra(module: str, scheme: str) -> ModuleType:
    """A module of the extra ``data``."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ModuleNotFoundError(
            f"{scheme}: needs {package}; install it with: pip install 'landform[data]'"
        ) from error
