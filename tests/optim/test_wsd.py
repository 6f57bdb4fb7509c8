"""Warmup-stable-decay and its kin, against their formulas and against another library's rules written out here."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from landform.optim.schedules import (
    WSDS,
    Constant,
    Cosine,
    CosineOracle,
    CyclicCosine,
    InverseSqrt,
    Linear,
    Schedule,
    Segments,
    WarmupStableDecay,
    charged_budgets,
    decay_factor,
    sum_of_lr,
)

SHAPES = ("inverse", "linear", "cosine", "exponential", "sqrt")
GRID = np.linspace(0, 1, 41)


def sgd(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates or (1.0,)])


def run(schedule: Schedule, updates: int) -> list[float]:
    """The rates that the optimiser really has."""
    rates = []
    for _ in range(updates):
        rates.append(float(schedule.optimizer.param_groups[0]["lr"]))
        schedule.optimizer.step()
        schedule.step()
    return rates


def levanter(
    ends: list[int], warmup: int, decay: float | None, kind: str, rho: float, rewarmup: int = 0, peak: float = 1.0
) -> list[float]:
    """That library's rates, one update after another: cycles of warm-up, stable and decay, counted from 0 in each."""
    rates, before, floor = [], 0, 0.0
    for end in ends:
        length = end - before
        rise = rewarmup if before else warmup
        fall = length - rise if decay is None else int(decay * length)
        for t in range(length):
            count = t - (length - fall)
            if t < rise:
                rate = floor + (peak - floor) * t / rise
            elif count < 0:
                rate = peak
            elif kind == "inv":
                rate = max(peak / ((1 / rho - 1) * max(count, 1) / fall + 1), rho * peak)
            elif kind == "linear":
                rate = rho * peak + (peak - rho * peak) * (1 - count / fall)
            else:
                rate = peak * ((1 - rho) * 0.5 * (1 + math.cos(math.pi * count / fall)) + rho)
            rates.append(rate)
        before, floor = end, rho * peak
    return rates


# ---- decay shapes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rho", [0.01, 0.1, 0.5])
def test_a_decay_goes_from_one_to_its_ratio_and_falls(shape: Any, rho: float) -> None:
    table = decay_factor(GRID, shape, rho)
    assert table[0] == pytest.approx(1, abs=1e-15)
    assert table[-1] == pytest.approx(rho, rel=1e-14)
    assert (np.diff(table) < 0).all()
    assert decay_factor(torch.from_numpy(GRID), shape, rho).numpy() == pytest.approx(table, abs=1e-15)
    assert type(decay_factor(0.5, shape, rho)) is float


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decay_to_one_is_constant(shape: Any) -> None:
    np.testing.assert_array_equal(decay_factor(GRID, shape, 1.0), 1.0)


def test_values_of_the_decays() -> None:
    quarter = {shape: decay_factor(0.25, shape, 0.1) for shape in SHAPES}  # type: ignore[arg-type]
    assert quarter == pytest.approx(
        {
            "inverse": 1 / 3.25,
            "linear": 0.775,
            "cosine": 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2,
            "exponential": 0.1**0.25,
            "sqrt": 0.55,
        },
        rel=1e-14,
    )
    # 1/rate, the rate and its logarithm are straight lines.
    for straight in (1 / decay_factor(GRID), decay_factor(GRID, "linear"), np.log(decay_factor(GRID, "exponential"))):
        np.testing.assert_allclose(np.diff(straight, 2), 0, atol=1e-13)


@pytest.mark.parametrize("rho", [0.0, -0.1, 1.1, math.nan])
def test_a_ratio_outside_is_refused_everywhere(rho: float) -> None:
    for make in (
        lambda: decay_factor(0.5, "inverse", rho),
        lambda: WarmupStableDecay(sgd(), 10, min_ratio=rho),
        lambda: WSDS(sgd(), [10], min_ratio=rho),
        lambda: CyclicCosine(sgd(), [10], min_ratio=rho),
        lambda: CosineOracle(sgd(), [10], min_ratio=rho),
    ):
        with pytest.raises(ValueError, match="min_ratio"):
            make()


