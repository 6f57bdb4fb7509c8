"""Training all clients at once against a plain loop over clients, modules and ``torch.optim``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landform.federated import (
    MOON,
    SCAFFOLD,
    SGD,
    ClientUpdate,
    FedAvg,
    FedAvgM,
    FederatedData,
    FedProx,
    MarginControl,
    MarginControlLoss,
    normalisation_names,
    partition_dirichlet,
    partition_iid,
    sample_clients,
    simulate,
)
from landform.federated.batches import client_stream, local_batches
from landform.models import MLP
from landform.training.many import Stack

N, D, C, K = 240, 6, 4, 6


def model() -> nn.Module:
    return MLP(D, (8,), C, activation="tanh").double()


@pytest.fixture(scope="module")
def data() -> FederatedData:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(D, C, generator=generator, dtype=torch.float64)).argmax(1)
    parts = partition_dirichlet(y, K, 0.5, min_size=8, rng=0)
    assert len({len(part) for part in parts}) > 3
    return FederatedData(x, y, parts, test_fraction=0.2)


def batches_of(update: ClientUpdate, data: FederatedData, client: int, round_: int, seed: int) -> list[Tensor]:
    """The batches of one client alone."""
    drawn = local_batches(
        data.sizes[[client]],
        [client_stream(seed, round_, client)],
        batch_size=update.batch_size,
        steps=update.steps,
        epochs=update.epochs,
    )
    return [data.train[client][places[0]] for places, _ in drawn]


class Loop:
    """Federated averaging as one would write it: a module, an optimiser and a loop for each client."""

    def __init__(self, data: FederatedData, update: SGD, seed: int) -> None:
        self.data, self.update, self.seed = data, update, seed
        self.server = Stack.from_factory(model, 1, seed).module(0)
        zeros = [torch.zeros_like(p) for p in self.server.parameters()]
        self.c, self.controls = zeros, [zeros for _ in range(len(data))]
        self.previous = [self.copy() for _ in range(len(data))]

    def copy(self) -> nn.Module:
        twin = model()
        twin.load_state_dict(self.server.state_dict())
        return twin

    def loss(self, local: nn.Module, x: Tensor, y: Tensor, client: int) -> Tensor:
        update = self.update
        if isinstance(update, MarginControl):
            return MarginControlLoss(update.lam, update.on, update.reduction)(local(x), y)
        value = F.cross_entropy(local(x), y)
        if isinstance(update, FedProx):
            apart = [
                (p - q.detach()).square().sum()
                for p, q in zip(local.parameters(), self.server.parameters(), strict=True)
            ]
            value = value + update.mu / 2 * sum(apart)
        if isinstance(update, MOON):
            z, z_g, z_p = (m.features(x) for m in (local, self.server, self.previous[client]))
            near = torch.exp(F.cosine_similarity(z, z_g.detach()) / update.temperature)
            far = torch.exp(F.cosine_similarity(z, z_p.detach()) / update.temperature)
            value = value - update.mu * torch.log(near / (near + far)).mean()
        return value

    def round(self, number: int, clients: list[int]) -> float:
        update, lr = self.update, self.update.lr_of(number)
        locals_, sizes, means, changes = [], [], [], []
        for k in clients:
            local, losses = self.copy(), []
            optimizer = torch.optim.SGD(local.parameters(), lr, update.momentum, weight_decay=update.weight_decay)
            for rows in batches_of(update, self.data, k, number, self.seed):
                value = self.loss(local, self.data.x[rows], self.data.y[rows], k)
                optimizer.zero_grad()
                value.backward()
                if isinstance(update, SCAFFOLD):
                    for p, c_k, c in zip(local.parameters(), self.controls[k], self.c, strict=True):
                        value = value + ((c - c_k) * p).sum()  # as it is reported
                        p.grad += c - c_k
                optimizer.step()
                losses.append(float(value.detach()))
            if isinstance(update, SCAFFOLD):
                new = [
                    c_k - c + (w.detach() - p.detach()) / (len(losses) * lr)
                    for c_k, c, w, p in zip(
                        self.controls[k], self.c, self.server.parameters(), local.parameters(), strict=True
                    )
                ]
                changes.append([n - o for n, o in zip(new, self.controls[k], strict=True)])
                self.controls[k] = new
            locals_.append(local)
            sizes.append(len(self.data.train[k]))
            means.append(float(np.mean(losses)))
        for k, local in zip(clients, locals_, strict=True):
            self.previous[k] = local
        if changes:
            self.c = [c + sum(d) / len(self.data) for c, d in zip(self.c, zip(*changes, strict=True), strict=True)]
        weights = np.array(sizes) / sum(sizes)
        with torch.no_grad():
            for name, p in self.server.named_parameters():
                p.copy_(
                    sum(w * dict(local.named_parameters())[name] for w, local in zip(weights, locals_, strict=True))
                )
        return float(weights @ np.array(means))


UPDATES = {
    "steps": SGD(lr=0.2, momentum=0.5, weight_decay=1e-2, steps=4, batch_size=10),
    "small clients": SGD(lr=0.2, steps=3, batch_size=25),
    "epochs": SGD(lr=0.1, momentum=0.9, epochs=2, batch_size=7),
    "whole batch": SGD(lr=0.3, steps=2, batch_size=None),
    "rate by round": SGD(lr=lambda number: 0.1 * number, steps=3, batch_size=10),
    "fedprox": FedProx(lr=0.2, mu=0.7, momentum=0.5, steps=4, batch_size=10),
    "moon": MOON(lr=0.2, mu=2.0, temperature=0.3, steps=4, batch_size=10),
    "moon, epochs": MOON(lr=0.2, epochs=1, batch_size=7),
    "scaffold": SCAFFOLD(lr=0.2, steps=4, batch_size=10),
    "scaffold, epochs": SCAFFOLD(lr=0.1, epochs=2, batch_size=7),
    "margin control": MarginControl(lr=0.2, lam=0.4, steps=3, batch_size=25),
    "margin control, sample": MarginControl(lr=0.2, lam=0.4, reduction="sample", on="logits", epochs=1, batch_size=7),
}


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("name", UPDATES)
def test_all_clients_at_once_are_the_loop_over_clients(name: str, fraction: float, data: FederatedData) -> None:
    update = UPDATES[name]
    history = simulate(data, model, update, FedAvg(), rounds=3, fraction=fraction, seed=7)
    loop = Loop(data, update, seed=7)
    losses = [loop.round(r, sample_clients(K, fraction, 7, r).tolist()) for r in (1, 2, 3)]
    assert history.losses.tolist() == pytest.approx(losses, rel=1e-11)
    for key, p in loop.server.named_parameters():
        assert torch.allclose(history.params[key], p, rtol=0, atol=1e-12)
    assert data.test is not None
    accuracy = (loop.server(data.test[0]).argmax(1) == data.test[1]).double().mean()
    assert float(history.accuracy[-1]) == float(accuracy)
    each = [(loop.server(data.client(k).test_x).argmax(1) == data.client(k).test_y).double().mean() for k in range(K)]
    assert history.client_accuracy[-1].tolist() == pytest.approx([float(a) for a in each])


@pytest.mark.parametrize("name", UPDATES)
def test_one_client_after_another_gives_the_same(name: str, data: FederatedData) -> None:
    together, apart = (
        simulate(data, model, UPDATES[name], FedAvg(), rounds=2, vectorise=vectorise) for vectorise in (True, False)
    )
    for key, p in together.params.items():
        assert torch.allclose(p, apart.params[key], rtol=0, atol=1e-12)


def test_one_whole_batch_step_is_a_step_of_central_training(data: FederatedData) -> None:
    history = simulate(data, model, SGD(lr=0.5, steps=1, batch_size=None), FedAvg(), rounds=4, seed=1)
    central = Loop(data, SGD(), seed=1).server
    rows = torch.cat(data.train)
    optimizer = torch.optim.SGD(central.parameters(), 0.5)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(central(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
    for key, p in central.named_parameters():
        assert torch.allclose(history.params[key], p, rtol=0, atol=1e-13)
    pooled = simulate(data.pooled(), model, SGD(lr=0.5, steps=1, batch_size=None), FedAvg(), rounds=4, seed=1)
    assert all(torch.allclose(p, history.params[key], atol=1e-13) for key, p in pooled.params.items())


def test_fedprox_without_weight_is_fedavg_and_with_much_stays_where_it_was(data: FederatedData) -> None:
    settings = {"lr": 0.2, "steps": 5, "batch_size": 10}
    plain = simulate(data, model, SGD(**settings), FedAvg(), rounds=2)
    free = simulate(data, model, FedProx(mu=0.0, **settings), FedAvg(), rounds=2)
    assert all(torch.equal(p, free.params[key]) for key, p in plain.params.items())
    start = Loop(data, SGD(), seed=0).server.state_dict()
    held = simulate(data, model, FedProx(lr=1e-6, mu=1e6, steps=5, batch_size=10), FedAvg(), rounds=2)
    assert all(torch.allclose(p, start[key], atol=1e-5) for key, p in held.params.items())
    assert not all(torch.allclose(p, start[key], atol=1e-3) for key, p in plain.params.items())


def test_scaffold_of_one_step_is_fedavg_and_its_controls_have_mean_zero_change() -> None:
    x = torch.randn(60, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(60) % C
    data = FederatedData(x, y, partition_iid(y, 5, rng=0))
    settings = {"lr": 0.2, "batch_size": 6}
    plain = simulate(data, model, SGD(steps=1, **settings), FedAvg(weighted=False), rounds=1)
    control = simulate(data, model, SCAFFOLD(steps=1, **settings), FedAvgM(weighted=False), rounds=1)
    assert all(torch.allclose(p, control.params[key], atol=1e-15) for key, p in plain.params.items())
    # later the two part, for c_k then differs from c
    plain, control = (
        simulate(data, model, update(steps=3, **settings), FedAvg(weighted=False), rounds=3)
        for update in (SGD, SCAFFOLD)
    )
    assert not all(torch.allclose(p, control.params[key], atol=1e-4) for key, p in plain.params.items())


def test_who_takes_part_does_not_change_a_clients_batches(data: FederatedData) -> None:
    update = SGD(steps=3, batch_size=10)
    alone = batches_of(update, data, 2, round_=4, seed=9)
    streams = [client_stream(9, 4, k) for k in range(K)]
    every = list(local_batches(data.sizes, streams, batch_size=10, steps=3, epochs=1))
    for rows, (places, mask) in zip(alone, every, strict=True):
        kept = places[2] if mask is None else places[2][mask[2]]
        assert torch.equal(rows, data.train[2][kept])
        assert len(rows.unique()) == len(rows) == min(10, int(data.sizes[2]))
    again = batches_of(update, data, 2, round_=5, seed=9)
    assert not torch.equal(torch.stack(alone), torch.stack(again))


def test_epochs_see_every_sample_once(data: FederatedData) -> None:
    for k in range(K):
        rows = torch.cat(batches_of(SGD(epochs=3, batch_size=7), data, k, round_=1, seed=0))
        assert torch.equal(rows.sort().values, data.train[k].repeat(3).sort().values)


def test_personal_normalisation_stays_with_the_client(data: FederatedData) -> None:
    def normed() -> nn.Module:
        return MLP(D, (8,), C, norm="layer").double()

    update = SGD(lr=0.3, steps=4, batch_size=10, personal=normalisation_names(normed()))
    history = simulate(data, normed, update, FedAvg(), rounds=3)
    assert set(history.client_params) == {"features.2.weight", "features.2.bias"}
    scales = history.client_params["features.2.weight"]
    assert scales.shape == (K, 8)
    assert len({tuple(row.tolist()) for row in scales}) == K
    assert torch.equal(history.params["features.2.weight"], torch.ones(8, dtype=torch.float64))
    # each client is tested with its own
    net = normed()
    for k in (0, 3):
        own = {name: value[k] for name, value in history.client_params.items()}
        net.load_state_dict(history.params | own)
        client = data.client(k)
        expected = (net(client.test_x).argmax(1) == client.test_y).double().mean()
        assert float(history.client_accuracy[-1, k]) == pytest.approx(float(expected))
    assert history.bytes_up[0] == K * 8 * sum(p.numel() for n, p in net.named_parameters() if "features.2" not in n)


def test_all_personal_is_training_alone(data: FederatedData) -> None:
    update = SGD(lr=0.3, steps=4, batch_size=10, personal=lambda name: True)
    history = simulate(data, model, update, FedAvg(), rounds=2, seed=3)
    local = Loop(data, update, seed=3).server
    for number in (1, 2):
        optimizer = torch.optim.SGD(local.parameters(), 0.3)
        for rows in batches_of(update, data, 4, number, seed=3):
            optimizer.zero_grad()
            F.cross_entropy(local(data.x[rows]), data.y[rows]).backward()
            optimizer.step()
    for key, p in local.named_parameters():
        assert torch.allclose(history.client_params[key][4], p, atol=1e-12)


def test_running_statistics_are_averaged_and_counters_stay_whole() -> None:
    x, y = torch.randn(48, D, generator=torch.Generator().manual_seed(0)), torch.arange(48) % C
    data = FederatedData(x, y, partition_iid(y, 4, rng=0))

    def normed() -> nn.Module:
        return MLP(D, (8,), C, norm="batch")

    histories = [
        simulate(data, normed, SGD(lr=0.1, steps=2, batch_size=12), FedAvg(), rounds=2, vectorise=vectorise)
        for vectorise in (True, False)
    ]
    for history in histories:
        assert history.buffers["features.2.num_batches_tracked"].dtype == torch.int64
        assert int(history.buffers["features.2.num_batches_tracked"]) == 4
        assert bool((history.buffers["features.2.running_var"] > 0).all())
    assert torch.allclose(*(h.buffers["features.2.running_mean"] for h in histories), atol=1e-6)
    unequal = FederatedData(x, y, [range(3), range(3, 48)])
    with pytest.raises(ValueError, match=r"features.2.*BatchNorm1d.*vectorise=False"):
        simulate(unequal, normed, SGD(steps=2, batch_size=12), FedAvg(), rounds=1)
    simulate(unequal, normed, SGD(steps=2, batch_size=12), FedAvg(), rounds=1, vectorise=False)


def test_frozen_parameters_stay() -> None:
    x, y = torch.randn(40, D), torch.arange(40) % C
    data = FederatedData(x, y, partition_iid(y, 4, rng=0))

    def frozen() -> nn.Module:
        net = MLP(D, (8,), C)
        net.features.requires_grad_(False)
        return net

    history = simulate(data, frozen, SGD(lr=0.1, weight_decay=0.1, steps=2), FedAvg(), rounds=1)
    start = simulate(data, frozen, SGD(lr=0.0, steps=1), FedAvg(), rounds=1)
    assert torch.allclose(history.params["features.1.weight"], start.params["features.1.weight"], atol=1e-7)
    assert not torch.allclose(history.params["head.weight"], start.params["head.weight"], atol=1e-3)


def test_history_counts_and_summarises(data: FederatedData) -> None:
    history = simulate(
        data,
        model,
        SGD(lr=0.5, steps=5),
        FedAvg(),
        rounds=5,
        fraction=0.5,
        eval_every=2,
        measure=lambda seen: {"moved": float((seen.after["head.bias"] - seen.before["head.bias"]).norm())},
    )
    numbers = sum(p.numel() for p in model().parameters())
    assert history.bytes_up.tolist() == history.bytes_down.tolist() == [3 * 8 * numbers] * 5
    assert history.eval_rounds.tolist() == [2, 4, 5]
    assert history.rounds_to(0.0) == 2
    assert history.rounds_to(1.1) is None
    assert len(history.measured["moved"]) == 5
    assert min(history.measured["moved"]) > 0
    last = history.client_accuracy[-1]
    summary = history.client_summary
    assert summary["mean"] == pytest.approx(float(last.mean()))
    assert summary["std"] == pytest.approx(float(last.std()))
    assert summary["worst_decile"] == pytest.approx(float(last.min()))


def test_sampling_is_of_seed_and_round_alone() -> None:
    drawn = [sample_clients(50, 0.3, seed=1, round_=r) for r in range(1, 40)]
    assert all(len(d.unique()) == 15 and bool((d.diff() > 0).all()) for d in drawn)
    assert torch.equal(drawn[4], sample_clients(50, 0.3, seed=1, round_=5))
    assert not torch.equal(drawn[4], sample_clients(50, 0.3, seed=2, round_=5))
    assert set(torch.cat(drawn).tolist()) == set(range(50))
    assert len(sample_clients(5, 0.01, 0, 1)) == 1
    assert len(sample_clients(100, 0.29, 0, 1)) == 29


def test_padded_and_client_agree(data: FederatedData) -> None:
    x, y, mask = data.padded()
    assert x.shape == (K, int(data.sizes.max()), D)
    for k in range(K):
        client = data.client(k)
        assert torch.equal(x[k][mask[k]], client.x)
        assert torch.equal(y[k][mask[k]], client.y)
        assert not x[k][~mask[k]].any()
    held = torch.cat(data.train + data.test_parts)
    assert torch.equal(held.sort().values, torch.arange(N))


def small(update: ClientUpdate, rounds: int = 1, fraction: float = 1.0) -> object:
    return simulate(FederatedData(X, Y, TWO), lambda: nn.Linear(2, 2), update, FedAvg(), rounds, fraction)


X, Y = torch.randn(10, 2), torch.arange(10) % 2
TWO = [[0, 1, 2], [3, 4, 5, 6]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FederatedData(X, Y, []), "no clients"),
        (lambda: FederatedData(X, Y, [[0], []]), "client 1 has no samples"),
        (lambda: FederatedData(X, Y, [[0, 1], [1]]), "held twice"),
        (lambda: FederatedData(X, Y, [[0, 10]]), "outside 0 … 9"),
        (lambda: FederatedData(X, Y, TWO, 1.0), "test_fraction=1.0"),
        (lambda: FederatedData(X, Y[:4], TWO), "10 samples"),
        (lambda: small(SGD(), rounds=0), "rounds=0"),
        (lambda: small(SGD(), fraction=0.0), "fraction=0.0"),
        (
            lambda: simulate(FederatedData(X, Y, TWO), lambda: nn.Linear(2, 2), MOON(), FedAvg(), 1),
            "head='head'",
        ),
        (lambda: SGD(steps=0), "steps=0"),
        (lambda: SGD(batch_size=0), "batch_size=0"),
        (lambda: SGD(lr=-1.0), "lr=-1.0"),
        (lambda: SGD(momentum=float("nan")), "momentum=nan"),
        (lambda: FedProx(mu=-0.1), "mu=-0.1"),
        (lambda: MOON(temperature=0.0), "temperature=0.0"),
        (lambda: SCAFFOLD(momentum=0.5), "momentum=0.5"),
        (lambda: MarginControl(lam=-1.0), "lam=-1.0"),
        (lambda: MarginControl(on="scores"), "on='scores'"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
