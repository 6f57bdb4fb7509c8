"""What makes a run and a trial the one that it is.

Two trials are the same when study, preset, config, condition, seed, role, chosen settings, code fingerprint and device
are the same. All of these are kept as canonical JSON, so that equality of text is equality of meaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

Role = Literal["tuning", "reported"]


def plain(value: Any, name: str = "value") -> Any:
    """``value`` in terms of None, bool, int, float, str, tuple and dict alone.

    Raises:
        TypeError: a value that has no such form (a function, a tensor, ...); the message names its field.
    """
    if isinstance(value, Enum):
        return plain(value.value, name)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f"{name}.{f.name}") for f in fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{name}={value!r}: only mappings with text keys can be stored")
        return {key: plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(plain(item, f"{name}[{place}]") for place, item in enumerate(value))
    if isinstance(value, set | frozenset):
        return tuple(sorted((plain(item, name) for item in value), key=canonical))
    raise TypeError(f"{name}={value!r}: a {type(value).__name__} cannot be stored; use numbers, text, tuples or None")


def canonical(value: Any) -> str:
    """The one JSON text of a plain value: keys sorted, floats to the last bit, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def restored(text: str) -> Any:
    """The plain value that ``canonical`` wrote: sequences come back as tuples."""

    def tuples(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(tuples(item) for item in value)
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return value

    return tuples(json.loads(text))


def digest(*parts: Any) -> str:
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class RunKey:
    """A study at a preset, with its config after overrides, under one version of the code, on one device.

    ``overrides`` is what differs from the preset; it follows from ``config`` and is no part of the identity.
    """

    study: str
    preset: str
    config: Mapping[str, Any]
    fingerprint: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @cached_property
    def id(self) -> str:
        return digest(self.study, self.preset, self.config, self.fingerprint, self.device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunKey) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True, eq=False)
class TrialKey:
    """One trial of a run. ``chosen`` is None where hyper-parameters are open (see ``landform.study.Run``)."""

    run: RunKey
    condition: Mapping[str, Any]
    seed: int
    role: Role
    chosen: Mapping[str, str] | None = None

    @cached_property
    def id(self) -> str:
        return digest(self.run.id, self.condition, self.seed, self.role, self.chosen)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrialKey) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        """For people: ``seed 3, noise = 0.4``."""
        name = "tuning seed" if self.role == "tuning" else "seed"
        return ", ".join([f"{name} {self.seed}", *(f"{key} = {value}" for key, value in self.condition.items())])

    @property
    def randomness(self) -> int:
        """The seed of the global random number generators: the same in every process, preset and machine."""
        return int(digest(self.run.study, self.seed, self.role, self.condition)[:16], 16) >> 1