# ---- one budget


def test_wsd_by_hand() -> None:
    table = WarmupStableDecay(sgd(0.4), 20, 4, 0.2, "inverse", 0.1)
    expected = [0.25, 0.5, 0.75, 1, *[1] * 12, 1, 1 / 3.25, 1 / 5.5, 1 / 7.75]
    np.testing.assert_allclose(table.values(), expected, rtol=1e-14)
    np.testing.assert_allclose(run(table, 20), 0.4 * np.array(expected), rtol=1e-14)
    zero = WarmupStableDecay(sgd(), 20, 4, 0.2, warmup_start="zero").values()
    np.testing.assert_allclose(zero[:5], [0, 0.25, 0.5, 0.75, 1], atol=1e-15)
    np.testing.assert_allclose(zero[4:], expected[4:], rtol=1e-14)
    assert table.values(23)[20:].tolist() == [table.values()[-1]] * 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay_of", ["budget", "cycle"])
@pytest.mark.parametrize("options", [{}, {"compat": "levanter"}, {"warmup_start": "zero"}])
def test_wsds_with_one_budget_is_wsd(shape: Any, decay_of: Any, options: dict[str, Any]) -> None:
    one = WSDS(sgd(), [97], 7, 0.13, decay_of, shape, 0.05, **options)
    np.testing.assert_array_equal(one.values(), WarmupStableDecay(sgd(), 97, 7, 0.13, shape, 0.05, **options).values())
    assert one.checkpoints() == [97]


def test_a_full_cosine_decay_is_cosine_annealing() -> None:
    for warmup in (0, 6):
        whole = WarmupStableDecay(sgd(), 30, warmup, 1.0, "cosine", 0.2).values()
        np.testing.assert_allclose(whole, Cosine(sgd(), 30, warmup=warmup, eta_min_ratio=0.2).values(), atol=1e-15)
        cyclic = CyclicCosine(sgd(), [10, 30], warmup, min_ratio=0.2).values()
        np.testing.assert_array_equal(WSDS(sgd(), [10, 30], warmup, 1.0, "cycle", "cosine", 0.2).values(), cyclic)


def test_cyclic_cosine_without_warm_up_is_warm_restarts() -> None:
    optimizer = sgd(0.5)
    theirs = CosineAnnealingWarmRestarts(optimizer, T_0=8, T_mult=1, eta_min=0.05)
    rates = []
    for _ in range(24):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    np.testing.assert_allclose(0.5 * CyclicCosine(sgd(), [8, 16, 24]).values(), rates, rtol=1e-13)


def test_no_budget_is_needed_for_an_inverse_square_root() -> None:
    table = InverseSqrt(sgd(), 400, timescale=100, warmup=50, eta_min_ratio=0.6).values()
    np.testing.assert_allclose(table[:50], np.arange(1, 51) / 50)
    np.testing.assert_allclose(table[50:101], 1)
    np.testing.assert_allclose(table[[144, 225, 399]], [10 / 12, 10 / 15, 0.6])
    late = InverseSqrt(sgd(), 400, timescale=25, warmup=100).values()
    np.testing.assert_allclose(late[[49, 99, 100, 225]], [0.25, 0.5, 0.5, 1 / 3])


# ---- several budgets


def test_wsds_returns_to_the_full_rate_at_once() -> None:
    schedule = WSDS(sgd(), [50, 100, 200], 10, shape="linear", min_ratio=0.2)
    table = schedule.values()
    decays = {t for end, n in ((50, 5), (100, 10), (200, 20)) for t in range(end - n, end)}
    expected = np.ones(200)
    expected[:10] = np.arange(1, 11) / 10
    for end, n in ((50, 5), (100, 10), (200, 20)):
        expected[end - n : end] = 1 - 0.8 * np.arange(n) / n
    np.testing.assert_allclose(table, expected, atol=1e-15)
    assert {int(t) for t in np.flatnonzero(table[10:] < 1) + 10} < decays
    assert schedule.checkpoints() == [50, 100, 200]
    assert schedule.cost() == 200
    assert schedule.branch_points() == {}
    # By cycle, the second and third decays are half as long.
    by_cycle = WSDS(sgd(), [50, 100, 200], 10, decay_of="cycle", shape="linear", min_ratio=0.2).values()
    assert [int((by_cycle[a:b] < 1).sum()) for a, b in ((10, 50), (50, 100), (100, 200))] == [4, 4, 9]


