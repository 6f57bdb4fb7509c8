"""Samples divided over clients, with a test part of each client's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from numpy.typing import ArrayLike
from torch import Tensor

from landform.data.split import holdout


class ClientData(NamedTuple):
    """What one client holds."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


class Padded(NamedTuple):
    """All clients' training samples, filled up with zeros to the largest client's number."""

    x: Shaped[Tensor, "clients n_max ..."]
    y: Shaped[Tensor, "clients n_max"]
    mask: Bool[Tensor, "clients n_max"]


class FederatedData:
    """Samples and the clients that hold them.

    Arguments:
        X: inputs of all samples, (n, …).
        y: their targets, (n,).
        parts: the positions that each client holds, as the functions ``partition_*`` give them.
        test_fraction: the share of each client's samples that it keeps for testing, with the same mix of labels.
        test: a common test set (x, y). Without one, the clients' test parts together.
        seed: draws the clients' test parts.

    Attributes:
        train, test_parts: positions of each client's training and test samples.
        sizes: (K,) training samples of each client.
        members: (K, n_max) positions of the training samples; a row is filled up with the position 0.
        test: (x, y) common to all, or None.

    Raises:
        ValueError: no clients, one without (training) samples, positions outside the data or held by two clients,
            or a fraction outside [0, 1).

    >>> data = FederatedData(torch.rand(10, 2), torch.arange(10) % 2, [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]], 0.34)
    >>> data.sizes.tolist(), tuple(data.client(1).test_x.shape)
    ([2, 4], (2, 2))
    """

    def __init__(
        self,
        X: Shaped[Tensor, "n ..."],
        y: Shaped[Tensor, " n"],
        parts: Sequence[ArrayLike],
        test_fraction: float = 0.0,
        *,
        test: tuple[Tensor, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        if y.shape != X.shape[:1]:
            raise ValueError(f"X and y: {len(X)} samples but targets of shape {tuple(y.shape)}")
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction={test_fraction}: must be in [0, 1)")
        if test is not None and (len(test[0]) != len(test[1]) or not len(test[0])):
            raise ValueError(f"test: needs as many samples as targets, not {len(test[0])} and {len(test[1])}")
        held = [torch.as_tensor(part, dtype=torch.long).reshape(-1) for part in parts]
        _check_parts(held, len(X))
        self.x, self.y = X, y
        self.train, self.test_parts = [], []
        for client, part in enumerate(held):
            kept, tested = part, part[:0]
            if test_fraction:
                groups = torch.zeros(len(part), dtype=torch.long) if y.is_floating_point() else y[part].cpu()
                rows, test_rows = holdout(groups, float(test_fraction), seed + client)
                kept, tested = part[rows], part[test_rows]
            self.train.append(kept)
            self.test_parts.append(tested)
        self.sizes = torch.tensor([len(part) for part in self.train])
        self.members: Int[Tensor, "clients n_max"] = torch.nn.utils.rnn.pad_sequence(self.train, batch_first=True)
        together = torch.cat(self.test_parts)
        self.test = test if test is not None or not len(together) else (X[together], y[together])

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self.train)

    def client(self, i: int) -> ClientData:
        """The training and test samples of one client."""
        train, test = self.train[i], self.test_parts[i]
        return ClientData(self.x[train], self.y[train], self.x[test], self.y[test])

    def padded(self) -> Padded:
        """All clients' training samples as (K, n_max, …), and which of them are real."""
        mask = torch.arange(self.members.shape[1]) < self.sizes[:, None]
        x, y = self.x[self.members], self.y[self.members]
        x[~mask], y[~mask] = 0, 0
        return Padded(x, y, mask)

    def pooled(self) -> FederatedData:
        """The same training samples and common test set with a single client: for centralised training."""
        return FederatedData(self.x, self.y, [torch.cat(self.train).numpy()], test=self.test)

    def to(self, device: str | torch.device) -> FederatedData:
        """The same data on ``device``, in place; gives itself."""
        self.x, self.y = self.x.to(device), self.y.to(device)
        if self.test is not None:
            self.test = (self.test[0].to(device), self.test[1].to(device))
        return self


def _check_parts(parts: list[Tensor], n: int) -> None:
    if not parts:
        raise ValueError("parts: there are no clients")
    for client, part in enumerate(parts):
        if not len(part):
            raise ValueError(f"parts: client {client} has no samples")
        if int(part.min()) < 0 or int(part.max()) >= n:
            raise ValueError(f"parts: client {client} holds positions outside 0 … {n - 1}")
    every = torch.cat(parts)
    if len(every.unique()) != len(every):
        raise ValueError("parts: a sample is held twice; parts must be disjoint")
