"""One round on the clients' side: the participants, and their local training, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from landform.federated.batches import client_stream, local_batches
from landform.federated.client import Batch, ClientUpdate, Context, State
from landform.federated.data import FederatedData
from landform.training.many import Stack, StackedSGD
from landform.training.many.seeds import stream_seed

NUMBERS = 200_000_000
"""Parameters of all clients that train together; beyond, they take turns."""


def sample_clients(clients: int, fraction: float, seed: int, round_: int) -> Int[Tensor, " participants"]:
    """The participants of a round in increasing order: max(⌊fraction · K⌋, 1) of the K clients, without replacement.

    Drawn from a generator of the seed and the round alone, so that all methods meet the same clients.

    Raises:
        ValueError: fewer than one client, or a fraction outside (0, 1].

    >>> len(sample_clients(100, 0.1, seed=0, round_=1))
    10
    """
    if clients < 1:
        raise ValueError(f"clients={clients}: must be at least 1")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: must be in (0, 1]")
    if fraction == 1:
        return torch.arange(clients)
    generator = torch.Generator().manual_seed(stream_seed(seed, round_, "shared"))
    # ⌊0.29 · 100⌋ is 29 for whoever wrote 0.29, whatever its binary value
    count = max(int(fraction * clients + 1e-9), 1)
    return torch.randperm(clients, generator=generator)[:count].sort().values


@dataclass(frozen=True)
class LocalRound:
    """What m participants made of a round; all tensors have them on the first axis.

    Attributes:
        params, buffers: of their models.
        state: what they keep for the next round.
        losses: each client's mean loss over its steps.
    """

    params: State
    buffers: State
    state: State
    losses: Float[Tensor, " clients"]


def train_clients(
    model: Stack,
    data: FederatedData,
    update: ClientUpdate,
    clients: Int[Tensor, " participants"] | Sequence[int],
    params: State,
    *,
    buffers: State | None = None,
    state: State | None = None,
    shared: State | None = None,
    round_: int = 1,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    together: int | None = None,
) -> LocalRound:
    """Train the participants of a round, as a loop over them would, all at once.

    Arguments:
        model: a stack of the architecture, of any length; only its way of running models is used.
        clients: the participants' places in ``data``.
        params, buffers: that each begins with, (m, …).
        state: what each keeps (m, …), as ``update.init_state`` makes it.
        shared: what the server sends besides (not stacked), as ``update.init_shared`` makes it.
        round_, seed: name the participants' batches, with their numbers.
        numbers: the participants' numbers where they are not their places.
        together: how many train at once; as many as fit 2 · 10⁸ parameters if None.
    """
    ids = torch.as_tensor(clients, dtype=torch.long)
    streams = [client_stream(seed, round_, k) for k in (ids.tolist() if numbers is None else numbers)]
    buffers, state, shared = buffers or {}, state or {}, shared or {}
    if together is None:
        together = max(1, NUMBERS // sum(p[0].numel() for p in params.values()))
    parts = []
    for start in range(0, len(ids), together):
        rows = slice(start, start + together)
        begin, statistics, kept = (
            {name: value[rows] for name, value in tensors.items()} for tensors in (params, buffers, state)
        )
        parts.append(
            _train(model, data, update, ids[rows], begin, statistics, kept, shared, update.lr_of(round_), streams[rows])
        )
    if len(parts) == 1:
        return parts[0]
    return LocalRound(
        _joined([part.params for part in parts]),
        _joined([part.buffers for part in parts]),
        _joined([part.state for part in parts]),
        torch.cat([part.losses for part in parts]),
    )


def _joined(states: list[State]) -> State:
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def _train(
    model: Stack,
    data: FederatedData,
    update: ClientUpdate,
    ids: Tensor,
    start: State,
    buffers: State,
    state: State,
    shared: State,
    lr: float,
    streams: Sequence[torch.Generator],
) -> LocalRound:
    sizes, members, device = data.sizes[ids], data.members[ids], data.x.device
    own = {name: p.detach().clone() for name, p in start.items()}
    trained = [p.requires_grad_() for name, p in own.items() if model.params[name].requires_grad]
    buffers = {name: b.clone() for name, b in buffers.items()}
    ctx = Context(model, buffers, start, state, shared, lr)
    optimizer = StackedSGD(trained, ctx.lr, update.momentum, update.weight_decay)
    totals, counts = start[next(iter(start))].new_zeros(len(ids)), torch.zeros(len(ids), device=device)
    batches = local_batches(
        sizes, streams, batch_size=update.batch_size, steps=update.steps, epochs=update.epochs
    )  # fmt: skip
    for places, mask in batches:
        index = members.gather(1, places).to(device)
        x = data.x[index]
        if update.augment is not None:
            x = torch.stack([update.augment(inputs, stream) for inputs, stream in zip(x, streams, strict=True)])
        if mask is not None:
            mask = mask.to(device)
            _check_batch_norm(model)
        losses = update.local_step(own, Batch(x, data.y[index], mask), ctx)
        grads = torch.autograd.grad(losses.sum(), trained, allow_unused=True)
        active = None if mask is None else mask.any(1)
        for p, grad in zip(trained, grads, strict=True):
            p.grad = grad
        optimizer.step(active=active)
        if active is None:
            totals, counts = totals + losses.detach(), counts + 1
        else:
            totals, counts = totals + torch.where(active, losses.detach(), 0.0), counts + active
    own = {name: p.detach() for name, p in own.items()}
    with torch.no_grad():
        return LocalRound(own, buffers, update.finish(own, ctx, counts.to(totals)), totals / counts)


def _check_batch_norm(model: Stack) -> None:
    """That what fills up a client's batch cannot leak into batch statistics."""
    for name, layer in model.template.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise ValueError(
                f"model: layer {name!r} ({type(layer).__name__}) normalises over the batch, and clients of unequal "
                "size fill up theirs; use group normalisation, or vectorise=False"
            )
