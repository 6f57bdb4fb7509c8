"""Ways to unlearn against plain loops with torch.optim, their fixed points, and one model against a stack of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from landform.models import MLP
from landform.training.many import Stack, loop_train, seed_stream
from landform.unlearn import (
    ascent_descent_unlearn,
    distillation_kl,
    gradient_ascent_unlearn,
    gradient_descent_unlearn,
    retrain,
    scrub_learning_rate,
    scrub_retain_loss,
    scrub_unlearn,
    unlearn_by_matching,
)
from landform.unlearn.matching import matched_rows

FLOAT = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net() -> nn.Module:
    return MLP(5, (8,), 3).double()


X, Y = normal(30, 5), torch.arange(30) % 3
FORGET, RETAIN = (X[:8], Y[:8]), (X[8:], Y[8:])
MODELS = Stack.from_factory(net, 3, seed=0)
H = normal(3, 30, 3, seed=5)

Way = Callable[..., Any]
WAYS: dict[str, Way] = {
    "ascent": lambda model, **k: gradient_ascent_unlearn(model, FORGET, lr=0.1, epochs=2, batch_size=3, **k),
    "descent": lambda model, **k: gradient_descent_unlearn(model, RETAIN, lr=0.1, epochs=2, batch_size=9, **k),
    "both": lambda model, **k: ascent_descent_unlearn(
        model, FORGET, RETAIN, lr=0.1, epochs=3, ascent_epochs=2, forget_batch_size=3, retain_batch_size=9, **k
    ),
    "scrub": lambda model, **k: scrub_unlearn(
        model, FORGET, RETAIN, lr=0.1, epochs=4, m_steps=2, forget_batch_size=3, retain_batch_size=9, **k
    ),
    "matching": lambda model, **k: unlearn_by_matching(
        model,
        H if isinstance(model, Stack) and len(model) == 3 else H[1],
        X[:8],
        X[8:],
        retain_multiplier=2.5,
        epochs=3,
        lr=0.01,
        batch_size=16,
        anchor=0.3,
        **k,
    ),
}


def shuffles(draws: torch.Generator, model: int) -> torch.Generator:
    return seed_stream(int(torch.randint(2**31, (), generator=draws)), model)


def plain(name: str, model: nn.Module, number: int) -> nn.Module:
    """The way as anybody would write it for one model, with torch.optim."""
    student, draws = copy.deepcopy(model), seeded()
    order = shuffles(draws, number)
    teacher = copy.deepcopy(model).eval()

    def batches(n: int, size: int) -> list[torch.Tensor]:
        return list(torch.randperm(n, generator=order).split(size))

    def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    (xf, yf), (xr, yr) = FORGET, RETAIN
    if name in ("ascent", "both"):
        sgd = torch.optim.SGD(student.parameters(), 0.1)
        for epoch in range(2 if name == "ascent" else 3):
            for b in batches(8, 3) if epoch < 2 else []:
                update(sgd, -F.cross_entropy(student(xf[b]), yf[b]))
            for b in batches(22, 9) if name == "both" else []:
                update(sgd, F.cross_entropy(student(xr[b]), yr[b]))
    elif name == "descent":
        sgd = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        for _ in range(2):
            for b in batches(22, 9):
                update(sgd, F.cross_entropy(student(xr[b]), yr[b]))
    elif name == "scrub":
        sgd = torch.optim.SGD(student.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)

        def kl(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            log_q, p = F.log_softmax(logits / 4, 1), F.softmax(teacher(x).detach() / 4, 1)
            return 16 * F.kl_div(log_q, p, reduction="batchmean")

        for epoch in range(1, 5):
            sgd.param_groups[0]["lr"] = 0.1 if epoch <= 3 else 0.01
            for b in batches(8, 3) if epoch <= 2 else []:
                update(sgd, -kl(student(xf[b]), xf[b]))
            for b in batches(22, 9):
                logits = student(xr[b])
                update(sgd, 0.99 * F.cross_entropy(logits, yr[b]) + 0.1 * kl(logits, xr[b]))
    else:
        rows = torch.cat([torch.arange(8).repeat(5), 8 + torch.randperm(22, generator=draws)[:20]])
        x, h = X[rows], H[number][rows]
        adam = torch.optim.Adam(student.parameters(), 0.01)
        for epoch in range(3):
            adam.param_groups[0]["lr"] = 0.01 * 0.95**epoch
            for b in batches(len(x), 16):
                apart = [
                    (p - q).square().sum() for p, q in zip(student.parameters(), teacher.parameters(), strict=True)
                ]
                update(adam, (student(x[b]) - h[b]).square().mean() + 0.3 * torch.stack(apart).sum())
    return student


@pytest.mark.parametrize("name", WAYS)
def test_a_stack_unlearns_as_a_plain_loop_does(name: str) -> None:
    before = {key: value.clone() for key, value in MODELS.params.items()}
    after = WAYS[name](MODELS, generator=seeded())
    assert all(torch.equal(before[key], value) for key, value in MODELS.params.items())
    for m in range(3):
        expected = plain(name, MODELS.module(m), m).state_dict()
        for key, value in after.module(m).state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-12)
            assert not torch.equal(value, before[key][m])


@pytest.mark.parametrize("name", ["descent", "scrub"])
def test_batch_statistics_are_the_students_alone(name: str) -> None:
    """In training mode the student normalises by its batches, of 9, 9 and 4 samples, and the teacher does not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model(3 * X + 1)
    after, expected = WAYS[name](model, generator=seeded()), plain(name, model, 0)
    for key, value in after.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WAYS)
