"""A Flower grid in this process: drives real apps and strategies without Ray, sockets or threads."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from landform.federated.flower import require_flower

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

SERVER = 2**32  # a node number that no client has
CLIENT_APP_RAISED_EXCEPTION = 2  # Flower's number for it

log = logging.getLogger(__name__)


class LocalGrid:
    """Nodes 0 … clients − 1 of a ``ClientApp``, called one after another as messages for them come.

    It counts as a ``flwr.serverapp.Grid``, for ``Strategy.start`` of Flower's own strategies too. Each node's context
    persists over rounds, and has ``partition-id`` and ``num-partitions`` as in Flower's simulation. What a client
    raises comes back as an error reply, as it would from a machine.

    Arguments:
        client_app: what the nodes run.
        clients: how many nodes there are.

    Raises:
        ImportError: Flower is not installed (the extra ``federated``).
        ValueError: fewer than one client.
    """

    def __init__(self, client_app: ClientApp, clients: int) -> None:
        if clients < 1:
            raise ValueError(f"clients={clients}: must be at least 1")
        require_flower()
        from flwr.serverapp import Grid

        Grid.register(LocalGrid)
        identify()
        self.client_app = client_app
        self.contexts = {
            node: new_context(node, {"partition-id": node, "num-partitions": clients}) for node in range(clients)
        }

    def serve(self, server_app: ServerApp) -> None:
        """Run a ``ServerApp`` over these nodes."""
        server_app(self, new_context(SERVER, {}))  # type: ignore[arg-type]  # registered as a Grid

    def get_node_ids(self) -> list[int]:
        """The nodes' numbers."""
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """What the nodes answer; they are never late."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        from flwr.app import Error, Message

        node = message.metadata.dst_node_id
        try:
            return self.client_app(message, self.contexts[node])
        except Exception as error:  # whatever a client does, the others go on
            log.warning("node %d raised %r", node, error)
            return Message(Error(code=CLIENT_APP_RAISED_EXCEPTION, reason=repr(error)), reply_to=message)


def new_context(node: int, config: dict[str, Any]) -> Context:
    """An empty context of a node."""
    from flwr.app import Context, RecordDict

    return Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})


def identify() -> None:
    """Say whose messages this process makes. Flower keeps that in a private place, set by its own launchers.

    Raises:
        ImportError: this version of Flower keeps it elsewhere.
    """
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError as error:
        raise ImportError("this version of Flower cannot make messages in a process of one's own") from error
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SERVER, 1
