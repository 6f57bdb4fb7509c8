"""Server rules that treat the mean update as a gradient: momentum, Adam and Yogi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from landform.federated.client import State, check_number
from landform.federated.server import ServerRule, check_clients, mean_change


@dataclass(frozen=True)
class FedAvgM(ServerRule):
    """Server momentum: m ← momentum · m + Δ,  w ← w + lr · m, with Δ the mean update and m = Δ at first.

    Source: Hsu et al., arXiv 1909.06335; no dampening.

    Arguments:
        lr: the server's step, positive.
        momentum: in [0, 1); 0 leaves a plain server step.
        weighted: False averages the updates with equal weights.

    Raises:
        ValueError: a setting out of range.

    >>> FedAvgM(lr=1.0, momentum=0.9).momentum
    0.9
    """

    lr: float = 1.0
    momentum: float = 0.0
    weighted: bool = True

    def __post_init__(self) -> None:
        _check_lr(self.lr)
        check_number("momentum", self.momentum, below=1.0)

    def init(self, params: State) -> State:
        return {name: torch.zeros_like(p) for name, p in params.items()}

    def aggregate(
        self, state: State, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, State]:
        check_clients(params, client_params, num_samples)
        delta = mean_change(params, client_params, num_samples if self.weighted else None)
        state = {name: self.momentum * state[name] + d for name, d in delta.items()}
        return {name: p + self.lr * state[name] for name, p in params.items()}, state


class Moments(NamedTuple):
    """What an adaptive rule keeps: first and second moments, and how many rounds it has seen."""

    first: State
    second: State
    rounds: int


@dataclass(frozen=True)
class _Adaptive(ServerRule):
    lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        _check_lr(self.lr)
        check_number("beta1", self.beta1, below=1.0)
        check_number("beta2", self.beta2, below=1.0)
        if not self.tau > 0:
            raise ValueError(f"tau={self.tau}: must be positive")

    def init(self, params: State) -> Moments:
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        return Moments(zeros, zeros, 0)

    def step(
        self,
        moments: Moments,
        params: State,
        client_params: State,
        num_samples: Tensor,
        second_of: Callable[[Tensor, Tensor], Tensor],
        lr: float,
    ) -> tuple[State, Moments]:
        """m ← β₁ m + (1 − β₁) Δ;  v ← second_of(v, Δ²);  w ← w + lr · m / (√v + τ)."""
        check_clients(params, client_params, num_samples)
        delta = mean_change(params, client_params, num_samples)
        first = {name: self.beta1 * moments.first[name] + (1 - self.beta1) * d for name, d in delta.items()}
        second = {name: second_of(moments.second[name], d.square()) for name, d in delta.items()}
        moved = {name: p + lr * first[name] / (second[name].sqrt() + self.tau) for name, p in params.items()}
        return moved, Moments(first, second, moments.rounds + 1)


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """Adam on the server, with Δ the mean update, weighted by samples:

        m ← β₁ m + (1 − β₁) Δ;   v ← β₂ v + (1 − β₂) Δ²;   w ← w + η_t m / (√v + τ)

    Source: Reddi et al., arXiv 2003.00295, algorithm 2, where η_t = lr. Moments start at zero. With
    ``bias_correction``, as Flower has it, η_t = lr · √(1 − β₂^{t+1}) / (1 − β₁^{t+1}) in round t = 1, 2, …

    Arguments:
        lr: η, positive.
        beta1, beta2: in [0, 1).
        tau: the adaptivity τ, positive.
        bias_correction: whether the rate is corrected for the moments' start.

    Raises:
        ValueError: a setting out of range.

    >>> rule, w = FedAdam(bias_correction=False), {"w": torch.zeros(1)}
    >>> rule.aggregate(rule.init(w), w, {"w": torch.ones(2, 1)}, torch.tensor([1, 1]))[0]
    {'w': tensor([0.0990])}
    """

    bias_correction: bool = True

    def aggregate(
        self, state: Moments, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Moments]:
        lr = self.lr
        if self.bias_correction:
            power = state.rounds + 2
            lr *= (1 - self.beta2**power) ** 0.5 / (1 - self.beta1**power)

        def second_of(v: Tensor, squared: Tensor) -> Tensor:
            return self.beta2 * v + (1 - self.beta2) * squared

        return self.step(state, params, client_params, num_samples, second_of, lr)


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """Yogi on the server: as :class:`FedAdam` without correction, but v ← v − (1 − β₂) Δ² sign(v − Δ²).

    Source: Reddi et al., arXiv 2003.00295, algorithm 2.

    Raises:
        ValueError: a setting out of range.

    >>> FedYogi(lr=0.05).tau
    0.001
    """

    lr: float = 0.01

    def aggregate(
        self, state: Moments, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, Moments]:
        def second_of(v: Tensor, squared: Tensor) -> Tensor:
            return v - (1 - self.beta2) * squared * torch.sign(v - squared)

        return self.step(state, params, client_params, num_samples, second_of, self.lr)


def _check_lr(lr: float) -> None:
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr={lr}: must be positive and finite")
