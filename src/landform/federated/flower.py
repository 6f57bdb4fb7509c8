"""Federated learning on real machines: any client update and server rule as a pair of Flower apps."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from landform.federated.client import ClientUpdate, State
from landform.federated.data import ClientData, FederatedData
from landform.federated.rounds import sample_clients, train_clients
from landform.federated.server import ServerRule
from landform.federated.simulation import SHARED, Clients, Server
from landform.training.many import Stack, accuracy_many

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import Result

ARRAYS, CONFIG, METRICS, KEPT = "arrays", "config", "metrics", "landform"
CHANGE = "change/"
POLL_SECONDS = 0.5

log = logging.getLogger(__name__)

OwnData = Callable[["Context"], ClientData]


def require_flower() -> None:
    """Import Flower, without its telemetry unless the user has asked for it.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        import flwr.serverapp  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError("Flower is not installed; install it with: pip install 'landform[federated]'") from error


def to_flower(
    client_update: ClientUpdate,
    server_rule: ServerRule,
    *,
    data: FederatedData | OwnData,
    model_fn: Callable[[], nn.Module],
    rounds: int,
    clients: int | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    eval_every: int | None = 1,
    timeout: float = 3600.0,
    finish: Callable[[Result], None] | None = None,
) -> tuple[ClientApp, ServerApp]:
    """What :func:`simulate` does, as a ``ClientApp`` and a ``ServerApp`` for Flower 1.21 and later.

    The same arguments give the same training: a node's ``partition-id`` is its client's number, and names its batches.
    Parameters travel as arrays; nothing is pickled. A client's own state and personal layers stay in its node's
    context. Clients that fail or do not answer in time are left out of the round, which the log says, and the metrics
    of the round, as ``failures``; a round that nobody answers leaves the model as it was. In an app's module give each
    app a line of its own, ``client_app = apps[0]``: ``flwr run`` looks for such assignments.

    Arguments:
        client_update, server_rule, model_fn, rounds, fraction, seed: as of :func:`simulate`. Participants are drawn
            among the connected nodes, in the order of their identifiers.
        data: a function that gives a node its own samples from Flower's context; or all clients' data, of which each
            node takes its part.
        clients: how many nodes there are: the first round waits for them. Needed unless ``data`` holds all clients.
        eval_every: the clients test the model on their own test parts after every so many rounds, and the last; never
            if None.
        timeout: seconds that the first round waits for the nodes, and every round for their answers.
        finish: is given Flower's ``Result`` at the end: ``arrays`` with the last model, and the metrics.

    Raises:
        ImportError: Flower is not installed (the extra ``federated``).
        ValueError: rounds or eval_every below 1, a fraction outside (0, 1], a timeout that is not positive, or an
            unknown number of clients.
    """
    require_flower()
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    for name, value in (("rounds", rounds), ("eval_every", eval_every)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not timeout > 0:
        raise ValueError(f"timeout={timeout}: must be positive")
    if clients is None:
        if not isinstance(data, FederatedData):
            raise ValueError("clients=None: with data of each node's own, say how many clients there are")
        clients = len(data)
    sample_clients(clients, fraction, seed, 1)  # refuses what is out of range

    def begin() -> tuple[Stack, Server]:
        model = Stack.from_factory(model_fn, 1, seed)
        return model, Server(model, client_update, server_rule, clients)

    client_app, server_app = ClientApp(), ServerApp()

    def node(message: Message, context: Context) -> Node:
        return Node(*begin(), data, message, context)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        reply, metrics = node(message, context).train(client_update, seed)
        return Message(
            RecordDict({ARRAYS: ArrayRecord(torch_state_dict=reply), METRICS: MetricRecord(metrics)}), reply_to=message
        )

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({METRICS: MetricRecord(node(message, context).evaluate())}), reply_to=message)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        _, server = begin()
        wait_for_nodes(grid, clients, timeout)
        strategy = rule_strategy(server, fraction, seed, rounds, eval_every)
        initial = ArrayRecord(torch_state_dict=server.message())
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds, timeout=timeout)
        if finish is not None:
            finish(result)

    return client_app, server_app


class Node:
    """A client as a Flower node: its samples, what it has received, and what it keeps in its context."""

    def __init__(
        self, model: Stack, server: Server, data: FederatedData | OwnData, message: Message, context: Context
    ) -> None:
        self.number = int(context.node_config["partition-id"])
        self.data = data.client(self.number) if isinstance(data, FederatedData) else data(context)
        self.context, self.message = context, message
        device = self.data.x.device
        received = {n: t.to(device) for n, t in message.content.array_records[ARRAYS].to_torch_state_dict().items()}
        self.model = model.to(device)
        self.shared = {n.removeprefix(SHARED): t for n, t in received.items() if n.startswith(SHARED)}
        self.own = Clients(server, 1)
        self._restore()
        first = torch.zeros(1, dtype=torch.long)
        start = [
            tensors | {n: received[n] for n in tensors if n in received} for tensors in (server.params, server.buffers)
        ]
        self.params = self.own.start(start[0], self.own.params, first)
        self.buffers = self.own.start(start[1], self.own.buffers, first)

    def _places(self) -> dict[str, tuple[State, str]]:
        """Where each kept tensor lies, by its name in the node's context."""
        return {
            f"{kind}/{name}": (tensors, name)
            for kind, tensors in (("state", self.own.state), ("params", self.own.params), ("buffers", self.own.buffers))
            for name in tensors
        }

    def _restore(self) -> None:
        if KEPT in self.context.state:
            kept = self.context.state.array_records[KEPT].to_torch_state_dict()
            for key, (tensors, name) in self._places().items():
                tensors[name] = kept[key].to(self.data.x.device)

    def _store(self) -> None:
        from flwr.app import ArrayRecord

        kept = {key: tensors[name] for key, (tensors, name) in self._places().items()}
        if kept:
            self.context.state[KEPT] = ArrayRecord(torch_state_dict=kept)

    def train(self, update: ClientUpdate, seed: int) -> tuple[State, dict[str, Any]]:
        """What the client sends back after its local training, and its metrics."""
        n = len(self.data.x)
        alone = FederatedData(self.data.x, self.data.y, [range(n)])
        local = train_clients(
            self.model,
            alone,
            update,
            [0],
            self.params,
            buffers=self.buffers,
            state=self.own.state,
            shared=self.shared,
            round_=int(cast(int, self.message.content.config_records[CONFIG]["server-round"])),
            seed=seed,
            numbers=[self.number],
        )
        change = self.own.keep(torch.zeros(1, dtype=torch.long), local)
        self._store()
        sent = {n: t[0] for n, t in (local.params | local.buffers).items() if not update.is_personal(n)}
        if self.shared:
            sent |= {CHANGE + name: value[0] for name, value in change.items()}
        return sent, {"num-examples": n, "loss": float(local.losses[0])}

    def evaluate(self) -> dict[str, Any]:
        """The accuracy on the client's own test part."""
        n = len(self.data.test_x)
        if not n:
            return {"num-examples": 0, "accuracy": 0.0}
        self.model.params, self.model.buffers = self.params, self.buffers
        return {
            "num-examples": n,
            "accuracy": float(accuracy_many(self.model, self.data.test_x, self.data.test_y)[0]),
        }


