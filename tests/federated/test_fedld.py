"""FedLD's parts: against the published loop, closed forms, limits and invariances."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landform.federated import (
    SGD,
    FedAvg,
    FederatedData,
    FedGH,
    FedLDStrategy,
    PrincipalGradient,
    loss_decomposition,
    partition_dirichlet,
    pcgrad_pairwise,
    principal_gradient_aggregate,
    principal_shares,
    simulate,
)
from landform.models import MLP

Function = Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- principal-gradient aggregation --------------------------------------------------------------------------------


def by_projection(updates: Tensor, keep: float) -> Tensor:
    """Every client's projections on every direction, one by one, each rescaled to its eigenvalue's share."""
    m = len(updates)
    _, singular, right = torch.linalg.svd(updates, full_matrices=False)
    share = singular**2 / (singular**2).sum()
    revised = []
    for update in updates:
        new = torch.zeros_like(update)
        for j in range(min(int(keep * m), len(right))):
            direction = right[j]
            if sum(float(u @ direction) < 0 for u in updates) > sum(float(u @ direction) >= 0 for u in updates):
                direction = -direction
            projection = (update @ direction) * direction
            new += projection * share[j] * update.norm() / projection.norm()
        revised.append(new)
    return torch.stack(revised).mean(0)


@pytest.mark.parametrize(("m", "d", "keep"), [(5, 40, 0.8), (6, 40, 1.0), (5, 30, 0.5), (3, 7, 0.8)])
def test_principal_updates_are_the_rescaled_projections(m: int, d: int, keep: float) -> None:
    for seed in range(4):
        updates = draw(m, d, seed=seed) + 0.3
        found = principal_gradient_aggregate(updates, keep)
        assert torch.allclose(found, by_projection(updates, keep), rtol=0, atol=1e-13)


def test_clients_that_agree_are_averaged_and_opposites_cancel() -> None:
    one = draw(12)
    assert torch.allclose(principal_gradient_aggregate(one.expand(5, 12)), one, atol=1e-13)
    assert torch.allclose(
        principal_gradient_aggregate(torch.stack([one, -one]), 1.0), torch.zeros(12).double(), atol=1e-14
    )
    assert torch.equal(principal_gradient_aggregate(one[None]), one)
    assert torch.equal(principal_gradient_aggregate(torch.zeros(4, 3)), torch.zeros(3))


def test_rank_deficient_updates_make_no_directions_of_rounding() -> None:
    """Five clients in a plane: where the published code divides zero by zero."""
    plane = torch.linalg.qr(draw(9, 2, seed=3)).Q.T
    updates = draw(5, 2, seed=4) @ plane
    found = principal_gradient_aggregate(updates, 1.0)
    inside = principal_gradient_aggregate(updates @ plane.T, 1.0)
    assert torch.allclose(found, inside @ plane, atol=1e-12)


def test_order_rotation_scale_and_sign() -> None:
    updates = draw(5, 9) + 0.2
    base = principal_gradient_aggregate(updates)
    rotation = torch.linalg.qr(draw(9, 9, seed=1)).Q
    assert torch.allclose(principal_gradient_aggregate(updates[[3, 1, 4, 0, 2]]), base, atol=1e-13)
    assert torch.allclose(principal_gradient_aggregate(updates @ rotation), base @ rotation, atol=1e-13)
    assert torch.allclose(principal_gradient_aggregate(2.5 * updates), 2.5 * base, atol=1e-13)
    assert torch.allclose(principal_gradient_aggregate(-updates), -base, atol=1e-13)


def test_length_is_bounded_by_the_shares() -> None:
    for seed in range(20):
        updates = draw(6, 15, seed=seed)
        shares = principal_shares(updates)
        assert float(shares.sum()) == pytest.approx(1)
        bound = updates.norm(dim=1).max() * shares[: int(0.8 * 6)].square().sum().sqrt()
        assert float(principal_gradient_aggregate(updates).norm()) <= float(bound) + 1e-12


def test_weights_count_a_client_as_often_as_they_say() -> None:
    updates = draw(4, 10) + 0.5
    equal = principal_gradient_aggregate(updates, weights=torch.full((4,), 3.0))
    assert torch.allclose(equal, principal_gradient_aggregate(updates), atol=1e-14)
    single = [principal_gradient_aggregate(updates, weights=F.one_hot(torch.tensor(k), 4)) for k in range(4)]
    mixed = principal_gradient_aggregate(updates, weights=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert torch.allclose(mixed, sum((k + 1) / 10 * one for k, one in enumerate(single)), atol=1e-13)


def test_state_dicts_go_tensor_by_tensor_or_as_one() -> None:
    a, b, c = draw(4, 3, 2), draw(4, 5, seed=1), draw(4, seed=2)
    clients = [{"a": a[k], "b": b[k], "c": c[k]} for k in range(4)]
    found = principal_gradient_aggregate(clients)
    assert torch.allclose(found["a"], principal_gradient_aggregate(a.flatten(1)).view(3, 2), atol=1e-15)
    assert torch.allclose(found["b"], principal_gradient_aggregate(b), atol=1e-15)
    assert torch.allclose(found["c"], c.mean(), atol=1e-15)
    whole = principal_gradient_aggregate(clients, per="model")
    flat = principal_gradient_aggregate(torch.cat([a.flatten(1), b, c[:, None]], 1))
    assert torch.allclose(torch.cat([whole["a"].flatten(), whole["b"], whole["c"][None]]), flat, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: principal_gradient_aggregate(torch.ones(2, 3), 0.0), "keep=0.0"),
        (lambda: principal_gradient_aggregate(torch.ones(2, 3), 1.1), "keep=1.1"),
        (lambda: principal_gradient_aggregate(torch.ones(3)), r"got shape \(3,\)"),
        (lambda: principal_gradient_aggregate(torch.ones(0, 3)), "at least one client"),
        (lambda: principal_gradient_aggregate(torch.tensor([[1.0, torch.nan]])), "not finite"),
        (lambda: principal_gradient_aggregate(torch.ones(2, 3), weights=torch.zeros(2)), "weights"),
        (lambda: principal_gradient_aggregate([]), "no clients"),
        (lambda: principal_gradient_aggregate([{"a": torch.ones(1)}, {"b": torch.ones(1)}]), "other names"),
        (lambda: principal_gradient_aggregate(torch.ones(2, 3), per="layer"), "per='layer'"),  # type: ignore[call-overload]
        (lambda: PrincipalGradient(keep=2.0), "keep=2.0"),
        (lambda: FedLDStrategy(lam=-1.0), "lam=-1.0"),
        (lambda: FedLDStrategy(lr=0.0), "lr=0.0"),
        (lambda: pcgrad_pairwise(torch.ones(2, 3), torch.ones(2)), "history"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- the server's course, and FedGH's ------------------------------------------------------------------------------


def principal_by_hand(updates: Tensor, history: Tensor | None) -> Tensor:
    if history is None or bool((history == 0).all()) or updates.shape[1] == 1:
        return updates.mean(0)
    return by_projection(updates, 0.8)


def pairwise_by_hand(updates: Tensor, history: Tensor | None) -> Tensor:
    if history is None:
        return updates.mean(0)
    vectors = list(updates)
    while len(vectors) > 1:
        vectors.sort(key=lambda u: -float(u @ history))
        paired = []
        for i in range(len(vectors) // 2):
            a, b = vectors[i], vectors[-1 - i]
            inner = a @ b
            if inner < 0:
                a, b = a - inner / (b @ b + 1e-7) * b, b - inner / (a @ a + 1e-7) * a
            paired.append(a + b)
        if len(vectors) % 2:
            paired.append(vectors[len(vectors) // 2])
        vectors = paired
    return vectors[0] / len(updates)


@pytest.mark.parametrize("m", [2, 3, 5, 8])
def test_pairs_of_opposites_lose_their_conflict(m: int) -> None:
    updates, history = draw(m, 20, seed=m), draw(20, seed=9)
    assert torch.allclose(pcgrad_pairwise(updates, history), pairwise_by_hand(updates, history), atol=1e-13)
    aligned = updates.abs()
    assert torch.allclose(pcgrad_pairwise(aligned, history), aligned.mean(0), atol=1e-13)


@pytest.mark.parametrize(("rule", "step"), [(PrincipalGradient(), principal_by_hand), (FedGH(), pairwise_by_hand)])
def test_three_rounds_over_three_tensors(rule: PrincipalGradient | FedGH, step: Callable[..., Tensor]) -> None:
    params = {"w": draw(3, 4), "b": draw(3, seed=1), "count": draw(1, seed=2)}
    expected, histories = dict(params), dict.fromkeys(params)
    state = rule.init(params)
    for number in range(3):
        clients = {name: p + draw(5, *p.shape, seed=10 + number) for name, p in params.items()}
        params, state = rule.aggregate(state, params, clients, torch.tensor([1, 9, 2, 3, 4]))
        for name, p in expected.items():
            moved = step((clients[name] - p).flatten(1), histories[name])
            old = histories[name]
            histories[name] = moved if old is None else 0.99 * old + 0.01 * moved  # type: ignore[assignment]
            expected[name] = p + moved.view(p.shape)
            assert torch.allclose(params[name], expected[name], rtol=0, atol=1e-13)


def test_a_tensor_that_never_moved_takes_the_mean() -> None:
    rule, params = PrincipalGradient(), {"w": torch.zeros(4, dtype=torch.float64)}
    state = rule.init(params)
    params, state = rule.aggregate(state, params, {"w": torch.zeros(3, 4, dtype=torch.float64)}, torch.ones(3))
    clients = {"w": draw(3, 4)}
    moved, _ = rule.aggregate(state, params, clients, torch.ones(3))
    assert torch.allclose(moved["w"], clients["w"].mean(0), atol=1e-15)
    longer, _ = PrincipalGradient(lr=3.0).aggregate({}, params, clients, torch.ones(3))
    assert torch.allclose(longer["w"], 3 * clients["w"].mean(0), atol=1e-15)


def world() -> tuple[FederatedData, Callable[[], nn.Module]]:
    x = draw(150, 6)
    y = (x @ draw(6, 3, seed=1)).argmax(1)
    data = FederatedData(x, y, partition_dirichlet(y, 4, 0.3, rng=0), test_fraction=0.2)
    return data, lambda: MLP(6, (8,), 3).double()


def test_without_its_parts_fedld_is_fedavg_to_the_bit() -> None:
    data, model = world()
    strategy = FedLDStrategy(margin=True, lam=0.0, principal=False)
    settings = {"lr": 0.1, "steps": 3, "batch_size": 10}
    fedld = simulate(data, model, strategy.client_update(**settings), strategy, rounds=3)
    plain = simulate(data, model, SGD(momentum=0.5, weight_decay=5e-4, **settings), FedAvg(), rounds=3)
    assert all(torch.equal(p, plain.params[name]) for name, p in fedld.params.items())
    whole = simulate(data, model, FedLDStrategy().client_update(**settings), FedLDStrategy(), rounds=3)
    assert not all(torch.allclose(p, plain.params[name], atol=1e-3) for name, p in whole.params.items())


def test_published_settings() -> None:
    update = FedLDStrategy(lam=0.03).client_update()
    assert (update.lr, update.momentum, update.weight_decay, update.batch_size) == (0.01, 0.5, 5e-4, 50)
    assert (update.epochs, update.steps, getattr(update, "lam", None)) == (1, None, 0.03)


# --- the decomposition ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss_fn", [F.cross_entropy, lambda z, y: (z.softmax(1) - F.one_hot(y, 3)).square().sum(1).mean()]
)
def test_the_terms_are_their_definitions_and_sum_to_the_global_loss(
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> None:
    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return MLP(4, (6,), 3, dropout=0.3).double()

    models, aggregate = [net(k) for k in range(3)], net(9)
    datasets = [(draw(n, 4, seed=n), torch.arange(n) % 3) for n in (5, 12, 8)]
    parts = loss_decomposition(models, aggregate, datasets, [5.0, 12.0, 8.0], loss_fn)
    for net_ in (*models, aggregate):
        net_.eval()
    p = [5 / 25, 12 / 25, 8 / 25]

    def loss(model: nn.Module, k: int) -> float:
        return float(loss_fn(model(datasets[k][0]), datasets[k][1]).detach())

    own = sum(p[k] * loss(models[k], k) for k in range(3))
    spread = sum(p[k] * p[j] * loss(models[k], j) for k in range(3) for j in range(3))
    x, y = torch.cat([x for x, _ in datasets]), torch.cat([y for _, y in datasets])
    total = float(loss_fn(aggregate(x), y).detach())  # of all samples at once
    assert parts.local == pytest.approx(own, abs=1e-12)
    assert parts.shift == pytest.approx(spread - own, abs=1e-12)
    assert parts.aggregation == pytest.approx(total - spread, abs=1e-12)
    assert parts.total == pytest.approx(total, abs=1e-12)
    assert abs(parts.local + parts.shift + parts.aggregation - total) < 1e-10


def test_averaging_a_convex_loss_only_helps() -> None:
    models = [nn.Linear(4, 3).double() for _ in range(4)]
    mean = nn.Linear(4, 3).double()
    with torch.no_grad():
        for name, value in mean.named_parameters():
            value.copy_(torch.stack([dict(m.named_parameters())[name] for m in models]).mean(0))
    datasets = [(draw(9, 4, seed=k), torch.arange(9) % 3) for k in range(4)]
    assert loss_decomposition(models, mean, datasets, [1.0] * 4).aggregation < 0


SAMPLE = (torch.ones(2, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1.0]}, "2, 2 and 1"),
        ({"weights": [1.0, -1.0]}, "weights"),
        ({"weights": [0.0, 0.0]}, "weights"),
        (
            {"datasets": [(torch.ones(2, 4), torch.tensor([0, 1])), (torch.ones(0, 4), torch.tensor([]))]},
            "client 1 has 0",
        ),
    ],
)
def test_wrong_decompositions_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {"datasets": [SAMPLE, SAMPLE], "weights": [1.0, 1.0]} | change
    models = [nn.Linear(4, 3) for _ in range(2)]
    with pytest.raises(ValueError, match=message):
        loss_decomposition(models, models[0], **arguments)  # type: ignore[arg-type]
