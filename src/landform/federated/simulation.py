"""Federated learning in one process, with all participants of a round trained at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.federated.client import ClientUpdate, State
from landform.federated.data import FederatedData
from landform.federated.rounds import LocalRound, sample_clients, train_clients
from landform.federated.server import ServerRule, average
from landform.training.many import Stack
from landform.training.memory import keep_freed_memory


@dataclass(frozen=True)
class Round:
    """What :func:`simulate` hands to ``measure`` after a round.

    Attributes:
        number: 1, 2, …
        clients: the participants.
        num_samples: how many samples each trained on.
        before, after: the server's parameters.
        buffers: the server's buffers after the round.
        client_params, client_buffers: those of the participants after local training, (m, …).
        model: a stack of the architecture, which runs any of these.
    """

    number: int
    clients: Int[Tensor, " participants"]
    num_samples: Int[Tensor, " participants"]
    before: State
    after: State
    buffers: State
    client_params: State
    client_buffers: State
    model: Stack


SHARED = "shared/"  # no module's name holds a slash

Measure = Callable[[Round], Mapping[str, float]]


@dataclass(frozen=True)
class History:
    """What a federated training came to.

    Attributes:
        losses: (R,) the participants' mean training loss of each round, weighted by their samples.
        participants: those of each round.
        eval_rounds: (E,) the rounds after which accuracy was measured.
        accuracy: (E,) on the common test set (where layers are personal, the mean over clients); NaN without one.
        client_accuracy: (E, K) of each client's model on its own test part; NaN where it has none.
        bytes_up, bytes_down: (R,) what the participants sent and received in each round.
        params, buffers: the server's last model, by name; personal tensors are those of the start.
        client_params, client_buffers: each client's last personal tensors, (K, …).
        measured: (R,) or fewer values of each name that ``measure`` gave.
    """

    losses: Float[Tensor, " rounds"]
    participants: list[Int[Tensor, " participants"]]
    eval_rounds: Int[Tensor, " evaluations"]
    accuracy: Float[Tensor, " evaluations"]
    client_accuracy: Float[Tensor, "evaluations clients"]
    bytes_up: Int[Tensor, " rounds"]
    bytes_down: Int[Tensor, " rounds"]
    params: State
    buffers: State
    client_params: State
    client_buffers: State
    measured: dict[str, list[float]]

    def rounds_to(self, accuracy: float) -> int | None:
        """The first evaluated round with at least this accuracy, or None."""
        reached = self.eval_rounds[self.accuracy >= accuracy]
        return int(reached[0]) if len(reached) else None

    @property
    def client_summary(self) -> dict[str, float]:
        """Mean, standard deviation and worst decile of the clients' accuracies at the last evaluation.

        The worst decile is the mean over the tenth of the clients, at least one, that fare worst.
        """
        last = self.client_accuracy[-1]
        last = last[~last.isnan()].sort().values
        if not len(last):
            return dict.fromkeys(("mean", "std", "worst_decile"), float("nan"))
        worst = last[: max(1, len(last) // 10)]
        spread = last.std() if len(last) > 1 else last.new_zeros(())
        return {"mean": float(last.mean()), "std": float(spread), "worst_decile": float(worst.mean())}


def simulate(
    data: FederatedData,
    model_fn: Callable[[], nn.Module],
    client_update: ClientUpdate,
    server_rule: ServerRule,
    rounds: int,
    fraction: float = 1.0,
    seed: int = 0,
    eval_every: int = 1,
    vectorise: bool = True,
    *,
    measure: Measure | None = None,
) -> History:
    """Federated training: in each round the server sends its model, the participants train it, the server combines.

    All participants of a round train at once, as a stack of models, with what a loop over them gives: the same batches
    whoever else takes part, clients of unequal size by masks. Only dropout draws other numbers. Floating-point buffers
    (running statistics) are averaged by the clients' samples, whatever the rule; integer ones are rounded.

    Arguments:
        data: the clients and their samples; its device is where all runs.
        model_fn: makes the server's first model, from PyTorch's global generator seeded by ``seed``.
        client_update: what a client does, such as ``SGD(lr=0.05, steps=12, batch_size=20)``.
        server_rule: what the server does, such as ``FedAvg()``.
        rounds: how many, at least 1.
        fraction: of the clients that take part in a round, in (0, 1].
        seed: names the first model, the participants of each round, and every client's batches.
        eval_every: accuracy is measured after every so many rounds, and after the last.
        vectorise: False trains one client after another.
        measure: is given every :class:`Round`, and gives named numbers for ``History.measured``.

    Raises:
        ValueError: rounds or eval_every below 1, a fraction outside (0, 1], or what a part of it refuses.

    >>> from landform.federated import SGD, FedAvg, FederatedData, partition_iid
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> data = FederatedData(x, y, partition_iid(y, 5, rng=0), test_fraction=0.25)
    >>> simulate(data, lambda: nn.Linear(4, 3), SGD(lr=0.1), FedAvg(), rounds=2).losses.shape
    torch.Size([2])
    """
    for option, least in (("rounds", rounds), ("eval_every", eval_every)):
        if least < 1:
            raise ValueError(f"{option}={least}: must be at least 1")
    sample_clients(len(data), fraction, seed, 1)  # refuses a wrong fraction before any work
    if data.x.device.type == "cpu":
        keep_freed_memory()
    model = Stack.from_factory(model_fn, 1, seed, engine="auto" if vectorise else "loop").to(data.x.device)
    server = Server(model, client_update, server_rule, len(data))
    own = Clients(server, len(data))
    losses, participants, sent, measured = [], [], [], defaultdict(list)
    eval_rounds, accuracies, client_accuracies = [], [], []
    for number in range(1, rounds + 1):
        ids = sample_clients(len(data), fraction, seed, number)
        local = train_clients(
            model,
            data,
            client_update,
            ids,
            own.start(server.params, own.params, ids),
            buffers=own.start(server.buffers, own.buffers, ids),
            state={name: value[ids] for name, value in own.state.items()},
            shared=server.shared,
            round_=number,
            seed=seed,
            together=None if vectorise else 1,
        )
        num_samples = data.sizes[ids].to(data.x.device)
        before = server.params
        change = own.keep(ids, local)
        server.combine(local.params, local.buffers, change, num_samples)
        losses.append(local.losses.double() @ (num_samples.double() / num_samples.sum()))
        participants.append(ids)
        sent.append(len(ids) * server.message_bytes)
        if measure is not None:
            after = server.params, server.buffers
            seen = Round(number, ids, num_samples, before, *after, local.params, local.buffers, model)
            for name, value in measure(seen).items():
                measured[name].append(float(value))
        if number % eval_every == 0 or number == rounds:
            eval_rounds.append(number)
            common, each = _evaluate(data, model, server, own)
            accuracies.append(common)
            client_accuracies.append(each)
    return History(
        torch.stack(losses).cpu(),
        participants,
        torch.tensor(eval_rounds),
        torch.tensor(accuracies, dtype=torch.float64),
        torch.stack(client_accuracies).cpu(),
        torch.tensor(sent),
        torch.tensor(sent),
        server.params,
        server.buffers,
        own.params,
        own.buffers,
        dict(measured),
    )


class Server:
    """The server's model, and what its rule and the clients' method keep there between rounds."""

    def __init__(self, model: Stack, update: ClientUpdate, rule: ServerRule, clients: int) -> None:
        self.update, self.rule, self.clients = update, rule, clients
        self.params: State = {name: p.detach()[0].clone() for name, p in model.params.items()}
        self.buffers: State = {name: b[0].clone() for name, b in model.buffers.items()}
        self.shared = update.init_shared(self.params)
        self.state: Any = rule.init(self._common(self.params))

    def _common(self, tensors: State) -> State:
        return {name: value for name, value in tensors.items() if not self.update.is_personal(name)}

    def message(self) -> State:
        """What one participant receives: all but personal tensors, and under ``shared/`` what the method adds."""
        shared = {SHARED + name: value for name, value in self.shared.items()}
        return self._common(self.params) | self._common(self.buffers) | shared

    @property
    def message_bytes(self) -> int:
        """The size of a message; what a participant sends back is as large."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.message().values())

    def combine(self, params: State, buffers: State, change: State, num_samples: Tensor) -> None:
        """Take in what the participants sent: their models, and how much their states changed, (m, …)."""
        common = self._common(self.params)
        if common:
            moved, self.state = self.rule.aggregate(self.state, common, self._common(params), num_samples)
            self.params = self.params | moved
        self.buffers = self.buffers | average(self._common(buffers), num_samples)
        self.shared = self.update.merge(self.shared, change, self.clients)


