"""What every public optimiser must do: as ``torch.optim``'s own do, however often it looks at the loss in a step."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from examples import ALL_OPTIMIZERS, Blobs, Bowl, make_optimizer, problem_of
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
every_optimizer = pytest.mark.parametrize("name", ALL_OPTIMIZERS)
every_optimizer_of_parameters = pytest.mark.parametrize(
    "name", [name for name in ALL_OPTIMIZERS if problem_of(name) is Bowl]
)


def made(name: str, **changes: Any) -> tuple[Any, Bowl | Blobs]:
    problem = problem_of(name)()
    return make_optimizer(name, problem.given, **changes), problem


def steps(optimizer: Any, problem: Bowl | Blobs, count: int) -> None:
    for _ in range(count):
        problem.step(optimizer)


def values(problem: Bowl | Blobs) -> list[Tensor]:
    return [w.detach().clone() for w in problem.params]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(w, v) for w, v in zip(one, other, strict=True))


@every_optimizer
def test_example_is_in_the_docstring(name: str) -> None:
    assert ">>> " in (ALL_OPTIMIZERS[name].__doc__ or ""), f"{name} shows no example that doctest runs"


@every_optimizer
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_it_minimises(name: str, dtype: torch.dtype, device: str) -> None:
    problem = problem_of(name)(dtype, device)
    optimizer = make_optimizer(name, problem.given)
    before = problem.loss().item()
    steps(optimizer, problem, 80)
    assert problem.loss().item() < (0.02 if problem_of(name) is Bowl else 0.2) * before
    assert all(w.dtype == dtype and w.device.type == device for w in problem.params)


@every_optimizer
def test_step_gives_the_loss_before_it(name: str) -> None:
    optimizer, problem = made(name)
    before = problem.loss().item()
    assert problem.step(optimizer) == pytest.approx(before, rel=1e-6)
    assert problem.loss().item() != pytest.approx(before, rel=1e-6)


@every_optimizer_of_parameters
def test_parameters_without_a_gradient_stay(name: str) -> None:
    problem, idle = Bowl(), Bowl().params[0]
    optimizer = make_optimizer(name, [*problem.params, idle])
    steps(optimizer, problem, 3)
    assert torch.equal(idle, Bowl().params[0])
    assert not torch.equal(problem.params[0], Bowl().params[0])


@every_optimizer_of_parameters
@pytest.mark.parametrize("later", [False, True])
def test_groups_have_their_own_rates(name: str, later: bool) -> None:
    """A group at rate zero stays, whether it was there from the start or came later."""
    problem = Bowl()
    moving, still = {"params": problem.params[:1]}, {"params": problem.params[1:], "lr": 0.0}
    optimizer = make_optimizer(name, [moving] if later else [moving, still])
    if later:
        optimizer.add_param_group(still)
    steps(optimizer, problem, 2)
    assert not torch.equal(problem.params[0], Bowl().params[0])
    assert torch.equal(problem.params[1], Bowl().params[1])


@every_optimizer
def test_a_saved_run_goes_on_to_the_bit(name: str) -> None:
    optimizer, problem = made(name)
    steps(optimizer, problem, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed, other = made(name, lr=0.7)
    with torch.no_grad():
        for w, v in zip(other.params, values(problem), strict=True):
            w.copy_(v)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    steps(optimizer, problem, 3)
    steps(resumed, other, 3)
    assert same(problem.params, other.params)


@every_optimizer
@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_a_copy_goes_on_alone(name: str, way: Callable[[Any], Any]) -> None:
    optimizer, problem = made(name)
    steps(optimizer, problem, 2)
    copied, other = way((optimizer, problem))
    frozen = values(problem)
    steps(copied, other, 3)
    assert same(problem.params, frozen)
    assert not same(other.params, frozen)
    steps(optimizer, problem, 3)
    assert same(problem.params, other.params)


@every_optimizer
def test_a_schedule_of_pytorch_sets_its_rate(name: str) -> None:
    optimizer, problem = made(name)
    schedule = StepLR(optimizer, step_size=1, gamma=0.0)
    steps(optimizer, problem, 1)
    schedule.step()
    moved = values(problem)
    steps(optimizer, problem, 2)
    assert optimizer.param_groups[0]["lr"] == 0
    assert same(problem.params, moved)


@every_optimizer
def test_zero_grad_clears(name: str) -> None:
    optimizer, problem = made(name)
    problem.loss().backward()
    assert any(w.grad is not None for w in problem.params)
    optimizer.zero_grad()
    assert all(w.grad is None for w in problem.params)


@every_optimizer_of_parameters
def test_no_parameters(name: str) -> None:
    with pytest.raises(ValueError, match="param"):
        make_optimizer(name, [])


@every_optimizer
@pytest.mark.parametrize("rate", [-0.1, math.nan])
def test_rates_that_are_none(name: str, rate: float) -> None:
    if math.isnan(rate) and "base_optimizer" in inspect.signature(ALL_OPTIMIZERS[name]).parameters:
        pytest.skip("the rate is the base optimiser's, and torch.optim.SGD takes NaN")
    with pytest.raises(ValueError, match=r"lr|learning rate"):
        made(name, lr=rate)


@every_optimizer
def test_representation_names_the_class(name: str) -> None:
    assert repr(made(name)[0]).startswith(name)
