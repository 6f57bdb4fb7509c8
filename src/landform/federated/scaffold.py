"""SCAFFOLD: control variates against client drift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from landform.federated.client import SGD, Batch, Context, State, rows

CONTROL = "control."


@dataclass(frozen=True, kw_only=True)
class SCAFFOLD(SGD):
    """Local SGD whose gradient is corrected by the difference of the server's and the client's control variate.

        w ← w − η (g − c_k + c)         at each of the τ local steps
        c_k ← c_k − c + (w^t − w_k)/(τ η)                               after the round (option II)
        c ← c + (|S|/K) · mean over participants of the change of c_k   on the server

    c and all c_k begin at zero. Its server rule is the unweighted mean with a step η_g:
    ``FedAvgM(lr=η_g, momentum=0, weighted=False)``. The correction enters as the linear term ⟨c − c_k, w⟩ of the loss,
    whose gradient it is. Source: Karimireddy et al., arXiv 1910.06378, algorithm 1.

    Raises:
        ValueError: a setting out of range, or momentum, for which (w^t − w_k)/(τ η) is no mean gradient.

    >>> SCAFFOLD(lr=0.1, steps=5).momentum
    0.0
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum:
            raise ValueError(f"momentum={self.momentum}: SCAFFOLD's control variates need plain SGD, momentum=0")

    def init_state(self, params: State) -> State:
        return {CONTROL + name: torch.zeros_like(p) for name, p in params.items()}

    def init_shared(self, params: State) -> State:
        return self.init_state(params)

    def local_step(self, params: State, batch: Batch, ctx: Context) -> Float[Tensor, " clients"]:
        linear = [
            rows((ctx.shared[CONTROL + name] - ctx.state[CONTROL + name]) * p).sum(1) for name, p in params.items()
        ]
        return super().local_step(params, batch, ctx) + torch.stack(linear).sum(0)

    def finish(self, params: State, ctx: Context, steps: Float[Tensor, " clients"]) -> State:
        if not ctx.lr:  # a round at rate zero measures no gradient
            return ctx.state
        state = {}
        for name, p in params.items():
            key = CONTROL + name
            length = (steps * ctx.lr).view(-1, *[1] * (p.ndim - 1))
            state[key] = ctx.state[key] - ctx.shared[key] + (ctx.start[name] - p) / length
        return state

    def merge(self, shared: State, change: State, clients: int) -> State:
        # (|S|/K) · mean over S is the sum over S, divided by K
        return {name: c + change[name].sum(0) / clients for name, c in shared.items()}
