"""Branches against runs of their own from the beginning: the same to the bit, at the cost that is claimed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.models.transformer import ByteTransformer
from landform.optim.schedules import WSDS, CosineOracle, CyclicCosine, Schedule, WarmupStableDecay
from landform.training.branching import BranchingTrainer, ClosureRun
from landform.training.language import LanguageRun, language_adamw, sequences

BUDGETS = [8, 14, 24]
PLANS: dict[str, Callable[[torch.optim.Optimizer], Schedule]] = {
    "wsd": lambda o: WarmupStableDecay(o, 24, 2, 0.25, earlier=[8, 14]),
    "oracle": lambda o: CosineOracle(o, BUDGETS, 2),
    "wsds": lambda o: WSDS(o, BUDGETS, 2, 0.25),
    "cyclic": lambda o: CyclicCosine(o, BUDGETS, 2),
}
ALONE: dict[str, Callable[[torch.optim.Optimizer, int], Schedule]] = {
    "wsd": lambda o, budget: WarmupStableDecay(o, budget, 2, 0.25),
    "oracle": lambda o, budget: CosineOracle(o, [budget], 2),
    "wsds": lambda o, _: PLANS["wsds"](o),
    "cyclic": lambda o, _: PLANS["cyclic"](o),
}


def closure_run(schedule: Callable[[torch.optim.Optimizer], Schedule] | None, seed: int = 0) -> ClosureRun:
    """A little network with dropout (global random numbers), batches from a generator, and an optimizer with state."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 2))
    order = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(7))
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)

    def draw(_: int) -> Tensor:
        return torch.randint(40, (6,), generator=order)

    def loss(model: nn.Module, rows: Tensor) -> Tensor:
        return F.cross_entropy(model(x[rows]), y[rows])

    plan = None if schedule is None else schedule(optimizer)
    return ClosureRun(model, loss, draw, optimizer, plan, also={"order": order})


def language_run(schedule: Callable[[torch.optim.Optimizer], Schedule] | None, seed: int = 0) -> LanguageRun:
    torch.manual_seed(seed)
    model = ByteTransformer(d_model=8, n_layer=1, n_head=2, context=8, vocab=16)
    text = torch.randint(16, (600,), generator=torch.Generator().manual_seed(5))
    table = sequences(text, 8)
    optimizer = language_adamw(model, lr=0.01)
    plan = None if schedule is None else schedule(optimizer)
    return LanguageRun(model, table[:60], table[60:], optimizer, plan, batch_size=4, seed=seed)


def weights(run: Any) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in run.model.state_dict().values()])


@pytest.mark.parametrize("make", [closure_run, language_run])
@pytest.mark.parametrize("name", PLANS)
def test_branches_are_what_runs_of_their_own_would_be(make: Callable[..., Any], name: str) -> None:
    run = make(PLANS[name])
    done = BranchingTrainer(run, lambda: weights(run)).train()
    random = torch.get_rng_state()
    assert list(done.results) == BUDGETS
    for budget, found in done.results.items():
        alone = make(lambda o, budget=budget: ALONE[name](o, budget))
        alone.train(budget)
        assert torch.equal(found, weights(alone)), budget
    assert done.cost == run.schedule.cost()
    # The run is left where its main run ended, and goes on as if it had never branched.
    assert run.updates == 24
    straight = make(PLANS[name])
    straight.train(30)
    torch.set_rng_state(random)
    run.train(30)
    assert torch.equal(weights(run), weights(straight))
    assert not torch.equal(done.results[8], done.results[14])


def test_costs_are_counted_and_equal_the_formulas() -> None:
    counted = 0

    def counting(plan: Callable[[torch.optim.Optimizer], Schedule]) -> int:
        nonlocal counted
        run = closure_run(plan)
        inner = run.loss

        def loss(model: nn.Module, batch: Any) -> Tensor:
            nonlocal counted
            counted += 1
            return inner(model, batch)

        run.loss = loss
        counted = 0
        return BranchingTrainer(run, lambda: None).train().cost

    for name, expected in (("wsd", 24 + 2 + 3), ("oracle", 46), ("wsds", 24), ("cyclic", 24)):
        assert counting(PLANS[name]) == counted == expected