def test_one_model_is_a_stack_of_one(name: str) -> None:
    """A module alone is model 0; model 1 of a stack ends the same when it is alone in one."""
    together = WAYS[name](MODELS, generator=seeded())
    alone = WAYS[name](MODELS.subset([1]), generator=seeded())
    torch.testing.assert_close(alone(X, shared=True)[0], together(X, shared=True)[1], rtol=0, atol=1e-12)
    module = WAYS[name](MODELS.module(1), generator=seeded())
    assert isinstance(module, nn.Module)
    first = Stack([MODELS.module(1)])
    torch.testing.assert_close(module(X), WAYS[name](first, generator=seeded())(X, shared=True)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", WAYS)
def test_every_epoch_is_shown(name: str) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    model = WAYS[name](
        MODELS.module(0), generator=seeded(), after_epoch=lambda epoch, model: seen.append((epoch, model(X).detach()))
    )
    assert [epoch for epoch, _ in seen] == list(range(1, len(seen) + 1))
    assert torch.equal(seen[-1][1], model(X))
    assert not torch.equal(seen[0][1], seen[-1][1])


@pytest.mark.parametrize("name", WAYS)
def test_models_keep_their_mode(name: str) -> None:
    """Batch normalisation in evaluation mode stays as it is; in training mode its statistics move."""
    for training in (True, False):
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double().train(training)
        start = copy.deepcopy(model[1])
        after = WAYS[name](model, generator=seeded(1)) if name != "scrub" else scrub_unlearn(model, FORGET, RETAIN)
        assert after.training is training
        assert torch.equal(start.running_mean, after[1].running_mean) is not training
        assert torch.equal(start.running_mean, model[1].running_mean)


# --- fixed points


def test_matching_own_outputs_changes_nothing() -> None:
    """One step: from then on Adam would blow up what rounding left of the gradient."""
    h = MODELS(X, shared=True).detach()
    after, other = (unlearn_by_matching(MODELS, t, X[:7], X[7:], epochs=1, lr=0.1) for t in (h, h + 1e-3))
    for key, value in MODELS.params.items():
        torch.testing.assert_close(after.params[key], value, rtol=0, atol=1e-8)
        assert (other.params[key] - value).abs().max() > 0.09


def test_oracle_matching_of_an_over_parametrised_linear_model_reaches_the_oracle() -> None:
    x, start, oracle = normal(9, 40), nn.Linear(40, 3).double(), nn.Linear(40, 3).double()
    h = oracle(x).detach()
    after = unlearn_by_matching(start, h, x[:3], x[3:], epochs=600, lr=0.02, batch_size=64, lr_decay=0.99)
    torch.testing.assert_close(after(x), h, rtol=0, atol=1e-4)
    assert (start(x) - h).abs().max() > 0.5


def test_cross_entropy_matching_ignores_the_shift_of_logits() -> None:
    h = normal(30, 3)
    one, two = (
        unlearn_by_matching(MODELS.module(0), h + shift, X[:7], X[7:], lr=0.01, loss="ce") for shift in (0.0, 5.0)
    )
    torch.testing.assert_close(one(X), two(X), rtol=0, atol=1e-9)
    nearer = [F.cross_entropy(model(X), h.softmax(-1)).item() for model in (MODELS.module(0), one)]
    assert nearer[1] < nearer[0]


def test_anchor_holds_a_model_back() -> None:
    moved = []
    for anchor in (0.0, 1.0, 100.0):
        after = unlearn_by_matching(MODELS.module(0), H[0], X[:7], X[7:], lr=0.01, epochs=30, anchor=anchor)
        start = MODELS.module(0)
        moved.append(
            sum((p - q).square().sum().item() for p, q in zip(after.parameters(), start.parameters(), strict=True))
        )
    assert moved[0] > moved[1] > moved[2] > 0


def test_descent_leaves_an_interpolating_model_and_ascent_diverges() -> None:
    """Wide margins on the retained points: no gradient there, while ascent drives the forgotten ones without bound."""
    model = nn.Linear(40, 2, bias=False).double()
    x, y = normal(12, 40), torch.arange(12) % 2
    with torch.no_grad():
        model.weight[1] = 60 * torch.linalg.pinv(x) @ (2.0 * y.double() - 1)
        model.weight[0] = -model.weight[1]
    after = gradient_descent_unlearn(model, (x[2:], y[2:]), lr=0.01, epochs=10, weight_decay=0.0)
    torch.testing.assert_close(after.weight, model.weight, rtol=0, atol=1e-12)
    losses: list[float] = []

    def watch(epoch: int, model: nn.Module) -> None:
        losses.append(F.cross_entropy(model(x[:2]), y[:2]).item())

    gentle = nn.Linear(40, 2, bias=False).double()
    gradient_ascent_unlearn(gentle, (x[:2], y[:2]), lr=0.5, epochs=50, after_epoch=watch)
    steps = torch.tensor(losses).diff()
    assert (steps > 0).all()
    assert steps[-1] > 0.9 * steps[-10]  # it does not slow down
    assert losses[-1] > 100


# --- SCRUB's parts


def test_scrub_losses_and_their_gradients() -> None:
    student, teacher, y = normal(6, 4).requires_grad_(), normal(6, 4, seed=1), torch.tensor([0, 3, 1, 2, 2, 0])
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    kl = 16 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation_kl(student, teacher), kl)
    # ∂/∂s of T² KL is T (q − p), over the batch
    (gradient,) = torch.autograd.grad(distillation_kl(student, teacher), student)
    torch.testing.assert_close(gradient, 4 * (q - p) / 6)
    loss = scrub_retain_loss(student, teacher, y)
    torch.testing.assert_close(loss, 0.99 * F.cross_entropy(student, y) + 0.1 * kl)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = (0.99 * (student.softmax(1) - F.one_hot(y, 4)) + 0.1 * 4 * (q - p)) / 6
    torch.testing.assert_close(gradient, expected)


