"""Ordered streams of corrupted test batches, for methods that adapt as they go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from landform.data.corruptions import CORRUPTIONS, corrupt
from landform.data.split import Split, check_count

Order = Literal["episodic", "continual", "mixed"]


@dataclass(frozen=True)
class StreamBatch:
    """One batch of a stream: images, targets, the number of each image's corruption, and its position in the split.

    ``fresh`` says that adaptation is to begin anew here, with all that it has remembered forgotten.
    """

    x: Float[Tensor, "batch channels height width"]
    y: Int[Tensor, " batch"]
    corruption: Int[Tensor, " batch"]
    index: Int[Tensor, " batch"]
    fresh: bool


class CorruptionStream:
    """Batches of a split's images under corruptions, in an order that ``seed`` alone decides; the same at every pass.

    - ``"episodic"``: one corruption after another, each a stream of its own that begins fresh;
    - ``"continual"``: the same batches, but only the first begins fresh;
    - ``"mixed"``: every image under every corruption, all shuffled together.

    Under each corruption every image comes once, in an order of that corruption's own. Corrupted images are made as
    they are asked for. The last batch of an episode (of the stream, if mixed) may be short.

    Arguments:
        split: images in [0, 1].
        corruptions: names of :data:`~landform.data.corruptions.CORRUPTIONS`.
        severity: 1 … 5, or 0 for clean images in the same order.
        batch_size: images in a batch.
        order: see above.
        seed: draws the order and the corruptions.

    Raises:
        ValueError: an argument out of range, an unknown name or order, or an empty split.

    >>> split = Split(torch.rand(10, 1, 8, 8), torch.arange(10))
    >>> stream = CorruptionStream(split, ("fog", "jpeg"), severity=3, batch_size=4)
    >>> [(len(batch.x), batch.fresh) for batch in stream]
    [(4, True), (4, False), (2, False), (4, True), (4, False), (2, False)]
    """

    def __init__(
        self,
        split: Split,
        corruptions: Sequence[str] = CORRUPTIONS,
        *,
        severity: int = 3,
        batch_size: int = 64,
        order: Order = "episodic",
        seed: int = 0,
    ) -> None:
        if not len(split):
            raise ValueError("split is empty: a stream needs at least one image")
        if not corruptions:
            raise ValueError(f"corruptions is empty; there are {', '.join(CORRUPTIONS)}")
        if order not in get_args(Order):
            raise ValueError(f"order={order!r}: must be one of {', '.join(map(repr, get_args(Order)))}")
        check_count("batch_size", batch_size, 1)
        for name in corruptions:
            corrupt(split.x[:1], name, severity, seed=seed, index=[0])  # refuses what it cannot corrupt
        self.split = split
        self.corruptions = tuple(corruptions)
        self.severity = severity
        self.batch_size = batch_size
        self.order = order
        self.seed = seed

    def __len__(self) -> int:
        """The number of batches."""
        images, kinds = len(self.split), len(self.corruptions)
        if self.order == "mixed":
            return -(-images * kinds // self.batch_size)
        return kinds * -(-images // self.batch_size)

    def __iter__(self) -> Iterator[StreamBatch]:
        images, kinds = len(self.split), len(self.corruptions)
        generator = torch.Generator().manual_seed(self.seed)
        if self.order == "mixed":
            pairs = torch.randperm(images * kinds, generator=generator)
            episodes = [(pairs % images, pairs // images)]
        else:
            episodes = [
                (torch.randperm(images, generator=generator), torch.full((images,), kind)) for kind in range(kinds)
            ]
        fresh = True
        for index, corruption in episodes:
            for rows, of_rows in zip(index.split(self.batch_size), corruption.split(self.batch_size), strict=True):
                yield self._batch(rows, of_rows, fresh)
                fresh = False
            fresh = self.order == "episodic"

    def _batch(self, index: Tensor, corruption: Tensor, fresh: bool) -> StreamBatch:
        rows = index.to(self.split.x.device)
        clean = self.split.x[rows]
        x = clean.clone()
        for kind in corruption.unique().tolist():
            these = (corruption == kind).to(clean.device)
            x[these] = corrupt(clean[these], self.corruptions[kind], self.severity, seed=self.seed, index=rows[these])
        return StreamBatch(x, self.split.y[rows], corruption, index, fresh)