@pytest.mark.parametrize("make", [closure_run, language_run])
def test_a_run_goes_on_from_a_decayed_checkpoint_in_a_file(make: Callable[..., Any]) -> None:
    whole = make(PLANS["wsds"])
    whole.train(8)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    whole.train(24)

    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = make(PLANS["wsds"], seed=0)
    torch.rand(5)
    resumed.load_state_dict(state)
    assert resumed.updates == 8
    assert resumed.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["initial_lr"]
    resumed.train(24)
    assert torch.equal(weights(resumed), weights(whole))


def test_forgetting_the_optimizer_or_the_data_would_be_seen() -> None:
    whole = closure_run(PLANS["wsds"])
    whole.train(8)
    state = whole.state_dict()
    whole.train(14)
    for forget in ("optimizer", "also", "random"):
        other = closure_run(PLANS["wsds"])
        other.load_state_dict({**state, forget: closure_run(PLANS["wsds"]).state_dict()[forget]})
        other.train(14)
        assert not torch.equal(weights(other), weights(whole)), forget


def test_the_main_run_is_measured_elsewhere_too() -> None:
    run = closure_run(PLANS["wsd"])
    done = BranchingTrainer(run, lambda: (run.updates, weights(run)), at=[0, 12, 24]).train()
    assert {at: updates for at, (updates, _) in done.results.items()} == {n: n for n in (0, 8, 12, 14, 24)}
    plain = closure_run(PLANS["wsd"])
    expected = BranchingTrainer(plain, lambda: weights(plain)).train().results
    assert all(torch.equal(done.results[budget][1], expected[budget]) for budget in BUDGETS)
    with pytest.raises(ValueError, match=r"at=\[25\]"):
        BranchingTrainer(closure_run(PLANS["wsd"]), lambda: None, at=[25])
    with pytest.raises(ValueError, match="side run"):
        BranchingTrainer(closure_run(PLANS["wsd"]), lambda: None, at=[8])


def test_a_state_is_a_copy() -> None:
    run = closure_run(PLANS["wsds"])
    run.train(3)
    state = run.state_dict()
    run.train(5)
    after = weights(run)
    run.load_state_dict(state)
    run.train(5)
    assert torch.equal(weights(run), after)
    run.load_state_dict(state)
    assert run.updates == 3


def test_several_gradients_an_update_are_of_one_batch() -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            closure()
            return super().step(closure)

    seen: list[int] = []
    model = nn.Linear(1, 1)
    batches = iter(range(100))

    def loss(model: nn.Module, batch: int) -> Tensor:
        seen.append(batch)
        return model(torch.ones(1)).square().sum()

    ClosureRun(model, loss, lambda _: next(batches), Twice(model.parameters(), lr=0.1)).train(3)
    assert seen == [0, 0, 1, 1, 2, 2]


def test_what_cannot_be_is_refused() -> None:
    run = closure_run(PLANS["wsd"])
    run.train(2)
    with pytest.raises(ValueError, match="2 updates"):
        BranchingTrainer(run, lambda: None)
    with pytest.raises(ValueError, match="until=1"):
        run.train(1)
    with pytest.raises(TypeError, match="NoneType"):
        BranchingTrainer(closure_run(None), lambda: None)
    with pytest.raises(ValueError, match="without a schedule"):
        run.load_state_dict(closure_run(None).state_dict())
    with pytest.raises(ValueError, match="with a schedule"):
        closure_run(None).load_state_dict(run.state_dict())
    with pytest.raises(ValueError, match="order"):
        run.load_state_dict({**run.state_dict(), "also": {}})
    model = nn.Linear(1, 1)
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with pytest.raises(ValueError, match="another optimizer"):
        ClosureRun(model, lambda m, b: b, lambda k: k, optimizer, WSDS(other, [4], decay=0.5))
    with pytest.raises(TypeError, match="also"):
        ClosureRun(model, lambda m, b: b, lambda k: k, optimizer, also={"loader": iter([1])})  # type: ignore[dict-item]
