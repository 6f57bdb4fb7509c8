"""What every public learning-rate schedule must do: as PyTorch's own do, and give its plan beforehand."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from examples import ALL_SCHEDULES, TOTAL, make_schedule
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from landform.optim.schedules import Schedule

every_schedule = pytest.mark.parametrize("name", ALL_SCHEDULES)
every_plan = pytest.mark.parametrize(
    "name", [name for name, kind in ALL_SCHEDULES.items() if issubclass(kind, Schedule)]
)
RATES = (0.4, 0.05)


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in RATES])


def run(schedule: LRScheduler, updates: int) -> list[list[float]]:
    """The rates that the optimiser has at each of so many updates."""
    found = []
    for _ in range(updates):
        found.append([float(group["lr"]) for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return found


@every_schedule
def test_example_is_in_the_docstring(name: str) -> None:
    assert ">>> " in (ALL_SCHEDULES[name].__doc__ or ""), f"{name} shows no example that doctest runs"


@every_schedule
def test_rates_are_numbers_and_follow_each_groups_own(name: str) -> None:
    rates = np.array(run(make_schedule(name, sgd()), 3 * TOTAL))
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert (rates[:, 0] >= rates[:, 1]).all()
    assert rates[:, 0].max() > rates[:, 1].max()


@every_plan
def test_plan_is_what_the_optimiser_gets(name: str) -> None:
    schedule = make_schedule(name, sgd())
    factors = schedule.values()
    assert factors.shape == (TOTAL,)
    assert (factors >= 0).all()
    assert factors.max() > 0
    assert np.isfinite(factors).all()
    np.testing.assert_allclose(run(schedule, TOTAL), np.outer(factors, RATES), rtol=1e-14)


@every_plan
def test_beyond_the_end_the_last_rate_is_held(name: str) -> None:
    schedule = make_schedule(name, sgd())
    rates = run(schedule, TOTAL + 5)
    assert rates[TOTAL:] == [rates[TOTAL - 1]] * 5


@every_schedule
@pytest.mark.parametrize("done", [1, 5, TOTAL])
def test_a_saved_run_goes_on_to_the_bit(name: str, done: int) -> None:
    uninterrupted = run(make_schedule(name, sgd()), TOTAL + 2)
    optimizer = sgd()
    schedule = make_schedule(name, optimizer)
    assert run(schedule, done) == uninterrupted[:done]
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), schedule.state_dict()], file)
    file.seek(0)
    fresh = sgd()
    resumed = make_schedule(name, fresh)
    states = torch.load(file, weights_only=True)
    fresh.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert run(resumed, TOTAL + 2 - done) == uninterrupted[done:]


@every_schedule
def test_state_is_plain_numbers(name: str) -> None:
    schedule = make_schedule(name, sgd())
    run(schedule, 2)
    json.dumps(schedule.state_dict())


@every_schedule
@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_a_copy_goes_on_alone(name: str, way: Callable[[Any], Any]) -> None:
    uninterrupted = run(make_schedule(name, sgd()), TOTAL)
    optimizer = sgd()
    schedule = make_schedule(name, optimizer)
    run(schedule, 4)
    copied, other = way((schedule, optimizer))
    assert copied.optimizer is other
    assert run(copied, TOTAL - 4) == uninterrupted[4:]
    assert run(schedule, TOTAL - 4) == uninterrupted[4:]


@every_schedule
def test_resuming_by_last_epoch(name: str) -> None:
    uninterrupted = run(make_schedule(name, sgd()), TOTAL)
    optimizer = sgd()
    run(make_schedule(name, optimizer), 4)  # leaves initial_lr in the groups
    np.testing.assert_allclose(
        run(make_schedule(name, optimizer, last_epoch=3), TOTAL - 4), uninterrupted[4:], rtol=1e-14
    )


@every_schedule
def test_follows_a_warm_up_of_pytorch(name: str) -> None:
    optimizer = sgd()
    warm = LinearLR(optimizer, start_factor=0.1, total_iters=3)
    both = SequentialLR(optimizer, [warm, make_schedule(name, optimizer)], milestones=[3])
    rates = run(both, 3 + TOTAL)
    np.testing.assert_allclose(rates[3:], run(make_schedule(name, sgd()), TOTAL), rtol=1e-14)


@every_plan
def test_steps_that_are_none(name: str) -> None:
    schedule = make_schedule(name, sgd())
    with pytest.raises(ValueError, match="step=-1"):
        schedule.lr_factor(-1)
    with pytest.raises(TypeError, match=r"step=0\.5"):
        schedule.lr_factor(0.5)


@every_plan
def test_whole_plans_and_single_steps_agree(name: str) -> None:
    schedule = make_schedule(name, sgd())
    one_by_one = [float(schedule.lr_factor(t)) for t in range(TOTAL + 3)]
    np.testing.assert_allclose(schedule.lr_factor(np.arange(TOTAL + 3)), one_by_one, rtol=1e-15)
    assert schedule.checkpoints()[-1] == TOTAL
    assert schedule.cost() >= TOTAL
