"""``KEY=VALUE`` texts, made into values by the annotations of a study's Config."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from landform.lab.errors import StudyError, UsageError

ConfigT = TypeVar("ConfigT")

YES = {"true", "yes", "on", "1"}
NO = {"false", "no", "off", "0"}


class _Refused(Exception):
    """A text is none of what a type allows; the message says what that is."""


def typed_overrides(config: ConfigT, overrides: Mapping[str, str]) -> ConfigT:
    """``config`` with fields replaced by texts: ``typed_overrides(config, {"steps": "100", "widths": "8,16"})``.

    A field may be an int, a float, a bool, text, a Path, a Literal, an Enum, a tuple of those (separated by commas) or
    optional (``none``).

    Raises:
        UsageError: no such field, a text that its type does not allow, or a value that the Config itself refuses. The
            message names the field, the text and what is allowed.
        StudyError: the Config's annotations name what does not exist.
    """
    if not overrides:
        return config
    try:
        hints = typing.get_type_hints(type(config))
    except NameError as error:
        raise StudyError(f"the annotations of {type(config).__name__} cannot be read: {error}") from error
    known = [f.name for f in dataclasses.fields(config) if f.init]  # type: ignore[arg-type]
    values = {}
    for name, text in overrides.items():
        if name not in known:
            raise UsageError(f"{name}={text}: there is no setting {name!r}; there are {', '.join(known)}")
        if not isinstance(text, str):
            raise UsageError(f"{name}={text!r}: values are given as text")
        try:
            values[name] = _parse(text, hints[name])
        except _Refused as refused:
            raise UsageError(f"{name}={text}: {name} must be {refused}") from None
    try:
        return dataclasses.replace(config, **values)  # type: ignore[type-var]
    except (ValueError, TypeError) as error:
        asked = " ".join(f"{name}={text}" for name, text in overrides.items())
        raise UsageError(f"{asked}: not allowed: {' '.join(str(error).split())}") from error


def _parse(text: str, hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_of(text, arguments)
    if origin is Literal:
        return _choice(text, {str(value): value for value in arguments})
    if origin is tuple:
        return _tuple(text, arguments)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _choice(text, {**{e.name: e for e in hint}, **{str(e.value): e for e in hint}})
    if hint in PARSERS:
        return PARSERS[hint](text)
    raise _Refused(f"set in Python: a {hint} has no form on the command line")


def _first_of(text: str, hints: tuple[Any, ...]) -> Any:
    allowed = []
    # Text allows everything, so it comes last.
    for hint in sorted(hints, key=lambda hint: hint is str):
        try:
            return _parse(text, hint)
        except _Refused as refused:
            allowed.append(str(refused))
    raise _Refused(" or ".join(allowed))


def _choice(text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise _Refused(f"one of {', '.join(choices)}")
    return choices[text]


def _tuple(text: str, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.strip().removeprefix("(").removesuffix(")").split(",")]
    if parts[-1] == "":
        parts.pop()
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(parts)
    elif len(hints) != len(parts):
        raise _Refused(f"{len(hints)} values separated by commas")
    try:
        return tuple(_parse(part, hint) for part, hint in zip(parts, hints, strict=True))
    except _Refused as refused:
        raise _Refused(f"values separated by commas, each {refused}") from None


def _bool(text: str) -> bool:
    if text.lower() in YES | NO:
        return text.lower() in YES
    raise _Refused("true or false")


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)  # 1e6 is a whole number, too.
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise _Refused("a whole number")
    return int(value)


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise _Refused("a number")
    return value


def _none(text: str) -> None:
    if text.lower() != "none":
        raise _Refused("none")


PARSERS: dict[Any, Callable[[str], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: str,
    Path: Path,
    type(None): _none,
}
