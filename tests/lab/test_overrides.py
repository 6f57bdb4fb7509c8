"""Texts become values by a Config's annotations, or are refused in one line that says what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landform.lab.errors import StudyError, UsageError
from landform.lab.overrides import typed_overrides


class Colour(Enum):
    RED = "r"
    BLUE = "b"


@dataclass(frozen=True)
class Config:
    steps: int = 10
    rate: float = 0.1
    nesterov: bool = False
    data: str = "digits"
    widths: tuple[int, ...] = (8,)
    size: tuple[int, float] = (1, 2.0)
    kind: Literal["a", "b", 3] = "a"
    decay: float | None = None
    depth: int | str = 1
    colour: Colour = Colour.RED
    root: Path = Path()
    table: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: at least 1")


def changed(name: str, text: str) -> Any:
    return getattr(typed_overrides(Config(), {name: text}), name)


@given(st.integers(min_value=1))
def test_whole_numbers(value: int) -> None:
    assert changed("steps", str(value)) == value


@given(st.floats(allow_nan=False))
def test_numbers_keep_every_bit(value: float) -> None:
    back = changed("rate", repr(value))
    assert back == value
    assert math.copysign(1, back) == math.copysign(1, value)


@given(st.lists(st.integers()))
def test_tuples(values: list[int]) -> None:
    assert changed("widths", ",".join(map(str, values))) == tuple(values)
    assert changed("widths", str(tuple(values))) == tuple(values)


@given(st.text())
def test_text_is_taken_as_it_is(value: str) -> None:
    assert changed("data", value) == value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "1e3", 1000),
        ("steps", "1_000", 1000),
        ("rate", "3", 3.0),
        ("rate", "inf", math.inf),
        ("nesterov", "True", True),
        ("nesterov", "off", False),
        ("size", "3,0.5", (3, 0.5)),
        ("kind", "b", "b"),
        ("kind", "3", 3),
        ("decay", "none", None),
        ("decay", "0.5", 0.5),
        ("depth", "2", 2),
        ("depth", "deep", "deep"),
        ("colour", "BLUE", Colour.BLUE),
        ("colour", "b", Colour.BLUE),
        ("root", "a/b", Path("a/b")),
    ],
)
def test_every_kind_of_field(name: str, text: str, value: object) -> None:
    back = changed(name, text)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("step", "1", "there is no setting 'step'; there are steps, rate,"),
        ("steps", "1.5", "steps must be a whole number"),
        ("steps", "many", "steps must be a whole number"),
        ("steps", "inf", "steps must be a whole number"),
        ("steps", "0", "not allowed: steps=0: at least 1"),
        ("rate", "fast", "rate must be a number"),
        ("rate", "nan", "rate must be a number"),
        ("nesterov", "maybe", "nesterov must be true or false"),
        ("widths", "1,x", "widths must be values separated by commas, each a whole number"),
        ("widths", "1,,2", "widths must be values separated by commas, each a whole number"),
        ("size", "1", "size must be 2 values separated by commas"),
        ("kind", "c", "kind must be one of a, b, 3"),
        ("decay", "low", "decay must be a number or none"),
        ("colour", "green", "colour must be one of RED, BLUE, r, b"),
        ("table", "{}", "table must be set in Python"),
    ],
)
def test_a_refusal_names_field_text_and_what_is_allowed(name: str, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        typed_overrides(Config(), {name: text})
    assert says in str(caught.value)
    assert f"{name}={text}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_given_as_text() -> None:
    with pytest.raises(UsageError, match="steps=3: values are given as text"):
        typed_overrides(Config(), {"steps": 3})  # type: ignore[dict-item]


def test_annotations_that_name_nothing_are_the_studys_fault() -> None:
    @dataclass
    class Odd:
        n: Missing = 1  # type: ignore[name-defined]

    with pytest.raises(StudyError, match="annotations of Odd cannot be read: name 'Missing' is not defined"):
        typed_overrides(Odd(), {"n": "2"})


def test_nothing_is_changed_without_overrides() -> None:
    config = Config(steps=5)
    assert typed_overrides(config, {}) is config
    assert typed_overrides(config, {"rate": "1"}).steps == 5