class Clients:
    """What the clients keep between rounds, (K, …): their method's state, and personal parameters and buffers."""

    def __init__(self, server: Server, clients: int) -> None:
        def each(tensors: State) -> State:
            return {name: value.expand(clients, *value.shape).clone() for name, value in tensors.items()}

        def personal(tensors: State) -> State:
            return {name: value for name, value in tensors.items() if server.update.is_personal(name)}

        self.state = each(server.update.init_state(server.params))
        self.params, self.buffers = each(personal(server.params)), each(personal(server.buffers))

    @staticmethod
    def start(server: State, personal: State, ids: Tensor) -> State:
        """What each participant begins with: its own personal tensors, and else the server's."""
        return {
            name: personal[name][ids] if name in personal else value.expand(len(ids), *value.shape)
            for name, value in server.items()
        }

    def keep(self, ids: Tensor, local: LocalRound) -> State:
        """Store what the participants keep; gives how much their states changed."""
        change = {name: value - self.state[name][ids] for name, value in local.state.items()}
        for stored, new in ((self.state, local.state), (self.params, local.params), (self.buffers, local.buffers)):
            for name in stored:
                stored[name][ids] = new[name]
        return change


@torch.no_grad()
def _evaluate(data: FederatedData, model: Stack, server: Server, own: Clients) -> tuple[float, Tensor]:
    """Accuracy on the common test set, and of each client on its own test part, (K,)."""
    personal = bool(own.params or own.buffers)
    ids = torch.arange(len(data)) if personal else torch.arange(1)
    params, buffers = (
        Clients.start(tensors, mine, ids)
        for tensors, mine in ((server.params, own.params), (server.buffers, own.buffers))
    )
    mode = model.training
    model.eval()
    try:

        def right(x: Tensor, y: Tensor) -> Tensor:
            outputs = [model.forward(params, buffers, part, shared=True).argmax(-1) for part in x.split(1000)]
            return torch.cat(outputs, dim=1) == y

        common = float("nan")
        if data.test is not None:
            common = float(right(*data.test).double().mean())
        each = torch.full((len(data),), torch.nan, dtype=torch.float64)
        together = torch.cat(data.test_parts)
        if len(together):
            hits = right(data.x[together], data.y[together]).double().cpu()
            counts = torch.tensor([len(part) for part in data.test_parts])
            owner = torch.arange(len(data)).repeat_interleave(counts)
            hits = hits[owner, torch.arange(len(together))] if personal else hits[0]
            each = torch.zeros(len(data), dtype=torch.float64).index_add(0, owner, hits) / counts
        return common, each
    finally:
        model.train(mode)