def test_intervals_of_the_paper() -> None:
    matched = WSDS(
        sgd(), [12_500, 25_000, 50_000], decay_intervals=[(11_250, 12_500), (22_500, 25_000), (45_000, 50_000)]
    )
    np.testing.assert_array_equal(matched.values(), WSDS(sgd(), [12_500, 25_000, 50_000]).values())
    on_top = WSDS(
        sgd(), [12_500, 26_250, 53_750], decay_intervals=[(11_250, 12_500), (23_750, 26_250), (48_750, 53_750)]
    ).values()
    stable = [int((on_top[a:b] == 1).sum()) for a, b in ((0, 12_500), (12_500, 26_250), (26_250, 53_750))]
    assert stable == [11_251, 11_251, 22_501]  # a decay's first update has the full rate


@pytest.mark.parametrize("kind", ["inv", "linear", "cosine"])
@pytest.mark.parametrize(
    ("ends", "warmup", "decay", "rewarmup"),
    [([400], 40, 0.1, 0), ([400], 40, None, 0), ([100, 200, 400], 20, 0.25, 0), ([100, 200, 400], 20, 0.2, 10)],
)
def test_levanters_rates(kind: str, ends: list[int], warmup: int, decay: float | None, rewarmup: int) -> None:
    shape: Any = "inverse" if kind == "inv" else kind
    fraction = 1.0 if decay is None else decay
    ours = WSDS(sgd(6e-4), ends, warmup, fraction, "cycle", shape, 0.1, rewarmup, compat="levanter")
    expected = levanter(ends, warmup, decay, kind, 0.1, rewarmup, peak=6e-4)
    np.testing.assert_allclose(run(ours, ends[-1]), expected, rtol=1e-12)
    if kind == "inv":
        first = int(np.flatnonzero(ours.values() < 1)[warmup])
        assert ours.values()[first] == ours.values()[first + 1]


def test_levanters_cyclic_cosine() -> None:
    ours = CyclicCosine(sgd(), [125, 250, 500], 20, 20, compat="levanter")
    np.testing.assert_allclose(ours.values(), levanter([125, 250, 500], 20, None, "cosine", 0.1, 20), rtol=1e-12)
    # Its re-warm-up starts from the floor itself; ours, by default, one step above it.
    assert ours.values()[125] == pytest.approx(0.1)
    assert CyclicCosine(sgd(), [125, 250], 20, 20).values()[125] == pytest.approx(0.1 + 0.9 / 20)
    assert CyclicCosine(sgd(), [125, 250], 20, 20).values()[144] == pytest.approx(1)


def test_costs() -> None:
    budgets = [100, 200, 400]
    wsd = WarmupStableDecay(sgd(), 400, 10, 0.1, earlier=[100, 200])
    assert wsd.cost() == 0.9 * 400 + 0.1 * 700
    assert wsd.checkpoints() == budgets
    assert wsd.branch_points() == {100: 90, 200: 180}
    oracle = CosineOracle(sgd(), budgets, 10)
    assert oracle.cost() == 700
    assert oracle.branch_points() == {100: 0, 200: 0}
    assert WSDS(sgd(), budgets, 10).cost() == CyclicCosine(sgd(), budgets, 10).cost() == 400


def test_charged_budgets_pay_for_their_branches() -> None:
    budgets, decay = [370, 800, 1700, 3000], 0.17
    afforded = charged_budgets(budgets, decay)
    for k, budget in enumerate(budgets):
        plan = WarmupStableDecay(sgd(), afforded[k], 0, decay, earlier=afforded[:k])
        assert plan.cost() == budget
    with pytest.raises(ValueError, match="too close"):
        charged_budgets([100, 105], 0.2)


