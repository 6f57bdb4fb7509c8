"""Which trials a run has, and which setting the tuning seeds choose."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pandas as pd
import pytest

from landform.claims import Better
from landform.lab.errors import StudyError, UsageError
from landform.lab.identity import canonical, plain, restored
from landform.lab.plan import Plan, choose
from landform.study import Preset, Study


class Kind(Enum):
    ONE = 1


@dataclass(frozen=True)
class Config:
    steps: int = 10
    noise: float = 0.0
    widths: tuple[int, ...] = (4,)
    kind: Kind = Kind.ONE

    def __post_init__(self) -> None:
        if self.noise > 0.5 and self.steps > 50:
            raise ValueError("too much")


def study(**other: Any) -> Study:
    options: dict[str, Any] = {
        "claims": [Better("m", "a", than="b")],
        "presets": {"laptop": Preset(Config(), seeds=3, tuning_seeds=2), "paper": Preset(Config(steps=99), seeds=1)},
        "conditions": {"noise": (0.0, 0.4), "widths": ((1, 2), (3,))},
        "tune_by": "m",
    }
    return Study("toy", **{**options, **other})


def test_conditions_are_crossed_with_the_seeds() -> None:
    plan = Plan(study(), "laptop", fingerprint="f")
    assert plan.conditions == [{"noise": noise, "widths": widths} for noise in (0.0, 0.4) for widths in ((1, 2), (3,))]
    assert plan.total == 4 * (3 + 2)
    condition = plan.conditions[1]
    assert plan.config(condition) == Config(noise=0.0, widths=(3,))
    assert [(t.seed, t.role, t.chosen) for t in plan.tuning(condition)] == [
        (1_000_000, "tuning", None),
        (1_000_001, "tuning", None),
    ]
    assert [(t.seed, t.role, t.chosen) for t in plan.reported(condition, {"a": "1"})] == [
        (seed, "reported", {"a": "1"}) for seed in range(3)
    ]
    trials = [t for c in plan.conditions for t in (*plan.tuning(c), *plan.reported(c, None))]
    assert len(set(trials)) == plan.total
    assert len({t.randomness for t in trials}) == plan.total
    assert str(trials[0]) == "tuning seed 1000000, noise = 0.0, widths = (1, 2)"


def test_a_study_without_conditions_has_one_empty_one() -> None:
    plan = Plan(study(conditions={}), "laptop", seeds=1, fingerprint="f")
    assert plan.conditions == [{}]
    assert plan.total == 3


def test_overrides_are_what_differs_from_the_preset() -> None:
    plan = Plan(study(), "laptop", overrides={"steps": "20", "kind": "ONE"}, fingerprint="f")
    assert plan.run.overrides == {"steps": 20}
    assert plan.run.config == {"steps": 20, "noise": 0.0, "widths": (4,), "kind": 1}
    same = Plan(study(), "laptop", overrides={"steps": "10"}, fingerprint="f").run
    assert same.overrides == {}
    assert same == Plan(study(), "laptop", fingerprint="f").run != plan.run


def test_an_override_of_a_condition_pins_it() -> None:
    plan = Plan(study(), "laptop", overrides={"noise": "0.3"}, fingerprint="f")
    assert [c["noise"] for c in plan.conditions] == [0.3, 0.3]
    assert plan.config(plan.conditions[0]).noise == 0.3
    # Pinned to the preset's own value, its trials are those of the whole run.
    pinned = Plan(study(), "laptop", overrides={"noise": "0.0"}, fingerprint="f")
    whole = Plan(study(), "laptop", fingerprint="f")
    assert {t for c in pinned.conditions for t in pinned.tuning(c)} < {
        t for c in whole.conditions for t in whole.tuning(c)
    }


def test_the_randomness_of_a_trial_is_that_of_its_seed_and_condition() -> None:
    """So that presets and configs can be compared. The value is fixed, since stored results depend on it."""
    laptop, paper = (Plan(study(), preset, fingerprint=preset) for preset in ("laptop", "paper"))
    condition = laptop.conditions[0]
    first = laptop.reported(condition, None)[0]
    text = b'["toy",0,"reported",{"noise":0.0,"widths":[1,2]}]'
    expected = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") // 2
    assert first.randomness == paper.reported(condition, None)[0].randomness == expected


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"preset": "smoke"}, UsageError, "toy has no preset 'smoke'; it has laptop, paper"),
        ({"seeds": 0}, UsageError, "seeds=0: allowed are 1 to 1000000"),
        ({"seeds": 1_000_001}, UsageError, "seeds=1000001"),
        ({"overrides": {"step": "1"}}, UsageError, "no setting 'step'"),
        ({"overrides": {"noise": "0.9", "steps": "60"}}, UsageError, "too much"),
    ],
)
def test_what_is_not_allowed_is_refused(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Plan(study(), **{"preset": "laptop", **arguments}, fingerprint="f")


def test_an_override_that_a_condition_does_not_go_with_is_refused() -> None:
    with pytest.raises(UsageError, match=r"not allowed where noise = 0\.9: too much"):
        Plan(study(conditions={"noise": (0.0, 0.9)}), "laptop", overrides={"steps": "60"}, fingerprint="f")
    with pytest.raises(StudyError, match=r"not allowed where noise = 0\.9: too much"):
        Plan(study(conditions={"noise": (0.0, 0.9)}), "paper", fingerprint="f")


def test_a_condition_cannot_take_the_name_of_a_records_part() -> None:
    @dataclass(frozen=True)
    class Clash:
        unit: int = 1

    clash = Study("toy", claims=[Better("m", "a", than="b")], presets={"smoke": Clash()}, conditions={"unit": (1, 2)})
    with pytest.raises(StudyError, match="unit names a part of a record"):
        Plan(clash, "smoke", fingerprint="f")


def test_values_that_cannot_be_stored_are_refused_by_name() -> None:
    @dataclass(frozen=True)
    class Odd:
        function: Any = print

    with pytest.raises(StudyError, match=r"config\.function=.*cannot be stored"):
        Plan(Study("toy", claims=[Better("m", "a", than="b")], presets={"smoke": Odd()}), "smoke", fingerprint="f")


def test_plain_values_survive_their_json() -> None:
    value = {"b": (1, 2.5, None, True, "ä", (1e-300, 0.1 + 0.2)), "a": {"x": -0.0}}
    assert restored(canonical(value)) == value
    assert canonical(value) == canonical(dict(reversed(value.items())))
    assert plain({"s": {3, 1}, "k": Kind.ONE}) == {"s": (1, 3), "k": 1}
    with pytest.raises(TypeError, match="text keys"):
        plain({1: 2})


# Choosing a setting ---------------------------------------------------------------------------------------------------


def frame(*rows: tuple[Any, ...]) -> pd.DataFrame:
    columns = ["arm", "metric", "value", "setting", "seed", "x", "unit"]
    full = [(*row, *([None] * (len(columns) - len(row)))) for row in rows]
    return pd.DataFrame(full, columns=columns).astype({"setting": object, "value": float, "x": float})


def grid(values: dict[str, list[list[float]]]) -> pd.DataFrame:
    """``values[arm][setting][seed]``."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for seed in range(2):
            for arm, settings in values.items():
                yield from ((arm, "m", value[seed], f"s{place}", seed) for place, value in enumerate(settings))

    return frame(*rows())


