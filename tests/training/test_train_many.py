"""Training a stack against a plain loop that is written out here, model after model and step after step."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform.training.many import (
    Stack,
    StackedAdamW,
    StackedSGD,
    accuracy_many,
    cross_entropy,
    loop_train,
    orders,
    predict_many,
    subset_masks,
    train_many,
)
from landform.training.many.orders import Orders

M, N, STEPS, BATCH = 9, 40, 50, 8


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def normed_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 4, 3, bias=False),
        nn.BatchNorm1d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(N, 5, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def population(make: Callable[[], nn.Module], count: Any = M, engine: str = "auto") -> Stack:
    return Stack.from_factory(lambda: make().double(), count, seed=1, engine=engine)


def plain(
    stack: Stack, m: int, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], **options: Any
) -> tuple[nn.Module, list[float]]:
    """Model m of the stack trained alone; ``options`` say how, in the simplest words."""
    x, y = data()
    module = stack.module(m)
    optimiser = make(list(module.parameters()))
    base = optimiser.param_groups[0]["lr"]
    masks = options.get("masks")
    order = Orders(
        [stack.ids[m]],
        N,
        BATCH,
        steps=STEPS,
        seed=options.get("seed", 0),
        masks=None if masks is None else masks[m : m + 1],
        order=options.get("order", "independent"),
        batching=options.get("batching", "resample"),
    )
    losses = []
    for t, (index, weights) in enumerate(order):
        rows = [i for k, i in enumerate(index[0].tolist()) if weights is None or weights[0, k]]
        if not rows:
            losses.append(math.nan)
            continue
        loss = F.cross_entropy(module(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        if "clip" in options:
            torch.nn.utils.clip_grad_norm_(module.parameters(), options["clip"])
        optimiser.param_groups[0]["lr"] = base * options.get("schedule", lambda t: 1.0)(t)
        optimiser.step()
        losses.append(loss.item())
    return module, losses


def assert_trained_as_alone(stack: Stack, alone: list[nn.Module], tolerance: float = 1e-12) -> None:
    for m, module in enumerate(alone):
        for name, value in module.state_dict().items():
            mine = (stack.params | stack.buffers)[name][m].detach()
            assert float((mine - value).abs().max()) <= tolerance * max(1.0, float(value.abs().max())), (m, name)


RATES = torch.linspace(0.02, 0.3, M, dtype=torch.float64)
MASKS = subset_masks(M, N, 0.5, generator=torch.Generator().manual_seed(3))
MASKS[:, :BATCH] = True

WAYS: dict[str, tuple[dict[str, Any], Callable[[int], Callable[..., torch.optim.Optimizer]], dict[str, Any]]] = {
    "sgd": (
        {"lr": RATES, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
        lambda m: lambda p: torch.optim.SGD(p, float(RATES[m]), momentum=0.9, weight_decay=0.01, nesterov=True),
        {},
    ),
    "sgd, all per model": (
        {"lr": RATES, "momentum": RATES * 3, "weight_decay": RATES / 5},
        lambda m: (
            lambda p: torch.optim.SGD(
                p, float(RATES[m]), momentum=float(RATES[m] * 3), weight_decay=float(RATES[m] / 5)
            )
        ),
        {},
    ),
    "adamw": (
        {"optimizer": "adamw", "lr": RATES / 10, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6},
        lambda m: lambda p: torch.optim.AdamW(p, float(RATES[m] / 10), weight_decay=0.1, betas=(0.8, 0.99), eps=1e-6),
        {},
    ),
    "adam": (
        {"optimizer": "adamw", "lr": 0.01, "betas": (RATES * 3, 0.999)},
        lambda m: lambda p: torch.optim.Adam(p, 0.01, betas=(float(RATES[m] * 3), 0.999)),
        {},
    ),
    "clipping and a schedule": (
        {"lr": RATES, "momentum": 0.9, "clip": 0.3, "schedule": lambda t: 1 - t / STEPS},
        lambda m: lambda p: torch.optim.SGD(p, float(RATES[m]), momentum=0.9),
        {"clip": 0.3, "schedule": lambda t: 1 - t / STEPS},
    ),
    "masks": (
        {"lr": 0.1, "momentum": 0.9, "masks": MASKS, "seed": 5},
        lambda m: lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        {"masks": MASKS, "seed": 5},
    ),
    "shared order": (
        {"lr": 0.1, "momentum": 0.9, "order": "shared"},
        lambda m: lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        {"order": "shared"},
    ),
    "epochs": (
        {"lr": 0.1, "batching": "epoch"},
        lambda m: lambda p: torch.optim.SGD(p, 0.1),
        {"batching": "epoch"},
    ),
}
MASKED_WAYS = {
    "epochs of unequal length": ({"batching": "epoch", "masks": MASKS}, {"batching": "epoch", "masks": MASKS}),
    "masked, shared": (
        {"batching": "masked", "masks": MASKS, "order": "shared"},
        {"batching": "masked", "masks": MASKS, "order": "shared"},
    ),
    "masked, independent": ({"batching": "masked", "masks": MASKS}, {"batching": "masked", "masks": MASKS}),
}


@functools.cache
def trained_alone(way: str) -> list[tuple[nn.Module, list[float]]]:
    _, optimiser, options = WAYS[way]
    stack = population(normed_mlp)
    return [plain(stack, m, optimiser(m), **options) for m in range(M)]


@pytest.mark.parametrize("chunk", [1, 7, M, None])
@pytest.mark.parametrize("way", WAYS)
def test_training_a_stack_is_training_each_model_alone(way: str, chunk: int | None) -> None:
    x, y = data()
    stack, alone = population(normed_mlp), trained_alone(way)
    result = train_many(stack, x, y, steps=STEPS, batch_size=BATCH, chunk=chunk, **WAYS[way][0])
    assert_trained_as_alone(stack, [module for module, _ in alone])
    want = torch.tensor([losses for _, losses in alone], dtype=torch.float64).T
    torch.testing.assert_close(result.losses, want, rtol=1e-11, atol=1e-12, equal_nan=True)
    assert result.params is stack.params


@pytest.mark.parametrize(("make", "engine"), [(mlp, "vmap"), (mlp, "loop"), (cnn, "vmap"), (cnn, "loop")])
@pytest.mark.parametrize("order", ["independent", "shared"])
def test_every_engine_trains_the_same(make: Callable[[], nn.Module], engine: str, order: str) -> None:
    x, y = data()
    stack = population(make, engine=engine)
    alone = [plain(stack, m, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), order=order)[0] for m in range(M)]
    train_many(stack, x, y, steps=STEPS, batch_size=BATCH, lr=0.1, momentum=0.9, order=order, chunk=4)
    assert_trained_as_alone(stack, alone)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("way", MASKED_WAYS)
def test_weighted_batches_are_batches_of_what_counts(way: str, optimizer: str) -> None:
    x, y = data()
    arguments, options = MASKED_WAYS[way]
    stack = population(mlp)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    alone = [plain(stack, m, lambda p: kind(p, lr=0.05, weight_decay=0.02), **options) for m in range(M)]
    result = train_many(
        stack, x, y, steps=STEPS, batch_size=BATCH, lr=0.05, weight_decay=0.02, optimizer=optimizer, **arguments
    )
    assert_trained_as_alone(stack, [module for module, _ in alone])
    want = torch.tensor([losses for _, losses in alone], dtype=torch.float64).T
    torch.testing.assert_close(result.losses, want, rtol=1e-11, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_batch_with_nothing_that_counts_does_not_touch_the_model(optimizer: str) -> None:
    x, y = data()
    masks = torch.zeros(2, N, dtype=torch.bool)
    masks[0, 0] = True  # of 40 samples one counts, in batches of 4: nine batches in ten are empty
    masks[1] = True
    x[0] = 1e3  # and its gradients leave a trace in the moments
    stack = population(mlp, 2)
    kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    extra = {"momentum": 0.9} if optimizer == "sgd" else {}
    module = stack.module(0)
    reference = kind(module.parameters(), lr=0.01, weight_decay=0.1, **extra)
    result = train_many(
        stack, x, y, steps=STEPS, batch_size=4, masks=masks, batching="masked", optimizer=optimizer, lr=0.01,
        weight_decay=0.1, **extra,
    )  # fmt: skip
    updated = ~result.losses[:, 0].isnan()
    assert 0 < int(updated.sum()) < STEPS // 2
    assert not bool(result.losses[:, 1].isnan().any())
    for _ in range(int(updated.sum())):
        reference.zero_grad()
        F.cross_entropy(module(x[:1]), y[:1]).backward()
        reference.step()
    assert_trained_as_alone(stack, [module])


def test_a_mask_of_ones_is_no_mask() -> None:
    x, y = data()
    ones = torch.ones(M, N, dtype=torch.bool)
    for batching in ("resample", "epoch", "masked"):
        masked, free = population(mlp), population(mlp)
        train_many(masked, x, y, steps=20, batch_size=BATCH, lr=0.1, masks=ones, batching=batching)
        train_many(free, x, y, steps=20, batch_size=BATCH, lr=0.1, batching=batching)
        for name, value in free.params.items():
            torch.testing.assert_close(masked.params[name], value, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("batching", ["resample", "epoch", "masked"])
def test_a_model_has_the_same_course_in_any_company(batching: str) -> None:
    x, y = data()
    joint, alone = population(mlp), population(mlp, [3])
    options = {"steps": STEPS, "batch_size": BATCH, "batching": batching, "momentum": 0.9, "seed": 11}
    together = train_many(joint, x, y, lr=RATES, masks=MASKS, **options)
    single = train_many(alone, x, y, lr=RATES[3:4], masks=MASKS[3:4], **options)
    torch.testing.assert_close(together.losses[:, 3:4], single.losses, rtol=1e-12, atol=0)
    for name, value in alone.params.items():
        torch.testing.assert_close(joint.params[name][3:4], value, rtol=1e-12, atol=1e-14)


def test_a_model_that_diverges_does_so_alone() -> None:
    x, y = data()
    wild, tame = population(mlp), population(mlp)
    rates = torch.full((M,), 0.1, dtype=torch.float64)
    rates[2] = 1e308
    train_many(wild, x, y, steps=20, batch_size=BATCH, lr=rates, momentum=0.9)
    train_many(tame, x, y, steps=20, batch_size=BATCH, lr=0.1, momentum=0.9)
    others = [m for m in range(M) if m != 2]
    for name, value in tame.params.items():
        torch.testing.assert_close(wild.params[name][others], value[others], rtol=1e-12, atol=1e-14)
    assert not bool(wild.params["0.weight"][2].isfinite().all())


def test_heavy_ball_on_scalar_quadratics_follows_its_recursion() -> None:
    """L = a (w − c)² / 2 has gradient a (w − c): v ← μ v + a (w − c), w ← w − η v, here for three models at once."""
    slopes = torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64)
    targets, rates, momentum = slopes[:, 0] * 3, [0.1, 0.05, 0.2], 0.9

    def quadratic(output: Tensor, target: Tensor) -> Tensor:  # a (w − c)² / 2 from output √a w and target
        return (output[:, 0] - target) ** 2 / 2

    stack = Stack([nn.Linear(1, 1, bias=False).double() for _ in range(3)])
    with torch.no_grad():
        stack.params["weight"].fill_(1.0)
    masks = torch.eye(3, dtype=torch.bool)
    train_many(
        stack, slopes.sqrt(), targets / slopes[:, 0].sqrt(), steps=25, batch_size=1, masks=masks, loss=quadratic,
        lr=torch.tensor(rates, dtype=torch.float64), momentum=momentum,
    )  # fmt: skip
    for m in range(3):
        w, v, a, c = 1.0, 0.0, float(slopes[m]), 3.0
        for _ in range(25):
            v = momentum * v + a * (w - c)
            w = w - rates[m] * v
        assert float(stack.params["weight"][m].detach()) == pytest.approx(w, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_models_that_are_not_active_stay_as_they_are(optimizer: str) -> None:
    x, y = data()
    stack, reference = population(mlp), population(mlp)
    before = {name: value.detach().clone() for name, value in stack.params.items()}
    active = torch.arange(M) % 2 == 0
    options = {"steps": 10, "batch_size": BATCH, "lr": 0.1, "weight_decay": 0.1, "optimizer": optimizer}
    result = train_many(stack, x, y, active=active, **options)
    train_many(reference, x, y, **options)
    for name, value in stack.params.items():
        assert torch.equal(value[~active], before[name][~active])
        torch.testing.assert_close(value[active], reference.params[name][active], rtol=1e-12, atol=1e-14)
    assert torch.equal(result.losses.isnan(), (~active).expand(10, M))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_early_stopping_freezes_a_model_where_it_stopped_and_a_pause_freezes_its_moments(optimizer: str) -> None:
    """Model 0 rests in steps 3 to 5: what follows must be what follows without the rest."""
    x, y = data()
    options = {"batch_size": N, "lr": 0.05, "momentum": 0.9 if optimizer == "sgd" else 0.0, "optimizer": optimizer}
    paused, straight = population(mlp, 2), population(mlp, 2)
    rests = lambda t, losses: torch.tensor([not 3 <= t <= 5, True])  # noqa: E731
    train_many(paused, x, y, steps=13, active=rests, **options)
    train_many(straight, x, y, steps=10, **options)  # full batches, so that all steps see the same
    torch.testing.assert_close(paused.params["0.weight"][0], straight.params["0.weight"][0], rtol=1e-11, atol=1e-13)
    assert not torch.allclose(paused.params["0.weight"][1], straight.params["0.weight"][1], rtol=1e-6)

    stopped = population(mlp)
    course = train_many(stopped, x, y, steps=60, active=lambda t, losses: losses > 0.9, **options).losses
    free = train_many(population(mlp), x, y, steps=60, **options).losses
    for m in range(M):
        last = int((free[:, m] <= 0.9).nonzero()[0])  # the update with this loss is the model's last
        torch.testing.assert_close(course[: last + 1, m], free[: last + 1, m], rtol=1e-10, atol=0)
        assert bool(course[last + 1 :, m].isnan().all())


def test_schedules_are_functions_or_tables() -> None:
    x, y = data()
    table = torch.rand(10, M, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"steps": 10, "batch_size": BATCH, "lr": 0.3}
    one, two, three = population(mlp), population(mlp), population(mlp)
    train_many(one, x, y, schedule=table, chunk=4, **options)
    train_many(two, x, y, schedule=lambda t: table[t], chunk=4, **options)
    train_many(three, x, y, schedule=table[:, 2], **options)
    for name, value in one.params.items():
        torch.testing.assert_close(two.params[name], value, rtol=0, atol=0)
        torch.testing.assert_close(three.params[name][2], value[2], rtol=1e-13, atol=1e-14)


def test_records_and_measures() -> None:
    x, y = data()
    options = {"steps": 10, "batch_size": BATCH, "lr": 0.1}
    stack = population(mlp)
    every = train_many(population(mlp), x, y, **options)
    some = train_many(stack, x, y, record=3, measure=lambda s: {"accuracy": accuracy_many(s, x, y)}, **options)
    assert some.steps.tolist() == [2, 5, 8]
    assert torch.equal(some.losses, every.losses[some.steps])
    train_many(half := population(mlp), x, y, **{**options, "steps": 9})
    torch.testing.assert_close(some.metrics["accuracy"][2], accuracy_many(half, x, y))
    assert train_many(population(mlp), x, y, record=11, **options).losses.shape == (0, M)


def test_predictions_and_accuracies_are_those_of_the_modules_in_evaluation_mode() -> None:
    x, y = data()
    stack = population(normed_mlp).train()
    train_many(stack, x, y, steps=5, batch_size=BATCH, lr=0.1)
    got = predict_many(stack, x)
    for chunk, batch_size in ((2, 7), (100, 1), (1, 1000)):
        torch.testing.assert_close(predict_many(stack, x, chunk=chunk, batch_size=batch_size), got)
    assert stack.training
    assert not got.requires_grad
    for m in range(M):
        module = stack.module(m).eval()
        torch.testing.assert_close(got[m], module(x), rtol=1e-12, atol=1e-12)
        assert float(accuracy_many(stack, x, y, batch_size=9)[m]) == float((module(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize("way", [*WAYS, *MASKED_WAYS])
def test_the_library_loop_is_the_plain_loop(way: str) -> None:
    x, y = data()
    if way in WAYS:
        arguments, optimiser, options = WAYS[way]
    else:
        (arguments, options), optimiser = MASKED_WAYS[way], lambda m: lambda p: torch.optim.SGD(p, 0.1)
        arguments = {**arguments, "lr": 0.1}
    stack = population(mlp)
    modules = [stack.module(m) for m in range(M)]
    result = loop_train(modules, x, y, steps=STEPS, batch_size=BATCH, record=2, **arguments)
    for m, module in enumerate(modules):
        alone, losses = plain(stack, m, optimiser(m), **options)
        for one, other in zip(module.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
        want = torch.tensor(losses[1::2], dtype=torch.float64)
        torch.testing.assert_close(result.losses[:, m], want, rtol=1e-11, atol=1e-12, equal_nan=True)


def test_losses_of_ones_own_and_targets_that_are_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(N, 5, generator=generator).double(), torch.randn(N, 3, generator=generator).double()
    squared = lambda output, target: (output - target).square().sum(1)  # noqa: E731
    for order in ("independent", "shared"):
        stack = population(mlp)
        modules = [stack.module(m) for m in range(M)]
        options = {"steps": 20, "batch_size": BATCH, "lr": 0.01, "loss": squared, "order": order}
        train_many(stack, x, y, **options)
        loop_train(modules, x, y, **options)
        assert_trained_as_alone(stack, modules)


def test_cross_entropy_of_each_sample_for_any_leading_axes() -> None:
    logits, targets = torch.randn(4, 6, 5, 3).double(), torch.randint(0, 3, (4, 6, 5))
    want = -logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(cross_entropy(logits, targets), want)
    torch.testing.assert_close(cross_entropy(logits[0, 0], targets[0, 0]), want[0, 0])


def test_frozen_and_unused_parameters_are_left_alone() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.frozen, self.spare = nn.Linear(5, 3), nn.Linear(3, 3), nn.Linear(2, 2)
            self.frozen.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.frozen(self.used(x))

    x, y = data()
    stack = population(Spare)
    modules = [stack.module(m) for m in range(M)]
    options = {"steps": 10, "batch_size": BATCH, "lr": 0.1, "weight_decay": 0.5}
    train_many(stack, x, y, **options)
    loop_train(modules, x, y, **options)
    assert_trained_as_alone(stack, modules)


@pytest.mark.parametrize("size", [8, 40])
def test_resampled_batches_are_uniform_subsets(size: int) -> None:
    masks = torch.zeros(2, N, dtype=torch.bool)
    masks[0, 5:13] = True
    masks[1] = True
    drawn = Orders([0, 1], N, min(size, 8), steps=3000, seed=0, masks=masks, order="independent", batching="resample")
    counts = torch.zeros(2, N)
    for index, weights in drawn:
        assert weights is None
        assert all(len(row.unique()) == 8 for row in index)
        counts.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float32))
    assert counts[0].nonzero().flatten().tolist() == list(range(5, 13))
    expected = 3000 * 8 / 40
    # Each sample is in a batch with probability 1/5. A chi-square of 39 degrees of freedom exceeds 80 with p = 1e-4.
    assert float(((counts[1] - expected) ** 2 / (expected * 0.8)).sum()) < 80
    pairs = Orders([0], 4, 2, steps=6000, seed=0, masks=None, order="independent", batching="resample")
    seen = torch.zeros(4, 4)
    for index, _ in pairs:
        seen[index[0].min(), index[0].max()] += 1
    assert float(((seen[seen > 0] - 1000) ** 2 / 1000).sum()) < 25
    assert int((seen > 0).sum()) == 6


def test_epochs_are_permutations_of_the_subset_with_a_short_last_batch() -> None:
    masks = torch.zeros(2, N, dtype=torch.bool)
    masks[0, ::2] = True  # 20 samples: 2 batches of 8 and one of 4
    masks[1, :16] = True  # 16 samples: 2 batches of 8
    dealt = list(Orders([0, 1], N, 8, steps=12, seed=0, masks=masks, order="independent", batching="epoch"))
    for m, length in ((0, 3), (1, 2)):
        rows = [index[m][weights[m]].tolist() for index, weights in dealt]
        epochs = [[i for row in rows[k : k + length] for i in row] for k in range(0, 12, length)]
        assert all(sorted(epoch) == masks[m].nonzero().flatten().tolist() for epoch in epochs)
        assert epochs[0] != epochs[1]
    assert [int(weights[0].sum()) for _, weights in dealt[:3]] == [8, 8, 4]


def test_shared_batches_are_the_same_for_all_and_masked_ones_weigh() -> None:
    masks = subset_masks(3, N, 0.5, generator=torch.Generator().manual_seed(0))
    shared = list(Orders([4, 5, 6], N, 8, steps=5, seed=0, masks=masks, order="shared", batching="masked"))
    apart = list(Orders([4, 5, 6], N, 8, steps=5, seed=0, masks=masks, order="independent", batching="masked"))
    for (one, w), (three, v) in zip(shared, apart, strict=True):
        assert one.shape == (1, 8)
        assert torch.equal(w, masks[:, one[0]])
        assert three.shape == (3, 8)
        assert torch.equal(v, torch.stack([masks[m, three[m]] for m in range(3)]))
        assert not torch.equal(three[0], three[1])


@pytest.mark.parametrize("batching", ["resample", "epoch"])
def test_batches_do_not_depend_on_how_many_are_drawn_at_a_time(batching: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_batches() -> Tensor:
        dealt = Orders([3, 1], N, 7, steps=25, seed=2, masks=None, order="independent", batching=batching)
        return torch.stack([index for index, _ in dealt])

    whole = all_batches()
    monkeypatch.setattr(orders, "BLOCK", 60)
    assert torch.equal(all_batches(), whole)


def test_subset_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    free = subset_masks(400, 50, 0.3, generator=generator)
    assert free.shape == (400, 50)
    assert abs(float(free.float().mean()) - 0.3) < 4 * math.sqrt(0.21 / 20000)
    assert len(free.sum(1).unique()) > 5
    balanced = subset_masks(37, 50, 0.3, balanced=True, generator=generator)
    assert balanced.sum(1).unique().tolist() == [15]
    per_sample = balanced.sum(0)
    assert int(per_sample.max() - per_sample.min()) <= 1
    assert len(torch.unique(balanced, dim=0)) == 37
    for bad, message in (
        ((0, 5, 0.5), "count=0"),
        ((5, 5, 0.0), "keep=0"),
        ((5, 5, 1.5), "keep=1.5"),
        ((50, 2, 0.1), "leaves a model without"),
    ):
        with pytest.raises(ValueError, match=message):
            subset_masks(*bad, generator=generator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"record": 0}, "record=0"),
        ({"batch_size": 41}, "batch_size=41: must be from 1 to 40"),
        ({"batch_size": 9, "masks": MASKS & (torch.arange(N) < BATCH)}, "from 1 to 8, the size of the smallest subset"),
        ({"lr": -0.1}, "lr=-0.1"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": torch.ones(4)}, r"lr: need a number or a tensor of shape \(9,\)"),
        ({"momentum": torch.ones(2)}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"optimizer": "adamw", "betas": (1.0, 0.9)}, r"betas\[0\]=1.0"),
        ({"optimizer": "lion"}, "optimizer='lion'"),
        ({"nesterov": True}, "nesterov=True needs momentum"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"chunk": 0}, "chunk=0"),
        ({"order": "random"}, "order='random'"),
        ({"batching": "all"}, "batching='all'"),
        ({"order": "shared", "masks": MASKS}, "order='shared' with masks"),
        ({"masks": torch.ones(2, N, dtype=torch.bool)}, "masks: need booleans"),
        ({"masks": torch.ones(M, N)}, "masks: need booleans"),
        ({"masks": torch.zeros(M, N, dtype=torch.bool)}, "masks: model 0 has no samples"),
        ({"schedule": torch.ones(4)}, "schedule: a table"),
        ({"schedule": lambda t: -1.0}, "schedule=-1.0"),
        ({"active": torch.ones(2, dtype=torch.bool)}, "active: need booleans"),
        ({"y": torch.zeros(3, dtype=torch.long)}, "40 samples but 3 targets"),
        ({"x": torch.full((N, 5), float("nan")).double()}, "x: holds values that are not finite"),
        ({"loss": F.cross_entropy}, "reduction='none'"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    x, y = data()
    with pytest.raises(ValueError, match=message):
        train_many(population(mlp), **{"x": x, "y": y, "steps": 3, "batch_size": 4, "lr": 0.1, **change})


def test_batch_statistics_may_not_see_samples_that_do_not_count() -> None:
    x, y = data()
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm1d\).*must not see.*resample"):
        train_many(population(normed_mlp), x, y, steps=2, batch_size=4, lr=0.1, masks=MASKS, batching="masked")
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm1d\).*divides every subset"):
        train_many(population(normed_mlp), x, y, steps=2, batch_size=7, lr=0.1, batching="epoch")
    train_many(population(normed_mlp).eval(), x, y, steps=2, batch_size=7, lr=0.1, batching="epoch")


def test_optimisers_keep_their_state_in_a_state_dict() -> None:
    for make in (lambda p: StackedSGD(p, 0.1, momentum=0.9), lambda p: StackedAdamW(p, torch.tensor([0.1, 0.2]))):
        w = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        again = w.detach().clone().requires_grad_()
        one, two = make([w]), make([again])
        for _ in range(3):
            w.grad = w.detach() ** 2
            one.step(active=torch.tensor([True, False]))
        two.load_state_dict(copy.deepcopy(one.state_dict()))
        with torch.no_grad():
            again.copy_(w)
        for optimiser, p in ((one, w), (two, again)):
            p.grad = p.detach() ** 2
            assert optimiser.step(lambda: 4.0) == 4.0
        assert torch.equal(w, again)
    with pytest.raises(ValueError, match="same number of models"):
        StackedSGD([torch.zeros(2, 1), torch.zeros(3, 1)], 0.1)
    with pytest.raises(ValueError, match="eps=-1"):
        StackedAdamW([w], eps=-1)