def test_a_branch_follows_the_main_run_and_then_decays() -> None:
    schedule = WarmupStableDecay(sgd(0.5), 40, 5, 0.25, "linear", 0.1, earlier=[12, 20])
    main = schedule.values()
    alone = WarmupStableDecay(sgd(), 20, 5, 0.25, "linear", 0.1).values()
    np.testing.assert_array_equal(main[:15], alone[:15])
    begun = run(schedule, 17)
    branch = schedule.branch(20)
    assert branch.total == 20
    assert branch.last_epoch == 15
    np.testing.assert_allclose(run(branch, 5), 0.5 * alone[15:], rtol=1e-14)
    np.testing.assert_allclose(begun, 0.5 * main[:17], rtol=1e-14)
    oracle = CosineOracle(sgd(0.5), [12, 40], 5)
    np.testing.assert_allclose(run(oracle.branch(12), 12), 0.5 * CosineOracle(sgd(), [12], 5).values(), rtol=1e-14)
    for plan in (schedule, oracle, WSDS(sgd(), [12, 40]), Cosine(sgd(), 40)):
        with pytest.raises(ValueError, match="budget=13"):
            plan.branch(13)


def test_the_sum_of_rates() -> None:
    assert sum_of_lr(Linear(sgd(0.3), 5)) == pytest.approx(0.3 * 3)
    assert sum_of_lr(Constant(sgd(0.5, 0.1), 8)) == pytest.approx(4)
    schedule = WSDS(sgd(0.2), [50, 100], 10)
    assert sum_of_lr(schedule) == pytest.approx(sum(run(WSDS(sgd(0.2), [50, 100], 10), 100)))


# ---- pieces


def test_pieces_of_every_shape_between_any_two_factors() -> None:
    a, b = 0.8, 2.0
    for shape in SHAPES:
        table = Segments(sgd(), [(0, 4, shape, a, b), (4, 6, "constant", b, 0.0)]).values()  # type: ignore[list-item]
        assert table[0] == pytest.approx(a)
        np.testing.assert_allclose(table[:4], a * decay_of_ratio(shape, b / a), rtol=1e-13)
        assert table[4:].tolist() == [b, b]
    rise = [(0, 4, "warmup", 0.2, 1.0)]
    np.testing.assert_allclose(Segments(sgd(), rise).values(), [0.4, 0.6, 0.8, 1.0])  # type: ignore[arg-type]
    np.testing.assert_allclose(
        Segments(sgd(), rise, warmup_start="zero").values(),  # type: ignore[arg-type]
        [0.2, 0.4, 0.6, 0.8],
    )


