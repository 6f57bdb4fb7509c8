"""What the server does with its clients' models: the protocol, and the average."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from landform.federated.client import State


class ServerRule(ABC):
    """An aggregation rule as a pure function of the participants' models.

    ``params`` are the server's tensors by name, ``client_params`` the participants' ones stacked (m, …), and
    ``num_samples`` (m,) how many samples each has trained on.
    """

    def init(self, params: State) -> Any:
        """What the rule keeps between rounds, before the first."""
        return None

    @abstractmethod
    def aggregate(
        self, state: Any, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Any]:
        """The server's next parameters, and what the rule keeps.

        Raises:
            ValueError: names or shapes that do not match, or numbers of samples that are not positive.
        """


@dataclass(frozen=True)
class FedAvg(ServerRule):
    """The mean of the participants' models: w ← Σ_k (n_k / Σ n) w_k (McMahan et al., arXiv 1602.05629).

    Arguments:
        weighted: False gives every participant the same weight.

    >>> rule = FedAvg()
    >>> rule.aggregate(None, {"w": torch.zeros(1)}, {"w": torch.tensor([[1.0], [4.0]])}, torch.tensor([1, 2]))[0]
    {'w': tensor([3.])}
    """

    weighted: bool = True

    def aggregate(
        self, state: Any, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Any]:
        check_clients(params, client_params, num_samples)
        return average(client_params, num_samples if self.weighted else None), state


def average(client_params: State, num_samples: Shaped[Tensor, " clients"] | None = None) -> State:
    """The mean over the first axis, weighted by the numbers of samples if given. Integers are rounded."""
    means = {}
    for name, values in client_params.items():
        floating = values if values.is_floating_point() else values.double()
        if num_samples is None:
            mean = floating.mean(0)
        else:
            weights = num_samples.to(floating) / num_samples.sum().to(floating)
            mean = torch.tensordot(weights, floating, dims=1)
        means[name] = mean if values.is_floating_point() else mean.round().to(values.dtype)
    return means


def check_clients(params: State, client_params: State, num_samples: Tensor) -> None:
    """That every tensor of the server has its stack of at least one participant's."""
    if params.keys() != client_params.keys():
        raise ValueError(
            f"client_params: names differ from the server's: {sorted(params.keys() ^ client_params.keys())}"
        )
    m = len(num_samples)
    for name, p in params.items():
        if not m or client_params[name].shape != (m, *p.shape):
            raise ValueError(
                f"client_params[{name!r}]: has shape {tuple(client_params[name].shape)}; {m} participants with "
                f"tensors {tuple(p.shape)} need {(m, *p.shape)} with at least one participant"
            )
    if not bool((num_samples > 0).all()):
        raise ValueError(f"num_samples={num_samples.tolist()}: must be positive")


def mean_change(params: State, client_params: State, num_samples: Tensor | None) -> State:
    """Δ = Σ_k (n_k / Σ n) (w_k − w), tensor by tensor."""
    return {name: mean - params[name] for name, mean in average(client_params, num_samples).items()}
