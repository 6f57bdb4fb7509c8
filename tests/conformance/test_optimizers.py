"""What every public optimiser must do: as ``torch.optim``'s own do, with a closure that it may call more than once."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from examples import ALL_OPTIMIZERS, make_optimizer
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
every_optimizer = pytest.mark.parametrize("name", ALL_OPTIMIZERS)


def weights(dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """Two parameters, with a first axis that may be read as three models."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (3, 2, 2))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [w.to(dtype=dtype, device=device).requires_grad_() for w in drawn]


def bowl(params: list[Tensor]) -> Tensor:
    """A quadratic with curvatures from 0.5 to 2, and its minimum, 0, at 1."""
    total = torch.zeros((), device=params[0].device)
    for w in params:
        curvature = torch.linspace(0.5, 2, w.numel(), dtype=w.dtype, device=w.device).view(w.shape)
        total = total + (curvature * (w - 1).square()).sum().float() / 2
    return total


def closure(optimizer: Any, params: list[Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        optimizer.zero_grad()
        loss = bowl(params)
        loss.backward()
        return loss

    return call


def steps(optimizer: Any, params: list[Tensor], count: int) -> None:
    for _ in range(count):
        optimizer.step(closure(optimizer, params))


@every_optimizer
def test_example_is_in_the_docstring(name: str) -> None:
    assert ">>> " in (ALL_OPTIMIZERS[name].__doc__ or ""), f"{name} shows no example that doctest runs"


@every_optimizer
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_it_minimises(name: str, dtype: torch.dtype, device: str) -> None:
    params = weights(dtype, device)
    optimizer = make_optimizer(name, params)
    before = bowl(params).item()
    steps(optimizer, params, 80)
    assert bowl(params).item() < 0.02 * before
    assert all(w.dtype == dtype and w.device.type == device for w in params)


@every_optimizer
def test_step_gives_the_loss_before_it(name: str) -> None:
    params = weights()
    optimizer = make_optimizer(name, params)
    before = bowl(params).item()
    assert optimizer.step(closure(optimizer, params)).item() == pytest.approx(before, rel=1e-6)


@every_optimizer
def test_parameters_without_a_gradient_stay(name: str) -> None:
    params, idle = weights(), weights()
    optimizer = make_optimizer(name, [*params, idle[0]])
    steps(optimizer, params, 3)
    assert torch.equal(idle[0], weights()[0])
    assert not torch.equal(params[0], weights()[0])


@every_optimizer
def test_groups_have_their_own_rates(name: str) -> None:
    """A group at rate zero stays, whether it was there from the start or came later."""
    params = weights()
    optimizer = make_optimizer(name, [{"params": params[:1], "lr": 0.0}, {"params": params[1:]}])
    steps(optimizer, params, 2)
    assert torch.equal(params[0], weights()[0])
    assert not torch.equal(params[1], weights()[1])
    params = weights()
    optimizer = make_optimizer(name, params[:1])
    optimizer.add_param_group({"params": params[1:], "lr": 0.0})
    steps(optimizer, params, 2)
    assert torch.equal(params[1], weights()[1])
    assert not torch.equal(params[0], weights()[0])


@every_optimizer
def test_a_saved_run_goes_on_to_the_bit(name: str) -> None:
    params = weights()
    optimizer = make_optimizer(name, params)
    steps(optimizer, params, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others = [w.detach().clone().requires_grad_() for w in params]
    resumed = make_optimizer(name, others, lr=0.7)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    steps(optimizer, params, 3)
    steps(resumed, others, 3)
    assert all(torch.equal(w, other) for w, other in zip(params, others, strict=True))


@every_optimizer
@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_a_copy_goes_on_alone(name: str, way: Callable[[Any], Any]) -> None:
    params = weights()
    optimizer = make_optimizer(name, params)
    steps(optimizer, params, 2)
    copied, others = way((optimizer, params))
    frozen = [w.detach().clone() for w in params]
    steps(copied, others, 3)
    assert all(torch.equal(w, was) for w, was in zip(params, frozen, strict=True))
    steps(optimizer, params, 3)
    assert all(torch.equal(w, other) for w, other in zip(params, others, strict=True))


@every_optimizer
def test_a_schedule_of_pytorch_sets_its_rate(name: str) -> None:
    params = weights()
    optimizer = make_optimizer(name, params)
    schedule = StepLR(optimizer, step_size=1, gamma=0.0)
    steps(optimizer, params, 1)
    schedule.step()
    moved = [w.detach().clone() for w in params]
    steps(optimizer, params, 2)
    assert optimizer.param_groups[0]["lr"] == 0
    assert all(torch.equal(w, was) for w, was in zip(params, moved, strict=True))


@every_optimizer
def test_zero_grad_clears(name: str) -> None:
    params = weights()
    optimizer = make_optimizer(name, params)
    bowl(params).backward()
    optimizer.zero_grad()
    assert all(w.grad is None for w in params)


@every_optimizer
def test_no_parameters(name: str) -> None:
    with pytest.raises(ValueError, match="param"):
        make_optimizer(name, [])


@every_optimizer
@pytest.mark.parametrize("rate", [-0.1, float("nan")])
def test_rates_that_are_none(name: str, rate: float) -> None:
    if rate != rate and "base_optimizer" in inspect.signature(ALL_OPTIMIZERS[name]).parameters:
        pytest.skip("the rate is the base optimiser's, and torch.optim.SGD takes NaN")
    with pytest.raises(ValueError, match=r"lr|learning rate"):
        make_optimizer(name, weights(), lr=rate)


@every_optimizer
def test_representation_names_the_class(name: str) -> None:
    assert repr(make_optimizer(name, weights())).startswith(name)
