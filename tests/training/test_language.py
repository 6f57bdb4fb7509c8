"""The language-model loop against a loop written out, and resumed, saved and branched runs against unbroken ones."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landform.data import markov_source
from landform.models.transformer import ByteTransformer
from landform.optim.schedules import Linear
from landform.training.language import (
    LanguageRun,
    kaplan_learning_rate,
    language_adamw,
    log_spaced,
    sequence_losses,
    sequences,
)

SOURCE = markov_source(order=1, vocab=6, concentration=0.3, seed=0)
TRAIN = SOURCE.sample(50, 9, torch.Generator().manual_seed(0))
HELD_OUT = SOURCE.sample(40, 9, torch.Generator().manual_seed(1))


def model(seed: int = 0) -> ByteTransformer:
    torch.manual_seed(seed)
    return ByteTransformer(d_model=8, n_layer=1, n_head=2, context=8, vocab=6).double()


def make(total: int | None = 40, **options: Any) -> LanguageRun:
    net = options.pop("model", None) or model()
    optimizer = options.pop("optimizer", None) or language_adamw(net, 0.01)
    schedule = Linear(optimizer, total=total, warmup=3) if total else None
    return LanguageRun(net, TRAIN, HELD_OUT, optimizer, schedule, **({"batch_size": 8} | options))


def weights(run: LanguageRun) -> list[Tensor]:
    return [p.detach().clone() for p in run.model.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_is_the_loop_written_out() -> None:
    run = make()
    run.train(30)
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    losses, norms = [], []
    for update in range(30):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * ((update + 1) / 3 if update < 3 else 1 - (update - 3) / 37)
        rows = run.batch(update)
        loss = F.cross_entropy(net(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
        for p in net.parameters():
            assert p.grad is not None
            p.grad.mul_(torch.clamp(1.0 / (norm + 1e-6), max=1.0))
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    assert max(norms) > 1.0 > min(norms), "the test must see both sides of the clip"
    for ours, theirs in zip(run.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    (point,) = run.curve
    assert point.train_loss == pytest.approx(sum(losses) / 30, rel=1e-9)
    logits = net(HELD_OUT[:, :-1])
    assert point.loss == pytest.approx(F.cross_entropy(logits.flatten(0, 1), HELD_OUT[:, 1:].flatten()).item())
    assert (point.updates, point.tokens) == (30, 30 * 8 * 8)
    assert point.flops == run.ledger.flops_by("kaplan")
    assert point.flops_full == run.ledger.flops_by("full") != point.flops
    assert run.tokens_per_second == pytest.approx(point.tokens / point.seconds)


def test_learns_the_source_down_to_its_entropy() -> None:
    net = ByteTransformer(16, 1, 2, context=8, vocab=6)
    many = SOURCE.sample(6400, 9, torch.Generator().manual_seed(2))
    optimizer = language_adamw(net, 0.02)
    run = LanguageRun(net, many, HELD_OUT, optimizer, Linear(optimizer, total=400), batch_size=16)
    run.train(400, evaluate_at=[0, 400])
    assert run.curve[0].loss == pytest.approx(math.log(6), abs=0.05)
    exact = float(SOURCE.losses(HELD_OUT).mean())
    assert exact - 0.005 < run.curve[1].loss < exact + 0.03


@pytest.mark.parametrize("stop", [5, 6, 13], ids=["mid-epoch", "end of an epoch", "later epoch"])
def test_resumed_from_a_file_to_the_bit(stop: int) -> None:
    whole = make()
    whole.train(25, evaluate_at=[10, 25])
    first = make()
    first.train(stop, evaluate_at=[10])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(model=model(seed=5))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.updates == stop
    second.train(25, evaluate_at=[10, 25])
    assert equal(weights(whole), weights(second))

    def timeless(run: LanguageRun) -> list[tuple[float, ...]]:
        return [(p.updates, p.tokens, p.flops, p.flops_full, p.train_loss, p.loss) for p in run.curve]

    assert timeless(second) == timeless(whole)
    assert second.schedule is not None
    assert second.schedule.get_last_lr() == whole.schedule.get_last_lr()  # type: ignore[union-attr]


def test_global_random_numbers_are_part_of_the_state() -> None:
    def noisy(losses: Tensor, update: int) -> Tensor:
        return (losses * torch.rand(len(losses), dtype=losses.dtype)).mean()

    torch.manual_seed(1)
    run = make(loss_hook=noisy)
    run.train(5)
    state = run.state_dict()
    run.train(9)
    torch.rand(100)
    again = make(loss_hook=noisy)
    again.load_state_dict(state)
    again.train(9)
    assert equal(weights(run), weights(again))


def test_a_branch_leaves_its_trunk_alone_and_takes_all_but_the_schedule() -> None:
    trunk = make(total=None)
    trunk.train(10)
    before = weights(trunk)
    state = trunk.state_dict()
    kept = copy.deepcopy(state["model"])

    branch = make(total=6)
    branch.load_state_dict(state, schedule=False)
    assert equal(weights(branch), before)
    rates = []
    for update in range(11, 17):
        rates.append(branch.optimizer.param_groups[0]["lr"])
        branch.train(update)
    expected = [0.01 * factor for factor in (1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3)]
    assert rates == pytest.approx(expected)

    assert equal(weights(trunk), before)
    assert all(torch.equal(state["model"][name], kept[name]) for name in kept), "a state is a copy"
    # The moments of AdamW go along: without them the first steps would differ.
    by_hand = make(total=None)
    by_hand.train(10)
    for rate in rates:
        by_hand.optimizer.param_groups[0]["lr"] = rate
        by_hand.train(by_hand.updates + 1)
    assert equal(weights(branch), weights(by_hand))


def test_data_are_drawn_without_replacement_by_seed_and_update_alone() -> None:
    run = make(seed=3)
    epoch = torch.cat([run.batch(update) for update in range(6)])
    assert len(epoch.unique(dim=0)) == len(epoch) == 48
    rows = {tuple(row) for row in TRAIN.tolist()}
    assert all(tuple(row) in rows for row in epoch.tolist())
    other = make(seed=3, model=model(seed=1))
    assert all(torch.equal(run.batch(update), other.batch(update)) for update in (17, 0, 6, 3))
    assert not torch.equal(run.batch(0), run.batch(6)), "every epoch has its own order"
    assert not torch.equal(run.batch(0), make(seed=4).batch(0))
    # Epoch 1 of seed 3 is not epoch 0 of seed 4, nor the like.
    assert not torch.equal(run.batch(6), make(seed=4).batch(0))


def test_loss_hook_sees_each_sequence_and_decides() -> None:
    seen: list[tuple[Tensor, int]] = []

    def hardest(losses: Tensor, update: int) -> Tensor:
        seen.append((losses.detach().clone(), update))
        return losses.max()

    run = make(total=None, loss_hook=hardest)
    at_start = copy.deepcopy(run.model)
    run.train(3)
    assert [update for _, update in seen] == [0, 1, 2]
    torch.testing.assert_close(seen[0][0], sequence_losses(at_start, run.batch(0)).detach())
    # The curve keeps the plain mean, whatever was minimised.
    assert run.curve[0].train_loss == pytest.approx(float(torch.stack([losses.mean() for losses, _ in seen]).mean()))
    plain = make(total=None, loss_hook=lambda losses, update: losses.mean())
    reference = make(total=None)
    plain.train(4)
    reference.train(4)
    assert equal(weights(plain), weights(reference))
    assert not equal(weights(run), weights(reference))


def test_only_the_last_tokens_are_scored() -> None:
    net, rows = model(), TRAIN[:5]
    each = F.cross_entropy(net(rows[:, :-1]).transpose(1, 2), rows[:, 1:], reduction="none").detach()
    torch.testing.assert_close(sequence_losses(net, rows, scored=3).detach(), each[:, -3:].mean(1))
    torch.testing.assert_close(sequence_losses(net, rows).detach(), each.mean(1))
    run = make(scored=3)
    assert run.evaluate(rows) == pytest.approx(float(each[:, -3:].mean()))


def test_an_optimiser_may_ask_twice() -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            first = closure()
            closure()
            super().step()
            return first

    net = model()
    run = make(total=None, model=net, optimizer=Twice(net.parameters(), 0.1))
    loss = float(sequence_losses(net, run.batch(0)).mean().detach())
    run.train(1)
    assert run.updates == 1
    assert run.curve[0].train_loss == pytest.approx(loss)


def test_evaluation_neither_trains_nor_leaves_the_mode() -> None:
    run = make()
    run.model.train()
    before = weights(run)
    assert run.evaluate() == run.evaluate(HELD_OUT)
    assert equal(weights(run), before)
    assert run.model.training
    # Sequences of other lengths may be measured too.
    assert run.evaluate(TRAIN[:, :5]) > 0


def test_the_curve_has_what_was_asked_for_once() -> None:
    run = make()
    assert [p.updates for p in run.train(10, evaluate_at=[0, 4, 10, 20])] == [0, 4, 10]
    assert run.train(10, evaluate_at=[10]) == []
    assert [p.updates for p in run.train(15, evaluate_at=[])] == []
    assert [p.updates for p in run.train(20)] == [20]
    assert math.isnan(run.curve[0].train_loss)
    with pytest.raises(ValueError, match="until=19: 20 updates"):
        run.train(19)


def test_sequences_predict_every_token_once_without_a_copy() -> None:
    text = torch.arange(103, dtype=torch.uint8)
    table = sequences(text, 10)
    assert table.shape == (10, 11)
    assert table[:, 1:].flatten().tolist() == list(range(1, 101))
    assert table.data_ptr() == text.data_ptr()
    run = LanguageRun(
        net := ByteTransformer(8, 1, 1, context=10), table, table, language_adamw(net, 0.01), batch_size=5
    )
    run.train(2)
    with pytest.raises(ValueError, match="length=103"):
        sequences(text, 103)
    with pytest.raises(ValueError, match="vector"):
        sequences(text[None], 3)


def test_helpers() -> None:
    assert log_spaced(1, 8, 4) == [1, 2, 4, 8]
    assert log_spaced(1, 3, 50) == [1, 2, 3]
    with pytest.raises(ValueError, match="first=5, last=4"):
        log_spaced(5, 4, 3)
    assert kaplan_learning_rate(1) == 0.003239
    assert kaplan_learning_rate(10**6) == pytest.approx(0.003239 - 0.0001395 * math.log(1e6))
    for count in (0, 10**11):
        with pytest.raises(ValueError, match=f"parameters={count}"):
            kaplan_learning_rate(count)
    (group,) = language_adamw(model(), 0.02).param_groups
    assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.95), 1e-8, 0.02)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"train": TRAIN.float()}, TypeError, "train: must be integers"),
        ({"train": TRAIN[0]}, ValueError, "train has shape"),
        ({"train": TRAIN[:0]}, ValueError, "train has shape"),
        ({"train": TRAIN + 1}, ValueError, "train: holds the token 6"),
        ({"held_out": HELD_OUT - 1}, ValueError, "held_out: holds the token -1"),
        ({"held_out": HELD_OUT[:, :4]}, ValueError, "held_out: sequences of 4"),
        ({"train": torch.zeros(3, 12, dtype=torch.long)}, ValueError, "train: sequences of 12"),
        ({"batch_size": 51}, ValueError, "batch_size=51: must be at least 1 and at most 50"),
        ({"batch_size": 2.0}, TypeError, "batch_size=2.0"),
        ({"clip": 0.0}, ValueError, "clip=0.0"),
        ({"scored": 9}, ValueError, "scored=9"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], named: str) -> None:
    net = model()
    arguments = {"train": TRAIN, "held_out": HELD_OUT, "batch_size": 8} | change
    with pytest.raises(error, match=named):
        LanguageRun(net, optimizer=language_adamw(net, 0.01), **arguments)


def test_a_state_of_another_run_is_refused() -> None:
    state = make(seed=1).state_dict()
    with pytest.raises(ValueError, match="'seed': 1"):
        make(seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="with a schedule"):
        make(total=None, seed=1).load_state_dict(state)
    other = language_adamw(model(), 0.01)
    net = model()
    with pytest.raises(ValueError, match="another optimizer"):
        LanguageRun(net, TRAIN, HELD_OUT, language_adamw(net, 0.01), Linear(other, total=3))
