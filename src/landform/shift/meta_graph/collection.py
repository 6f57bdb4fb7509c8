"""Images grouped by what else is in them: the subsets of a class."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

MIN_SIZE = 25  # of a subset, in MetaShift


class SubsetCollection:
    """Named sets of items, such as the images of dogs by what is beside them: ``dog(frisbee)``, ``dog(shelf)``.

    Sets may overlap. A collection is never changed: every operation gives a new one, in the order of the old.

    Arguments:
        members: name → the items' numbers.

    Raises:
        ValueError: no sets at all, an empty set, or a number below zero.
        TypeError: an item that is no integer.

    Source: arXiv 2202.06523, section 3.

    >>> dogs = SubsetCollection({"dog(shelf)": {1, 2}, "dog(sofa)": {2, 3}, "dog(boat)": {4}})
    >>> dogs.merge({"indoors": ["dog(shelf)", "dog(sofa)"]})["indoors"]
    frozenset({1, 2, 3})
    """

    def __init__(self, members: Mapping[str, Iterable[int]]) -> None:
        if not members:
            raise ValueError("members: a collection needs at least one set")
        self.members = {name: _items(name, ids) for name, ids in members.items()}

    @classmethod
    def from_tags(
        cls, item_tags: Mapping[int, Iterable[str]], subject: str, min_size: int = MIN_SIZE
    ) -> SubsetCollection:
        """The items tagged both ``subject`` and t, for every other tag t, named ``subject(t)``.

        Subsets below ``min_size`` are left out.

        Raises:
            ValueError: no item has the subject, or no subset is large enough.
        """
        found: dict[str, set[int]] = {}
        for item, given in item_tags.items():
            tags = set(given)
            if subject in tags:
                for tag in tags - {subject}:
                    found.setdefault(f"{subject}({tag})", set()).add(item)
        if not found:
            raise ValueError(f"subject={subject!r}: no item has this tag and another one")
        return cls(dict(sorted(found.items()))).filter(min_size)

    @classmethod
    def from_json(cls, path: str | Path) -> SubsetCollection:
        """From a file that maps each name to a list of item numbers, as MetaShift's index does.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file of another form.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path={str(path)!r}: there is no such file")
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"path={str(path)!r}: is no JSON: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(ids, list) for ids in found.values()):
            raise ValueError(f"path={str(path)!r}: must map names to lists of item numbers")
        return cls(found)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __contains__(self, name: object) -> bool:
        return name in self.members

    def __getitem__(self, name: str) -> frozenset[int]:
        if name not in self.members:
            raise KeyError(f"there is no subset {name!r}; there are {', '.join(list(self)[:20])}")
        return self.members[name]

    def filter(self, min_size: int) -> SubsetCollection:
        """The subsets of at least ``min_size`` items.

        Raises:
            ValueError: a size below 1, or no subset that large.
        """
        if min_size < 1:
            raise ValueError(f"min_size={min_size}: must be at least 1")
        kept = {name: ids for name, ids in self.members.items() if len(ids) >= min_size}
        if not kept:
            most = max(len(ids) for ids in self.members.values())
            raise ValueError(f"min_size={min_size}: no subset has so many items, the largest {most}")
        return SubsetCollection(kept)

    def of(self, subject: str) -> SubsetCollection:
        """The subsets of one class, named ``subject(...)``.

        Raises:
            KeyError: there are none.
        """
        kept = {name: ids for name, ids in self.members.items() if name.partition("(")[0] == subject}
        if not kept:
            raise KeyError(f"subject={subject!r}: no subset is named {subject}(...)")
        return SubsetCollection(kept)

    def merge(self, communities: Mapping[str, Collection[str]]) -> SubsetCollection:
        """The union of each community's subsets, under its name.

        Raises:
            KeyError: an unknown subset.
            ValueError: a community of none.
        """
        return SubsetCollection(
            {name: set().union(*(self[s] for s in subsets)) for name, subsets in communities.items()}
        )

    def exclude(self, ids: Iterable[int]) -> SubsetCollection:
        """Without these items, such as those of a rival class.

        Raises:
            ValueError: they empty a subset.
        """
        gone = frozenset(ids)
        return SubsetCollection({name: members - gone for name, members in self.members.items()})

    def incidence(self) -> Any:
        """The sparse matrix (subsets, items), 1 where the subset has the item; items in order of their numbers."""
        rows = np.repeat(np.arange(len(self)), [len(ids) for ids in self.members.values()])
        ids = np.fromiter((item for ids in self.members.values() for item in ids), dtype=np.int64)
        items, columns = np.unique(ids, return_inverse=True)
        return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(self), len(items)))


def _items(name: str, ids: Iterable[int]) -> frozenset[int]:
    found = frozenset(ids)
    if not found:
        raise ValueError(f"members: the set {name!r} is empty")
    for item in found:
        if isinstance(item, bool) or not isinstance(item, (int, np.integer)):
            raise TypeError(f"members: {name!r} holds {item!r}; items are numbered by integers")
    if min(found) < 0:
        raise ValueError(f"members: {name!r} holds {min(found)}; items are numbered from zero up")
    return frozenset(int(item) for item in found)
