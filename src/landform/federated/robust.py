"""Server rules that a few wrong clients cannot move far. They take no account of the clients' numbers of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from landform.federated.client import State, rows
from landform.federated.server import ServerRule, check_clients


@dataclass(frozen=True)
class FedMedian(ServerRule):
    """The median of each coordinate over the participants; of an even number the mean of the middle two.

    Source: Yin et al., arXiv 1803.01498.

    >>> FedMedian().aggregate(None, {"w": torch.zeros(())}, {"w": torch.tensor([1.0, 9.0, 2.0])}, torch.ones(3))[0]
    {'w': tensor(2.)}
    """

    def aggregate(
        self, state: Any, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Any]:
        check_clients(params, client_params, num_samples)
        cut = (len(num_samples) - 1) // 2
        return {name: _inner_mean(values, cut) for name, values in client_params.items()}, state


@dataclass(frozen=True)
class FedTrimmedAvg(ServerRule):
    """The mean of each coordinate without the ⌊beta · m⌋ least and the ⌊beta · m⌋ greatest values.

    Source: Yin et al., arXiv 1803.01498.

    Arguments:
        beta: in [0, 0.5); 0 gives the unweighted mean.

    Raises:
        ValueError: beta out of range.

    >>> rule = FedTrimmedAvg(0.34)
    >>> rule.aggregate(None, {"w": torch.zeros(())}, {"w": torch.tensor([1.0, 9.0, 2.0])}, torch.ones(3))[0]
    {'w': tensor(2.)}
    """

    beta: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 0.5:
            raise ValueError(f"beta={self.beta}: must be in [0, 0.5)")

    def aggregate(
        self, state: Any, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Any]:
        check_clients(params, client_params, num_samples)
        cut = int(self.beta * len(num_samples))
        return {name: _inner_mean(values, cut) for name, values in client_params.items()}, state


@dataclass(frozen=True)
class Krum(ServerRule):
    """The model of the participant with the least sum of squared distances to its m − f − 2 nearest others.

    Distances are over all tensors together. With fewer than f + 3 participants one neighbour is looked at.
    Source: Blanchard et al., NeurIPS 2017.

    Arguments:
        malicious: f, how many participants may be wrong, at least 0.

    Raises:
        ValueError: malicious below 0.

    >>> clients = {"w": torch.tensor([[1.0], [1.2], [0.9], [50.0]])}
    >>> Krum(malicious=1).aggregate(None, {"w": torch.zeros(1)}, clients, torch.ones(4))[0]
    {'w': tensor([1.])}
    """

    malicious: int = 0

    def __post_init__(self) -> None:
        if self.malicious < 0:
            raise ValueError(f"malicious={self.malicious}: must be at least 0")

    def aggregate(
        self, state: Any, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Any]:
        check_clients(params, client_params, num_samples)
        m = len(num_samples)
        flat = torch.cat([rows(values).double() for values in client_params.values()], dim=1)
        squared = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
        squared.fill_diagonal_(torch.inf)
        near = min(max(1, m - self.malicious - 2), m - 1)
        best = int(squared.topk(near, largest=False).values.sum(1).argmin()) if m > 1 else 0
        return {name: values[best].clone() for name, values in client_params.items()}, state


def _inner_mean(values: Shaped[Tensor, "clients ..."], cut: int) -> Tensor:
    """The mean of each coordinate without its ``cut`` least and greatest values."""
    kept = values.sort(dim=0).values[cut : len(values) - cut]
    return kept.mean(0)
