"""FedGH's aggregation: conflicting updates are made orthogonal, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from landform.federated.client import State, rows
from landform.federated.principal import check_updates
from landform.federated.server import ServerRule, check_clients

EPS = 1e-7


def pcgrad_pairwise(
    updates: Float[Tensor, "clients d"], history: Float[Tensor, " d"] | None = None
) -> Float[Tensor, " d"]:
    """Harmonise the clients' updates in pairs of opposites, and give what is left of their mean.

    Clients are put in order of their projection on ``history``, greatest first, and the first is paired with the last,
    the second with the last but one, and so on. Of a pair with ⟨a, b⟩ < 0 each loses its component along the other,
    a − ⟨a, b⟩/(‖b‖² + 1e-7) b. The sums of the pairs (and the middle client of an odd number) are paired anew, until
    one vector is left, which is divided by m. Source: FedGH, as in the code of arXiv 2408.12300.

    Arguments:
        updates: (m, d), as w_k − w.
        history: the direction that the model has been going; without one, as before the second round, the plain mean.

    Raises:
        ValueError: no clients, values that are not finite, or a history of another length.

    >>> pcgrad_pairwise(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.ones(2)).round(decimals=4)
    tensor([-0.2500,  0.7500])
    """
    check_updates(updates)
    if history is None:
        return updates.mean(0)
    if history.shape != updates.shape[1:] or not bool(history.isfinite().all()):
        raise ValueError(f"history: need {updates.shape[1]} finite numbers, got shape {tuple(history.shape)}")
    m = len(updates)
    while len(updates) > 1:
        order = (updates @ history).sort(descending=True, stable=True).indices
        half = len(order) // 2
        a, b = updates[order[:half]], updates[order.flip(0)[:half]]
        inner = (a * b).sum(1, keepdim=True).clamp(max=0)  # zero where there is no conflict
        apart_a = a - inner / (b.square().sum(1, keepdim=True) + EPS) * b
        apart_b = b - inner / (a.square().sum(1, keepdim=True) + EPS) * a
        middle = updates[order[half : half + 1]] if len(order) % 2 else updates[:0]
        updates = torch.cat([apart_a + apart_b, middle])
    return updates[0] / m


@dataclass(frozen=True)
class FedGH(ServerRule):
    """w ← w + :func:`pcgrad_pairwise` of the participants' updates, for each tensor, along a moving average of these.

    A tensor's history h begins with the mean update of the first round, which is that round's step, and moves as
    h ← 0.99 h + 0.01 · step. Clients count alike. Source: as for the function.

    >>> rule, w = FedGH(), {"w": torch.zeros(2)}
    >>> rule.aggregate(rule.init(w), w, {"w": torch.eye(2)}, torch.ones(2))[0]
    {'w': tensor([0.5000, 0.5000])}
    """

    def init(self, params: State) -> State:
        return {}

    def aggregate(
        self, state: State, params: State, client_params: State, num_samples: Shaped[Tensor, " clients"]
    ) -> tuple[State, State]:
        check_clients(params, client_params, num_samples)
        moved, histories = {}, {}
        for name, p in params.items():
            history = state.get(name)
            step = pcgrad_pairwise(rows(client_params[name] - p), history)
            histories[name] = moved_history(history, step)
            moved[name] = p + step.view(p.shape)
        return moved, histories


def moved_history(history: Float[Tensor, " d"] | None, step: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The moving average of a tensor's steps, with weight 0.01 for a new one."""
    return step if history is None else 0.99 * history + 0.01 * step
