"""Schedules against closed forms, PyTorch's own schedulers, and what a resumed run must do."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, PolynomialLR, SequentialLR

from landform.optim.quadratic import chebyshev_steps
from landform.optim.schedules import (
    REX,
    Constant,
    Cosine,
    CyclicTriangular,
    Exponential,
    Linear,
    OneCycle,
    Polynomial,
    Schedule,
    StepDecay,
    UBAPhases,
    UBASchedule,
    constant_factor,
    cosine_factor,
    cyclic_triangular_factor,
    exponential_factor,
    linear_factor,
    lr_factor,
    one_cycle_factor,
    phi_from_condition_number,
    polynomial_factor,
    rex_factor,
    step_factor,
    uba_factor,
)

GRID = np.linspace(0, 1, 101)
SHAPES: dict[str, Callable[[Any], Any]] = {
    "constant": constant_factor,
    "cosine": cosine_factor,
    "linear": linear_factor,
    "rex": rex_factor,
    "polynomial": partial(polynomial_factor, power=3.0),
    "exponential": partial(exponential_factor, rate=4.0),
    "step": step_factor,
    "one_cycle": one_cycle_factor,
    "one_cycle_linear": partial(one_cycle_factor, up=0.45, descent="linear"),
    "cyclic": partial(cyclic_triangular_factor, cycles=3),
    "uba": partial(uba_factor, phi=5.0),
}
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "linear": Linear,
    "rex": REX,
    "polynomial": partial(Polynomial, power=3.0),
    "exponential": partial(Exponential, gamma=0.9),
    "step": StepDecay,
    "one_cycle": OneCycle,
    "cyclic": CyclicTriangular,
    "uba": partial(UBASchedule, phi=5.0),
    "phases": lambda optimizer, total, **options: UBAPhases(
        optimizer, [(total // 2, 1.0, 0.1, 0.5), (total - total // 2, 0.4, 0.0, 8.0)], **options
    ),
}


def sgd(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates or (1.0,)])


def run(schedule: LRScheduler, updates: int) -> list[list[float]]:
    """The rates that the optimiser really has at each of so many updates."""
    rates = []
    for _ in range(updates):
        rates.append([float(group["lr"]) for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return rates


# ---- the UBA shape


@pytest.mark.parametrize("phi", [0.25, 1.0, 2.0, 5.0, 20.0])
def test_uba_is_the_published_formula(phi: float) -> None:
    c = np.cos(np.pi * GRID)
    published = 2 * (1 + c) / (2 * phi + (2 - phi) * (1 + c))
    np.testing.assert_allclose(uba_factor(GRID, phi), published, atol=1e-14)
    tangent = 1 / (1 + phi / 2 * np.tan(np.pi * GRID[:-1] / 2) ** 2)
    np.testing.assert_allclose(uba_factor(GRID[:-1], phi), tangent, rtol=1e-12)


def test_uba_schedule_has_the_published_rates_with_a_floor() -> None:
    # Worked by hand: T = 4, phi = 5, eta_max = 0.4, eta_min = 0.04; cos(pi/4) = sqrt(1/2).
    root = math.sqrt(0.5)
    u = [1.0, 2 * (1 + root) / (10 - 3 * (1 + root)), 2 / 7, 2 * (1 - root) / (10 - 3 * (1 - root))]
    schedule = UBASchedule(sgd(0.4), 4, phi=5.0, eta_min_ratio=0.1)
    np.testing.assert_allclose(np.ravel(run(schedule, 4)), [0.04 + 0.36 * v for v in u], rtol=1e-14)


def test_phi_two_is_cosine() -> None:
    np.testing.assert_allclose(uba_factor(GRID, 2.0), cosine_factor(GRID), rtol=0, atol=1e-15)


@pytest.mark.parametrize("phi", [5e-324, 1e-3, 1.0, 1e3, 1e308])
def test_uba_ends_are_exact(phi: float) -> None:
    assert uba_factor(0.0, phi) == 1.0
    assert uba_factor(1.0, phi) == 0.0
    assert np.isfinite(uba_factor(GRID, phi)).all()


@pytest.mark.parametrize("phi", [0.03, 0.5, 2.0, 7.0, 40.0])
def test_uba_symmetry_half_point_and_initial_curvature(phi: float) -> None:
    np.testing.assert_allclose(uba_factor(GRID, phi) + uba_factor(1 - GRID, 4 / phi), 1, atol=1e-14)
    assert uba_factor(2 / np.pi * math.atan(math.sqrt(2 / phi)), phi) == pytest.approx(0.5, abs=1e-14)
    h = 1e-4
    assert 2 * (uba_factor(h, phi) - 1) / h**2 == pytest.approx(-phi * np.pi**2 / 4, rel=1e-4)


def test_uba_falls_with_progress_and_with_phi() -> None:
    table = uba_factor(GRID, np.geomspace(1e-2, 1e2, 9)[:, None])
    assert (np.diff(table, axis=1) < 0).all()
    assert (np.diff(table[:, 1:-1], axis=0) < 0).all()


def test_uba_limits() -> None:
    s = GRID[GRID <= 0.99]
    np.testing.assert_allclose(uba_factor(s, 1e-10), 1, atol=1e-6)
    np.testing.assert_allclose(uba_factor(GRID[1:], 1e10), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "phi", "error"),
    [
        (linear_factor, 2.0, 0.075),
        (rex_factor, 0.74, 0.075),
        (polynomial_factor, 7.9, 0.046),
        (exponential_factor, 36.0, 0.042),
        (lambda s: np.clip((1 - s) / 0.2, 0, 1), 0.034, 0.045),
    ],
    ids=["linear", "rex", "polynomial", "exponential", "wsd"],
)
def test_uba_comes_as_near_to_other_schedules_as_published(shape: Any, phi: float, error: float) -> None:
    s = (np.arange(2000) + 0.5) / 2000

    def rmse(log_phi: float) -> float:
        return float(np.sqrt(np.mean((uba_factor(s, math.exp(log_phi)) - shape(s)) ** 2)))

    best = minimize_scalar(rmse, bounds=(math.log(1e-3), math.log(1e3)), method="bounded")
    assert math.exp(best.x) == pytest.approx(phi, rel=0.03)
    assert best.fun == pytest.approx(error, abs=5e-4)


def test_uba_is_differentiable_in_phi() -> None:
    s = torch.rand(7, dtype=torch.float64)
    phi = torch.tensor([0.3, 2.0, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: uba_factor(s[:, None], p), (phi,))
    value = uba_factor(0.3, phi)
    assert isinstance(value, torch.Tensor)
    assert value.shape == (3,)


@pytest.mark.parametrize("phi", [0.0, -1.0, math.inf, math.nan])
def test_uba_refuses_a_shape_parameter(phi: float) -> None:
    with pytest.raises(ValueError, match="phi"):
        uba_factor(0.5, phi)
    with pytest.raises(ValueError, match="phi"):
        UBASchedule(sgd(), 10, phi=phi)
    with pytest.raises(ValueError, match="phi"):
        uba_factor(0.5, torch.tensor(phi))


def test_progress_outside_is_refused_or_clipped() -> None:
    for bad in (-1e-9, 1.1, math.nan):
        with pytest.raises(ValueError, match="progress"):
            uba_factor(bad, 1.0)
    assert uba_factor(1.1, 1.0, clip=True) == 0.0
    np.testing.assert_array_equal(uba_factor(np.array([-2.0, 0.0]), 1.0, clip=True), 1.0)
    with pytest.raises(ValueError, match="progress"):
        uba_factor(math.nan, 1.0, clip=True)


def test_phi_of_a_condition_number() -> None:
    assert phi_from_condition_number(50.0) == 100.0
    for bad in (0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="kappa"):
            phi_from_condition_number(bad)


# ---- all shapes


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_gives_back_the_kind_it_was_given(name: str) -> None:
    shape = SHAPES[name]
    array = shape(GRID)
    assert array.shape == GRID.shape
    assert array.dtype == np.float64
    tensor = shape(torch.from_numpy(GRID))
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.numpy(), array, atol=1e-15)
    assert shape(torch.tensor(0.25)).dtype == torch.float64
    number = shape(0.25)
    assert type(number) is float
    assert number == pytest.approx(array[25], abs=1e-15)
    assert ((array >= 0) & (array <= 1)).all()
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="progress"):
            shape(bad)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (cosine_factor(1 / 3), 0.75),
        (linear_factor(0.3), 0.7),
        (rex_factor(0.25), 0.75 / 0.875),
        (polynomial_factor(0.25, power=1.5), 0.75**1.5),
        (exponential_factor(0.4, rate=5.0), math.exp(-2)),
        (step_factor(0.499), 1.0),
        (step_factor(0.5), 0.1),
        (step_factor(0.75), 0.01),
        (step_factor(1.0), 0.01),
        (step_factor(0.9, milestones=(), gamma=0.5), 1.0),
        (one_cycle_factor(0.0), 0.04),
        (one_cycle_factor(0.15), 0.52),
        (one_cycle_factor(0.3), 1.0),
        (one_cycle_factor(0.65), 0.5),
        (one_cycle_factor(0.5, up=0.2, descent="linear"), 0.625),
        (one_cycle_factor(1.0), 0.0),
        (cyclic_triangular_factor(0.25, cycles=2), 1.0),
        (cyclic_triangular_factor(0.6, cycles=2), 0.4),
        (cyclic_triangular_factor(1.0, cycles=2), 0.0),
        (constant_factor(0.7), 1.0),
    ],
)
def test_values_of_the_other_shapes(value: float, expected: float) -> None:
    assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: polynomial_factor(0.5, power=0.0), "power"),
        (lambda: Polynomial(sgd(), 9, power=math.nan), "power"),
        (lambda: exponential_factor(0.5, rate=-1.0), "rate"),
        (lambda: Exponential(sgd(), 9, gamma=1.5), "gamma"),
        (lambda: step_factor(0.5, gamma=0.0), "gamma"),
        (lambda: step_factor(0.5, milestones=(30.0, 60.0)), "milestones"),
        (lambda: StepDecay(sgd(), 9, milestones=(0.0,)), "milestones"),
        (lambda: one_cycle_factor(0.5, up=1.0), "up"),
        (lambda: one_cycle_factor(0.5, initial=2.0), "initial"),
        (lambda: OneCycle(sgd(), 9, descent="quick"), "descent"),  # type: ignore[arg-type]
        (lambda: cyclic_triangular_factor(0.5, cycles=0), "cycles"),
        (lambda: Cosine(sgd(), 0), "total"),
        (lambda: Cosine(sgd(), 9, warmup=9), "warmup"),
        (lambda: Cosine(sgd(), 9, warmup=-1), "warmup"),
        (lambda: Cosine(sgd(), 9, warmup_start="one"), "warmup_start"),  # type: ignore[arg-type]
        (lambda: Cosine(sgd(), 9, grid="open"), "grid"),  # type: ignore[arg-type]
        (lambda: Cosine(sgd(), 9, eta_min_ratio=1.5), "eta_min_ratio"),
        (lambda: Cosine(sgd(), 9, eta_min_ratio=math.nan), "eta_min_ratio"),
        (lambda: Cosine(sgd(), 9).lr_factor(-1), "step"),
        (lambda: lr_factor(cosine_factor, np.array([0, -1]), 9), "step"),
        (lambda: UBAPhases(sgd(), []), "phases"),
        (lambda: UBAPhases(sgd(), [(0, 1.0, 0.0, 2.0)]), "length"),
        (lambda: UBAPhases(sgd(), [(4, 1.0, 2.0, 2.0)]), "eta_min_ratio"),
        (lambda: UBAPhases(sgd(), [(4, math.nan, 0.0, 2.0)]), "eta_max_ratio"),
        (lambda: UBAPhases(sgd(), [(4, 1.0, 0.0, 0.0)]), "phi"),
        (lambda: UBAPhases(sgd(), [(4, 1.0, 0.0, 2.0)], warmup=-1), "warmup"),
    ],
)
def test_bad_values_are_named(call: Callable[[], object], argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        call()


def test_bad_types_are_named() -> None:
    with pytest.raises(TypeError, match="total"):
        Cosine(sgd(), 10.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="warmup"):
        UBAPhases(sgd(), [(4, 1.0, 0.0, 2.0)], warmup=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="step"):
        Cosine(sgd(), 10).lr_factor(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Optimizer"):
        Cosine(torch.nn.Linear(1, 1), 10)  # type: ignore[arg-type]


# ---- plans: grids, floors, warm-up, phases


def test_grids() -> None:
    np.testing.assert_allclose(Linear(sgd(), 5).values(), 1 - np.arange(5) / 5, atol=1e-15)
    np.testing.assert_allclose(Linear(sgd(), 5, grid="midpoint").values(), 1 - (np.arange(5) + 0.5) / 5, atol=1e-15)


def test_floor_is_reached_from_above() -> None:
    table = Cosine(sgd(), 10, eta_min_ratio=0.2).values(10)
    np.testing.assert_allclose(table, 0.2 + 0.8 * cosine_factor(np.arange(10) / 10), atol=1e-15)


def test_warm_up_precedes_the_shape_and_counts_in_the_budget() -> None:
    for start, rise in (("first_step", [1 / 3, 2 / 3, 1]), ("zero", [0, 1 / 3, 2 / 3])):
        table = Cosine(sgd(), 11, warmup=3, warmup_start=start).values()  # type: ignore[arg-type]
        np.testing.assert_allclose(table[:3], rise, atol=1e-15)
        np.testing.assert_allclose(table[3:], cosine_factor(np.arange(8) / 8), atol=1e-15)
    np.testing.assert_allclose(OneCycle(sgd(), 12, warmup=2).values()[:3], [0.02, 0.04, 0.04], atol=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_values_are_the_rates_that_the_optimiser_gets(name: str) -> None:
    schedule = SCHEDULES[name](sgd(0.5, 0.01), 12, warmup=2)
    table = schedule.values()
    assert table.dtype == np.float64
    assert table.shape == (schedule.total,)
    assert schedule.cost() == schedule.total
    assert schedule.checkpoints()[-1] == schedule.total
    np.testing.assert_allclose(run(schedule, schedule.total), table[:, None] * [0.5, 0.01], rtol=1e-15)
    held = schedule.values(schedule.total + 3)
    np.testing.assert_array_equal(held[: schedule.total], table)
    np.testing.assert_array_equal(held[schedule.total :], table[-1])
    assert schedule.get_last_lr() == pytest.approx([0.5 * table[-1], 0.01 * table[-1]], rel=1e-15)


def test_one_phase_is_the_single_schedule_and_equal_phases_repeat_it() -> None:
    for grid in ("endpoint", "midpoint"):
        single = UBASchedule(sgd(), 7, phi=3.0, eta_min_ratio=0.1, grid=grid).values()  # type: ignore[arg-type]
        phase = (7, 1.0, 0.1, 3.0)
        one = UBAPhases(sgd(), [phase], grid=grid).values()  # type: ignore[arg-type]
        np.testing.assert_allclose(one, single, atol=1e-15)
        three = UBAPhases(sgd(), [phase] * 3, grid=grid)  # type: ignore[arg-type]
        np.testing.assert_allclose(three.values(), np.tile(single, 3), atol=1e-15)
        assert three.checkpoints() == [7, 14, 21]


def test_phases_hold_their_own_extremes_after_an_uncounted_warm_up() -> None:
    schedule = UBAPhases(sgd(), [(4, 1.0, 0.2, 2.0), (2, 0.5, 0.1, 5.0)], warmup=3)
    assert schedule.total == 9
    assert schedule.checkpoints() == [7, 9]
    first = 0.2 + 0.8 * cosine_factor(np.arange(4) / 4)
    second = 0.1 + 0.4 * uba_factor(np.arange(2) / 2, 5.0)
    np.testing.assert_allclose(schedule.values(), np.concatenate([[1 / 3, 2 / 3, 1], first, second]), atol=1e-15)


def test_step_decay_is_the_limit_of_phases() -> None:
    phases = [(6, 1.0, 0.0, 1e-12), (3, 0.1, 0.0, 1e-12), (3, 0.01, 0.0, 1e-12)]
    np.testing.assert_allclose(UBAPhases(sgd(), phases).values(), StepDecay(sgd(), 12).values(), rtol=1e-10)


@pytest.mark.parametrize(("mu", "L", "T"), [(1.0, 10.0, 10), (0.01, 1.0, 30), (0.5, 500.0, 7), (2.0, 2.0, 3)])
def test_chebyshev_steps_are_a_uba_schedule(mu: float, L: float, T: int) -> None:
    phi = phi_from_condition_number(L / mu)
    schedule = UBASchedule(sgd(1 / mu), T, phi=phi, eta_min_ratio=mu / L, grid="midpoint")
    np.testing.assert_allclose(np.ravel(run(schedule, T)), chebyshev_steps(mu, L, T).numpy(), rtol=1e-13)


# ---- as PyTorch users expect


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda o: Cosine(o, 9, eta_min_ratio=0.25), lambda o: CosineAnnealingLR(o, T_max=9, eta_min=0.1)),
        (lambda o: UBASchedule(o, 9, eta_min_ratio=0.25), lambda o: CosineAnnealingLR(o, T_max=9, eta_min=0.1)),
        (lambda o: Linear(o, 9), lambda o: LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=9)),
        (lambda o: Polynomial(o, 9, power=3.0), lambda o: PolynomialLR(o, total_iters=9, power=3.0)),
        (lambda o: Exponential(o, 9, gamma=0.7), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7)),
        (lambda o: StepDecay(o, 8), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [4, 6], 0.1)),
    ],
    ids=["cosine", "uba", "linear", "polynomial", "exponential", "step"],
)
def test_same_rates_as_pytorch_over_the_budget(ours: Any, theirs: Any) -> None:
    budget = ours(sgd(0.4)).total
    np.testing.assert_allclose(run(ours(sgd(0.4)), budget), run(theirs(sgd(0.4)), budget), rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_saved_run_goes_on_with_the_same_rates(name: str) -> None:
    whole = run(SCHEDULES[name](sgd(0.3, 0.02), 12, warmup=2), 15)

    schedule = SCHEDULES[name](sgd(0.3, 0.02), 12, warmup=2)
    begun = run(schedule, 5)
    file = io.BytesIO()
    torch.save({"schedule": schedule.state_dict(), "optimizer": schedule.optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    resumed = SCHEDULES[name](sgd(0.3, 0.02), 12, warmup=2)
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["schedule"])
    assert resumed.get_last_lr() == schedule.get_last_lr()
    assert begun + run(resumed, 10) == whole  # to the bit


def test_a_loaded_state_carries_the_schedule_itself() -> None:
    saved = UBASchedule(sgd(), 20, phi=7.0, eta_min_ratio=0.1, warmup=4, grid="midpoint")
    other = UBASchedule(sgd(), 5)
    other.load_state_dict(saved.state_dict())
    np.testing.assert_array_equal(other.values(), saved.values())


def test_resuming_by_last_epoch() -> None:
    optimizer = sgd(0.3)
    whole = run(Cosine(optimizer, 10), 10)
    again = sgd(0.3)
    again.param_groups[0]["initial_lr"] = 0.3
    assert run(Cosine(again, 10, last_epoch=3), 6) == whole[4:]


def test_follows_a_warm_up_of_pytorch() -> None:
    optimizer = sgd(0.6)
    rise = LinearLR(optimizer, start_factor=0.25, total_iters=3)
    chain = SequentialLR(optimizer, [rise, UBASchedule(optimizer, 8, phi=5.0)], milestones=[3])
    rates = np.ravel(run(chain, 11))
    np.testing.assert_allclose(rates[:3], 0.6 * np.array([0.25, 0.5, 0.75]), rtol=1e-12)
    np.testing.assert_allclose(rates[3:], 0.6 * uba_factor(np.arange(8) / 8, 5.0), rtol=1e-14)


def test_tensor_rates_stay_tensors() -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.5))
    schedule = Linear(optimizer, 4)
    optimizer.step()
    schedule.step()
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.375)
