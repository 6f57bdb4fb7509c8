"""Which classes are known and which are not: splits of a dataset's classes, drawn, or read from the published files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

ClassId = int | str


@dataclass(frozen=True)
class OpenSetSplit:
    """Known classes, in the order of their new numbers 0 … K − 1, and groups of unknown ones.

    Arguments:
        known: classes to train on; numbers, or names such as WordNet's.
        unknown: groups of classes to be flagged (``{"Easy": [...], "Hard": [...]}``), disjoint.
        foreign: the unknown classes are of another dataset than the known ones, as CIFAR-100's are beside CIFAR-10's,
            so that their numbers may coincide.

    Raises:
        ValueError: no known class, no unknown class, a class that stands twice, or one both known and unknown.

    >>> OpenSetSplit([2, 0], {"hard": [1], "easy": [3, 4]}).classes
    [2, 0, 1, 3, 4]
    """

    known: list[ClassId]
    unknown: dict[str, list[ClassId]]
    foreign: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", list(self.known))
        object.__setattr__(self, "unknown", {name: list(classes) for name, classes in self.unknown.items()})
        if not self.known:
            raise ValueError("known is empty: a classifier needs classes to know")
        if not self.unknown or not all(self.unknown.values()):
            raise ValueError(f"unknown={self.unknown}: needs a group, and a class in each")
        unknown = [c for classes in self.unknown.values() for c in classes]
        for name, classes in (("known", self.known), ("unknown", unknown)):
            if len(set(classes)) < len(classes):
                raise ValueError(f"{name} names {_twice(classes)!r} twice")
        if not self.foreign and (both := set(self.known) & set(unknown)):
            raise ValueError(f"class {min(both, key=str)!r} is both known and unknown")

    @property
    def classes(self) -> list[ClassId]:
        """The known classes, then the unknown ones."""
        return self.known + [c for classes in self.unknown.values() for c in classes]

    @property
    def openness(self) -> float:
        """See :func:`openness`."""
        return openness(len(self.known), sum(map(len, self.unknown.values())))


def openness(n_known: int, n_unknown: int) -> float:
    """1 − √(2 n_known/(2 n_known + n_unknown)): 0 where every class is known, towards 1 where few are.

    Raises:
        ValueError: no known class, or fewer than zero unknown ones.

    Source: Scheirer et al., "Toward Open Set Recognition" (2013), with all known classes both trained on and tested.

    >>> round(openness(6, 4), 4)
    0.134
    """
    if n_known < 1 or n_unknown < 0:
        raise ValueError(f"n_known={n_known}, n_unknown={n_unknown}: at least one class must be known")
    return 1 - math.sqrt(2 * n_known / (2 * n_known + n_unknown))


def class_split(n_classes: int, n_known: int, seed: int) -> OpenSetSplit:
    """``n_known`` of the classes 0 … n_classes − 1, drawn at random; the others are the group ``"unknown"``.

    Raises:
        ValueError: unless 1 ≤ n_known < n_classes.

    >>> split = class_split(10, 6, seed=0)
    >>> sorted(split.known + split.unknown["unknown"]) == list(range(10))
    True
    """
    if not 1 <= n_known < n_classes:
        raise ValueError(f"n_known={n_known}: must be from 1 to n_classes − 1 = {n_classes - 1}")
    order = torch.randperm(n_classes, generator=torch.Generator().manual_seed(seed)).tolist()
    return OpenSetSplit(order[:n_known], {"unknown": sorted(order[n_known:])})


SMALL_BENCHMARKS = {"mnist": 10, "svhn": 10, "cifar-10-10": 10, "tinyimagenet": 200}


def read_small_splits(path: str | Path) -> dict[str, list[OpenSetSplit]]:
    """The five splits of each classical benchmark, from ``small_benchmark_splits.json``.

    The keys are ``mnist``, ``svhn``, ``cifar-10-10``, ``tinyimagenet``, and ``cifar-10-100-10`` and ``cifar-10-100-50``
    (4 classes of CIFAR-10 known, 10 or 50 of CIFAR-100 unknown). Elsewhere what is not known is unknown.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: a file that does not hold these splits.
    """
    stored = _read(path)
    known = {name: _class_lists(path, stored, name) for name in (*SMALL_BENCHMARKS, "cifar-10-100")}
    splits = {
        name: [
            OpenSetSplit(classes, {"unknown": [c for c in range(count) if c not in classes]}) for classes in known[name]
        ]
        for name, count in SMALL_BENCHMARKS.items()
    }
    for name in ("cifar-10-100-10", "cifar-10-100-50"):
        pairs = zip(known["cifar-10-100"], _class_lists(path, stored, name), strict=True)
        splits[name] = [OpenSetSplit(ours, {"unknown": theirs}, foreign=True) for ours, theirs in pairs]
    return splits


FINE_GRAINED = ("cub", "fgvc_aircraft", "stanford_cars")


def read_semantic_shift_splits(path: str | Path) -> dict[str, OpenSetSplit]:
    """The Semantic Shift Benchmark, from ``semantic_shift_benchmark_splits.json``.

    ``cub``, ``fgvc_aircraft`` and ``stanford_cars`` have class numbers, in the groups Easy, Medium and Hard by how many
    attributes a class shares with a known one. ``imagenet`` and ``imagenet_winter21`` have WordNet ids, Easy and Hard
    by the distance in the hierarchy; known are the ids of ImageNet-1K that the file lists.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: a file that does not hold these splits.
    """
    stored = _read(path)
    try:
        splits = {
            name: OpenSetSplit(
                stored[name]["known_classes"],
                {group: stored[name]["unknown_classes"][group] for group in ("Easy", "Medium", "Hard")},
            )
            for name in FINE_GRAINED
        }
        for name in ("imagenet", "imagenet_winter21"):
            groups = {"Easy": stored[name]["easy_i21k_classes"], "Hard": stored[name]["hard_i21k_classes"]}
            splits[name] = OpenSetSplit(stored["imagenet"]["imagenet_1k_wnids"], groups)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold the splits of the Semantic Shift Benchmark: {error!r}") from error
    return splits


def _read(path: str | Path) -> Mapping[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of class splits")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} holds {type(stored).__name__}: must be an object of splits by name")
    return stored


def _class_lists(path: str | Path, stored: Mapping[str, Any], name: str) -> list[list[ClassId]]:
    lists = stored.get(name)
    if isinstance(lists, list) and all(isinstance(classes, list) for classes in lists):
        found: list[list[ClassId]] = lists
        if all(isinstance(c, int) for classes in found for c in classes):
            return found
    raise ValueError(f"{path} holds no lists of class numbers under {name!r}; it has {', '.join(stored)}")


def _twice(classes: list[ClassId]) -> ClassId:
    ordered = sorted(classes, key=str)
    return next(a for a, b in pairwise(ordered) if a == b)