def wait_for_nodes(grid: Grid, clients: int, timeout: float) -> None:
    """Wait until so many nodes are connected; after ``timeout`` seconds go on with those that are, and say so.

    Raises:
        TimeoutError: there is none at all.
    """
    until = time.monotonic() + timeout
    while (found := len(list(grid.get_node_ids()))) < clients and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    if not found:
        raise TimeoutError(f"no node connected within {timeout:g} s")
    if found < clients:
        log.warning("only %d of %d nodes connected within %g s; going on with them", found, clients, timeout)


def rule_strategy(server: Server, fraction: float, seed: int, rounds: int, eval_every: int | None) -> Any:
    """Flower's ``Strategy`` for a server."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
    from flwr.serverapp.strategy import Strategy

    class RuleStrategy(Strategy):
        """Sends the server's model to the round's participants, and combines what comes back."""

        asked: list[int]

        def summary(self) -> None:
            log.info("%s with %s", type(server.rule).__name__, type(server.update).__name__)

        def _messages(self, nodes: list[int], kind: str, round_: int) -> list[Message]:
            self.asked = nodes
            config = ConfigRecord({"server-round": round_})
            content = RecordDict({ARRAYS: ArrayRecord(torch_state_dict=server.message()), CONFIG: config})
            return [Message(content, message_type=kind, dst_node_id=node) for node in nodes]

        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            nodes = sorted(grid.get_node_ids())
            if not nodes:
                self.asked = []
                return []
            chosen = sample_clients(len(nodes), fraction, seed, server_round).tolist()
            return self._messages([nodes[i] for i in chosen], MessageType.TRAIN, server_round)

        def aggregate_train(
            self, server_round: int, replies: Iterable[Message]
        ) -> tuple[ArrayRecord | None, MetricRecord | None]:
            answers = self._answers(server_round, replies)
            metrics: dict[str, Any] = {"num-examples": 0, "failures": len(self.asked) - len(answers)}
            if not answers:
                return None, MetricRecord(metrics)
            sizes = column(answers, "num-examples")
            received = [answer.array_records[ARRAYS].to_torch_state_dict() for answer in answers]
            stacked: State = {name: torch.stack([one[name] for one in received]) for name in received[0]}
            server.combine(
                {name: value for name, value in stacked.items() if name in server.params},
                {name: value for name, value in stacked.items() if name in server.buffers},
                {n.removeprefix(CHANGE): value for n, value in stacked.items() if n.startswith(CHANGE)},
                sizes,
            )
            losses = column(answers, "loss")
            metrics |= {"num-examples": int(sizes.sum()), "loss": mean(losses, sizes)}
            return ArrayRecord(torch_state_dict=server.message()), MetricRecord(metrics)

        def configure_evaluate(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            self.asked = []
            if eval_every is None or (server_round % eval_every and server_round != rounds):
                return []
            return self._messages(sorted(grid.get_node_ids()), MessageType.EVALUATE, server_round)

        def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
            answers = self._answers(server_round, replies)
            sizes = column(answers, "num-examples")
            if not len(answers) or not int(sizes.sum()):
                return None
            accuracies = column(answers, "accuracy")
            return MetricRecord({"num-examples": int(sizes.sum()), "accuracy": mean(accuracies, sizes)})

        def _answers(self, round_: int, replies: Iterable[Message]) -> list[RecordDict]:
            """The contents of the replies, in the order of their nodes, less those that are errors."""
            found = {}
            for reply in replies:
                if reply.has_error():
                    log.warning("round %d: node %d failed: %s", round_, reply.metadata.src_node_id, reply.error.reason)
                else:
                    found[reply.metadata.src_node_id] = reply.content
            if missing := sorted(set(self.asked) - set(found)):
                log.warning("round %d goes on without node(s) %s", round_, ", ".join(map(str, missing)))
            return [found[node] for node in sorted(found)]

    return RuleStrategy()


def column(answers: list[RecordDict], name: str) -> Tensor:
    """A metric of each answer."""
    return torch.tensor([answer.metric_records[METRICS][name] for answer in answers], dtype=torch.float64)


def mean(values: Tensor, sizes: Tensor) -> float:
    """The mean, weighted by sizes."""
    return float(values @ sizes / sizes.sum())
