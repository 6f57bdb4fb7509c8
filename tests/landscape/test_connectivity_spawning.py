"""Spawning against runs by hand: who shares what with whom, and what is reset when two runs part."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landform.landscape.connectivity import Checkpoint, SpawnExperiment

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = (X.sum(1) > 0).long()


def order_of(order: int) -> Tensor:
    return torch.stack(
        [torch.randperm(40, generator=torch.Generator().manual_seed(100 * order + s)) for s in range(20)]
    )


def train_one(start: Checkpoint, order: int, steps: range) -> Checkpoint:
    """SGD with momentum, whose rate falls with the step of the whole run."""
    model = nn.Linear(3, 2).double()
    model.load_state_dict(start.model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    if start.optimizer is not None:
        optimizer.load_state_dict(copy.deepcopy(start.optimizer))
    batches = order_of(order)
    for step in steps:
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 20)
        batch = batches[step, :8]
        optimizer.zero_grad()
        F.cross_entropy(model(X[batch]), Y[batch]).backward()
        optimizer.step()
    return Checkpoint({k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict())


def train(starts: Sequence[Checkpoint], orders: Sequence[int], steps: range) -> list[Checkpoint]:
    return [train_one(start, order, steps) for start, order in zip(starts, orders, strict=True)]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def init() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double().state_dict()


@pytest.mark.parametrize("optimizer_state", ["reset", "copy"])
def test_children_are_runs_by_hand(init: dict[str, Tensor], optimizer_state: str) -> None:
    spawned = SpawnExperiment(train, [0, 5, 12], 20, optimizer_state=optimizer_state).run(init)  # type: ignore[arg-type]
    assert list(spawned.children) == [0, 5, 12]
    for k, children in spawned.children.items():
        trunk = train_one(Checkpoint(init), 0, range(k)) if k else Checkpoint(init)
        assert same(spawned.trunk[k], trunk.model)
        assert len(children) == 2
        for order, child in enumerate(children, start=1):
            kept = trunk.optimizer if optimizer_state == "copy" else None
            assert same(child, train_one(Checkpoint(trunk.model, kept), order, range(k, 20)).model)


def test_momentum_makes_reset_and_copy_differ(init: dict[str, Tensor]) -> None:
    ends = [
        SpawnExperiment(train, [5], 20, optimizer_state=state).run(init).children[5][0]  # type: ignore[arg-type]
        for state in ("reset", "copy")
    ]
    assert not same(*ends)


def test_a_child_with_copied_momentum_and_the_trunks_order_is_the_run_that_did_not_split(
    init: dict[str, Tensor],
) -> None:
    def one_order(starts: Sequence[Checkpoint], orders: Sequence[int], steps: range) -> list[Checkpoint]:
        return train(starts, [0] * len(orders), steps)

    spawned = SpawnExperiment(one_order, [7], 20, 3, optimizer_state="copy").run(init)
    unsplit = train_one(Checkpoint(init), 0, range(20)).model
    assert len(spawned.children[7]) == 3
    for child in spawned.children[7]:
        torch.testing.assert_close(child, unsplit, rtol=1e-12, atol=0)


def test_watched_steps_are_points_of_the_same_runs(init: dict[str, Tensor]) -> None:
    spawned = SpawnExperiment(train, [0, 5], 20, watch=[5, 10, 20]).run(init)
    assert {k: sorted(steps) for k, steps in spawned.watched.items()} == {0: [5, 10, 20], 5: [10, 20]}
    plain = SpawnExperiment(train, [0, 5], 20).run(init)
    for k in (0, 5):
        for found, expected in zip(spawned.children[k], plain.children[k], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        spawned.watched[0][5][1], train_one(Checkpoint(init), 2, range(5)).model, rtol=1e-12, atol=0
    )


def test_the_initialisation_is_left_and_all_that_live_train_together(init: dict[str, Tensor]) -> None:
    before = {k: v.clone() for k, v in init.items()}
    calls = []

    def noting(starts: Sequence[Checkpoint], orders: Sequence[int], steps: range) -> list[Checkpoint]:
        calls.append((list(orders), steps))
        for start in starts:  # a training function that breaks its promise harms nobody else's checkpoint
            for tensor in start.model.values():
                tensor.add_(1)
        return list(starts)

    SpawnExperiment(noting, [0, 4], 10).run(init)
    assert same(init, before)
    assert calls == [([0, 1, 2], range(4)), ([1, 2, 1, 2], range(4, 10))]


def test_mistakes(init: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="spawn_steps is empty"):
        SpawnExperiment(train, [], 10)
    with pytest.raises(ValueError, match="spawn_steps: 10 is beyond 9"):
        SpawnExperiment(train, [10], 10)
    with pytest.raises(ValueError, match="watch: 11 is beyond 10"):
        SpawnExperiment(train, [0], 10, watch=[11])
    with pytest.raises(ValueError, match="spawn_steps=-1"):
        SpawnExperiment(train, [-1], 10)
    with pytest.raises(ValueError, match="n_children=0"):
        SpawnExperiment(train, [0], 10, 0)
    with pytest.raises(ValueError, match="optimizer_state='keep'"):
        SpawnExperiment(train, [0], 10, optimizer_state="keep")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="returned 1 networks of 2"):
        SpawnExperiment(lambda starts, orders, steps: starts[:1], [0], 10).run(init)
    with pytest.raises(ValueError, match="not finite"):
        SpawnExperiment(train, [0], 10).run({"w": torch.tensor([float("nan")])})
