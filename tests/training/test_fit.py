"""The training loop against one that is written out, and the batches that feed it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.training import batches, fit

Batch = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def problem() -> tuple[nn.Module, list[Batch]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, [(torch.randn(5, 4).double(), torch.randint(0, 3, (5,))) for _ in range(4)]


def test_fit_is_the_loop_written_out_and_begins_its_batches_again() -> None:
    model, data = problem()
    alone = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    losses = fit(model, loss, data, optimizer, steps=10, schedule=torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5))
    reference = torch.optim.SGD(alone.parameters(), lr=0.3, momentum=0.9)
    for step in range(10):
        reference.param_groups[0]["lr"] = 0.3 * 0.5 ** (step // 3)
        value = loss(alone, data[step % 4])
        assert losses[step] == value
        reference.zero_grad()
        value.backward()
        reference.step()
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    assert losses.shape == (10,)
    assert not losses.requires_grad


class Twice(torch.optim.SGD):
    """Steps along the gradient found after a first step, as sharpness-aware optimisers do."""

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        with torch.enable_grad():
            first = closure()
        with torch.no_grad():
            moved = [(p, 0.1 * p.grad) for group in self.param_groups for p in group["params"]]
            for p, change in moved:
                p += change
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for p, change in moved:
                p -= change
        super().step()
        return first


def test_an_optimiser_may_call_the_closure_again_and_the_first_loss_is_kept() -> None:
    model, data = problem()
    alone = copy.deepcopy(model)
    losses = fit(model, loss, data, Twice(model.parameters(), lr=0.2), steps=3)
    for step in range(3):
        first = loss(alone, data[step])
        assert losses[step] == first
        change = torch.autograd.grad(first, list(alone.parameters()))
        ahead = copy.deepcopy(alone)
        with torch.no_grad():
            for p, g in zip(ahead.parameters(), change, strict=True):
                p += 0.1 * g
        grads = torch.autograd.grad(loss(ahead, data[step]), list(ahead.parameters()))
        with torch.no_grad():
            for p, g in zip(alone.parameters(), grads, strict=True):
                p -= 0.2 * g
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-14)


def test_a_training_that_diverges_shows_it() -> None:
    model, data = problem()
    squared = lambda model, batch: model(batch[0]).square().sum()  # noqa: E731
    losses = fit(model, squared, data, torch.optim.SGD(model.parameters(), lr=1e200), steps=6)
    assert bool(losses[0].isfinite())
    assert not bool(losses[-1].isfinite())


def test_batches_that_end_too_early() -> None:
    model, data = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert fit(model, loss, iter(data), optimizer, steps=4).shape == (4,)
    with pytest.raises(ValueError, match="ended after 4 of 5 steps"):
        fit(model, loss, (batch for batch in data), optimizer, steps=5)
    for nothing in ([], iter([])):
        with pytest.raises(ValueError, match="there are none"):
            fit(model, loss, nothing, optimizer, steps=1)


def test_no_batch_is_taken_that_is_not_used() -> None:
    model, data = problem()
    taken = 0

    def source() -> Iterator[Batch]:
        nonlocal taken
        for batch in itertools.cycle(data):
            taken += 1
            yield batch

    fit(model, loss, source(), torch.optim.SGD(model.parameters(), lr=0.1), steps=3)
    assert taken == 3


def test_bad_arguments_are_named() -> None:
    model, data = problem()
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with pytest.raises(ValueError, match="steps=0"):
        fit(model, loss, data, optimizer, steps=0)
    with pytest.raises(ValueError, match=r"one number for a batch, got \(5, 3\)"):
        fit(model, lambda model, batch: model(batch[0]), data, optimizer, steps=1)
    with pytest.raises(ValueError, match="one number for a batch, got float"):
        fit(model, lambda model, batch: 1.0, data, optimizer, steps=1)
    with pytest.raises(ValueError, match="another optimiser"):
        fit(model, loss, data, optimizer, steps=1, schedule=torch.optim.lr_scheduler.StepLR(other, 1))

    class Deaf(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            pass

    with pytest.raises(ValueError, match=r"Deaf.step did not call the closure"):
        fit(model, loss, data, Deaf(model.parameters(), lr=0.1), steps=1)


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_permutation_after_permutation(drop_last: bool) -> None:
    x = torch.arange(10.0)
    source = batches(x, -x, 4, torch.Generator().manual_seed(1), drop_last=drop_last)
    lengths = [4, 4] if drop_last else [4, 4, 2]
    orders = []
    for _ in range(3):
        epoch = [next(source) for _ in lengths]
        assert [len(xs) for xs, _ in epoch] == lengths
        assert all(torch.equal(ys, -xs) for xs, ys in epoch)
        orders.append(torch.cat([xs for xs, _ in epoch]).tolist())
        assert len(set(orders[-1])) == sum(lengths)
    assert orders[0] != orders[1] != orders[2]
    again = batches(x, -x, 4, torch.Generator().manual_seed(1), drop_last=drop_last)
    assert torch.cat([next(again)[0] for _ in lengths]).tolist() == orders[0]


def test_bad_batches_are_refused_at_once() -> None:
    x = torch.arange(10.0)
    for size in (0, 11):
        with pytest.raises(ValueError, match=f"batch_size={size}"):
            batches(x, x, size)
    with pytest.raises(ValueError, match="10 samples but 9 targets"):
        batches(x, x[1:], 4)