def decay_of_ratio(shape: str, ratio: float) -> np.ndarray:
    u = np.arange(4) / 4
    return {
        "inverse": 1 / (1 + (1 / ratio - 1) * u),
        "linear": 1 - (1 - ratio) * u,
        "cosine": ratio + (1 - ratio) * (1 + np.cos(np.pi * u)) / 2,
        "exponential": ratio**u,
        "sqrt": 1 - (1 - ratio) * np.sqrt(u),
    }[shape]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Segments(sgd(), []), "segments"),
        (lambda: Segments(sgd(), [(1, 4, "linear", 1.0, 0.1)]), "must start at 0"),
        (lambda: Segments(sgd(), [(0, 4, "linear", 1.0, 0.1), (3, 6, "linear", 1.0, 0.1)]), "must start at 4"),
        (lambda: Segments(sgd(), [(0, 4, "linear", 1.0, 0.1), (5, 6, "linear", 1.0, 0.1)]), "must start at 4"),
        (lambda: Segments(sgd(), [(0, 4, "linear", 1.0, 0.1), (4, 4, "linear", 1.0, 0.1)]), "must end after"),
        (lambda: Segments(sgd(), [(0, 4, "quick", 1.0, 0.1)]), "'quick'"),  # type: ignore[list-item]
        (lambda: Segments(sgd(), [(0, 4, "inverse", 1.0, 0.0)]), "positive"),
        (lambda: Segments(sgd(), [(0, 4, "linear", -1.0, 0.0)]), "zero or more"),
        (lambda: Segments(sgd(), [(0, 4, "linear", math.nan, 0.0)]), "finite"),
        (lambda: Segments(sgd(), [(0, 4, "linear", 1.0, 0.0)], compat="optax"), "compat"),  # type: ignore[arg-type]
        (lambda: decay_factor(0.5, "quick"), "shape"),  # type: ignore[arg-type]
        (lambda: decay_factor(1.5), "progress"),
        (lambda: WarmupStableDecay(sgd(), 10, decay=0.0), "decay=0.0"),
        (lambda: WarmupStableDecay(sgd(), 10, decay=1.5), "decay=1.5"),
        (lambda: WarmupStableDecay(sgd(), 9, decay=0.1), "less than one update"),
        (lambda: WarmupStableDecay(sgd(), 10, warmup=10), "warmup=10"),
        (lambda: WarmupStableDecay(sgd(), 100, warmup=10, earlier=[10]), "warmup=10"),
        (lambda: WarmupStableDecay(sgd(), 100, earlier=[100]), "must increase"),
        (lambda: WarmupStableDecay(sgd(), 100, shape="step"), "shape"),  # type: ignore[arg-type]
        (lambda: WSDS(sgd(), []), "budgets"),
        (lambda: WSDS(sgd(), [20, 10]), "must increase"),
        (lambda: WSDS(sgd(), [0, 10]), "budgets"),
        (lambda: WSDS(sgd(), [100, 110], decay=0.2), "overlaps"),
        (lambda: WSDS(sgd(), [100, 110], decay_of="year"), "decay_of"),  # type: ignore[arg-type]
        (lambda: WSDS(sgd(), [100, 200], rewarmup=100), "rewarmup"),
        (lambda: WSDS(sgd(), [100, 200], decay_intervals=[(90, 100)]), "decay_intervals"),
        (lambda: WSDS(sgd(), [100, 200], decay_intervals=[(90, 100), (90, 200)]), "overlap"),
        (lambda: WSDS(sgd(), [100, 200], decay_intervals=[(100, 100), (190, 200)]), "decay_intervals"),
        (lambda: CyclicCosine(sgd(), [100, 120], rewarmup=20), "rewarmup"),
        (lambda: CosineOracle(sgd(), [10, 20], warmup=-1), "warmup"),
        (lambda: InverseSqrt(sgd(), 10, timescale=0), "timescale"),
        (lambda: WSDS(sgd(), [10]).lr_factor(-1), "step"),
        (lambda: charged_budgets([100, 50]), "must increase"),
    ],
)  # fmt: skip
def test_bad_values_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_types_are_named() -> None:
    for make in (lambda: WSDS(sgd(), [10.0]), lambda: WarmupStableDecay(sgd(), 10.5)):  # type: ignore[list-item,arg-type]
        with pytest.raises(TypeError, match="int"):
            make()
    with pytest.raises(TypeError, match="step"):
        WSDS(sgd(), [10]).lr_factor(1.5)  # type: ignore[arg-type]


# ---- as PyTorch users expect

PLANS: dict[str, Callable[[torch.optim.Optimizer], Schedule]] = {
    "wsd": lambda o: WarmupStableDecay(o, 30, 3, 0.2, earlier=[10, 20]),
    "wsds": lambda o: WSDS(o, [10, 20, 30], 3, 0.2, compat="levanter"),
    "cyclic": lambda o: CyclicCosine(o, [10, 30], 3, 2),
    "oracle": lambda o: CosineOracle(o, [10, 30], 3),
    "inverse_sqrt": lambda o: InverseSqrt(o, 30, timescale=5, warmup=3),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_saved_run_goes_on_with_the_same_rates(name: str) -> None:
    whole = run(PLANS[name](sgd(0.3)), 33)
    np.testing.assert_allclose(whole[:30], 0.3 * PLANS[name](sgd()).values(), rtol=1e-14)
    schedule = PLANS[name](sgd(0.3))
    begun = run(schedule, 9)
    file = io.BytesIO()
    torch.save({"schedule": schedule.state_dict(), "optimizer": schedule.optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = PLANS[name](sgd(0.3))
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["schedule"])
    assert begun + run(resumed, 24) == whole  # to the bit
