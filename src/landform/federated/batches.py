"""The batches of a round's clients, drawn for all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from landform.training.many.seeds import seed_stream, stream_seed

BLOCK = 4_000_000  # random numbers held at a time

Places = tuple[Int[Tensor, "clients batch"], Bool[Tensor, "clients batch"] | None]


def client_stream(seed: int, round_: int, client: int) -> torch.Generator:
    """The generator of a client's batches in a round: whoever else takes part, and wherever it runs."""
    return seed_stream(stream_seed(seed, round_, "order"), client)


def local_batches(
    sizes: Int[Tensor, " clients"],
    streams: Sequence[torch.Generator],
    *,
    batch_size: int | None,
    steps: int | None,
    epochs: int,
) -> Iterator[Places]:
    """For each step of a round the places (m, B) among each client's own samples, and which of them count.

    With ``steps`` each batch is a uniform subset of min(batch_size, n_k) samples, drawn without replacement. Without,
    every client deals ``epochs`` permutations of its samples, each ending in a batch that may be short; clients with
    fewer batches than others have none at the end. A batch is as wide as its largest; None instead of a mask: all
    places count.
    """
    largest = int(sizes.max())
    b = largest if batch_size is None else min(batch_size, largest)
    drawn = _resample(sizes, streams, b, steps) if steps is not None else _epochs(sizes, streams, b, epochs)
    for places, mask in drawn:
        width = int(mask.sum(1).max())  # what counts comes first
        places, mask = places[:, :width], mask[:, :width]
        yield (places, None) if bool(mask.all()) else (places.masked_fill(~mask, 0), mask)


def _keys(streams: Sequence[torch.Generator], sizes: Tensor, rows: int) -> Tensor:
    """(m, rows, n_max) uniform numbers, each client's from its own stream; infinite beyond its samples."""
    keys = torch.full((len(streams), rows, int(sizes.max())), torch.inf, dtype=torch.float64)
    for row, stream, n in zip(keys, streams, sizes.tolist(), strict=True):
        row[:, :n] = torch.rand(rows, n, generator=stream, dtype=torch.float64)
    return keys


def _resample(sizes: Tensor, streams: Sequence[torch.Generator], b: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    ahead = max(1, BLOCK // (len(sizes) * int(sizes.max())))
    for start in range(0, steps, ahead):
        places = _keys(streams, sizes, min(ahead, steps - start)).topk(b, largest=False).indices
        mask = places < sizes[:, None, None]
        yield from zip(places.unbind(1), mask.unbind(1), strict=True)


def _epochs(sizes: Tensor, streams: Sequence[torch.Generator], b: int, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    orders = _keys(streams, sizes, epochs).argsort(dim=2)
    per_epoch = -(-sizes // b)
    clients = torch.arange(len(sizes))
    for t in range(epochs * int(per_epoch.max())):
        epoch, batch = t // per_epoch, t % per_epoch
        rank = batch[:, None] * b + torch.arange(b)
        mask = (rank < sizes[:, None]) & (epoch < epochs)[:, None]
        places = orders[clients, epoch.clamp(max=epochs - 1)].gather(1, rank.clamp(max=orders.shape[2] - 1))
        yield places, mask