def test_scrub_losses_of_many_models() -> None:
    student, teacher, y = normal(3, 6, 4), normal(3, 6, 4, seed=1), torch.randint(4, (3, 6))
    each = torch.stack([scrub_retain_loss(s, t, c) for s, t, c in zip(student, teacher, y, strict=True)])
    torch.testing.assert_close(scrub_retain_loss(student, teacher, y), each)


def test_scrub_rate_falls_after_epochs_3_5_and_9() -> None:
    rates = [scrub_learning_rate(epoch, 0.01) for epoch in range(1, 12)]
    assert rates == pytest.approx([1e-2] * 3 + [1e-3] * 2 + [1e-4] * 4 + [1e-5] * 2)


# --- what is matched


@pytest.mark.parametrize(
    ("forget", "pool", "again", "more", "expected"),
    [(4, 100, 2.5, 20, (4, 4, 2, 80)), (4, 30, 1, 20, (4, 30)), (10, 9, 0.3, 0.5, (3, 5)), (100, 40, 0.29, 0, (29,))],
)
def test_rows_that_are_matched(forget: int, pool: int, again: float, more: float, expected: tuple[int, ...]) -> None:
    rows = matched_rows(forget, pool, again, more, seeded())
    repeats, others = rows[rows < forget], rows[rows >= forget]
    assert len(rows) == sum(expected)
    assert repeats.tolist() == [i % forget for i in range(len(repeats))]
    assert len(others.unique()) == len(others) == min(pool, int(more * forget))
    assert len(others) == 0 or int(others.max()) < forget + pool


