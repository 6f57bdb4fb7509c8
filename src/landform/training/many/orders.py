"""Which samples each model of a stack sees at each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from landform.training.many.seeds import seed_stream

Order = Literal["independent", "shared"]
Batching = Literal["resample", "epoch", "masked"]

BLOCK = 200_000  # indices drawn at a time


def subset_masks(
    count: int, n: int, keep: float, *, balanced: bool = False, generator: torch.Generator | None = None
) -> Bool[Tensor, "count n"]:
    """Random training subsets: ``masks[m, i]`` says whether model m may see sample i.

    Each sample is kept with probability ``keep``, independently; or with ``balanced=True`` every model keeps exactly
    round(keep · n) samples, chosen uniformly, and the numbers of models that keep two samples differ by at most one.

    Raises:
        ValueError: count or n below 1, keep outside (0, 1], or subsets that come out empty.

    >>> subset_masks(4, 10, 0.5, balanced=True, generator=torch.Generator().manual_seed(0)).sum(1).tolist()
    [5, 5, 5, 5]
    """
    if count < 1 or n < 1:
        raise ValueError(f"count={count}, n={n}: must be at least 1")
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: must be more than 0 and at most 1")
    if not balanced:
        masks = torch.rand(count, n, generator=generator) < keep
    else:
        size = round(keep * n)
        masks = torch.zeros(count, n, dtype=torch.bool)
        deck = torch.empty(0, dtype=torch.long)  # samples not yet dealt in this round
        for m in range(count):
            if len(deck) < size:
                fresh = torch.randperm(n, generator=generator)
                held = torch.isin(fresh, deck)
                deck = torch.cat([deck, fresh[~held], fresh[held]])  # a sample dealt from the old round waits
            masks[m, deck[:size]] = True
            deck = deck[size:]
    if not bool(masks.any(1).all()):
        raise ValueError(f"keep={keep} of n={n} samples leaves a model without any")
    return masks


class Orders:
    """The batches of each model: indices (M, B), and weights that leave entries out where there are such.

    "resample" draws each batch without replacement from the model's own subset; "epoch" deals a permutation of the
    subset, whose last batch may be short, then a new one; "masked" draws from all the data and leaves out what is not
    in the subset. Order "independent" draws for model m from ``seed_stream(seed, ids[m])``; "shared" draws once for
    all, and its indices are (1, B).

    Iterating gives (indices, weights or None) for each of the ``steps``.
    """

    def __init__(
        self,
        ids: Sequence[int],
        n: int,
        batch_size: int,
        *,
        steps: int,
        seed: int,
        masks: Bool[Tensor, "models n"] | None,
        order: Order,
        batching: Batching,
    ) -> None:
        if order not in ("independent", "shared"):
            raise ValueError(f"order={order!r}: must be 'independent' or 'shared'")
        if batching not in ("resample", "epoch", "masked"):
            raise ValueError(f"batching={batching!r}: must be 'resample', 'epoch' or 'masked'")
        if masks is not None:
            if masks.dtype != torch.bool or masks.shape != (len(ids), n):
                raise ValueError(
                    f"masks: need booleans of shape {(len(ids), n)} (models, samples), got {tuple(masks.shape)} "
                    f"{masks.dtype}"
                )
            empty = (~masks.any(1)).nonzero().flatten().tolist()
            if empty:
                raise ValueError(f"masks: model {empty[0]} has no samples at all")
        if order == "shared" and masks is not None and batching != "masked":
            raise ValueError(
                f"order='shared' with masks: models of different subsets cannot share batches with "
                f"batching={batching!r}; use batching='masked'"
            )
        subsets = None if masks is None or batching == "masked" else masks
        sizes = torch.full((len(ids),), n) if subsets is None else subsets.sum(1)
        smallest = int(sizes.min())
        if not 1 <= batch_size <= smallest:
            raise ValueError(f"batch_size={batch_size}: must be from 1 to {smallest}, the size of the smallest subset")
        if order == "shared":
            self.streams = [seed_stream(seed, 0, "shared")]
            sizes = sizes[:1]
        else:
            self.streams = [seed_stream(seed, i, "order") for i in ids]
        self.batching, self.batch_size, self.sizes, self.steps = batching, batch_size, sizes, steps
        self.masks = masks if batching == "masked" else None
        # (models, largest subset): a model's own samples, then padding
        self.members = None if subsets is None else subsets.int().argsort(dim=1, descending=True, stable=True)

    @property
    def weighted(self) -> bool:
        """Whether some entries of some batches do not count."""
        short = self.batching == "epoch" and bool((self.sizes % self.batch_size != 0).any())
        return short or self.masks is not None

    def __iter__(self) -> Iterator[tuple[Int[Tensor, "models batch"], Bool[Tensor, "models batch"] | None]]:
        ahead = max(1, BLOCK // (len(self.streams) * self.batch_size))
        leftovers = [torch.empty(0, self.batch_size, dtype=torch.long) for _ in self.streams]
        for start in range(0, self.steps, ahead):
            block = min(ahead, self.steps - start)
            places = self._deal(block, leftovers) if self.batching == "epoch" else self._draw(block)
            weights: Tensor | None = None
            if self.batching == "epoch" and self.weighted:
                weights = places >= 0
                places = places.clamp(min=0)
            if self.members is not None:
                places = self.members.expand(block, -1, -1).gather(2, places)
            if self.masks is not None:
                models = torch.arange(len(self.masks)).view(1, -1, 1)
                weights = self.masks[models, places.expand(-1, len(self.masks), -1)]
            for step in range(block):
                yield places[step], None if weights is None else weights[step]

    def _draw(self, block: int) -> Tensor:
        """(block, models, batch): each batch a uniform subset, by Floyd's algorithm, all batches at once.

        Step k takes a place t uniform in 0 … size − batch + k, or the last of these if t is taken already.
        """
        rows = block * len(self.streams)
        uniform = torch.stack(
            [torch.rand(block, self.batch_size, generator=g, dtype=torch.float64) for g in self.streams]
        )
        uniform = uniform.permute(2, 1, 0).reshape(self.batch_size, rows)
        ends = (self.sizes - self.batch_size + 1).expand(block, -1).reshape(rows)
        chosen = torch.empty(self.batch_size, rows, dtype=torch.int32)
        for k in range(self.batch_size):
            place = (uniform[k] * (ends + k)).int()
            taken = (chosen[:k] == place).any(0)
            chosen[k] = torch.where(taken, (ends + k - 1).int(), place)
        return chosen.view(self.batch_size, block, -1).permute(1, 2, 0).long()

    def _deal(self, block: int, leftovers: list[Tensor]) -> Tensor:
        """(block, models, batch): the next batches of each model's permutations; −1 fills a short batch."""
        dealt = []
        for m, (stream, size) in enumerate(zip(self.streams, self.sizes.tolist(), strict=True)):
            batches = -(-size // self.batch_size)
            ready = [leftovers[m]]
            while sum(map(len, ready)) < block:
                places = torch.full((batches * self.batch_size,), -1)
                places[:size] = torch.randperm(size, generator=stream)
                ready.append(places.view(batches, self.batch_size))
            rows = torch.cat(ready)
            dealt.append(rows[:block])
            leftovers[m] = rows[block:]
        return torch.stack(dealt, dim=1)
