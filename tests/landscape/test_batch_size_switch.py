"""Large batches, then small ones: what is trained with what, from where, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from landform.landscape import BatchSizeSwitchExperiment

Calls = list[tuple[float, int, range]]


def recording(calls: Calls) -> Any:
    def train(state: dict[str, Tensor], batch_size: int, steps: range) -> dict[str, Tensor]:
        calls.append((float(state["w"]), batch_size, steps))
        state["w"] = state["w"] + len(steps)
        return state

    return train


def test_small_batches_go_on_where_large_ones_ended() -> None:
    calls: Calls = []
    experiment = BatchSizeSwitchExperiment(recording(calls), lb=64, sb=4, steps=(25, 15), every=10)
    init = {"w": torch.zeros(())}
    found = experiment.run(init, lambda state: {"twice": 2 * float(state["w"])})
    assert calls == [
        (0.0, 64, range(10)),
        (10.0, 64, range(10, 20)),
        (20.0, 64, range(20, 25)),
        (25.0, 4, range(25, 35)),
        (35.0, 4, range(35, 40)),
    ]
    assert (float(found.large["w"]), float(found.small["w"]), float(init["w"])) == (25, 40, 0)
    assert found.steps == (0, 10, 20, 25, 35, 40)
    assert found.values["twice"].tolist() == [0, 20, 40, 50, 70, 80]


def test_nothing_need_be_measured_and_the_papers_defaults() -> None:
    experiment = BatchSizeSwitchExperiment(recording([]), steps=2)
    assert experiment.run({"w": torch.zeros(())}).values == {}
    whole = BatchSizeSwitchExperiment(recording([]))
    assert (whole.lb, whole.sb, whole.steps, whole.every) == (1000, 32, (25_000, 25_000), 100)


def test_a_training_function_that_works_in_place_cannot_change_the_end_of_part_one() -> None:
    def train(state: dict[str, Tensor], batch_size: int, steps: range) -> dict[str, Tensor]:
        state["w"].add_(1)
        return state

    init = {"w": torch.zeros(2)}
    found = BatchSizeSwitchExperiment(train, lb=2, sb=1, steps=1).run(init)
    assert (found.large["w"].tolist(), found.small["w"].tolist(), init["w"].tolist()) == ([1, 1], [2, 2], [0, 0])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"lb": 4, "sb": 4}, "lb=4, sb=4"),
        ({"sb": 0}, "sb=0"),
        ({"steps": 0}, "steps=0"),
        ({"steps": (3, 0)}, "steps=0"),
        ({"every": 0}, "every=0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        BatchSizeSwitchExperiment(recording([]), **arguments)


def test_a_training_that_diverges_is_named() -> None:
    experiment = BatchSizeSwitchExperiment(lambda state, b, s: {"w": state["w"] * torch.nan}, lb=2, sb=1, steps=3)
    with pytest.raises(ValueError, match="the state after 3 steps"):
        experiment.run({"w": torch.ones(1)})
    with pytest.raises(ValueError, match="init"):
        experiment.run({"w": torch.full((1,), torch.inf)})
