"""What a client does in a round: the protocol, and plain local SGD."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from landform.training.many.stack import Stack
from landform.training.many.train import SampleLoss, cross_entropy, sample_losses

State = dict[str, Tensor]
"""Tensors by name: a model's parameters, or what a client or the server keeps between rounds."""

Augment = Callable[[Shaped[Tensor, "batch ..."], torch.Generator], Shaped[Tensor, "batch ..."]]


@dataclass(frozen=True)
class Batch:
    """One step's batches of m clients; ``mask`` says which samples count, all where it is None."""

    x: Shaped[Tensor, "clients batch ..."]
    y: Shaped[Tensor, "clients batch ..."]
    mask: Bool[Tensor, "clients batch"] | None = None

    def mean(self, each: Float[Tensor, "clients batch"]) -> Float[Tensor, " clients"]:
        """The mean of a value a sample over each client's samples that count."""
        if self.mask is None:
            return each.mean(1)
        # where, not a product: what does not count may be infinite
        return torch.where(self.mask, each, 0.0).sum(1) / self.mask.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Context:
    """What a local step may know besides its batch. Tensors have the m clients on their first axis, but for ``shared``.

    Attributes:
        model: runs the models of m clients at once.
        buffers: of the models; a forward pass in training mode updates them.
        start: the parameters that the round began with.
        state: what each client keeps between rounds (:meth:`ClientUpdate.init_state`).
        shared: what the server keeps and sends with the model (:meth:`ClientUpdate.init_shared`), alike for all.
        lr: the learning rate of this round.
    """

    model: Stack
    buffers: State
    start: State
    state: State
    shared: State
    lr: float

    def forward(self, params: State, x: Shaped[Tensor, "clients batch ..."]) -> Shaped[Tensor, "clients batch ..."]:
        """What each client's model gives on its own batch."""
        return self.model.forward(params, self.buffers, x, shared=False)


@dataclass(frozen=True, kw_only=True)
class ClientUpdate(ABC):
    """A client's local training: SGD on :meth:`local_step`'s loss, started afresh from the received model each round.

    A step is that of ``torch.optim.SGD``: momentum without dampening, and weight decay added to the gradient. A client
    trains for ``epochs`` over its samples, or for ``steps`` if given: batches drawn without replacement, alike in
    number for all clients, which is what a comparison of aggregation rules needs.

    Arguments:
        lr: the learning rate, or a function that gives it from the number of the round (1, 2, …).
        momentum, weight_decay: of SGD. Momentum starts from zero each round.
        steps, epochs: how long a client trains in a round; ``steps`` takes precedence.
        batch_size: samples in a batch, all of the client's if None; clients with fewer take all they have.
        loss: the loss of each sample of one client, (outputs, targets) → (batch,).
        personal: names the parameters and buffers that never leave the client, as in FedBN (see
            :func:`normalisation_names`); all of them make local-only training.
        augment: changes a client's batch of inputs before each step, (x, generator) → x.

    Raises:
        ValueError: a setting out of range.
    """

    lr: float | Callable[[int], float] = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    steps: int | None = None
    epochs: int = 1
    batch_size: int | None = 32
    loss: SampleLoss = cross_entropy
    personal: Callable[[str], bool] | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not callable(self.lr):
            check_number("lr", self.lr)
        for name in ("momentum", "weight_decay"):
            check_number(name, getattr(self, name))

    @abstractmethod
    def local_step(self, params: State, batch: Batch, ctx: Context) -> Float[Tensor, " clients"]:
        """The loss that each client descends at one step, (m,), from parameters (m, …)."""

    def init_state(self, params: State) -> State:
        """What one client keeps between rounds before its first, given the server's first model."""
        return {}

    def init_shared(self, params: State) -> State:
        """What the server keeps for this method besides the model, and sends with it."""
        return {}

    def finish(self, params: State, ctx: Context, steps: Float[Tensor, " clients"]) -> State:
        """What each client keeps after a round of so many steps that ended with ``params``, (m, …)."""
        return ctx.state

    def merge(self, shared: State, change: State, clients: int) -> State:
        """What the server keeps after a round.

        Arguments:
            change: by how much the participants' states changed, (m, …).
            clients: how many there are in all.
        """
        return shared

    def lr_of(self, round_: int) -> float:
        """The learning rate of a round."""
        return self.lr(round_) if callable(self.lr) else self.lr

    def is_personal(self, name: str) -> bool:
        """Whether a parameter or buffer stays with the client."""
        return self.personal is not None and self.personal(name)


@dataclass(frozen=True, kw_only=True)
class SGD(ClientUpdate):
    """The local training of FedAvg: the mean loss of the batch, and nothing else (McMahan et al., arXiv 1602.05629).

    >>> SGD(lr=0.1, steps=5, batch_size=20).lr_of(1)
    0.1
    """

    def local_step(self, params: State, batch: Batch, ctx: Context) -> Float[Tensor, " clients"]:
        return self.data_loss(ctx.forward(params, batch.x), batch)

    def data_loss(self, outputs: Shaped[Tensor, "clients batch ..."], batch: Batch) -> Float[Tensor, " clients"]:
        """The mean of the samples' losses."""
        return batch.mean(sample_losses(self.loss, outputs, batch.y, shared=False))


def squared_distance(params: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Float[Tensor, " clients"]:
    """‖w − v‖² over all tensors, for each client."""
    return torch.stack([rows(p - others[name]).square().sum(1) for name, p in params.items()]).sum(0)


def rows(values: Shaped[Tensor, "clients ..."]) -> Shaped[Tensor, "clients d"]:
    """Each client's numbers in a row."""
    return values.reshape(len(values), -1)


def check_number(name: str, value: float, *, below: float = float("inf")) -> None:
    """That a setting is finite, not negative and less than ``below``."""
    if not 0 <= value < below:
        allowed = "finite and at least 0" if below == float("inf") else f"in [0, {below:g})"
        raise ValueError(f"{name}={value}: must be {allowed}")