def test_each_arm_gets_the_setting_with_the_best_mean() -> None:
    records = grid({"a": [[0.0, 1.0], [0.9, 0.3], [0.5, 0.5]], "b": [[0.1, 0.1], [0.0, 0.0], [0.2, 0.3]]})
    assert choose(records, "m", minimise=False) == {"a": "s1", "b": "s2"}
    assert choose(records, "m", minimise=True) == {"a": "s0", "b": "s1"}


def test_of_equals_the_first_is_chosen() -> None:
    records = grid({"a": [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]})
    for minimise in (False, True):
        assert choose(records, "m", minimise=minimise) == {"a": "s0"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_the_worst(bad: float) -> None:
    records = grid({"a": [[bad, 1.0], [-5.0, -5.0], [-6.0, -6.0]]})
    assert choose(records, "m", minimise=False) == {"a": "s1"}
    records = grid({"a": [[bad, 1.0], [6.0, 6.0], [5.0, 5.0]]})
    assert choose(records, "m", minimise=True) == {"a": "s2"}
    assert choose(grid({"a": [[bad, 1.0], [bad, bad]]}), "m", minimise=False) == {"a": "s0"}


def test_only_the_chosen_metric_counts_and_no_curves() -> None:
    records = pd.concat(
        [
            grid({"a": [[1.0, 1.0], [2.0, 2.0]]}),
            frame(("a", "other", 99.0, "s0", 0), ("a", "m", 99.0, "s0", 0, 1.0), ("c", "m", 99.0, None, 0)),
        ]
    )
    assert choose(records, "m", minimise=False) == {"a": "s1"}


def test_seeds_weigh_the_same_however_many_units_they_have() -> None:
    rows = [("a", "m", 1.0, "s0", 0), ("a", "m", 0.0, "s0", 1), ("a", "m", 0.0, "s1", 1)]
    units = [("a", "m", 0.8, "s1", 0, None, f"u{n}") for n in range(5)]
    assert choose(frame(*rows, *units), "m", minimise=False) == {"a": "s0"}


def test_arms_without_settings_have_nothing_to_choose() -> None:
    assert choose(frame(("a", "m", 1.0, None, 0)), "m", minimise=False) == {}


def test_grids_of_unequal_size_are_unfair() -> None:
    with pytest.raises(
        StudyError, match="unfair: every arm must be tuned over equally many settings, but a has 2, b has 1"
    ):
        choose(grid({"a": [[0.0, 1.0], [0.0, 0.0]], "b": [[0.1, 0.1]]}), "m", minimise=False)


def test_a_setting_without_a_value_on_some_seed_is_unfair() -> None:
    records = grid({"a": [[0.0, 1.0], [0.0, 0.0]]})
    with pytest.raises(StudyError, match="unfair: a at s1 has no m on tuning seed 1"):
        choose(records.drop(index=3), "m", minimise=False)
    with pytest.raises(StudyError, match="unfair: a at s0 has no other on tuning seed 0"):
        choose(records, "other", minimise=False)