def test_matched_rows_are_those_of_seed_42_unless_told() -> None:
    one, two, other = (
        unlearn_by_matching(MODELS.module(0), H[0], X[:3], X[3:], retain_multiplier=2, lr=0.01, generator=g)
        for g in (None, seeded(42), seeded(43))
    )
    assert torch.equal(one(X), two(X))
    assert not torch.equal(one(X), other(X))


# --- retraining


def test_retraining_is_training_without_the_forgotten() -> None:
    training = {"steps": 20, "batch_size": 8, "lr": 0.1, "momentum": 0.9}
    stack = retrain(net, X, Y, [0, 4, 29], count=[2, 5], seed=3, **training)
    kept = torch.tensor([i for i in range(30) if i not in (0, 4, 29)])
    fresh = Stack.from_factory(net, [2, 5], 3)
    models = [fresh.module(0), fresh.module(1)]
    loop_train(models, X[kept], Y[kept], seed=3, ids=[2, 5], **training)  # type: ignore[arg-type]
    for m, model in enumerate(models):
        torch.testing.assert_close(stack.module(m)(X), model(X), rtol=0, atol=1e-10)
    changed = X.clone()
    changed[4] = 1e3
    again = retrain(net, changed, Y, [0, 4, 29], count=[2, 5], seed=3, **training)
    assert torch.equal(again(X, shared=True), stack(X, shared=True))


# --- what is refused


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: gradient_ascent_unlearn("net", FORGET, lr=0.1, epochs=1), TypeError, "model: str"),  # type: ignore[type-var]
        (lambda: gradient_ascent_unlearn(net(), X, lr=0.1, epochs=1), TypeError, "forget"),  # type: ignore[arg-type]
        (lambda: gradient_ascent_unlearn(net(), (X, Y[:3]), lr=0.1, epochs=1), ValueError, "forget: x and y"),
        (lambda: gradient_ascent_unlearn(net(), (X, Y.double()), lr=0.1, epochs=1), ValueError, "forget: y must"),
        (lambda: gradient_ascent_unlearn(net(), (X, Y - 1), lr=0.1, epochs=1), ValueError, "y holds -1"),
        (lambda: gradient_ascent_unlearn(net(), FORGET, lr=0.1, epochs=0), ValueError, "epochs=0"),
        (lambda: gradient_ascent_unlearn(net(), FORGET, lr=-0.1, epochs=1), ValueError, "lr=-0.1"),
        (lambda: gradient_descent_unlearn(net(), (X * torch.nan, Y), lr=0.1, epochs=1), ValueError, "retain: x"),
        (
            lambda: ascent_descent_unlearn(net(), FORGET, RETAIN, lr=0.1, epochs=1, ascent_epochs=0),
            ValueError,
            "ascent_epochs=0",
        ),
        (lambda: scrub_unlearn(net(), FORGET, RETAIN, temperature=0.0), ValueError, "temperature=0"),
        (lambda: scrub_unlearn(net(), FORGET, RETAIN, m_steps=0), ValueError, "m_steps=0"),
        (lambda: unlearn_by_matching(net(), H[0][:5], X[:7], X[7:]), ValueError, r"targets: have shape \(5, 3\)"),
        (lambda: unlearn_by_matching(MODELS, H[:2], X[:7], X[7:]), ValueError, "targets: have shape"),
        (lambda: unlearn_by_matching(net(), H[0] * torch.nan, X[:7], X[7:]), ValueError, "90 values are not finite"),
        (lambda: unlearn_by_matching(net(), H[0], X[:0], X), ValueError, "at least one forget point"),
        (lambda: unlearn_by_matching(net(), H[0], X[:7], X[7:], loss="mae"), ValueError, "loss='mae'"),  # type: ignore[arg-type]
        (lambda: unlearn_by_matching(net(), H[0], X[:7], X[7:], anchor=-1.0), ValueError, "anchor=-1"),
        (
            lambda: unlearn_by_matching(net(), H[0], X[:7], X[7:], forget_multiplier=0),
            ValueError,
            "forget_multiplier=0",
        ),
        (lambda: retrain(net, X, Y, range(30), steps=1, batch_size=1, lr=0.1), ValueError, "all 30 samples"),
        (lambda: retrain(net, X, Y, [30], steps=1, batch_size=1, lr=0.1), ValueError, "samples are 0 to 29"),
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        call()
